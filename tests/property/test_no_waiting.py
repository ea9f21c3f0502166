"""No loop reads from the device, and nothing goes there but through `to_device`: the host never waits for a GPU.

torch's meta device stands in for one. Its tensors have a shape and no data, so that whatever reads a value fails.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import dummyforcing_core
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv import bank
from dummyforcing_core.kv.output_change import ChangeObservation, OutputChange, memory_options
from dummyforcing_core.kv.scoring import Observation
from dummyforcing_core.loops.run import Run
from dummyforcing_core.loops.table import sample
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import FAMILIES, Family
from dummyforcing_core.models.wan import CausalWan, WanConfig, forward, text_kv
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, HeadForcing, Policy, SlidingWindow
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.transfer import to_device
from tests.property.tiny import HEADS, LAYERS, FunctionMemory

CORE = Path(dummyforcing_core.__file__).parent
DEVICE = torch.device("meta")


class Watch(TorchFunctionMode):
    """Fails where a tensor goes to the device but through `to_device`, and counts those that do.

    On a GPU each of these would wait: a host tensor beside one of the device (an index, a copy, a type_as), a list or
    a range as an index, a new tensor out of numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((args, kwargs)))
        out = func(*args, **kwargs)
        if isinstance(out, Tensor):
            tensors.append(out)
        to_it = any(x.device == DEVICE for x in tensors)
        from_host = any(x.device != DEVICE and x.ndim for x in tensors)
        numbers = func in (torch.tensor, torch.as_tensor, Tensor.new_tensor)
        indexed = func in (Tensor.__getitem__, Tensor.__setitem__) and _has_list(args[1])
        if to_it and (from_host or numbers or indexed):
            assert _caller() == "transfer.py", f"{func} in {_caller()} makes the host wait"
            self.sent += 1
        return out


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for part in tree:
            yield from _tensors(part)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def _has_list(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, (list, range)) for part in parts)


def _caller() -> str:
    frame: Any = sys._getframe(1)
    while frame is not None and CORE not in Path(frame.f_code.co_filename).parents:
        frame = frame.f_back
    return "a test" if frame is None else str(Path(frame.f_code.co_filename).relative_to(CORE))


def model() -> WanDenoiser:
    with DEVICE:
        wan = CausalWan(WanConfig(dim=64, ffn_dim=64, num_heads=HEADS, num_layers=LAYERS, text_dim=8, freq_dim=16))
    return WanDenoiser(wan.requires_grad_(False))


CHANGE = OutputChange(memory_options(3), torch.rand(LAYERS, HEADS, 5))
CHANGES = replace(HeadProfile.assumed(LAYERS, HEADS), changes=CHANGE)


def policies(family: Family) -> dict[str, Policy]:
    window = SlidingWindow(family.default_window_frames, family.sink_frames)
    return {
        "dense": window,
        "dummy forcing": DummyForcing(profile=HeadProfile.assumed(LAYERS, HEADS)),
        "dummy forcing, scored on the way": DummyForcing(),
        "head forcing": HeadForcing(profile=CHANGES),
        "head forcing, scored on the way": HeadForcing(),
    }


def text(seed: int) -> Tensor:
    return torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(seed))


def test_the_stand_in_notices() -> None:
    with pytest.raises(Exception, match="meta"):
        bool(torch.zeros(1, device=DEVICE) > 0)
    with pytest.raises(Exception, match="meta"):
        torch.zeros(1, device=DEVICE).cpu()
    with pytest.raises(Exception, match="device"):
        torch.zeros(2, device=DEVICE) + torch.zeros(2)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[[0, 1]],
        lambda x: x[:, torch.tensor([0, 1])],
        lambda x: x.__setitem__((slice(None), slice(1)), torch.zeros(4, 1)),
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: torch.zeros(3).type_as(x),
        lambda x: torch.zeros(3).to(x),
        lambda x: x.copy_(torch.zeros(4, 4)),
        lambda x: torch.tensor([1, 2], device=x.device),
    ],
)
def test_the_watch_notices(wait: Callable[[Tensor], Any]) -> None:
    with Watch(), pytest.raises(AssertionError, match="makes the host wait"):
        wait(torch.zeros(4, 4, device=DEVICE))


