"""A model larger than the device's memory: the blocks' weights stay in main memory and come over one layer at a time.

    model = load_model(path, device="cpu").model
    offload_blocks(model, "cuda")
    denoise = WanDenoiser(model)                    # samples on the device, as any other

The forward calls layers, never a block as a whole, so this sits on each Linear. Weights mapped to a file stay so: the
main memory then is a cache of the disk. Every pass moves all offloaded weights once; nothing is moved back.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DummyForcingError
from .wan import CausalWan


class OffloadedLinear(nn.Linear):
    """A Linear whose weights rest where they are, and are copied to where the input is for the time of one call."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.device, non_blocking=True)
        return F.linear(x, self.weight.to(x.device, non_blocking=True), bias)


def offload_blocks(model: CausalWan, device: torch.device | str, resident_blocks: int = 0) -> None:
    """Moves a model to `device`, in place, without the Linears of all blocks but the first `resident_blocks`.

    Norms, modulation, embeddings and the head move whole: they are small. DummyForcingError for an impossible count.
    """
    blocks = len(model.blocks)
    if not 0 <= resident_blocks <= blocks:
        raise DummyForcingError(
            f"expected 0 to {blocks} resident blocks, as many as there are, got {resident_blocks}; give fewer"
        )
    resting = {
        module
        for block in model.blocks[resident_blocks:]
        for module in block.modules()
        if isinstance(module, nn.Linear)
    }
    for module in model.modules():
        if module in resting:
            module.__class__ = OffloadedLinear
            continue
        for name, parameter in module.named_parameters(recurse=False):
            moved = nn.Parameter(parameter.to(device), requires_grad=parameter.requires_grad)
            setattr(module, name, moved)


def resident_bytes(model: CausalWan, resident_blocks: int = 0) -> int:
    """Bytes of weights that stay on the device, and beside them the largest layer that ever comes over."""
    resting = [m for block in model.blocks[resident_blocks:] for m in block.modules() if isinstance(m, nn.Linear)]
    sizes = [sum(p.numel() * p.element_size() for p in module.parameters()) for module in resting]
    whole = sum(p.numel() * p.element_size() for p in model.parameters())
    return whole - sum(sizes) + max(sizes, default=0)
