"""A run of hours is said to be one, as soon as one part has shown how long it takes."""

import time
from collections.abc import Callable

HOUR = 3600.0


class LongRun:
    """Told of every model call before it is made; says once, after the first chunk, that `calls` of them take hours.

    what, unit -- who takes so long, and what is counted: clips may stand for calls, each its own chunk
    """

    def __init__(
        self,
        calls: int,
        say: Callable[[str], None],
        what: str = "this clip takes",
        unit: str = "model calls",
        clock: Callable[[], float] = time.monotonic,
    ):
        self._calls, self._say, self._clock = calls, say, clock
        self._what, self._unit = what, unit
        self._made = 0
        self._began = 0.0
        self._first: int | None = None  # chunk; behind its end nothing more is said

    def call(self, chunk: int) -> None:
        """A model call for this chunk begins."""
        if not self._made:
            self._began, self._first = self._clock(), chunk
        elif self._first is not None and chunk != self._first:
            self._first = None
            seconds = (self._clock() - self._began) / self._made * self._calls
            if seconds > HOUR:
                self._say(
                    f"{self._what} about {seconds / HOUR:.1f} hours here ({self._calls} {self._unit}); Ctrl+C ends "
                    "it, what is finished stays"
                )
        self._made += 1