def test_the_watch_lets_the_rest_pass() -> None:
    with Watch() as watch:
        x = torch.zeros(4, 4, device=DEVICE)
        x[:, 1:3] = x[:, :2] * 2 + torch.tensor(1.0)
        assert torch.zeros(3).to(torch.float64).device.type == "cpu"
        assert watch.sent == 0
        to_device(torch.zeros(3), DEVICE)
    assert watch.sent == 1


def test_a_forward_with_timesteps_of_the_host() -> None:
    wan = model().model
    out = forward(
        wan,
        torch.zeros(1, 16, 3, 4, 4, device=DEVICE),
        torch.full((1, 3), 500.0),
        text_kv(wan, text(0).to(DEVICE)),
        FunctionMemory(lambda layer, q, k, v: v),
    )
    assert out is not None and out.device == DEVICE


KINDS = (
    "dense",
    "dummy forcing",
    "dummy forcing, scored on the way",
    "head forcing",
    "head forcing, scored on the way",
)
ONE_PER_LOOP = {family.loop: name for name, family in FAMILIES.items()}.values()


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "dense") for name in FAMILIES), *((name, kind) for name in ONE_PER_LOOP for kind in KINDS[1:])],
)
def test_no_loop_waits(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two things are read: what was observed, once in a chunk whose heads are, and what a switch may add to a bank."""
    read: list[object] = []
    looked: list[list[Tensor]] = []
    profile = HeadProfile.assumed(LAYERS, HEADS)
    monkeypatch.setattr(Observation, "result", lambda seen: read.append(seen) or profile.scores)
    monkeypatch.setattr(ChangeObservation, "result", lambda seen: read.append(seen) or CHANGE)
    monkeypatch.setattr(bank, "_to_host", lambda seen: looked.append(seen) or torch.ones(len(seen), *seen[0].shape))
    family, denoise = FAMILIES[name], model()
    frames = max(8 * family.chunk_frames, 2 * family.trained_frames if family.overlap_frames else 0)
    shape = LatentShape(1, 16, frames, 4, 4)
    prompts = PromptSchedule(((0, text(0)), (5 * family.chunk_frames, text(1))))  # a switch, for those that re-cache
    noise = SeededNoise(0, shape, family.chunk_frames, DEVICE)
    made = scored = 0
    with Watch(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no VAE
        loop = sample(Run(denoise, shape, family.schedule, prompts, policies(family)[kind], family, noise))
        for chunk in loop:
            assert chunk.latent.device == DEVICE
            made += chunk.span.frames
            scored += chunk.scores is not None
    assert made == frames and len(read) == scored
    assert (scored > 0) is ("scored" in kind)
    lasting = family.loop in ("chunks", "restarts")
    assert [len(seen) for seen in looked] == [1] * ("head forcing" in kind and lasting)


def test_a_steady_chunk_sends_its_noise_its_rotations_and_its_levels() -> None:
    family, denoise = FAMILIES["self_forcing"], model()
    shape = LatentShape(1, 16, 24, 4, 4)
    noise, prompts = SeededNoise(0, shape, 3, DEVICE), PromptSchedule.constant(text(0))
    sent: list[int] = []
    policy = policies(family)["dummy forcing"]
    with Watch() as watch:
        for _ in sample(Run(denoise, shape, family.schedule, prompts, policy, family, noise)):
            sent.append(watch.sent)
            watch.sent = 0
    steps, axes = 4, 3
    assert sent[2:] == [steps + axes + steps] * 6  # noise and level of every step; frames, rows, columns


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
def test_what_is_there_stays_there(device: Any) -> None:
    x = torch.zeros(2)
    assert to_device(x, device) is x
