"""When a prompt takes over."""

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
    spoken = [prompts.at(start) for start in (0, 3, 6, 9, 12, 999)]
    assert [id(context) for context in spoken] == [id(context) for context in (A, B, C, C, A, A)]


def test_constant_speaks_for_the_whole_clip():
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
    assert "begin at frame 0 and rise strictly" in str(error.value)
