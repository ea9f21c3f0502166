"""What was recorded: a folder of cases, and one case with the differences found so far."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dummyforcing_core.models import wan
from dummyforcing_core.schedule import Schedule


@dataclass
class Directory:
    """A folder of golden data: cases, and the weights, text and noise they share."""

    path: Path

    def cases(self) -> list[str]:
        found = [p.stem for p in sorted(self.path.glob("*.json")) if p.with_suffix(".safetensors").exists()]
        return [stem for stem in found if "case" in self.document(stem)]

    def document(self, case: str) -> dict:
        return json.loads((self.path / f"{case}.json").read_text(encoding="utf-8"))

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.path / f"{name.removesuffix('.safetensors')}.safetensors")

    @cached_property
    def model(self) -> wan.CausalWan:
        geometry = self.document("weights")["model"]
        names = wan.WanConfig.__dataclass_fields__
        config = wan.WanConfig(**{k: tuple(v) if k == "patch_size" else v for k, v in geometry.items() if k in names})
        model = wan.CausalWan(config)
        model.load_state_dict({k: v.float() for k, v in self.tensors("weights").items()})
        return model.eval()


@dataclass
class Case:
    """One case: what it was made with, what came out, and how far ours is from it, each tensor with its own limit.

    What its file does not hold is not compared.
    """

    directory: Directory
    name: str
    errors: dict[str, float] = field(default_factory=dict)
    ok: bool = True

    @cached_property
    def document(self) -> dict:
        return self.directory.document(self.name)

    @property
    def params(self) -> dict:
        return self.document.get("params", {})

    @cached_property
    def recorded(self) -> dict[str, Tensor]:
        return self.directory.tensors(self.name)

    # -- how far ours is ---------------------------------------------------------------------------------------------

    def compare(self, name: str, ours: Tensor, theirs: Tensor, limit: float) -> None:
        """The largest absolute difference of two tensors."""
        if ours.shape != theirs.shape:
            raise AssertionError(f"{name}: our shape {tuple(ours.shape)}, recorded {tuple(theirs.shape)}")
        error = float((ours.double() - theirs.double()).abs().max())
        self.errors[name] = error
        self.ok &= error <= limit  # NaN fails

    def check(self, name: str, ours: Tensor, limit: float) -> None:
        """Ours against the recorded tensor of that name, if there is one."""
        if name in self.recorded:
            self.compare(name, ours, self.recorded[name], limit)

    def check_first(self, name: str, ours: list[Tensor], limit: float) -> None:
        """The same of as many of ours, stacked, as were recorded: a file may hold the first chunks only."""
        if name in self.recorded:
            self.check(name, torch.stack(ours[: len(self.recorded[name])]), limit)

    @property
    def worst(self) -> float:
        if not self.errors:
            raise AssertionError(f"{self.name} holds nothing that could be compared: {sorted(self.recorded)}")
        return max(self.errors.values())

    # -- what it was made with ---------------------------------------------------------------------------------------

    @property
    def chunk_frames(self) -> int:
        return self.params.get("num_frame_per_block", self.params.get("frames_per_block", 3))

    @property
    def schedule(self) -> Schedule:
        """Steps to be warped, or timesteps as they stand; those of the first generated chunk where it has its own."""
        params = self.params
        steps = params.get("denoising_step_list", params.get("timesteps"))
        if not params.get("warp", True):
            return Schedule.from_timesteps(steps, params["shift"])
        return Schedule.few_step(steps, params["shift"], params.get("denoising_step_list_first_chunk"))

    def text(self, name: str) -> Tensor:
        return self.directory.tensors("text")[name.split()[0]].float()

    def noise(self, part: str) -> Tensor:
        return self.directory.tensors(self.params["noise_file"])[part].float()
