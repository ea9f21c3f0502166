"""What the bank of a clip holds, in seconds of its video, and when that changed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from ..geometry import pixel_frames
from ..loops.run import ChunkResult
from ..rates import fine_clock

Held = tuple[tuple[float, float], ...]
"""Stretches of a video, (from, to) in seconds, in temporal order; no two of them touch."""


@dataclass(frozen=True)
class BankChange:
    """From this second of the clip on the bank held this; nothing, if it was emptied."""

    seconds: float
    held: Held


@dataclass
class BankHistory:
    """Follows the bank of a clip whose video shows `frames` frames. No changes: nothing ever came to a bank."""

    fps: Fraction
    frames: int
    changes: list[BankChange] = field(default_factory=list)

    def add(self, chunk: ChunkResult) -> None:
        """The next chunk of the clip; what it changed holds from its end on."""
        held = self._seconds(chunk.banked)
        if held != self.held:
            self.changes.append(BankChange(self._second(pixel_frames(chunk.span.stop)), held))

    @property
    def held(self) -> Held:
        """What the bank holds now."""
        return self.changes[-1].held if self.changes else ()

    def _seconds(self, latents: Iterable[int]) -> Held:
        stretches: list[tuple[float, float]] = []
        for latent in sorted(latents):
            start, stop = self._second(pixel_frames(latent)), self._second(pixel_frames(latent + 1))
            if start == stop:  # made, but not shown
                continue
            if stretches and stretches[-1][1] == start:
                start = stretches.pop()[0]
            stretches.append((start, stop))
        return tuple(stretches)

    def _second(self, frame: int) -> float:
        return float(min(frame, self.frames) / self.fps)


def held_text(held: Held) -> str:
    """ "0:01.50-0:02.25 and 0:08.00-0:08.75", or "nothing"."""
    *others, last = [f"{fine_clock(start)}-{fine_clock(stop)}" for start, stop in held] or ["nothing"]
    return f"{', '.join(others)} and {last}" if others else last
