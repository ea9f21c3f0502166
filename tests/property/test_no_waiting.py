"""No loop reads from the device, and nothing goes there but through `to_device`: the host never waits for a GPU.

torch's meta device stands in for one. Its tensors have a shape and no data, so that whatever reads a value fails.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import dummyforcing_core
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.loops import loop_of
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import FAMILIES, Family
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Policy, SlidingWindow
from dummyforcing_core.profile import HeadProfile
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.transfer import to_device
from tests.property.tiny import HEADS, LAYERS

CORE = Path(dummyforcing_core.__file__).parent
DEVICE = torch.device("meta")


class Watch(TorchFunctionMode):
    """Counts the tensors that go to the device, by the file that sends them."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        came_from = next((x.device for x in args if isinstance(x, Tensor)), None)
        if func in (Tensor.to, torch.tensor, torch.as_tensor) and out.device == DEVICE != came_from:
            self.sent[_caller()] += 1
        if func is Tensor.copy_ and args[1].device != args[0].device:
            self.sent[_caller()] += 1
        return out


def _caller() -> str:
    frame: Any = sys._getframe(1)
    while CORE not in Path(frame.f_code.co_filename).parents:
        frame = frame.f_back
    return str(Path(frame.f_code.co_filename).relative_to(CORE))


def model() -> WanDenoiser:
    with DEVICE:
        wan = CausalWan(WanConfig(dim=64, ffn_dim=64, num_heads=HEADS, num_layers=LAYERS, text_dim=8, freq_dim=16))
    return WanDenoiser(wan.requires_grad_(False))


def policies(family: Family) -> dict[str, Policy]:
    window = SlidingWindow(family.default_window_frames, family.sink_frames)
    return {"dense": window, "dummy forcing": DummyForcing(profile=HeadProfile.assumed(LAYERS, HEADS))}


def text(seed: int) -> Tensor:
    return torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def test_the_stand_in_notices() -> None:
    with pytest.raises(Exception, match="meta"):
        bool(torch.zeros(1, device=DEVICE) > 0)
    with pytest.raises(Exception, match="meta"):
        torch.zeros(1, device=DEVICE).cpu()
    with pytest.raises(Exception, match="device"):
        torch.zeros(2, device=DEVICE) + torch.zeros(2)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["dense", "dummy forcing"])
def test_no_loop_waits(name: str, kind: str) -> None:
    family, denoise = FAMILIES[name], model()
    frames = max(8 * family.chunk_frames, 2 * family.trained_frames if family.loop == "restarts" else 0)
    shape = LatentShape(1, 16, frames, 4, 4)
    prompts = PromptSchedule(((0, text(0)), (5 * family.chunk_frames, text(1))))  # a switch, for those that re-cache
    noise = SeededNoise(0, shape, family.chunk_frames, DEVICE)
    made = 0
    with Watch() as watch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no VAE
        loop = loop_of(family)(denoise, shape, family.schedule, prompts, policies(family)[kind], family, noise)
        for chunk in loop:
            assert chunk.latent.device == DEVICE
            made += chunk.span.frames
    assert made == frames
    assert set(watch.sent) == {"transfer.py"}


def test_a_steady_chunk_sends_its_noise_its_rotations_and_its_levels() -> None:
    family, denoise = FAMILIES["self_forcing"], model()
    shape = LatentShape(1, 16, 24, 4, 4)
    noise, prompts = SeededNoise(0, shape, 3, DEVICE), PromptSchedule.constant(text(0))
    sent: list[int] = []
    policy = policies(family)["dummy forcing"]
    with Watch() as watch:
        for _ in loop_of(family)(denoise, shape, family.schedule, prompts, policy, family, noise):
            sent.append(watch.sent["transfer.py"])
            watch.sent.clear()
    steps, axes = 4, 3
    assert sent[2:] == [steps + axes + steps] * 6  # noise and level of every step; frames, rows, columns


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
def test_what_is_there_stays_there(device: Any) -> None:
    x = torch.zeros(2)
    assert to_device(x, device) is x
