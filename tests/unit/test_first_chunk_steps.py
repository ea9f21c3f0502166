"""Families whose first generated chunk takes more steps than the later ones (Causal-Forcing++)."""

import dataclasses

import pytest
import torch
from torch import Tensor

from dummyforcing_core.errors import DummyForcingError
from dummyforcing_core.evaluation.teacher_forced import teacher_forced
from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models.checkpoints import load_demo_model
from dummyforcing_core.models.denoiser import Step, WanDenoiser
from dummyforcing_core.models.families import get_family
from dummyforcing_core.models.stepcache import NO_STEPS, StepCache
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import Full
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule

FIRST = [1.0, 0.9375, 0.8333, 0.625]
LATER = {"causal_forcing_2step": [1.0, 0.8333], "causal_forcing_1step": [1.0]}
SHAPE = LatentShape(1, 16, 4, 4, 4)
PROMPTS = PromptSchedule.constant(torch.zeros(1, 11, 64))


class Levels(WanDenoiser):
    """Records the noise level of every call."""

    seen: list[float]

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        self.seen.append(round(float(sigma[0, 0]), 4))
        return super().__call__(x, sigma, context, step)


@pytest.fixture
def denoise() -> Levels:
    denoiser = Levels(load_demo_model().model)
    denoiser.seen = []
    return denoiser


def sample(denoise: Levels, name: str, given: int = 0, steps: StepCache = NO_STEPS) -> list[Tensor]:
    family = get_family(name)
    start = torch.zeros(1, 16, given, 4, 4) if given else None
    noise = SeededNoise(1, SHAPE, family.chunk_frames)
    chunks = rollout(Run(denoise, SHAPE, family.schedule, PROMPTS, Full(), family, noise, start=start, steps=steps))
    return [chunk.latent for chunk in chunks]


@pytest.mark.parametrize("name", LATER)
def test_only_the_first_generated_chunk_takes_its_own_steps(denoise: Levels, name: str) -> None:
    sample(denoise, name)
    later = [*LATER[name], 0.0]
    assert denoise.seen == [*FIRST, 0.0, *later, *later, *later]


@pytest.mark.parametrize("name", LATER)
def test_with_a_given_image_it_is_the_first_one_after_it(denoise: Levels, name: str) -> None:
    sample(denoise, name, given=1)
    later = [*LATER[name], 0.0]
    assert denoise.seen == [0.0, *FIRST, 0.0, *later, *later]


def test_steps_are_skipped_in_later_chunks_only(denoise: Levels) -> None:
    dense = sample(denoise, "causal_forcing_2step")
    skipped = sample(denoise, "causal_forcing_2step", steps=StepCache(frozenset({1})))
    assert torch.equal(dense[0], skipped[0])
    assert not torch.equal(dense[1], skipped[1])
    with pytest.raises(DummyForcingError, match="expected steps to skip from 1 to 1, got 2"):
        StepCache.explicit([2], get_family("causal_forcing_2step").schedule)


def test_the_policy_error_is_measured_at_the_levels_of_each_chunk(denoise: Levels) -> None:
    family = get_family("causal_forcing_1step")
    latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    noise = SeededNoise(1, SHAPE, 1)
    run = Run(denoise, SHAPE, family.schedule, PROMPTS, Full(), family, noise)
    errors = list(teacher_forced(run, latents, Full()))
    assert [error.velocity for error in errors] == [0.0, 0.0, 0.0]
    levels = [level for level in denoise.seen if level]
    assert levels == [level for chunk in (FIRST, [1.0], [1.0]) for _ in range(2) for level in chunk]


def test_the_clean_pass_has_noise_of_its_own_under_context_noise(denoise: Levels) -> None:
    family = dataclasses.replace(get_family("causal_forcing_1step"))
    schedule = dataclasses.replace(family.schedule, context_noise=0.1)
    asked: list[tuple[int, int]] = []
    seeded = SeededNoise(1, SHAPE, 1)

    def noise(step: int, span: Span) -> Tensor:
        asked.append((span.start, step))
        return seeded(step, span)

    list(rollout(Run(denoise, SHAPE, schedule, PROMPTS, Full(), family, noise)))
    assert len(asked) == len(set(asked)) == 4 + 3 * 1 + 4
    assert [step for frame, step in asked if frame == 2] == [0, 4]


def test_levels_that_cannot_be_sampled_are_refused() -> None:
    with pytest.raises(DummyForcingError, match="each below the last"):
        Schedule((1.0,), first_sigmas=(0.5, 0.9))
    with pytest.raises(DummyForcingError, match="one or more levels"):
        Schedule((1.0,), first_sigmas=())
