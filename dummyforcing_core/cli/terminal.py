"""What a command prints, harmless whatever it holds: lines on stdout, and on stderr, where a progress bar may be."""

import contextlib
import os
import sys
from collections.abc import Callable

from ..errors import MESSAGE, harmless, shown

WIPES: list[Callable[[], None]] = []  # of the bars that are there; they draw themselves again


def warn(text: str) -> None:
    """One line on stderr, whatever the text holds."""
    for wipe in WIPES:
        wipe()
    say(f"warning: {shown(text, MESSAGE)}")


def say(line: str) -> None:
    """A line on stderr. A run is not lost with the one who would read it."""
    with contextlib.suppress(OSError):
        print(harmless(line), file=sys.stderr, flush=True)


def tell(text: str, at_once: bool = False) -> None:
    """Lines on stdout, whatever a name in them holds; `at_once`: now, for one who waits for them."""
    print(harmless(text), flush=at_once)


def open_missing_streams() -> None:
    """Gives a process that was started without them (`>&-`, a service) a stdout and stderr that go nowhere: the next
    file that is opened would get their numbers."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
