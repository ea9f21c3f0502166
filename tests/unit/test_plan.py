"""Head plans: frozen data, a lossless text form, prices that are linear in everything they should be."""

import json
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dummyforcing_core.errors import PlanError
from dummyforcing_core.kv.plan import FORMAT, VERSION, HeadMemory, HeadPlan, KVShape

SHAPE = KVShape(batch=2, rows=3, cols=5, head_dim=8, element_bytes=2, clip_frames=30, pass_frames=3)
FRAME_BYTES = 2 * 2 * (3 * 5) * 8 * 2  # K and V, batch, tokens, channels, bytes

MEMORIES = st.builds(
    HeadMemory, st.integers(0, 40), st.one_of(st.none(), st.integers(0, 40)), st.sampled_from(("absolute", "rank"))
)


@st.composite
def plans(draw) -> HeadPlan:
    layers, heads = draw(st.integers(1, 4)), draw(st.integers(1, 6))

    def table(element):
        row = st.lists(element, min_size=heads, max_size=heads).map(tuple)
        return draw(st.lists(row, min_size=layers, max_size=layers).map(tuple))

    return HeadPlan(table(MEMORIES), table(st.text(max_size=8)), draw(st.text(max_size=8)))


def one_head(memory: HeadMemory) -> HeadPlan:
    return HeadPlan.uniform(1, 1, memory, "any")


# -- memories --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "memory, clip_frames, sink, recent",
    [
        (HeadMemory(), 21, 0, 21),
        (HeadMemory(3, None), 21, 3, 18),
        (HeadMemory(3, 6), 21, 3, 6),
        (HeadMemory(3, 6), 7, 3, 4),
        (HeadMemory(3, 6), 2, 2, 0),
        (HeadMemory(30, 6), 21, 21, 0),
        (HeadMemory(0, 0), 21, 0, 0),
    ],
)
def test_a_memory_never_counts_more_frames_than_the_clip_has(memory, clip_frames, sink, recent):
    within = memory.within(clip_frames)
    assert (within.sink_frames, within.recent_frames, within.positions) == (sink, recent, memory.positions)
    assert memory.capacity_frames(clip_frames) == sink + recent


@pytest.mark.parametrize("arguments", [(-1, 3), (1, -3), (-1, None)])
def test_negative_frames_are_refused(arguments):
    with pytest.raises(PlanError, match="whole numbers"):
        HeadMemory(*arguments)


def test_unknown_positions_are_refused_and_the_known_ones_named():
    with pytest.raises(PlanError, match=r"'relative'.*absolute, rank"):
        HeadMemory(1, 3, "relative")


def test_memories_and_plans_are_frozen_hashable_values():
    plan = one_head(HeadMemory(1, 3))
    with pytest.raises(FrozenInstanceError):
        plan.memories[0][0].sink_frames = 2
    with pytest.raises(FrozenInstanceError):
        plan.family = "other"
    assert {plan, one_head(HeadMemory(1, 3))} == {plan}
    assert plan != one_head(HeadMemory(1, 4))


# -- geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "memories, roles",
    [
        ((), ()),
        (((),), ((),)),
        (((HeadMemory(),), (HeadMemory(), HeadMemory())), (("a",), ("a", "a"))),
    ],
)
def test_a_plan_needs_layers_and_equally_many_heads_in_each(memories, roles):
    with pytest.raises(PlanError, match="at least one layer"):
        HeadPlan(memories, roles)


@pytest.mark.parametrize("roles", [(), (("a", "a"),), (("a", "a"), ("a",))])
def test_roles_must_match_the_memories(roles):
    with pytest.raises(PlanError, match="2 layers x 2 heads"):
        HeadPlan(((HeadMemory(),) * 2,) * 2, roles)


def test_another_geometry_is_refused_and_both_are_named():
    with pytest.raises(PlanError, match=r"30 layers x 12 heads.*40 x 41"):
        HeadPlan.uniform(30, 12, HeadMemory(), "full").check(40, 41)


