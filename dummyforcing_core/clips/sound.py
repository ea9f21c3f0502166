"""What is heard under a video: another file's track, copied as it is, or samples, encoded as AAC."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from ..errors import OutputError
from .encoding import import_av

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}  # by the number of channels
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_AAC_SAMPLES = 1024  # of a packet
_FEWEST_SAMPLES = 64  # of a packet, where a codec does not say
_BITS_PER_CHANNEL = 96_000


class Sound(Protocol):
    """A track for a video of some seconds."""

    def packets_in(self, seconds: Fraction) -> int:
        """At most."""
        ...

    def laid(self, container: Any, seconds: Fraction) -> contextlib.AbstractContextManager[Iterator[Any]]:
        """Adds its stream to an output container of PyAV's; the packets for it, in the order of their times."""
        ...


@dataclass(frozen=True)
class TrackOfFile:
    """The first track of a video file. Its packets are copied: nothing is decoded, nothing lost.

    began -- the time in the file at which the new video begins
    """

    source: str | os.PathLike[str] | io.BytesIO
    began: Fraction = Fraction(0)

    def packets_in(self, seconds: Fraction) -> int:
        """At most."""
        with self._opened() as (_, track):
            each = track.codec_context.frame_size or _FEWEST_SAMPLES
            return math.ceil(seconds * track.codec_context.sample_rate / each) + 4

    @contextlib.contextmanager
    def laid(self, container: Any, seconds: Fraction) -> Iterator[Iterator[Any]]:
        """See `Sound`. ValueError for a codec that the container does not hold."""
        with self._opened() as (given, track):
            stream = container.add_stream_from_template(track, opaque=True)
            yield self._packets(given, track, stream, self.began + seconds)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        if isinstance(self.source, io.BytesIO):
            self.source.seek(0)
        with import_av().open(self.source if isinstance(self.source, io.BytesIO) else str(self.source)) as given:
            track = track_in(given)
            if track is None:
                raise ValueError("the file has lost its sound")
            yield given, track

    def _packets(self, given: Any, track: Any, stream: Any, end: Fraction) -> Iterator[Any]:
        base = track.time_base
        first = round(self.began / base)
        if first > 0:
            given.seek(first, stream=track)
        for packet in given.demux(track):
            if not packet.size or packet.pts is None:
                continue
            if packet.pts * base >= end:
                return
            # The packet before the first one that is heard tunes the decoder; times below 0 are not played.
            if packet.pts + 2 * (packet.duration or 0) < first:
                continue
            packet.pts -= first
            packet.dts = packet.pts
            packet.stream = stream
            yield packet


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples (channels, samples) in [-1, 1] at `rate` per second, encoded as AAC.

    What is longer than the video is cut, what is shorter ends in silence. OutputError for channels that no layout has.
    """

    samples: np.ndarray
    rate: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or len(self.samples) not in LAYOUTS or self.rate < 1:
            raise OutputError(
                f"expected sound (channels, samples) of 1, 2 or 6 channels, got {tuple(self.samples.shape)} at "
                f"{self.rate} Hz; mix it down to stereo"
            )

    def packets_in(self, seconds: Fraction) -> int:
        """At most."""
        return math.ceil(seconds * self._coded_rate / _AAC_SAMPLES) + 4

    @contextlib.contextmanager
    def laid(self, container: Any, seconds: Fraction) -> Iterator[Iterator[Any]]:
        """See `Sound`."""
        channels = len(self.samples)
        stream = container.add_stream("aac", rate=self._coded_rate, layout=LAYOUTS[channels])
        stream.bit_rate = channels * _BITS_PER_CHANNEL
        yield self._packets(stream, seconds)

    @property
    def _coded_rate(self) -> int:
        """AAC's next one; the encoder brings samples to it."""
        return next((rate for rate in _AAC_RATES if rate >= self.rate), _AAC_RATES[-1])

    def _packets(self, stream: Any, seconds: Fraction) -> Iterator[Any]:
        av, total = import_av(), round(seconds * self.rate)
        for start in range(0, total, self.rate):
            block = np.zeros((len(self.samples), min(self.rate, total - start)), np.float32)
            heard = self.samples[:, start : start + block.shape[1]]
            block[:, : heard.shape[1]] = np.nan_to_num(heard, posinf=1, neginf=-1).clip(-1, 1)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=LAYOUTS[len(block)])
            frame.sample_rate, frame.pts, frame.time_base = self.rate, start, Fraction(1, self.rate)
            yield from stream.encode(frame)
        yield from stream.encode(None)


def track_in(container: Any) -> Any:
    """The first track of sound that this FFmpeg knows, None where there is none."""
    return next((track for track in container.streams.audio if track.codec_context is not None), None)
