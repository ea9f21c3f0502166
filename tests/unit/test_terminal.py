"""A warning has a line of its own, also while a progress bar is drawn on the same terminal."""

import contextlib
import functools
import io
import warnings
from collections.abc import Callable

import pytest
import tqdm

from dummyforcing_core import __main__ as command_line
from dummyforcing_core.cli import common, doctor, terminal
from dummyforcing_core.cli.terminal import warn
from dummyforcing_core.geometry import Span


def seen(text: str) -> list[str]:
    """The lines of a terminal that was sent `text`: what follows a carriage return is written over the line."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for piece in line.split("\r"):
            shown = piece + shown[len(piece) :]
        lines.append(shown.rstrip())
    return lines


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[], common.Progress]:
    """A bar that is drawn at every call, without its usual delay."""
    at_once = functools.partial(tqdm.tqdm, miniters=1)
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: at_once(**{**options, "delay": 0, "mininterval": 0}))
    return lambda: common.Progress(2, 4, "clip.mp4")


def test_a_warning_is_not_written_behind_a_bar(drawn) -> None:
    err = io.StringIO()
    with contextlib.redirect_stderr(err), drawn() as progress:
        progress.on_step(Span(0, 0, 3), 0)
        warn("the disk is nearly full")
        progress.on_step(Span(0, 0, 3), 1)
    assert "warning: the disk is nearly full" in seen(err.getvalue())
    assert err.getvalue().count("clip.mp4") >= 3, "the bar was drawn before and after it"
    assert terminal.WIPES == []


def test_nor_is_one_of_the_core(drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: object) -> int:
        with drawn() as progress:
            progress.on_step(Span(0, 0, 3), 0)
            warnings.warn("two\nlines", UserWarning, stacklevel=1)
        return 0

    err = io.StringIO()
    monkeypatch.setattr(doctor, "run", run)
    with contextlib.redirect_stderr(err):
        assert command_line.main(["doctor"]) == 0
    assert "warning: two lines" in seen(err.getvalue())


def test_a_bar_that_was_never_drawn_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    with contextlib.redirect_stderr(err), common.Progress(2, 4, "clip.mp4"):
        warn("a line")
        assert err.getvalue() == "warning: a line\n"


def test_without_a_bar_it_is_one_plain_line(capsys) -> None:
    warn("a\tb\nc")
    assert capsys.readouterr().err == "warning: a b c\n"
