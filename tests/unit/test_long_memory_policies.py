"""Head Forcing and Head Budget as plans: roles, budgets, and what they refuse."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dummyforcing_core.errors import PlanError
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv.bank import EpisodeEnd, Every, KeyNovelty
from dummyforcing_core.kv.output_change import OutputChange, memory_options
from dummyforcing_core.kv.plan import HeadMemory
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.loops.run import setting_of
from dummyforcing_core.models.denoiser import ModelGeometry
from dummyforcing_core.models.families import get_family
from dummyforcing_core.policies import DummyForcing, HeadBudget, HeadForcing, Setting
from dummyforcing_core.policies.profile import HeadProfile

FAMILY = get_family("self_forcing")
SETTING = Setting(2, 4, FAMILY, 3, 240)
FAR = [[0.1, 0.9, 0.3, 0.2], [0.0, 0.5, 0.4, 0.8]]


def profile(far=FAR) -> HeadProfile:
    """Of heads that lose so much without far frames, twice that with the newest frame, nothing with first frames."""
    change = torch.tensor(far)
    options = torch.stack([3 * change, 2 * change, change, 0 * change, 0 * change], -1)
    mass = torch.full((*change.shape, 3), 1 / 3)
    mass[..., 2] = change  # the more it loses, the more it looks at the current chunk: the opposite order by mass
    mass[..., :2] = (1 - change[..., None]) / 2
    return HeadProfile(HeadScores(mass), changes=OutputChange(memory_options(3), options))


def roles(policy) -> list[list[str]]:
    return [list(row) for row in policy.plan(SETTING).roles]


def test_heads_that_lose_most_remember() -> None:
    assert roles(HeadForcing(0.25, profile=profile())) == [
        ["local", "memory", "local", "local"],
        ["local", "local", "local", "memory"],
    ]


def test_the_next_are_anchors() -> None:
    found = roles(HeadForcing(num_memory=2, anchor_ratio=0.5, profile=profile()))
    assert found == [["local", "memory", "anchor", "local"], ["local", "anchor", "anchor", "memory"]]


def test_by_mass_it_is_what_looks_away_from_the_current_chunk() -> None:
    found = roles(HeadForcing(num_memory=2, roles_by="mass", profile=profile()))
    assert found == [["memory", "local", "local", "local"], ["memory", "local", "local", "local"]]


def test_equal_heads_go_by_layer_then_head() -> None:
    assert roles(HeadForcing(num_memory=3, profile=profile([[1.0] * 4] * 2)))[0] == ["memory"] * 3 + ["local"]


def test_what_roles_keep() -> None:
    plan = HeadForcing(num_memory=1, anchor_ratio=1, local_frames=1, sink_frames=2, profile=profile()).plan(SETTING)
    assert plan.memories[0][1] == HeadMemory(0, 3, bank_frames=6)
    assert set(plan.memories[1]) == {HeadMemory(2, 1)}
    plan = HeadForcing(num_memory=8, memory_sink=1, bank_chunks=1, positions="end", profile=profile()).plan(SETTING)
    assert plan.memories[0][0] == HeadMemory(1, 3, "end", 3, 21)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({}, EpisodeEnd(room_frames=6)),
        ({"novelty": 0.1, "first_chunk": 1}, EpisodeEnd(0.1, True, room_frames=6)),
        ({"bank_rule": "key_novelty"}, KeyNovelty(room_frames=6)),
        ({"bank_rule": "every", "every_frames": 2, "bank_chunks": 1}, Every(2, room_frames=3)),
        ({"bank_chunks": 0}, None),
    ],
)
def test_rules(options, rule) -> None:
    assert HeadForcing(profile=profile(), **options).plan(SETTING).bank == rule


def test_masses_alone_are_not_enough() -> None:
    old = replace(profile(), changes=None)
    for policy in (HeadForcing(profile=old), HeadBudget(profile=old), DummyForcing(cost="output_change", profile=old)):
        with pytest.raises(PlanError, match=r"expected a head profile with output change, got one of version 1"):
            policy.plan(SETTING)
    HeadForcing(roles_by="mass", profile=old).plan(SETTING)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: HeadForcing(1.5), "memory_ratio of 0 to 1"),
        (lambda: HeadForcing(anchor_ratio=-1), "anchor_ratio"),
        (lambda: HeadForcing(bank_rule="newest"), "bank_rule of"),
        (lambda: HeadForcing(num_memory=9).plan(SETTING), "at most 8 memory heads"),
        (lambda: HeadForcing(observe_chunk=99).plan(SETTING), "observe_chunk of at most 79"),
        (lambda: HeadBudget(budget_frames=-1), "budget_frames of 0 or more"),
        (lambda: HeadBudget(budget_frames=1, speedup=2), "expected one of"),
        (lambda: HeadBudget(speedup=99, profile=profile()).plan(SETTING), "speed-up of at most 7"),
        (lambda: HeadBudget(budget_gb=1, profile=profile()).plan(SETTING), "known size"),
        (lambda: HeadBudget(budget_gb=float("nan")), "budget_gb"),
        (lambda: HeadBudget(budget_frames=float("inf")), "budget_frames"),
        (lambda: HeadForcing(profile=profile([[0.1] * 5] * 2)).plan(SETTING), "layers"),
    ],
)
def test_what_is_refused_is_one_line(make, match: str) -> None:
    with pytest.raises(PlanError, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


def sized(width: int, height: int) -> Setting:
    model = ModelGeometry(2, 4, 128, 16, torch.device("cpu"), torch.bfloat16)
    return setting_of(model, LatentShape.of_pixels(width, height, 957), FAMILY)


@given(st.floats(0, 12))
def test_mean_frames_are_never_above_the_budget(frames: float) -> None:
    plan = HeadBudget(budget_frames=frames, profile=profile()).plan(SETTING)
    assert sum(plan.cached_frames(240)) <= frames * 8


@given(st.floats(0.005, 0.2))
def test_bytes_are_never_above_the_budget(gigabytes: float) -> None:
    setting = sized(832, 480)
    try:
        plan = HeadBudget(budget_gb=gigabytes, profile=profile()).plan(setting)
    except PlanError as error:
        least = HeadBudget(budget_frames=0, profile=profile()).plan(setting).resident_bytes(setting.kv)
        assert "a budget of at least" in str(error) and gigabytes * 2**30 < least
    else:
        assert plan.resident_bytes(setting.kv) <= gigabytes * 2**30


def test_without_a_profile_a_budget_in_bytes_must_hold_what_observing_takes() -> None:
    setting = sized(832, 480)
    with pytest.raises(PlanError, match=r"expected a budget above 0\.03 GiB, or a head profile"):
        HeadBudget(budget_gb=0.03).plan(setting)
    HeadBudget(budget_gb=5).plan(setting)


def test_more_budget_goes_where_it_saves_most() -> None:
    found = [HeadBudget(budget_frames=n, profile=profile()).plan(SETTING).roles for n in (0, 0.25, 1, 9)]
    assert {role for row in found[0] for role in row} == {"nothing"}
    assert [(layer, head) for layer in range(2) for head in range(4) if found[1][layer][head] != "nothing"] == [
        (0, 1),
        (1, 3),
    ]
    assert {role for row in found[3] for role in row} <= {"first frame", "nothing", "memory"}


def test_dummy_forcing_by_output_change() -> None:
    plan = DummyForcing(num_dummy=5, cost="output_change", profile=profile()).plan(SETTING)
    assert plan.roles == (("dummy", "sink", "dummy", "dummy"), ("dummy", "sink", "dummy", "sink"))


def test_a_profile_that_was_asked_about_other_memories_is_refused() -> None:
    with pytest.raises(PlanError, match="expected output change of heads that keep 0 first and 2 newest"):
        DummyForcing(packed_frames=2, cost="output_change", profile=profile()).plan(SETTING)
