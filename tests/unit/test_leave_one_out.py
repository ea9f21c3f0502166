"""What heads are worth by leaving them out: the plan, the error, and which heads come first."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from dummyforcing_core.errors import PlanError
from dummyforcing_core.evaluation.leave_one_out import AllBut, HeadWorth, far_heads, leave_one_out
from dummyforcing_core.evaluation.teacher_forced import teacher_forced
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv.plan import HeadMemory
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.models.wan import CausalWan
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Full, Policy, SlidingWindow
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule
from tests.property.tiny import HEADS, LAYERS, context, tiny_model

FAMILY = Family("tiny", "Tiny random model", "tests", trained_frames=10_000)
SHAPE = LatentShape(1, 16, 12, 4, 4)
FULL = Full()
WIDE = SlidingWindow(9, 1)  # history: 1 first frame, 5 recent ones
NEWEST = HeadMemory(0, 3)
ALL = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]


def made_with(policy: Policy, family: Family = FAMILY, model: CausalWan | None = None) -> Run:
    denoise = WanDenoiser(tiny_model(4.0) if model is None else model)
    prompts, noise = PromptSchedule.constant(context(0)), SeededNoise(0, SHAPE, 3)
    return Run(denoise, SHAPE, Schedule((1.0, 0.6)), prompts, policy, family, noise)


@cache
def latents() -> Tensor:
    return torch.cat([chunk.latent for chunk in rollout(made_with(FULL))], dim=2)


def profiled() -> DummyForcing:
    """Head 0 of every layer is a sink head, head 1 a neighbour, the others are dummies."""
    row = [[0.6, 0.1, 0.3], [0.1, 0.6, 0.3], *[[0.01, 0.02, 0.97]] * (HEADS - 2)]
    return DummyForcing(profile=HeadProfile(HeadScores(torch.tensor([row] * LAYERS)), "tiny"), local_chunks=2)


def test_the_plan_is_the_references_but_for_one_head() -> None:
    setting = made_with(WIDE).setting
    before, after = WIDE.plan(setting), AllBut(WIDE, 1, 2, NEWEST).plan(setting)
    changed = [(layer, head) for layer, head in ALL if after.memories[layer][head] != before.memories[layer][head]]
    assert changed == [(1, 2)]
    assert after.memories[1][2] == NEWEST and after.roles[1] == ("window", "window", "left out", "window")
    assert after.roles[0] == before.roles[0] and after.family == before.family


def rolled() -> Family:
    return replace(FAMILY, loop="rolling", window_frames=12, sink_frames=3)


def recomputed() -> Family:
    return replace(FAMILY, loop="recompute", window_frames=9)


@pytest.mark.filterwarnings("ignore:.*there is no VAE")
@pytest.mark.parametrize("family", [FAMILY, rolled(), recomputed()], ids=lambda family: family.loop)
def test_it_is_the_teacher_forced_error_of_that_plan(family: Family) -> None:
    run = made_with(FULL, family)
    reference = WIDE if family is not FAMILY else FULL
    found = list(leave_one_out(run, latents(), reference, [(0, 1), (1, 3)]))
    assert [(one.layer, one.head) for one in found] == [(0, 1), (1, 3)]
    for one in found:
        alone = replace(run, policy=AllBut(reference, one.layer, one.head, NEWEST))
        errors = [error.velocity for error in teacher_forced(alone, latents(), reference)]
        assert one.velocity == pytest.approx(sum(errors[1:]) / 3, rel=1e-9)
        assert one.velocity > 1e-5


def test_a_head_that_has_nothing_to_lose_has_no_error_at_all() -> None:
    near = SlidingWindow(6, 0)
    assert near.plan(made_with(near).setting).memories[0][0] == NEWEST
    assert list(leave_one_out(made_with(FULL), latents(), near, [(0, 1), (1, 0)])) == [
        HeadWorth(0, 1, 0.0),
        HeadWorth(1, 0, 0.0),
    ]
    assert list(leave_one_out(made_with(FULL), latents(), near)) == []


def test_the_planted_head_comes_first() -> None:
    """Only head 2 of layer 1 reaches the output: the other columns of every output projection are 0."""
    model = tiny_model(4.0)
    size = model.blocks[0].self_attn.o.weight.shape[1] // HEADS
    for layer, block in enumerate(model.blocks):
        weight = block.self_attn.o.weight
        kept = 4 * weight[:, 2 * size : 3 * size].clone() if layer == 1 else 0.0
        weight.zero_()
        weight[:, 2 * size : 3 * size] = kept
    found = sorted(leave_one_out(made_with(FULL, model=model), latents(), FULL), key=lambda one: -one.velocity)
    assert {(one.layer, one.head) for one in found} == set(ALL)
    assert (found[0].layer, found[0].head) == (1, 2) and found[0].velocity > 1e-3
    assert all(one.velocity == 0 for one in found[1:])


def test_only_heads_that_keep_more_than_the_newest_chunk_are_left_out() -> None:
    """Of a sink head nothing stays; a dummy's one frame and a neighbour's newest chunk do."""
    plan = profiled().plan(made_with(FULL).setting)
    assert far_heads(plan, 3) == [(layer, head) for layer in range(LAYERS) for head in (0, 1)]
    found = list(leave_one_out(made_with(FULL), latents(), profiled()))
    assert [(one.layer, one.head) for one in found] == far_heads(plan, 3)
    alone = replace(made_with(FULL), policy=AllBut(profiled(), 0, 0, HeadMemory(0, 0)))
    errors = [error.velocity for error in teacher_forced(alone, latents(), profiled())]
    assert found[0].velocity == pytest.approx(sum(errors[1:]) / 3, rel=1e-9)


def test_a_reference_that_plans_anew_is_refused() -> None:
    with pytest.raises(PlanError, match="expected a reference with one plan for the whole clip, got 'dummy'"):
        next(leave_one_out(made_with(FULL), latents(), DummyForcing()))


def test_the_reference_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run, calls = made_with(FULL), []
    found = leave_one_out(replace(run, on_step=lambda span, step: calls.append(span)), latents(), FULL, ALL[:3])
    one_clip = 4 * (2 + 1)
    for number, _ in enumerate(found):
        assert len(calls) == one_clip * (2 + number)


def test_a_clip_without_history_costs_nothing() -> None:
    found = list(leave_one_out(made_with(FULL), latents()[:, :, :3], FULL))
    assert {one.velocity for one in found} == {0.0}
