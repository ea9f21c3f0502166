"""Schedules written in any spelling are read back as they were meant, and no text at all does more than be refused."""

import contextlib
from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from dummyforcing_core.clips.script import Script
from dummyforcing_core.errors import DummyForcingError

FULL_WIDTH = {0x21 + i: 0xFF01 + i for i in range(94)} | {0x20: 0x3000}


def _clock(quarters: int) -> str:
    minutes, rest = divmod(quarters, 240)
    return f"{minutes}:{rest // 4:02}" + (f".{rest % 4 * 25:02}" if rest % 4 else "")


def _long_clock(quarters: int) -> str:
    minutes, rest = divmod(quarters, 240)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 4:02},{rest % 4 * 250:03}"


def _units(quarters: int) -> str:
    minutes, rest = divmod(quarters, 240)
    return f"{minutes}m{rest / 4:g}s" if minutes else f"{rest / 4:g}s"


# How a time is written, and what may stand behind it; a number alone needs a mark.
SPELLINGS: list[tuple[Callable[[int], str], tuple[str, ...]]] = [
    (_clock, (" | ", "|", " ", ": ", " - ", " → ", ", ")),
    (_long_clock, (" | ", " ", " => ")),
    (_units, (" | ", " ", ": ", " - ", ":")),
    (lambda quarters: f"{quarters / 4:g}", (" | ", "|", ": ", " - ")),
    (lambda quarters: f"[{_clock(quarters)}]", (" ", "", " | ")),
    (lambda quarters: f"\u2022 at {_units(quarters)}", (" | ", ": ")),
    (lambda quarters: _clock(quarters).translate(FULL_WIDTH), ("\uff5c", "\uff1a", "\u3000")),
]
PLAIN = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1)
PROMPTS = st.tuples(st.sampled_from(["a cat", "Ein Bär", "一只猫", "(two) 3"]), PLAIN).map(" ".join)


@st.composite
def schedules(draw) -> tuple[str, tuple[tuple[int, str], ...]]:
    """A text and the (latent frame, prompt) lines that it means."""
    starts = [0, *sorted(draw(st.sets(st.integers(1, 40_000), max_size=6)))]
    written, meant = [], []
    for start in starts:
        time, behind = draw(st.sampled_from(SPELLINGS))
        mark, prompt = draw(st.sampled_from(behind)), draw(PROMPTS)
        if "|" in mark:  # behind a bar a prompt may begin with anything
            prompt = draw(st.sampled_from(["", "3 ", "0:05 ", "- ", "| "])) + prompt
        written += [*draw(st.sampled_from([[], [""], ["  # no prompt"]])), time(start) + mark + prompt]
        meant.append((start, prompt))
    return "\n".join(written), tuple(meant)


@given(schedules())
@settings(max_examples=60)
def test_what_is_written_is_read(schedule):
    text, meant = schedule
    assert Script.parse(text).lines == meant
    assert Script.of_text(text).lines == meant


PIECES = st.sampled_from(
    [
        *"0159:.|-,[]() \n\t#smh秒分\uff1a\uff5c\uff10\u3000→'\"{}",
        "0:0",
        "0:05",
        " | a",
        "-->",
        "to ",
        "at ",
        "\x1b",
        "1e9",
    ]
)


@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)))
@settings(max_examples=200)
@example("9" * 5000 + " | a")
@example("0:00" + " " * 20_000 + "a\n" + "0:" * 5000)
@example("0 | a\n" + "- " * 5000 + "\u0660:\u0661\u0660 b")
def test_no_text_does_more_than_be_refused(text):
    for read in (Script.parse, Script.of_text):
        with contextlib.suppress(DummyForcingError):
            script = read(text)
            assert all(prompt.strip() for prompt in script.prompts) and script.lines[0][0] == 0