@pytest.mark.parametrize("layers, heads", [(2, 4), (3, 3)])
def test_check_looks_at_layers_and_at_heads(layers, heads):
    plan = HeadPlan.uniform(2, 3, HeadMemory(), "full")
    plan.check(2, 3)
    with pytest.raises(PlanError):
        plan.check(layers, heads)


# -- prices ----------------------------------------------------------------------------------------------------------


def test_bytes_worked_out_by_hand():
    plan = HeadPlan(
        ((HeadMemory(1, 3), HeadMemory(0, 1)), (HeadMemory(), HeadMemory(3, 6, "rank"))),
        (("a", "b"), ("c", "d")),
    )
    assert SHAPE.frame_bytes == FRAME_BYTES
    assert plan.cached_frames(30) == [4, 1, 30, 9]
    assert plan.layer_bytes(SHAPE, 0) == (4 + 3 + 1 + 3) * FRAME_BYTES
    # A rank head keeps its keys twice: raw and rotated.
    assert plan.layer_bytes(SHAPE, 1) == (30 + 3) * FRAME_BYTES + (9 + 3) * FRAME_BYTES * 3 // 2
    assert plan.resident_bytes(SHAPE) == plan.layer_bytes(SHAPE, 0) + plan.layer_bytes(SHAPE, 1)
    assert [plan.history_bytes(SHAPE, n) // FRAME_BYTES for n in (0, 1, 3, 6, 12, 30)] == [0, 4, 10, 17, 26, 44]


@settings(deadline=None, max_examples=50)
@given(plans(), st.integers(2, 5), st.sampled_from(("batch", "rows", "cols", "head_dim", "element_bytes")))
def test_prices_are_linear_in_batch_tokens_channels_and_element_size(plan, factor, name):
    bigger = replace(SHAPE, **{name: factor * getattr(SHAPE, name)})
    assert plan.resident_bytes(bigger) == factor * plan.resident_bytes(SHAPE)
    assert plan.history_bytes(bigger, 11) == factor * plan.history_bytes(SHAPE, 11)
    assert plan.repack_peak_bytes(bigger, plan) == factor * plan.repack_peak_bytes(SHAPE, plan)


@settings(deadline=None, max_examples=50)
@given(plans(), st.integers(0, 30))
def test_history_never_exceeds_what_is_resident_beside_the_current_pass(plan, committed):
    current = plan.layers * plan.heads * SHAPE.pass_frames * SHAPE.frame_bytes
    assert plan.history_bytes(SHAPE, committed) <= plan.resident_bytes(SHAPE) - current


def test_the_price_does_not_depend_on_the_clip_once_it_is_longer_than_the_window():
    plan = HeadPlan.uniform(30, 12, HeadMemory(3, 6), "window")
    prices = {plan.resident_bytes(replace(SHAPE, clip_frames=frames)) for frames in (9, 21, 240, 10_000)}
    assert len(prices) == 1
    full = HeadPlan.uniform(30, 12, HeadMemory(), "full")
    assert full.resident_bytes(replace(SHAPE, clip_frames=240)) > full.resident_bytes(replace(SHAPE, clip_frames=21))


def test_repack_peak_is_the_worst_moment_of_a_walk_over_the_layers():
    before = HeadPlan(((HeadMemory(0, 1),), (HeadMemory(0, 9),), (HeadMemory(0, 2),)), (("a",),) * 3)
    after = HeadPlan(((HeadMemory(0, 2),), (HeadMemory(0, 3),), (HeadMemory(0, 2),)), (("a",),) * 3)
    walked = []
    for moment in range(3):  # each layer has 3 frames of current besides
        new, old = [2 + 3, 3 + 3, 2 + 3][: moment + 1], [1 + 3, 9 + 3, 2 + 3][moment:]
        walked.append(sum(new) + sum(old))
    assert walked == [26, 28, 21]
    assert before.repack_peak_bytes(SHAPE, after) == 28 * FRAME_BYTES


# -- text form -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(plans())
def test_json_round_trip_keeps_everything(plan):
    text = plan.to_json()
    assert HeadPlan.from_json(text) == plan
    assert json.loads(text)["format"] == FORMAT
    assert HeadPlan.from_json(json.dumps(json.loads(text), indent=2)) == plan


def test_json_lists_each_distinct_memory_once_and_no_resolution():
    document = json.loads(HeadPlan.uniform(30, 12, HeadMemory(3, 6), "window", "demo").to_json())
    assert document.keys() == {
        "format",
        "version",
        "family",
        "layers",
        "heads",
        "memories",
        "assignment",
        "roles",
        "bank",
    }
    assert document["memories"] == [asdict(HeadMemory(3, 6))]
    assert document["assignment"] == [[0] * 12] * 30


def edited(**changes) -> str:
    document = json.loads(HeadPlan.uniform(2, 2, HeadMemory(1, 3), "window", "demo").to_json())
    return json.dumps({**document, **changes})


def without(name: str) -> str:
    document = json.loads(edited())
    del document[name]
    return json.dumps(document)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"plan"', "{}", '{"version": 1}', without("format")])
def test_text_that_is_no_plan_is_refused_and_the_expected_format_named(text):
    with pytest.raises(PlanError, match=FORMAT):
        HeadPlan.from_json(text)


@pytest.mark.parametrize(
    "text, got",
    [
        (edited(format="other.plan"), "'other.plan'"),
        (edited(version=VERSION + 1), str(VERSION + 1)),
        (edited(version=None), "None"),
        (edited(format=None), "None"),
    ],
)
def test_another_format_or_version_names_both(text, got):
    with pytest.raises(PlanError) as error:
        HeadPlan.from_json(text)
    known_text, got_text = str(error.value).split("got", 1)
    assert got in got_text
    assert FORMAT in known_text
    assert str(VERSION) in known_text


@pytest.mark.parametrize(
    "text",
    [
        *(without(name) for name in ("family", "layers", "heads", "memories", "assignment", "roles")),
        edited(assignment=[[0, 1], [0, 0]]),
        edited(assignment=[["0", 0], [0, 0]]),
        edited(assignment=None),
        edited(memories=[{"sink": 1}]),
        edited(memories=[3]),
        edited(roles=7),
    ],
)
def test_a_damaged_plan_is_refused_as_such(text):
    with pytest.raises(PlanError, match="damaged"):
        HeadPlan.from_json(text)


@pytest.mark.parametrize("changes", [{"layers": 3}, {"heads": 3}, {"layers": 30, "heads": 12}])
def test_a_stated_geometry_that_the_tables_contradict_is_refused(changes):
    wanted = {"layers": 2, "heads": 2, **changes}
    with pytest.raises(PlanError, match=f"2 layers x 2 heads.*{wanted['layers']} x {wanted['heads']}"):
        HeadPlan.from_json(edited(**changes))


@pytest.mark.parametrize("entry", [{"sink_frames": -1}, {"positions": "relative"}])
def test_impossible_memories_in_a_file_are_plan_errors(entry):
    with pytest.raises(PlanError):
        HeadPlan.from_json(edited(memories=[entry]))


@pytest.mark.parametrize(
    "text",
    [
        edited(memories=[{"sink_frames": 1.5, "recent_frames": 3}]),
        edited(memories=[{"sink_frames": 1, "recent_frames": 2.5}]),
        edited(memories=[{"sink_frames": float("nan"), "recent_frames": 3}]),
        edited(assignment=[[-1, 0], [0, 0]]),
    ],
)
def test_fractional_frames_and_negative_indices_in_a_file_are_plan_errors(text):
    with pytest.raises(PlanError):
        HeadPlan.from_json(text)
