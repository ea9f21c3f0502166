"""What foreign text looks like in a message, whatever it holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dummyforcing_core.errors import MESSAGE, CheckpointError, DummyForcingError, OutputError, PlanError, shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a cat", "a cat"),
        ("一只猫　é 🐈", "一只猫 é 🐈"),
        ("a\r\n\tcat\x0b ", "a cat"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\u202etxt.\ud800", "\\u202etxt.\\ud800"),
        ("x" * 61, f"{'x' * 37} ... {'x' * 18}"),
        ("\x1b" * 60, r"\x1b" * 9 + r"\ ... 1b" + r"\x1b" * 4),
        (KeyError("a"), "'a'"),
        (None, "None"),
    ],
)
def test_foreign_text_becomes_one_short_line(text, line):
    assert shown(text) == line


@given(st.text(st.characters(codec=None)), st.integers(10, 200))
def test_nothing_in_it_reaches_a_terminal(text, longest):
    line = shown(text, longest)
    assert len(line) <= longest
    assert not any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 or 0xD800 <= ord(letter) < 0xE000 for letter in line)


@pytest.mark.parametrize("kind", [DummyForcingError, CheckpointError, PlanError, OutputError])
def test_every_error_is_bounded_and_says_its_name_shortly(kind):
    error = kind("x.json: \x00\n" + "y" * 90_000_000 + "; save it again")
    assert str(error).startswith("x.json: \\x00 y") and str(error).endswith("; save it again")
    assert len(str(error)) <= MESSAGE
    assert f"{kind.__module__}.{kind.__qualname__}" == f"dummyforcing.{kind.__name__}"
