"""When a prompt takes over."""

import warnings

import pytest
import torch

from dummyforcing_core.errors import DummyForcingError
from dummyforcing_core.prompts import PromptSchedule

A, B, C = (torch.full((1, 2, 4), float(i)) for i in range(3))


@pytest.mark.parametrize("switch, first_chunk", [(40, 42), (80, 81), (160, 162), (42, 42), (1, 3), (3, 3)])
def test_a_switch_takes_effect_at_the_first_chunk_start_at_or_after_it(switch, first_chunk):
    prompts = PromptSchedule(((0, A), (switch, B)))
    starts = range(0, 240, 3)
    assert next(start for start in starts if prompts.at(start) is B) == first_chunk
    assert all((prompts.at(start) is B) == (start >= first_chunk) for start in starts)


def test_several_switches_and_the_last_one_holds():
    prompts = PromptSchedule(((0, A), (3, B), (4, C), (10, A)))
    active = [prompts.at(start) for start in (0, 3, 6, 9, 12, 999)]
    assert [id(context) for context in active] == [id(context) for context in (A, B, C, C, A, A)]


def test_a_constant_prompt_holds_for_the_whole_clip():
    assert all(PromptSchedule.constant(A).at(start) is A for start in (0, 1, 10_000))


@pytest.mark.parametrize("chunk", [1, 3])
def test_per_chunk_gives_each_chunk_its_own(chunk):
    prompts = PromptSchedule.per_chunk([A, B, C], chunk)
    assert [id(prompts.at(i * chunk)) for i in range(4)] == [id(context) for context in (A, B, C, C)]


@pytest.mark.parametrize("starts", [(), (3,), (-1, 0), (0, 0), (0, 6, 3), (0, 3, 3)])
def test_entries_must_begin_at_zero_and_rise(starts):
    with pytest.raises(DummyForcingError) as error:
        PromptSchedule(tuple((start, A) for start in starts))
    assert str(list(starts)) in str(error.value)
    assert "expected prompt starts that begin at frame 0 and rise" in str(error.value)


@pytest.mark.parametrize(
    ("starts", "chunks", "seconds"),
    [
        ([0, 60], 7, "0:15"),  # 5 s of chunks, the last one from 4.5 s on
        ([0, 19], 7, "0:04.75"),
        ([0, 18], 7, None),
        ([0, 4, 5], 7, "0:01"),  # both are active from the same chunk on
        ([0, 3, 6], 7, None),
        ([0, 1], 1, "0:00.25"),
        ([0, 1200], 7, "5:00"),
    ],
)
def test_a_prompt_that_no_chunk_is_made_with_is_named(starts, chunks, seconds):
    prompts = PromptSchedule(tuple((start, A) for start in starts))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prompts.warn_unused(range(0, 3 * chunks, 3), 0.25)
    assert [str(line.message).startswith(f"the prompt of {seconds} is never used") for line in caught] == (
        [True] if seconds else []
    )


# -- blended switches ------------------------------------------------------------------------------------------------

ZERO, ONE, TWO = (torch.full((1, 2, 4), value) for value in (0.0, 1.0, 2.0))


def active(schedule: PromptSchedule, starts: list[int]) -> list[float]:
    """The one number that every feature of a chunk's context has."""
    values = []
    for start in starts:
        assert schedule.at(start).unique().numel() == 1
        values.append(float(schedule.at(start)[0, 0, 0]))
    return values


