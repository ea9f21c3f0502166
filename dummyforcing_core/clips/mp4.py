"""Mp4 in two forms: pieces that play while a file grows, and one file with its index in front when it is whole."""

from __future__ import annotations

import contextlib
import heapq
import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import OutputError
from ..errors import shown as shown_text
from ..files import output_error, real_path
from .encoding import import_av
from .sound import Sound

_KNOWN_TAGS = frozenset({"title", "artist", "album", "comment", "genre", "copyright", "date", "description"})
_MUXERS_OWN = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder"})  # tags that it writes itself
_EVEN = Fraction(1, 8)  # of a frame that a time may be off
_INDEX_BYTES, _FRAME_BYTES, _TAG_BYTES = 4096, 32, 64  # at most: of an index without frames, and what each adds


class Fragments:
    """Packets of an encoder as the next bytes of a growing mp4, which plays up to their end.

    `add_stream` adds another one of its kind to a container of PyAV's.
    """

    def __init__(self, add_stream: Callable[[Any], Any], metadata: Mapping[str, str]) -> None:
        self._add_stream, self._metadata = add_stream, metadata
        self._made = 0

    def of(self, packets: list[Any]) -> bytes:
        """At least one packet, whose times count frames."""
        # A muxer holds its newest fragment back until the next one begins; closing one per chunk brings it out.
        memory = io.BytesIO()
        options = {
            "movflags": f"frag_keyframe+empty_moov+default_base_moof+frag_discont{_tag_flag(self._metadata)}",
            "fragment_index": str(self._made + 1),
            "avoid_negative_ts": "disabled",  # or a fragment that starts later would be moved to time 0
        }
        with import_av().open(memory, "w", format="mp4", options=options) as container:
            container.metadata.update(self._metadata)
            stream = self._add_stream(container)
            for packet in packets:
                packet.stream = stream
                packet.duration = 1  # in frames; without it a chunk of one frame has no length
                container.mux(packet)
        kept = (b"moof", b"mdat") if self._made else (b"ftyp", b"moov", b"moof", b"mdat")
        boxes = [box for kind, box in _boxes(memory.getvalue()) if kind in kept]
        self._made += sum(box[4:8] == b"moof" for box in boxes)
        return b"".join(boxes)


def make_plain(
    path: Path, frames: int, rate: Fraction, metadata: Mapping[str, str], sound: Sound | None = None
) -> None:
    """Puts a plain mp4, its index in front of its frames, in the place of a fragmented one of so many frames.

    `sound` is laid under them. Packets are copied as they are. The new file is made beside the old one, which stays
    until it is whole; links are followed. OSError, FFmpegError or, for a sound that no mp4 holds, ValueError if it
    cannot be made; OutputError if the file does not hold these frames.
    """
    target = real_path(path)
    whole = target.with_name(f"{target.name}.tmp")
    whole.unlink(missing_ok=True)  # a killed run's
    try:
        with open(target, "rb") as source, open(whole, "xb") as file:
            quiet = _Quiet(file)
            copied = _copy(source, quiet, frames, rate, metadata, sound)
            quiet.flush()
            if quiet.error:
                raise quiet.error
            os.fsync(file.fileno())  # or a power cut could leave the new name with nothing behind it
        if copied != frames:
            raise OutputError(f"expected {frames} frames in {path}, got {copied}: something else writes it; try again")
        shutil.copymode(target, whole)
        os.replace(whole, target)
    finally:
        with contextlib.suppress(OSError):
            whole.unlink(missing_ok=True)


