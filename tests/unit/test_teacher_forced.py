"""Teacher-forced error of a policy, and what attention costs under it."""

from dataclasses import replace
from functools import cache
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from dummyforcing_core.clips.report import RunReport
from dummyforcing_core.evaluation.comparison import Row
from dummyforcing_core.evaluation.teacher_forced import ChunkError, teacher_forced
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv.attention import reference
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan, KVShape
from dummyforcing_core.loops.clip_memory import clean_pass
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run
from dummyforcing_core.loops.table import sample
from dummyforcing_core.models.denoiser import Step, WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Full, Policy, SlidingWindow
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule, add_noise

FAMILY = Family("tiny", "Tiny random model", "tests", trained_frames=10_000)
SCHEDULE = Schedule((1.0, 0.6))
SHAPE = LatentShape(1, 16, 12, 4, 4)
NOISE = SeededNoise(0, SHAPE, 3)
PROMPTS = PromptSchedule.constant(torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0)))
FULL = Full()


@cache
def denoiser() -> WanDenoiser:
    torch.manual_seed(0)
    model = CausalWan(WanConfig(dim=64, ffn_dim=64, num_heads=4, num_layers=2, text_dim=8, freq_dim=16))
    with torch.no_grad():
        for block in model.blocks:
            block.modulation.mul_(8)  # open the gates: what attention remembers must show in the output
    return WanDenoiser(model.requires_grad_(False))


def made_with(policy: Policy, family: Family = FAMILY) -> Run:
    return Run(denoiser(), SHAPE, SCHEDULE, PROMPTS, policy, family, NOISE)


@cache
def latents() -> Tensor:
    chunks = rollout(made_with(FULL))
    return torch.cat([chunk.latent for chunk in chunks], dim=2)


def errors(policy: Policy, against: Policy = FULL, **more) -> list[ChunkError]:
    return list(teacher_forced(replace(made_with(policy), **more), latents(), against))


@pytest.mark.parametrize("policy", [FULL, SlidingWindow(6, 1), DummyForcing(), DummyForcing(reclassify_chunks=1)])
def test_a_policy_has_no_error_against_itself(policy: Policy) -> None:
    found = errors(policy, policy)
    assert [e.span.start for e in found] == [0, 3, 6, 9]
    for e in found:
        assert e.velocity == 0
        assert e.heads.shape == (2, 4)
        assert not e.heads.any()


