"""What every family's loop promises to whoever shows its progress."""

import warnings

import pytest
import torch
from torch import Tensor

from dummyforcing_core.geometry import LatentShape, chunk_spans
from dummyforcing_core.loops import loop_of, model_calls
from dummyforcing_core.models.checkpoints import load_demo_model
from dummyforcing_core.models.denoiser import Step, WanDenoiser
from dummyforcing_core.models.families import FAMILIES, get_family
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Full
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule

PROMPTS = PromptSchedule.constant(torch.zeros(1, 11, 64))


class Counted(WanDenoiser):
    calls = 0

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        self.calls += 1
        return super().__call__(x, sigma, context, step)


@pytest.fixture(scope="module")
def denoise() -> Counted:
    return Counted(load_demo_model().model)


@pytest.mark.parametrize(
    ("name", "given"),  # rolling windows take no start
    [(name, given) for name in FAMILIES for given in ([0] if FAMILIES[name].loop == "rolling" else [0, 1, 5])],
)
@pytest.mark.parametrize("policy", [Full(), DummyForcing()])
def test_the_calls_of_a_clip_are_known_before(denoise: Counted, name: str, given: int, policy) -> None:
    family = get_family(name)
    for schedule in (family.schedule, Schedule((1.0, 0.7, 0.4))):
        told = 0

        def on_step(span, step) -> None:
            nonlocal told
            told += 1

        shape = LatentShape(1, 16, {"rolling": 18, "restarts": given + 40}.get(family.loop, given + 7), 2, 2)
        start = torch.zeros(1, 16, given, 2, 2) if given else None
        denoise.calls = 0
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*there is no VAE")
            noise = SeededNoise(0, shape, family.chunk_frames)
            chunks = list(
                loop_of(family)(denoise, shape, schedule, PROMPTS, policy, family, noise, start=start, on_step=on_step)
            )
        assert len(chunks) == len(chunk_spans(shape.frames, family.chunk_frames, given))
        assert model_calls(family, schedule, shape.frames, given) == told == denoise.calls
