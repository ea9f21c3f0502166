"""Lines on stderr, each on its own even while a progress bar is drawn there, and signals of who sits before it."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from ..errors import MESSAGE, shown

WIPES: list[Callable[[], None]] = []  # of the bars that are there; they draw themselves again
ENDING = ("SIGINT", "SIGTERM", "SIGHUP")


def warn(text: str) -> None:
    """One line on stderr, whatever the text holds."""
    for wipe in WIPES:
        wipe()
    say(f"warning: {shown(text, MESSAGE)}")


def say(line: str) -> None:
    """A line on stderr. A run is not lost with the one who would read it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def open_missing_streams() -> None:
    """Gives a process that was started without them (`>&-`, a service) a stdout and stderr that go nowhere: the next
    file that is opened would get their numbers."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def answer_signals() -> None:
    """Lets Ctrl-C, a kill that can be answered and a closed terminal end this process alike: KeyboardInterrupt with the
    signal's number. Those that follow are ignored: what was made is saved then."""
    ending = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal ending
        if not ending:
            ending = True
            raise KeyboardInterrupt(number)

    for number in (getattr(signal, name) for name in ENDING if hasattr(signal, name)):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, interrupt)


def ignore_signals() -> None:
    """For the interpreter's end, which would give the signals back their effect, and the process their exit status."""
    for number in (getattr(signal, name) for name in ENDING if hasattr(signal, name)):
        signal.signal(number, signal.SIG_IGN)
