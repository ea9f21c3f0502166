"""A random model that runs in moments, and text for it."""

from collections.abc import Callable

import torch
from torch import Tensor

from dummyforcing_core.kv.attention import attention
from dummyforcing_core.models.wan import CausalWan, WanConfig

LAYERS, HEADS = 2, 4


def tiny_model(sharpness: float = 1.0, heads: int = HEADS) -> CausalWan:
    """The same model every time. sharpness: of its attention; more makes heads differ more."""
    torch.manual_seed(0)
    model = CausalWan(WanConfig(dim=64, ffn_dim=64, num_heads=heads, num_layers=LAYERS, text_dim=8, freq_dim=16))
    with torch.no_grad():
        for block in model.blocks:
            block.modulation.mul_(8)  # open the gates: what attention saw must show in all that follows
            block.self_attn.norm_q.weight.mul_(sharpness)
    return model.requires_grad_(False)


def context(seed: int, batch: int = 1) -> Tensor:
    """Text features (batch, 5, 8)."""
    return torch.randn(batch, 5, 8, generator=torch.Generator().manual_seed(seed))


class FunctionMemory:
    """A function (layer, q, k, v) -> output as the memory of a forward pass."""

    attend = staticmethod(attention)

    def __init__(self, function: Callable[[int, Tensor, Tensor, Tensor], Tensor]):
        self._function = function

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._function(layer, q, k, v)
