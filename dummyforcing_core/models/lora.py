"""LoRA files: low-rank updates and whole differences of a model's weights, added to them in float32."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, shown
from .finite import is_finite
from .lora_names import EXPECTED, part_of
from .names import listing
from .tensor_check import READABLE
from .weight_files import Tree, open_container, read_weights

CONTAINERS = ("generator_lora", "lora", "state_dict")


@dataclass(frozen=True, eq=False)
class LowRank:
    """An update of (out, in): up (out, r) @ down (r, in) * scale; a convolution's has its other axes within `in`."""

    down: Tensor
    up: Tensor
    scale: float

    @property
    def delta(self) -> Tensor:
        """The update (out, in) in float32."""
        return self.up.float() @ self.down.float() * self.scale

    def fits(self, weight: torch.Size) -> bool:
        """Whether a weight of this shape can be updated; nothing is multiplied."""
        return len(weight) > 1 and (weight[0], math.prod(weight[1:])) == (self.up.shape[0], self.down.shape[1])

    def __str__(self) -> str:
        return f"({self.up.shape[0]}, {self.down.shape[1]})"


@dataclass(frozen=True, eq=False)
class Difference:
    """An update that is stored whole: values (of the parameter's shape) * scale."""

    values: Tensor
    scale: float

    @property
    def delta(self) -> Tensor:
        """The update in float32."""
        return self.values.float() * self.scale

    def fits(self, weight: torch.Size) -> bool:
        """Whether it has this shape."""
        return self.values.shape == weight

    def __str__(self) -> str:
        return str(tuple(self.values.shape))


@dataclass(frozen=True, eq=False)
class Lora:
    """Updates by the official name of the parameter they change."""

    path: Path
    updates: dict[str, LowRank | Difference]

    @classmethod
    def read(cls, path: str | Path, strength: float = 1.0) -> "Lora":
        """Reads a .pt or .safetensors adapter in the spellings of lora_names; without alpha entries alpha is the rank.

        Raises CheckpointError, one line.
        """
        path = Path(path)
        try:
            tree, _ = read_weights(path)
            tensors, _ = open_container(_with_numbers(tree), CONTAINERS)
            return cls(path, _updates(tensors, strength))
        except CheckpointError as error:
            raise CheckpointError(f"{shown(path, 200)}: {error}") from error

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """`weight` with this adapter's update in float32, for the caller to round once; unchanged if there is none."""
        update = self.updates.get(name)
        if update is None:
            return weight
        self._check(name, update, weight.shape)
        return weight.float() + update.delta.reshape(weight.shape).to(weight.device)

    @property
    def bare(self) -> list[str]:
        """Changed parameters that are no module's weight or bias: modulations."""
        return [name for name in self.updates if not name.endswith((".weight", ".bias"))]

    def host_names(self) -> dict[str, Tensor]:
        """The adapter under the names that ComfyUI patches a diffusion model by, without the `bare` parameters."""
        tensors: dict[str, Tensor] = {}
        for name in sorted(self.updates.keys() - set(self.bare)):
            update, module = self.updates[name], f"diffusion_model.{name.removesuffix('.weight')}"
            if isinstance(update, Difference):
                tensors[f"{module}.diff"] = update.delta
                continue
            tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = update.down, update.up
            tensors[f"{module}.alpha"] = torch.tensor(update.scale * update.down.shape[0])
        return tensors

    def check(self, shapes: Mapping[str, torch.Size]) -> None:
        """CheckpointError if it changes parameters that a model of these does not have, or of another shape."""
        foreign = sorted(set(self.updates) - set(shapes))
        if foreign:
            raise CheckpointError(
                f"{shown(self.path, 200)}: changes {listing(foreign)}, which this model does not have; give the LoRA "
                "of this model"
            )
        for name, update in self.updates.items():
            self._check(name, update, shapes[name])

    def _check(self, name: str, update: LowRank | Difference, shape: torch.Size) -> None:
        if not update.fits(shape):
            raise CheckpointError(
                f"{shown(self.path, 200)}: the update of {name} is {update}, the model's weight {tuple(shape)}; "
                "give the LoRA that belongs to this model"
            )


def _with_numbers(tree: Tree) -> dict[str, Any]:
    """A .pt may hold an alpha as a number or its text: as the tensor that it stands for."""
    return {name: _with_number(str(name), value) for name, value in tree.items()}


def _with_number(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return _with_numbers(value)
    if isinstance(value, Tensor) or not name.endswith(".alpha"):
        return value
    try:
        return torch.tensor(float(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{shown(name)} is {shown(repr(value), 40)}, one number was expected; get it again"
        ) from error


def _updates(tensors: Mapping[str, Tensor], strength: float) -> dict[str, LowRank | Difference]:
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        weight, kind = part_of(name)
        if kind == "alpha" and not tensor.is_complex():
            tensor = tensor.float()  # whole numbers are stored as such
        if tensor.dtype not in READABLE:
            raise CheckpointError(f"{shown(name)} is {tensor.dtype}, floating point was expected; get the LoRA again")
        if not is_finite(tensor):
            raise CheckpointError(f"{shown(name)} holds NaN or infinite numbers; get the LoRA again")
        if kind in parts[weight]:
            raise CheckpointError(f"{shown(name)} is a second update of {shown(weight)}, one adapter was expected; "
                                  "save the one to use alone")  # fmt: skip
        parts[weight][kind] = tensor
    if not parts:
        raise CheckpointError(f"holds no tensor of a LoRA; {EXPECTED}; get it again")
    return {weight: _update(weight, found, strength) for weight, found in parts.items()}


def _update(weight: str, parts: Mapping[str, Tensor], strength: float) -> LowRank | Difference:
    if set(parts) == {"diff"}:
        return Difference(parts["diff"], strength)
    down, up, alpha = parts.get("down"), parts.get("up"), parts.get("alpha")
    if (
        down is None
        or up is None
        or "diff" in parts
        or min(down.ndim, up.ndim) < 2
        or not down.shape[0] == up.shape[1] == math.prod(up.shape[1:]) > 0
    ):
        shapes = {kind: tuple(part.shape) for kind, part in parts.items()}
        raise CheckpointError(
            f"{shown(weight)} has {shapes}, down (A) of (rank, in) and up (B) of (out, rank), or diff alone, were "
            "expected; get it again"
        )
    if alpha is not None and alpha.numel() != 1:
        raise CheckpointError(f"the alpha of {shown(weight)} is {tuple(alpha.shape)}, one number was expected; "
                              "get it again")  # fmt: skip
    if alpha is not None and float(alpha) == 0:
        raise CheckpointError(f"the alpha of {shown(weight)} is 0, which leaves the weight as it is; get it again")
    rank = down.shape[0]
    scale = strength * (1.0 if alpha is None else float(alpha) / rank)
    return LowRank(down.flatten(1), up.flatten(1), scale)
