"""Signals of who sits before a run: Ctrl-C, a kill that can be answered and a closed terminal end it alike.

Three stages, since what a signal must do changes. While the program is being loaded there is nothing to save, and an
exception may be swallowed inside the import of a library: the process ends at once. While a command works, the signal
is raised as KeyboardInterrupt, so that what was made is saved. When it is done, signals change nothing any more.
"""

import contextlib
import os
import signal
import weakref
from collections.abc import Callable

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Interrupted(KeyboardInterrupt):
    """By a signal, whose number it has. Unlike KeyboardInterrupt's own objects it can be asked whether it is gone."""


class _Raised:
    """The exception of the last signal: one is enough while it is on its way, since what was made is saved then."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.over = False  # nothing is to be saved any more
        self._error: Callable[[], Interrupted | None] = lambda: None

    @property
    def under_way(self) -> bool:
        return self._error() is not None

    def new(self, number: int) -> Interrupted:
        error = Interrupted(number)
        self.number, self._error = number, weakref.ref(error)
        return error


_raised = _Raised()


def leave_at_once() -> None:
    """From here on a signal ends the process, with one line. Signals that are ignored (nohup) stay so."""
    _answer(DEFAULTS, _leave)


def interrupt() -> None:
    """From here on a signal raises KeyboardInterrupt; only where `leave_at_once` has been called."""
    _raised.over = False
    _answer((_leave,), _interrupt)


def ignore() -> None:
    """For the interpreter's end, which would give the signals back their effect, and the process their exit status."""
    _raised.over = True  # at once: setting the handlers runs Python, in which the next signal would be raised
    _answer((_leave, _interrupt), signal.SIG_IGN)


def check_swallowed() -> None:
    """Raises a signal's KeyboardInterrupt once more if a library has swallowed it; for loops that go on for long."""
    if _raised.number is not None and not _raised.under_way:
        raise _raised.new(_raised.number)


def _answer(before: tuple[object, ...], after: Callable[[int, object], None] | signal.Handlers) -> None:
    for number in (getattr(signal, name) for name in ENDING if hasattr(signal, name)):
        if signal.getsignal(number) in before:
            signal.signal(number, after)


def _leave(number: int, frame: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")  # print may be what was interrupted
    os._exit(128 + number)


def _interrupt(number: int, frame: object) -> None:
    if not (_raised.over or _raised.under_way):
        raise _raised.new(number)  # held by no name here: its traceback would keep it alive
