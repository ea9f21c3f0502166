"""Taking a profile: which passes are scored, and how stable the choice of dummy heads is across them."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dummyforcing_core.evaluation.profiling import (
    CLEAN,
    ProfilePlan,
    Sample,
    current_share,
    dummy_set,
    overlap,
    overlaps,
    take_changes,
    take_samples,
)
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing
from dummyforcing_core.prompts import PromptSchedule

FAMILY = Family("tiny", "Tiny random model", "tests", steps=(1000, 500), trained_frames=10_000)


def with_dummies(*heads: int) -> HeadScores:
    """Scores of 2 layers x 2 heads in which these heads (flat) look at the current chunk, most of all the first."""
    mass = torch.tensor([[0.4, 0.4, 0.2]] * 4)
    for place, head in enumerate(heads):
        low = 0.01 * (place + 1)
        mass[head] = torch.tensor([low, low, 1 - 2 * low])
    return HeadScores(mass.view(2, 2, 3))


# -- stability -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [(), (0,), (3, 1), (2, 0, 3), (3, 2, 1, 0)])
def test_the_dummy_set_is_flat_over_layers(heads: tuple[int, ...]) -> None:
    for count in range(1, len(heads) + 1):
        assert dummy_set(with_dummies(*heads), count) == set(heads[:count])
    assert dummy_set(with_dummies(*heads), 0) == set()
    assert dummy_set(with_dummies(*heads), 4) == {0, 1, 2, 3}


@pytest.mark.parametrize(("other", "share"), [((0, 1), 1.0), ((1, 0), 1.0), ((1, 2), 0.5), ((2, 3), 0.0)])
def test_the_overlap_is_the_share_of_common_dummies(other: tuple[int, int], share: float) -> None:
    assert overlap(with_dummies(0, 1), with_dummies(*other), 2) == share
    assert overlap(with_dummies(*other), with_dummies(0, 1), 2) == share


def sample(clip: int, prompt: int, chunk: int, step: int, *heads: int) -> Sample:
    return Sample(clip, prompt, chunk, step, with_dummies(*heads))


def test_overlap_across_ar_steps_pairs_the_clean_passes_of_one_clip() -> None:
    samples = [
        sample(0, 0, 1, CLEAN, 0, 1),
        sample(0, 0, 2, CLEAN, 0, 1),
        sample(0, 0, 3, CLEAN, 1, 2),  # 1, .5, .5
        sample(1, 0, 1, CLEAN, 2, 3),
        sample(1, 0, 2, CLEAN, 0, 1),  # 0
    ]
    found = overlaps(samples, 2)
    assert found["AR steps"] == pytest.approx(2 / 4)
    assert found["timesteps"] is None  # no pair
    assert found["prompts"] is None


def test_overlap_across_timesteps_pairs_the_steps_of_one_chunk_without_the_clean_pass() -> None:
    samples = [
        sample(0, 0, 1, 0, 0, 1),
        sample(0, 0, 1, 1, 0, 1),
        sample(0, 0, 1, 2, 0, 2),  # 1, .5, .5
        sample(0, 0, 1, CLEAN, 2, 3),
        sample(0, 0, 2, 0, 2, 3),
        sample(0, 0, 2, 1, 0, 1),  # 0
        sample(1, 0, 2, 0, 2, 3),  # alone
    ]
    found = overlaps(samples, 2)
    assert found["timesteps"] == pytest.approx(2 / 4)
    assert found["AR steps"] is None


def test_overlap_across_prompts_pairs_the_mean_scores_of_prompts_not_of_clips() -> None:
    one = [sample(clip, 0, 1, step, 0, 1) for clip in (0, 1) for step in (0, CLEAN)]
    assert overlaps(one, 2)["prompts"] is None  # two seeds are no pair
    two = [sample(2, 1, 1, 0, 1, 2), sample(2, 1, 1, CLEAN, 1, 2)]
    assert overlaps([*one, *two], 2)["prompts"] == 0.5
    three = [sample(3, 2, 1, CLEAN, 2, 3)]
    assert overlaps([*one, *two, *three], 2)["prompts"] == pytest.approx((0.5 + 0 + 0.5) / 3)


def test_no_dummies_have_no_overlap() -> None:
    samples = [sample(0, 0, chunk, CLEAN, 0, 1) for chunk in (1, 2)]
    assert overlaps(samples, 0) == {"AR steps": None, "timesteps": None, "prompts": None}
    assert overlaps([], 2) == {"AR steps": None, "timesteps": None, "prompts": None}


def test_the_share_of_heads_that_look_at_the_current_chunk() -> None:
    mass = torch.zeros(3, 4, 3)
    mass[0, :, 2] = torch.tensor([0.81, 0.79, 0.95, 0.1])
    mass[1, :, 2] = torch.tensor([0.8, 0.5, 0.2, 0.0])  # more than 80 %, not 80 %
    mass[2, :, 2] = 1.0
    assert current_share(HeadScores(mass)).tolist() == [0.5, 0.0, 1.0]


# -- samples of a real rollout ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def denoise() -> WanDenoiser:
    torch.manual_seed(0)
    config = WanConfig(dim=64, ffn_dim=64, num_heads=2, num_layers=2, text_dim=8, freq_dim=16)
    return WanDenoiser(CausalWan(config).requires_grad_(False))


def prompt(seed: int) -> PromptSchedule:
    return PromptSchedule.constant(torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(seed)))


def shape(frames: int) -> LatentShape:
    return LatentShape(1, 16, frames, 4, 4)


def online(denoise: WanDenoiser, frames: int, prompts: PromptSchedule, seed: int, chunk: int) -> Tensor:
    """What Dummy Forcing scores in a chunk of its own rollout."""
    noise = SeededNoise(seed, shape(frames), 3)
    policy = DummyForcing(observe_chunk=chunk)
    chunks = rollout(Run(denoise, shape(frames), FAMILY.schedule, prompts, policy, FAMILY, noise))
    return next(c.scores.mass for c in chunks if c.scores)


def test_every_pass_with_neighbour_frames_is_scored_once(denoise: WanDenoiser) -> None:
    samples = list(take_samples(denoise, FAMILY, ProfilePlan([prompt(0), prompt(1)], [5, 6], shape(9))))
    places = [(s.clip, s.prompt, s.chunk, s.step) for s in samples]
    assert places == [(clip, clip // 2, chunk, step) for clip in range(4) for chunk in (1, 2) for step in (0, 1, CLEAN)]
    for s in samples:
        assert s.scores.mass.shape == (2, 2, 3)
        assert (s.scores.mass > 0).all()  # there are sink, neighbour and current frames
        torch.testing.assert_close(s.scores.mass.sum(-1), torch.ones(2, 2))
    masses = torch.stack([s.scores.mass for s in samples])
    assert len(torch.unique(masses.flatten(1), dim=0)) == len(samples)


@pytest.mark.parametrize(("clip", "seed"), [(0, 5), (3, 6)])
def test_a_clean_sample_is_what_dummy_forcing_scores_there(denoise: WanDenoiser, clip: int, seed: int) -> None:
    prompts = [prompt(0), prompt(1)]
    samples = list(take_samples(denoise, FAMILY, ProfilePlan(prompts, [5, 6], shape(9))))
    for chunk in (1, 2):
        ours = next(s.scores.mass for s in samples if (s.clip, s.chunk, s.step) == (clip, chunk, CLEAN))
        theirs = online(denoise, 9, prompts[clip // 2], seed, chunk)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "chunk_frames", "options", "chunks"),
    [
        (3, 3, {}, set()),
        (7, 3, {}, {1, 2}),
        (2, 1, {}, set()),
        (4, 1, {}, {2, 3}),
        (5, 1, {"sink_frames": 2}, {3, 4}),
        (9, 3, {"sink_frames": 3}, {2}),
        (12, 3, {"local_chunks": 2}, {1, 2, 3}),
    ],
)
def test_the_first_scored_chunk_is_the_first_with_a_neighbour_frame(
    denoise: WanDenoiser, frames: int, chunk_frames: int, options: dict, chunks: set[int]
) -> None:
    family = replace(FAMILY, chunk_frames=chunk_frames)
    samples = list(take_samples(denoise, family, ProfilePlan([prompt(0)], [0], shape(frames), **options)))
    assert {s.chunk for s in samples} == chunks
    assert all((s.scores.mass > 0).all() for s in samples)


def test_a_longer_neighbour_window_draws_more_mass(denoise: WanDenoiser) -> None:
    near, far = (
        list(take_samples(denoise, FAMILY, ProfilePlan([prompt(0)], [0], shape(12), local_chunks=n)))[-1]
        for n in (1, 3)
    )
    assert far.scores.mass[..., 1].mean() > near.scores.mass[..., 1].mean()


# -- output changes --------------------------------------------------------------------------------------------------


def test_every_chunk_with_far_frames_is_observed_once(denoise: WanDenoiser) -> None:
    plan = ProfilePlan([prompt(0), prompt(1)], [5], shape(12))
    found = list(take_changes(denoise, FAMILY, plan))
    assert len(found) == 2 * 2  # chunks 2 and 3 of two clips
    for one in found:
        assert one.change.shape == (2, 2, 5)
        assert (one.far > 0).all()
    assert len(torch.unique(torch.stack([one.change for one in found]).flatten(1), dim=0)) == len(found)
    assert list(take_changes(denoise, FAMILY, replace(plan, shape=shape(6)))) == []


def test_another_step_gives_other_changes_and_watching_changes_nothing(denoise: WanDenoiser) -> None:
    plan = ProfilePlan([prompt(0)], [5], shape(9))
    (first,), (second,) = (list(take_changes(denoise, FAMILY, plan, step)) for step in (0, 1))
    assert (first.change - second.change).abs().max() > 1e-4
    (again,) = take_changes(denoise, FAMILY, plan)
    assert torch.equal(again.change, first.change)


def test_a_head_whose_projection_is_zero_changes_nothing_and_a_planted_one_leads(denoise: WanDenoiser) -> None:
    """Mass cannot tell these heads apart: they look at the same keys, and only what is done with it differs."""
    model = copy.deepcopy(denoise.model)
    head_dim = model.config.head_dim
    with torch.no_grad():
        for block in model.blocks:
            block.self_attn.o.weight[:, :head_dim] = 0
        model.blocks[1].self_attn.o.weight[:, head_dim:] *= 50
    (found,) = take_changes(WanDenoiser(model), FAMILY, ProfilePlan([prompt(0)], [5], shape(9)))
    assert found.far[:, 0].tolist() == [0, 0]
    assert found.far.flatten().argmax() == 3
    assert found.far[1, 1] > 5 * found.far[0, 1] > 0
