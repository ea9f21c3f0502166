"""Full cache and sliding window: the plans they make, their warnings and refusals."""

import warnings
from dataclasses import FrozenInstanceError, replace

import pytest

from dummyforcing_core.errors import CheckpointError, PlanError
from dummyforcing_core.kv.plan import HeadMemory
from dummyforcing_core.models.families import FAMILIES, get_family
from dummyforcing_core.policies import POLICIES, ForcingKV, Full, Setting, SlidingWindow, get_policy
from dummyforcing_core.policies.forcing_kv import HeadLabels

FAMILY = get_family("self_forcing")


def setting(clip_frames: int = 21, chunk_frames: int = 3) -> Setting:
    return Setting(layers=30, heads=12, family=FAMILY, chunk_frames=chunk_frames, clip_frames=clip_frames)


MADE = {name: policy() for name, policy in POLICIES.items()} | {
    "forcing_kv": ForcingKV(HeadLabels((frozenset({0}),) * 30, 12)),  # which does nothing without its file
}


@pytest.mark.parametrize("policy", MADE.values(), ids=MADE)
class TestEveryPolicy:
    def test_makes_a_plan_for_the_models_geometry_and_names_the_family(self, policy):
        plan = policy.plan(setting())
        plan.check(30, 12)
        assert plan.family == FAMILY.name

    def test_is_a_frozen_hashable_value(self, policy):
        assert {policy, replace(policy)} == {policy}
        with pytest.raises(FrozenInstanceError):
            policy.name = "other"

    def test_is_found_by_its_name(self, policy):
        assert get_policy(policy.name) is type(policy)

    def test_decides_the_same_every_time(self, policy):
        assert policy.plan(setting()) == policy.plan(setting())


def test_unknown_policies_and_families_list_the_known_ones():
    with pytest.raises(PlanError) as error:
        get_policy("windows")
    assert all(name in str(error.value) for name in ("'windows'", *POLICIES))
    with pytest.raises(CheckpointError) as error:
        get_family("forcing")
    assert all(name in str(error.value) for name in ("'forcing'", *FAMILIES))


@pytest.mark.parametrize(
    "window, sink, chunk, memory",
    [
        (12, 3, 3, HeadMemory(3, 6)),  # LongLive
        (21, 0, 3, HeadMemory(0, 18)),  # Self-Forcing
        (6, 3, 3, HeadMemory(3, 0)),
        (3, 0, 3, HeadMemory(0, 0)),
        (12, 3, 1, HeadMemory(3, 8)),
    ],
)
def test_a_window_counts_the_sink_and_the_current_chunk(window, sink, chunk, memory):
    plan = SlidingWindow(window, sink).plan(setting(chunk_frames=chunk))
    assert {m for row in plan.memories for m in row} == {memory}


@pytest.mark.parametrize(
    "window, sink, chunk, least", [(5, 3, 3, 6), (2, 0, 3, 3), (3, 3, 1, 4), (0, 0, 1, 1), (-1, 0, 1, 1)]
)
def test_a_window_shorter_than_sink_and_chunk_names_all_numbers(window, sink, chunk, least):
    message = f"at least {least} frames, {sink} for the sink and {chunk} for the current chunk, got {window}"
    if window < 1:
        message = f"expected window_frames of 1 or more, got {window}"
    with pytest.raises(PlanError, match=message):
        SlidingWindow(window, sink).plan(setting(chunk_frames=chunk))


def test_a_negative_sink_is_refused():
    with pytest.raises(PlanError, match="expected sink_frames of 0 or more, got -1"):
        SlidingWindow(12, -1).plan(setting())


def test_full_keeps_everything_at_absolute_positions():
    plan = Full().plan(setting())
    assert {m for row in plan.memories for m in row} == {HeadMemory(0, None, "absolute")}


@pytest.mark.parametrize("frames", [1, 20, 21])
def test_full_is_silent_within_the_trained_range(frames):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Full().plan(setting(frames)).cached_frames(frames) == [frames] * 360


@pytest.mark.parametrize("window, sink, named", [(None, 0, "window 21, sink 0"), (12, 3, "window 12, sink 3")])
def test_full_warns_beyond_the_trained_range_and_names_the_familys_window(window, sink, named):
    family = replace(FAMILY, window_frames=window, sink_frames=sink)
    with pytest.warns(UserWarning) as caught:
        Full().plan(replace(setting(22), family=family))
    message = str(caught[0].message)
    assert len(caught) == 1
    assert "22 latent frames" in message
    assert f"{family.title} was trained on 21" in message
    assert named in message


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_family_has_a_window_that_its_own_policy_accepts(family):
    window = SlidingWindow(family.default_window_frames, family.sink_frames)
    plan = window.plan(Setting(2, 2, family, family.chunk_frames, 21))
    assert plan.cached_frames(21) == [family.default_window_frames - family.chunk_frames] * 4
