"""Sound under a finished video: its packets are copied, its frames never decoded."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError, shown
from ..files import output_error
from ..reading import unreadable
from .encoding import import_av
from .video import frame_count

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
BLOCK = 1024  # samples of an AAC frame
HIGHEST_RATE = 192_000
Packets = Iterator[tuple[float, Any]]  # (second at which it is due, packet of the new file)


def add_sound(video: Path, out: Path, samples: np.ndarray, rate: int) -> None:
    """Writes the video to `out` with sound under it: samples (channels, n) in [-1, 1], `rate` a second.

    What is longer than the video is cut, what is shorter ends. OutputError for sound that no file holds, or a video
    without a picture.
    """
    if samples.ndim != 2 or len(samples) not in LAYOUTS or not 1 <= rate <= HIGHEST_RATE:
        raise OutputError(
            f"expected sound of 1, 2 or 6 channels at up to {HIGHEST_RATE} samples a second, got shape "
            f"{samples.shape} at {shown(rate, 20)}; convert it"
        )
    if not np.isfinite(samples).all():
        raise OutputError("expected sound, got NaN or infinity in it; make it anew")

    def encoded(target: Any, seconds: Fraction) -> Packets:
        stream = target.add_stream("aac", rate=rate, layout=LAYOUTS[len(samples)])
        return _encoded(stream, samples[:, : round(seconds * rate)].astype(np.float32), rate)

    _write(video, out, encoded)


def copy_sound(video: Path, source: Path, out: Path) -> bool:
    """Writes the video to `out` with the sound of `source` under it, as it is coded there; False, and no file, if
    there is none. OutputError if an mp4 cannot hold it."""
    with _opened(source) as given:
        sound = next(iter(given.streams.audio), None)
        if sound is None:
            return False

        def copied(target: Any, seconds: Fraction) -> Packets:
            stream = target.add_stream_from_template(sound)
            return _copied(given, sound, stream, float(seconds))

        _write(video, out, copied)
    return True


def _write(video: Path, out: Path, sound: Callable[[Any, Fraction], Packets]) -> None:
    """The video's packets and those of the sound, by the time at which they are due; whole or not at all."""
    av, part = import_av(), out.with_name(f"{out.stem}.part{out.suffix}")
    try:
        with _opened(video) as source:
            picture = source.streams.video[0]
            options = {"movflags": "+faststart+use_metadata_tags"}
            with av.open(str(part), "w", format="mp4", options=options) as target:
                target.metadata.update(source.metadata)
                stream = target.add_stream_from_template(picture, opaque=True)
                stream.time_base = picture.time_base
                waiting = sound(target, frame_count(video) / Fraction(picture.average_rate))
                due = next(waiting, None)
                for packet in source.demux(picture):
                    if not packet.size:
                        continue
                    while due is not None and due[0] <= float(packet.dts * packet.time_base):
                        target.mux(due[1])
                        due = next(waiting, None)
                    packet.stream = stream
                    target.mux(packet)
                while due is not None:
                    target.mux(due[1])
                    due = next(waiting, None)
        if frame_count(part) != frame_count(video):
            raise OutputError(f"expected all frames of {video} in {out}, got fewer; is the disk full? Try again")
        os.replace(part, out)
    except OSError as error:  # FFmpeg's are, too
        raise output_error(out, error) from error
    finally:
        part.unlink(missing_ok=True)


def _encoded(stream: Any, samples: np.ndarray, rate: int) -> Packets:
    av = import_av()
    for start in range(0, samples.shape[1], BLOCK):
        block = np.ascontiguousarray(samples[:, start : start + BLOCK])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=LAYOUTS[len(samples)])
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        for packet in stream.encode(frame):
            yield start / rate, packet
    for packet in stream.encode(None):
        yield samples.shape[1] / rate, packet


def _copied(source: Any, sound: Any, stream: Any, seconds: float) -> Packets:
    for packet in source.demux(sound):
        if packet.size and packet.dts is not None:
            due = float(packet.dts * packet.time_base)
            if due < seconds:
                packet.stream = stream
                yield due, packet


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file with a picture or a sound in it."""
    if why := unreadable(path):
        raise OutputError(f"cannot read {path}: {why}")
    av = import_av()
    try:
        container = av.open(str(path))
    except (OSError, av.error.FFmpegError) as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}; give another file") from error
    with container:
        yield container