@pytest.mark.parametrize(
    ("chunks", "switches", "chunk_values"),
    [
        (1, {4: ONE}, [0, 0, 1 / 2, 1, 1, 1, 1, 1]),  # frame 4 acts at the chunk that starts at 6
        (3, {3: ONE}, [0, 1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1]),
        (3, {6: TWO}, [0, 0, 1 / 2, 1, 3 / 2, 2, 2, 2]),
        (2, {21: ONE}, [0, 0, 0, 0, 0, 0, 0, 1 / 3]),  # the clip ends within the blend
        (99, {3: ONE}, [0, *(k / 100 for k in range(1, 8))]),
        (2, {22: ONE}, [0] * 8),  # behind the last chunk start
        (3, {3: ONE, 9: ZERO}, [0, 1 / 4, 2 / 4, 3 / 8, 2 / 8, 1 / 8, 0, 0]),  # goes back from half the way
        (1, {3: ONE, 6: TWO}, [0, 1 / 2, 5 / 4, 2, 2, 2, 2, 2]),
        (1, {4: ONE, 5: TWO}, [0, 0, 1, 2, 2, 2, 2, 2]),  # both at the chunk start 6: the first is never active
        (2, {4: ONE, 5: ZERO}, [0] * 8),
    ],
)
def test_a_blend_goes_in_a_straight_line_from_what_was_active(chunks, switches, chunk_values):
    starts = list(range(0, 24, 3))
    hard = PromptSchedule(((0, ZERO), *switches.items()))
    soft = hard.blended(chunks, starts)
    assert active(soft, starts) == pytest.approx(chunk_values)
    assert [start for start, _ in soft.entries] == [
        start for i, start in enumerate(starts) if i == 0 or chunk_values[i] != chunk_values[i - 1]
    ]


@pytest.mark.parametrize(
    ("starts", "chunk_values"),
    [
        ([0, 1, 4, 7, 10, 13], [0, 0, 0, 1 / 3, 2 / 3, 1]),  # an image
        ([0, 7, 10, 13], [0, 1 / 3, 2 / 3, 1]),  # seven given frames
        ([0, 6, 9, 12], [0, 1 / 3, 2 / 3, 1]),
        ([0, 4, 5, 6, 7, 8, 9], [0, 0, 1 / 3, 2 / 3, 1, 1, 1]),  # chunks of one frame
    ],
)
def test_a_blend_follows_the_clips_own_chunk_starts(starts, chunk_values):
    hard = PromptSchedule(((0, ZERO), (5, ONE)))
    assert active(hard.blended(2, starts), starts) == pytest.approx(chunk_values)


def test_a_whole_prompt_is_its_own_tensor_and_every_step_is_one():
    starts = list(range(0, 30, 3))
    soft = PromptSchedule(((0, A), (6, B), (18, A))).blended(2, starts)
    contexts = [soft.at(start) for start in starts]
    whole = [next((name for name, x in (("A", A), ("B", B)) if x is context), "") for context in contexts]
    assert whole == ["A", "A", "", "", "B", "B", "", "", "A", "A"]
    assert len({id(context) for context in contexts}) == 2 + 4


def test_nothing_to_blend():
    hard, starts = PromptSchedule(((0, A), (7, B))), [0, 3, 6, 9, 12]
    assert hard.blended(0, starts) is hard
    assert PromptSchedule.constant(A).blended(5, starts).entries == ((0, A),)
    repeated = PromptSchedule(((0, A), (6, A))).blended(2, starts)
    assert repeated.entries == ((0, A),)  # the same tensor again is no switch, so there is no step to re-cache at


def test_a_batch_blends_item_by_item():
    pair = torch.cat([ONE, TWO])
    soft = PromptSchedule(((0, ZERO), (3, pair))).blended(1, [0, 3, 6])
    assert torch.equal(soft.at(3), pair / 2)
    assert soft.at(6) is pair


@pytest.mark.parametrize(
    ("other", "chunks", "words"),
    [
        (ONE, -1, ["0 chunks or more, got -1", "0 is a hard switch"]),
        (torch.ones(1, 3, 4), 1, ["(1, 2, 4)", "(1, 3, 4)", "pad"]),
        (torch.ones(1, 2, 5), 1, ["(1, 2, 4)", "(1, 2, 5)"]),
    ],
)
def test_what_cannot_be_blended(other, chunks, words):
    with pytest.raises(DummyForcingError) as error:
        PromptSchedule(((0, ZERO), (3, other))).blended(chunks, [0, 3, 6])
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("starts", [[], [3, 6]])
def test_chunk_starts_must_begin_with_the_clip(starts):
    with pytest.raises(DummyForcingError, match="begin at frame 0"):
        PromptSchedule(((0, ZERO), (3, ONE))).blended(1, starts)
