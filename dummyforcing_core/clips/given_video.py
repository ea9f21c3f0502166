"""A video that was given: its size, rate and length, its frames one by one, and the sound under them."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from ..errors import OutputError, shown
from ..rates import rate_of, rate_text
from .colours import to_rgb
from .sound import TrackOfFile, track_in
from .video import opened

_HDR = {16: "PQ", 18: "HLG"}  # transfers in H.273's table


class GivenVideo:
    """A video file, or a stretch of it from `start` seconds on, `seconds` long (0: to its end).

        video = GivenVideo("clip.mp4")
        for frame in video.frames():       # (height, width, 3) uint8, RGB, upright
            ...
        video.sound                        # for the video that is made of them, None if there is none

    Only one frame is held. OutputError if it cannot be read, or nothing is in that stretch.
    """

    def __init__(self, source: str | os.PathLike[str] | io.BytesIO, start: float = 0, seconds: float = 0) -> None:
        self._source, self._start = source, float(start)
        self._end = self._start + seconds if seconds else None
        with opened(source) as container:
            stream = container.streams.video[0]
            self.fps = rate_of(stream.average_rate or stream.guessed_rate or 0)
            self._heard = track_in(container) is not None
            self.count = self._estimate(container, stream)
            first = next(self._decoded(container), None)
            if first is None:
                raise OutputError(f"cannot read {self._name}: there are no frames in it{self._stretch}; give another")
            self._began = _time_of(first) or Fraction(self._start)
            self._transfer = int(getattr(first, "color_trc", 0) or 0)
            height, width = _upright(first).shape[:2]
            self.size = width, height

    @property
    def sound(self) -> TrackOfFile | None:
        """What is heard from its first frame on."""
        return TrackOfFile(self._source, self._began) if self._heard else None

    def frames(self) -> Iterator[np.ndarray]:
        """Its frames, each (height, width, 3) uint8 RGB, turned as players show them.

        Warns of what is shown otherwise in a video of even times and usual brightness.
        """
        if kind := _HDR.get(self._transfer):
            warnings.warn(f"the video is HDR ({kind}), read as if it were not: colours look pale", stacklevel=2)
        apart = Fraction(0)
        with opened(self._source) as container:
            for number, frame in enumerate(self._decoded(container)):
                when = _time_of(frame)
                if when is not None:
                    apart = max(apart, abs(when - self._began - number / self.fps))
                pixels = _upright(frame)
                if pixels.shape[1::-1] != self.size:
                    raise OutputError(
                        f"expected frames of {self.size[0]}x{self.size[1]} throughout {self._name}, got "
                        f"{pixels.shape[1]}x{pixels.shape[0]} after {number}; cut the video there"
                    )
                yield pixels
        if apart > 1 / self.fps:
            warnings.warn(
                f"the video's frames come at uneven times: here each is shown for 1/{rate_text(self.fps)} s, and they "
                f"are up to {float(apart):.2g} s away from their sound",
                stacklevel=2,
            )

    @property
    def _name(self) -> str:
        return "the video in memory" if isinstance(self._source, io.BytesIO) else shown(self._source, 200)

    @property
    def _stretch(self) -> str:
        if not self._start and self._end is None:
            return ""
        until = "" if self._end is None else f" to {self._end:g} s"
        return f" from {self._start:g}{until or ' s on'}"

    def _estimate(self, container: Any, stream: Any) -> int:
        """Frames, by what the file says of its length; at least 1."""
        length = (container.duration or 0) / 1_000_000
        if not self._start and self._end is None and stream.frames:
            return int(stream.frames)
        end = length if self._end is None else min(length or self._end, self._end)
        return max(1, round((end - self._start) * self.fps))

    def _decoded(self, container: Any) -> Iterator[Any]:
        """The frames of the stretch as PyAV has them."""
        stream = container.streams.video[0]
        # In floats, as the host counts: 0.293 as a Fraction is below 293 of 1000 ticks, and one frame more would be in.
        first = int(self._start / stream.time_base)
        last = None if self._end is None else int(self._end / stream.time_base)
        if first:
            container.seek(first, stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts < first:
                continue
            if last is not None and frame.pts is not None and frame.pts >= last:
                return
            yield frame


def _time_of(frame: Any) -> Fraction | None:
    return None if frame.pts is None else Fraction(frame.pts * frame.time_base)


def _upright(frame: Any) -> np.ndarray:
    """Its pixels as players show them: phones film lying on their side, and say so."""
    pixels = to_rgb(frame)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
