"""Some random lives of takes; more by hand: python -m tests.fuzz.take_stories --stories 200."""

import pytest

from tests.fuzz.take_stories import stories

SEED, STORIES, PARTS = 5, 16, 4


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_is_done_to_a_take_it_is_the_clip_that_was_asked_for(part: int) -> None:
    assert list(stories(SEED, range(part, STORIES, PARTS))) == []
