"""Teacher forcing, profiling and comparing on a family that re-caches, with the bundled weights: sane figures."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dummyforcing_core.cli.compare import compare
from dummyforcing_core.clips.pipeline import Compute, Pipeline, Weights, load_pipeline
from dummyforcing_core.clips.render import Clip
from dummyforcing_core.clips.script import Script
from dummyforcing_core.evaluation.profiling import CLEAN, ProfilePlan, overlaps, take_samples
from dummyforcing_core.evaluation.teacher_forced import ChunkError, teacher_forced
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Full, Policy, SlidingWindow
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.prompts import PromptSchedule

SHAPE = LatentShape(1, 16, 18, 8, 8)
STORY = Script(
    (
        (0, "a red circle on the left moving sideways and a blue square on the right moving up and down"),
        (7, "a circle moving up and down and a square standing still"),
        (14, "a circle and a square, lights off"),
    )
)
SWITCHED = 9  # where frame 7 acts
FULL, WINDOW, DUMMY, BARE = Full(), SlidingWindow(12, 3), DummyForcing(), SlidingWindow(3, 0)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    demo = load_pipeline(Weights("demo"), Compute(torch.device("cpu"), torch.float32))
    return replace(demo, family=replace(demo.family, recache=True))


@pytest.fixture(scope="module")
def prompts(pipeline: Pipeline) -> PromptSchedule:
    return PromptSchedule(tuple((start, pipeline.encode(prompt)) for start, prompt in STORY.lines))


@pytest.fixture(scope="module")
def latents(pipeline: Pipeline, prompts: PromptSchedule) -> Tensor:
    family, noise = pipeline.family, SeededNoise(0, SHAPE, 3)
    chunks = rollout(Run(pipeline.denoiser, SHAPE, family.schedule, prompts, FULL, family, noise))
    return torch.cat([chunk.latent for chunk in chunks], dim=2)


@pytest.fixture(scope="module")
def errors(pipeline: Pipeline, prompts: PromptSchedule, latents: Tensor):
    def errors(policy: Policy, reference: Policy = FULL, recache: bool = True) -> list[ChunkError]:
        family, noise = replace(pipeline.family, recache=recache), SeededNoise(0, SHAPE, 3)
        run = Run(pipeline.denoiser, SHAPE, family.schedule, prompts, policy, family, noise)
        return list(teacher_forced(run, latents, reference))

    return errors


@pytest.mark.parametrize("policy", [FULL, WINDOW, DUMMY, DummyForcing(reclassify_chunks=2)], ids=str)
def test_a_policy_has_no_error_against_itself(errors, policy: Policy) -> None:
    found = errors(policy, policy)
    assert [e.span.start for e in found] == [0, 3, 6, 9, 12, 15]
    assert all(e.velocity == 0 and not e.heads.any() for e in found)


def test_the_familys_own_window_errs_only_once_it_drops_frames(errors) -> None:
    """A re-cache at frame 9 leaves 9 frames in the full cache; at 15, the newest 12 or, with the sink, 3 + 9 of them.

    The window holds 9 of history: three fewer than the full cache from frame 12 on, and the same before.
    """
    found = errors(WINDOW)
    assert all(e.velocity < 1e-4 for e in found[:4])
    assert all(1e-4 < e.velocity < 0.1 for e in found[4:])


def test_less_memory_errs_more_also_behind_a_switch(errors) -> None:
    window, dummy, bare = (errors(policy) for policy in (WINDOW, DUMMY, BARE))
    for i, start in enumerate(range(0, 18, 3)):
        values = [e[i].velocity for e in (window, dummy, bare)]
        assert all(
            value < 1 and torch.isfinite(e[i].heads).all()
            for value, e in zip(values, (window, dummy, bare), strict=True)
        )
        if start >= 6:  # the heads are scored in the chunk that starts at 3
            assert values[0] < values[1] < values[2], start
            assert values[1] > 1e-2


def test_re_caching_changes_the_error_from_the_switch_on(errors) -> None:
    on, off = errors(DUMMY), errors(DUMMY, recache=False)
    for ours, other in zip(on, off, strict=True):
        assert (ours.velocity == other.velocity) == (ours.span.start < SWITCHED)


def test_a_profile_is_taken_across_switches(pipeline: Pipeline, prompts: PromptSchedule) -> None:
    clips = ProfilePlan((prompts, PromptSchedule.constant(prompts.at(0))), (0,), SHAPE)
    samples = list(take_samples(pipeline.denoiser, pipeline.family, clips))
    steps = {CLEAN, *range(len(pipeline.family.schedule))}
    assert {(s.clip, s.chunk, s.step) for s in samples} == {
        (clip, chunk, step) for clip in range(2) for chunk in range(1, 6) for step in steps
    }
    assert len(samples) == 2 * 5 * len(steps)
    for sample in samples:
        mass = sample.scores.mass
        assert mass.min() > 0
        torch.testing.assert_close(mass.sum(-1), torch.ones(mass.shape[:2]))
    same = [{(s.chunk, s.step): s.scores.mass for s in samples if s.clip == clip} for clip in range(2)]
    for (chunk, step), mass in same[0].items():
        assert torch.equal(mass, same[1][chunk, step]) == (chunk < 3)  # until the switch the clips are one
    assert all(value is not None and 0.5 < value <= 1 for value in overlaps(samples, 12).values())


def test_a_profile_across_switches_serves_the_same_clip(pipeline: Pipeline, prompts: PromptSchedule, errors) -> None:
    clips = ProfilePlan((prompts,), (0,), SHAPE)
    samples = list(take_samples(pipeline.denoiser, pipeline.family, clips))
    profile = HeadProfile(HeadScores.mean([s.scores for s in samples]))
    mine, bare = errors(DummyForcing(profile=profile)), errors(BARE)
    assert all(1e-2 < ours.velocity < other.velocity for ours, other in zip(mine[2:], bare[2:], strict=True))


def test_compare_on_a_story(pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = compare(pipeline, Clip(STORY, SHAPE, 0, FULL), [FULL, WINDOW, DUMMY], tmp_path)
    assert [row.velocity_error == 0 for row in rows] == [True, False, False]
    assert 0 < rows[1].velocity_error < rows[2].velocity_error < 1
    for row in rows:
        memory = row.report.memory
        assert memory["resident_bytes"]["actual"] == memory["resident_bytes"]["predicted"]
        assert memory["peak_bytes"]["actual"] == memory["peak_bytes"]["predicted"]
        assert memory["history_bytes"]["actual"] <= memory["history_bytes"]["predicted"]
    assert [row.report.memory["cached_frames"]["max"] for row in rows] == [18, 9, 3]
    assert "dummy" in capsys.readouterr().out
