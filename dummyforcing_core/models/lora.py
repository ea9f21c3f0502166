"""Low-rank adapters in PEFT's names, as LongLive ships its second file; merged into the weights in float32."""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, shown
from .names import listing, strip_prefixes
from .weight_files import open_container, read_weights

CONTAINERS = ("generator_lora", "lora", "state_dict")
_PART = re.compile(r"^(?P<module>.+)\.(lora_(?P<side>[AB])(\.\w+)?\.weight|(?P<alpha>alpha))$")


@dataclass(frozen=True, eq=False)
class LowRank:
    """One Linear's update: up (out, r) @ down (r, in) * scale."""

    down: Tensor
    up: Tensor
    scale: float

    @property
    def delta(self) -> Tensor:
        """The update (out, in) in float32."""
        return self.up.float() @ self.down.float() * self.scale


@dataclass(frozen=True, eq=False)
class Lora:
    """Updates by the official name of the weight they change."""

    path: Path
    updates: dict[str, LowRank]

    @classmethod
    def read(cls, path: str | Path, strength: float = 1.0) -> "Lora":
        """Reads a .pt or .safetensors adapter; without alpha entries alpha is the rank. CheckpointError, one line."""
        path = Path(path)
        try:
            tree, _ = read_weights(path)
            tensors, _ = open_container(tree, CONTAINERS)
            return cls(path, _updates(tensors, strength))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """`weight` (out, in) with this adapter's update, in its own dtype; unchanged if there is none."""
        update = self.updates.get(name)
        if update is None:
            return weight
        delta = update.delta
        if delta.shape != weight.shape:
            raise CheckpointError(
                f"{self.path}: the update of {name} is {tuple(delta.shape)}, the model's weight {tuple(weight.shape)}; "
                "give the LoRA that belongs to this model"
            )
        return (weight.float() + delta.to(weight.device)).to(weight.dtype)

    def host_names(self) -> dict[str, Tensor]:
        """The adapter under the names that ComfyUI patches a diffusion model by."""
        tensors: dict[str, Tensor] = {}
        for name, update in self.updates.items():
            module = f"diffusion_model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = update.down, update.up
            tensors[f"{module}.alpha"] = torch.tensor(update.scale * update.down.shape[0])
        return tensors

    def check(self, names: set[str]) -> None:
        """CheckpointError if it changes weights that the model does not have."""
        foreign = sorted(set(self.updates) - names)
        if foreign:
            raise CheckpointError(
                f"{self.path}: changes {listing(foreign)}, which this model does not have; give the LoRA of this model"
            )


def _updates(tensors: dict[str, Tensor], strength: float) -> dict[str, LowRank]:
    modules: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        match = _PART.match(strip_prefixes(name))
        if match is None:
            raise CheckpointError(
                f"holds {shown(name, 120)}, PEFT's module.lora_A.weight and module.lora_B.weight were expected; "
                "give an autoregressive model's LoRA such as LongLive's"
            )
        modules[match["module"]][match["side"] or "alpha"] = tensor
    updates = {}
    for module, parts in modules.items():
        down, up = parts.get("A"), parts.get("B")
        if down is None or up is None or down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
            shapes = {side: tuple(part.shape) for side, part in parts.items()}
            raise CheckpointError(
                f"{shown(module, 120)} has {shown(shapes, 120)}, A (rank, in) and B (out, rank) were expected; get it "
                "again"
            )
        rank = down.shape[0]
        alpha = float(parts["alpha"]) if "alpha" in parts else float(rank)
        updates[f"{module}.weight"] = LowRank(down, up, strength * alpha / rank)
    if not updates:
        raise CheckpointError("holds no tensor, a LoRA was expected; get it again")
    return updates