class _Quiet:
    """A file that PyAV writes to: keeps its first error and takes no more; PyAV prints those that it cannot raise."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self._tried(self._file.write, data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._tried(self._file.seek, offset, whence)

    def tell(self) -> int:
        return self._tried(self._file.tell)

    def flush(self) -> None:
        self._tried(self._file.flush)

    def _tried(self, call: Callable[..., Any], *values: Any) -> Any:
        """What the call returns; 0 from the first error on."""
        try:
            return 0 if self.error else call(*values)
        except OSError as error:
            self.error = error
            return 0


def _copy(source: Any, file: Any, frames: int, rate: Fraction, metadata: Mapping[str, str], sound: Sound | None) -> int:
    """Copies the packets of an open video file into a plain mp4 with these tags; how many there were."""
    av, copied = import_av(), 0

    def pictures(video: Any, stream: Any) -> Iterator[Any]:
        nonlocal copied
        for packet in video.container.demux(video):
            if packet.size:  # the last one only says that there are no more
                packet.stream = stream
                packet.duration = round(1 / (rate * packet.time_base))  # FFmpeg 7 does not know every frame's
                copied += 1
                yield packet

    options = _plain_options(frames, frames / rate, metadata, sound)
    with av.open(source) as fragmented, av.open(file, "w", format="mp4", options=options) as plain:
        plain.metadata.update(metadata)
        video = fragmented.streams.video[0]
        stream = plain.add_stream_from_template(video, opaque=True)
        stream.time_base = video.time_base
        _mux(plain, pictures(video, stream), sound, frames / rate)
    return copied


def lay_under(source: Any, path: Path, sound: Sound, metadata: Mapping[str, str]) -> None:
    """Writes the video of an open container, whatever made it, to a plain mp4, with `sound` for its length.

    The video's packets are copied. ValueError for a codec that no mp4 holds, FFmpegError for a source that cannot be
    read, OutputError for a disk that refuses; then there is no file.
    """
    av, video = import_av(), source.streams.video[0]
    times = _times_of(source, video)
    seconds = times.length * times.unit
    tags = {key: value for key, value in source.metadata.items() if key not in _MUXERS_OWN} | dict(metadata)
    options = _plain_options(times.frames, seconds, tags, sound)
    try:
        with open(path, "wb") as file:
            quiet = _Quiet(file)
            try:
                with av.open(quiet, "w", format="mp4", options=options) as plain:
                    plain.metadata.update(tags)
                    stream = plain.add_stream_from_template(video, opaque=True)
                    stream.time_base = times.unit
                    _mux(plain, _moved(source, video, stream, times), sound, seconds)
            finally:
                quiet.flush()
                if quiet.error:
                    raise quiet.error
    except BaseException as error:
        with contextlib.suppress(OSError):
            path.unlink()
        if isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError):
            raise output_error(path, error) from error
        raise


class _Times(NamedTuple):
    """When a stream's pictures are shown: how many, the first in its time base, and the length of all in `unit`."""

    frames: int
    first: int
    length: int
    unit: Fraction


def _times_of(container: Any, video: Any) -> _Times:
    """Times in whole frames where they are even: some containers round them to milliseconds."""
    shown, end = [], 0
    for packet in container.demux(video):
        if packet.size and packet.pts is not None:
            shown.append(packet.pts)
            end = max(end, packet.pts + (packet.duration or 0))
    container.seek(0)
    if not shown:
        raise OutputError(
            f"cannot read {shown_text(container.name, 200)}: there are no frames in it; give another file"
        )
    shown.sort()
    first, rate = shown[0], video.average_rate
    if rate and all(abs((pts - first) * video.time_base * rate - i) < _EVEN for i, pts in enumerate(shown)):
        return _Times(len(shown), first, len(shown), 1 / Fraction(rate))
    return _Times(len(shown), first, end - first, Fraction(video.time_base))


def _moved(container: Any, video: Any, stream: Any, times: _Times) -> Iterator[Any]:
    """The packets of a stream, its first picture at time 0."""
    units = video.time_base / times.unit
    for packet in container.demux(video):
        if packet.size and packet.pts is not None:
            packet.stream = stream
            packet.pts = round((packet.pts - times.first) * units)
            if packet.dts is not None:
                packet.dts = round((packet.dts - times.first) * units)
            packet.duration = round((packet.duration or 0) * units)
            packet.time_base = times.unit
            yield packet


def _plain_options(frames: int, seconds: Fraction, metadata: Mapping[str, str], sound: Sound | None) -> dict[str, str]:
    """Room for the index is left in front: moving all frames behind it in the end would write the file twice."""
    text = sum(len(f"{key}{value}".encode()) + _TAG_BYTES for key, value in metadata.items())
    # With sound in between, every frame may be a piece of its own in the file.
    heard = 0 if sound is None else _INDEX_BYTES + (sound.packets_in(seconds) + frames) * _FRAME_BYTES
    options = {"moov_size": str(_INDEX_BYTES + frames * _FRAME_BYTES + text + heard)}
    if flag := _tag_flag(metadata):
        options["movflags"] = flag
    return options


def _mux(plain: Any, pictures: Iterator[Any], sound: Sound | None, seconds: Fraction) -> None:
    """Pictures and sound in the order of their times: a muxer holds back what runs ahead of the other."""
    with sound.laid(plain, seconds) if sound is not None else contextlib.nullcontext(iter(())) as heard:
        for packet in heapq.merge(pictures, heard, key=_time_of):
            plain.mux(packet)


def _time_of(packet: Any) -> Fraction:
    when = packet.pts if packet.dts is None else packet.dts
    return Fraction((when or 0) * packet.time_base)


def _tag_flag(metadata: Mapping[str, str]) -> str:
    """Keys that mp4 does not know, such as a workflow, are dropped unless all are written as free tags."""
    return "+use_metadata_tags" if set(metadata) - _KNOWN_TAGS else ""


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The top-level boxes of an mp4: (kind, the whole box)."""
    start = 0
    while start < len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], data[start : start + size]
        start += size