def test_both_memories_recache_on_a_switch_as_the_rollout_does(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[range] = []
    model = denoiser()
    velocity = model.velocity

    def noted(x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        passes.append(step.cache.query_frames)
        return velocity(x, sigma, context, step)

    monkeypatch.setattr(model, "velocity", noted)
    family = replace(FAMILY, window_frames=6, recache=True)
    prompts = PromptSchedule((*PROMPTS.entries, (7, PROMPTS.entries[0][1].flip(1))))
    run = replace(made_with(SlidingWindow(6, 0), family), prompts=prompts)
    list(teacher_forced(run, latents(), SlidingWindow(6, 0)))
    assert [frames for frames in passes if len(frames) > 3] == [range(3, 9)] * 2


def rolled(**more) -> Family:
    return replace(FAMILY, loop="rolling", window_frames=12, sink_frames=3, **more)


def recomputed(**more) -> Family:
    return replace(FAMILY, loop="recompute", window_frames=6, **more)


NO_VAE = pytest.mark.filterwarnings("ignore:.*there is no VAE")


@NO_VAE
@pytest.mark.parametrize("family", [rolled(), recomputed(), recomputed(sink_frames=1)])
def test_other_loops_go_along_the_given_latents_under_both_policies(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes are those of the family's own loop; what they read is the given clip, noised to their levels."""
    seen: list[tuple[list[int], list[float], Tensor]] = []
    model = denoiser()
    velocity = model.velocity

    def noted(x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        seen.append((list(step.cache.query_frames), [round(level, 1) for level in sigma[0].tolist()], x))
        return velocity(x, sigma, context, step)

    monkeypatch.setattr(model, "velocity", noted)
    for policy in (FULL, DummyForcing()):
        list(sample(made_with(policy, family)))
    own = sorted(places[:2] for places in seen)
    seen.clear()
    found = list(teacher_forced(made_with(DummyForcing(), family), latents(), FULL))
    assert [e.span.start for e in found] == [0, 3, 6, 9]
    assert sorted(places[:2] for places in seen) == own and len(own) > 2 * 4 * len(SCHEDULE)
    at_level = {0.0: latents()}
    for i, level in enumerate(SCHEDULE.sigmas):
        drawn = torch.cat([NOISE(i, e.span) for e in found], dim=2)
        at_level[level] = add_noise(latents(), drawn, level)
    for _, levels, x in seen:
        for frame, level in zip(x.split(1, dim=2), levels, strict=True):
            assert (at_level[level] - frame).abs().amax((0, 1, 3, 4)).min() < 1e-6
    assert found[3].velocity > 1e-4 and found[3].heads.max() > 1e-2


@NO_VAE
@pytest.mark.parametrize("family", [rolled(), recomputed(), recomputed(sink_frames=1)])
@pytest.mark.parametrize("policy", [FULL, SlidingWindow(6, 1), DummyForcing()])
def test_other_loops_have_no_error_against_themselves(family: Family, policy: Policy) -> None:
    found = list(teacher_forced(made_with(policy, family), latents(), policy))
    assert [e.velocity for e in found] == [0] * 4 and not any(e.heads.any() for e in found)


@NO_VAE
def test_each_memory_has_stills_of_its_own() -> None:
    class Stills:
        def __init__(self) -> None:
            self.pushed = 0

        def push(self, latents: Tensor) -> None:
            self.pushed += latents.shape[2]

        def at(self, frame: int) -> Tensor:
            return torch.zeros(1, 16, 1, 4, 4)

    made: list[Stills] = []

    def new_stills() -> Stills:
        made.append(Stills())
        return made[-1]

    def velocity(**stills) -> float:
        window = SlidingWindow(5, 0)
        found = teacher_forced(made_with(window, recomputed()), latents(), FULL, **stills)
        return list(found)[-1].velocity

    assert velocity(new_stills=new_stills) != velocity()
    assert [one.pushed for one in made] == [9, 9]


@pytest.mark.parametrize("window", [SlidingWindow(12, 0), SlidingWindow(12, 3), SlidingWindow(30, 5)])
def test_a_window_that_covers_the_clip_has_none_either(window: Policy) -> None:
    for e in errors(window):
        assert e.velocity < 1e-5
        assert e.heads.max() < 1e-4


def test_a_narrower_window_errs_more_and_only_once_it_drops_frames() -> None:
    wide, middle, narrow = (errors(SlidingWindow(window, 0)) for window in (9, 6, 3))
    assert all(e[0].velocity == 0 and not e[0].heads.any() for e in (wide, middle, narrow))
    assert wide[2].velocity < 1e-5 and middle[1].velocity < 1e-5  # all frames still in the window
    for chunk, ordered in ((1, (middle, narrow)), (2, (wide, middle, narrow)), (3, (wide, middle, narrow))):
        values = [e[chunk].velocity for e in ordered]
        assert values == sorted(values)
        assert values[-1] > 1.1 * values[0] + 1e-4
        heads = [float(e[chunk].heads[0].mean()) for e in ordered]
        assert heads == sorted(heads)


def test_dummy_forcing_errs_behind_the_observed_chunk_and_less_than_no_history() -> None:
    ours, bare = errors(DummyForcing()), errors(SlidingWindow(3, 0))
    assert ours[0].velocity == 0
    assert ours[1].velocity < 1e-5  # window (1, 3) still holds all three frames
    for chunk in (2, 3):
        assert 1e-4 < ours[chunk].velocity < bare[chunk].velocity


@pytest.mark.parametrize("chunk", [2, 3])
def test_a_first_layer_head_that_keeps_everything_has_no_error_of_its_own(chunk: int) -> None:
    class OneBare(Policy):
        name: ClassVar[str] = "one_bare"

        def plan(self, setting):
            row = (HeadMemory(), HeadMemory(), HeadMemory(0, 0), HeadMemory())
            return HeadPlan((row, (HeadMemory(),) * 4), (("any",) * 4,) * 2)

    heads = errors(OneBare())[chunk].heads
    assert heads[0, [0, 1, 3]].max() < 1e-5
    assert heads[0, 2] > 1e-2
    assert heads[1].min() > 1e-4  # what the first layer passes on


def test_errors_are_relative_l2_of_velocity_and_head_outputs() -> None:
    """Written out for the first denoising step alone, chunk 1 of a window without history."""
    one_step = Schedule((1.0,))
    run = replace(made_with(SlidingWindow(3, 0)), schedule=one_step, attend=reference)
    found = list(teacher_forced(run, latents(), FULL))[1]
    outputs = {}
    spans = [e.span for e in errors(FULL)]
    x = NOISE(0, spans[1])
    with torch.inference_mode():
        for policy in (FULL, SlidingWindow(3, 0)):
            alone = replace(run, policy=policy)
            memory = alone.new_cache()
            clean_pass(alone, memory, spans[0], latents()[:, :, :3], PROMPTS.at(0))
            memory.begin(3, 3)
            heads = []
            memory.on_output = lambda layer, out, heads=heads: heads.append(out)
            velocity = denoiser().velocity(x, torch.ones(1, 3), PROMPTS.at(3), Step(memory))
            outputs[policy.name] = velocity, torch.stack(heads)
    (v, h), (other_v, other_h) = outputs["full"], outputs["window"]
    assert found.velocity == pytest.approx(float((other_v - v).norm() / v.norm()), rel=1e-3)
    expected = ((other_h - h).square().sum((1, 2, 4)) / h.square().sum((1, 2, 4))).sqrt()
    torch.testing.assert_close(found.heads, expected, rtol=1e-3, atol=1e-5)


def test_a_rows_error_leaves_out_the_first_chunk() -> None:
    found = errors(SlidingWindow(3, 0))
    plan = HeadPlan.uniform(2, 4, HeadMemory(0, 0), "window")
    row = Row(SlidingWindow(3, 0), plan, RunReport(), found, 1)
    assert row.velocity_error == pytest.approx(sum(e.velocity for e in found[1:]) / 3)
    torch.testing.assert_close(row.head_error, torch.stack([e.heads for e in found[1:]]).mean(0))
    alone = Row(SlidingWindow(3, 0), plan, RunReport(), found[:1], 1)
    assert alone.velocity_error == 0
    assert torch.equal(alone.head_error, torch.zeros(2, 4))


# -- what attention costs --------------------------------------------------------------------------------------------

SIZES = {"480p": (30, 52), "720p": (45, 80), "1080p": (68, 120)}


@pytest.mark.parametrize(
    ("size", "all_frames", "window", "dummy"),
    [("480p", 28.3, 16.2, 6.1), ("720p", 150, 86, 32), ("1080p", 773, 442, 166)],
)
def test_attention_flops_of_wan_1_3b_in_tera(size: str, all_frames: float, window: float, dummy: float) -> None:
    """One pass over a chunk of 3: keys of 21 frames, of 12, and of Dummy Forcing's 180 / 90 / 90 heads with lc 1."""
    rows, cols = SIZES[size]

    def tera(plan: HeadPlan, clip: int, batch: int = 1) -> float:
        return plan.attention_flops(KVShape(batch, rows, cols, 128, 2, clip, 3), clip - 3) / 1e12

    full = HeadPlan.uniform(30, 12, HeadMemory(), "full")
    assert tera(full, 21) == pytest.approx(all_frames, rel=0.01)
    assert tera(full, 12) == pytest.approx(window, rel=0.01)
    assert tera(HeadPlan.uniform(30, 12, HeadMemory(3, 6), "window"), 60) == pytest.approx(window, rel=0.01)
    row = (HeadMemory(0, 1),) * 6 + (HeadMemory(1, 0),) * 3 + (HeadMemory(0, 3),) * 3
    narrow = HeadPlan((row,) * 30, (("any",) * 12,) * 30)
    assert tera(narrow, 60) == pytest.approx(dummy, rel=0.01)
    assert tera(narrow, 60, batch=2) == pytest.approx(2 * dummy, rel=0.01)


def test_attention_flops_count_only_the_history_there_is() -> None:
    shape = KVShape(1, 2, 2, 8, 4, 30, 3)
    plan = HeadPlan(((HeadMemory(1, 0), HeadMemory(0, 6)),), (("any",) * 2,))
    one = 4 * (3 * 4) * 4 * 8  # queries x keys of one frame
    assert [plan.attention_flops(shape, h) // one for h in (0, 1, 3, 6, 27)] == [6, 8, 10, 13, 13]
