"""Mp4 in two forms: pieces that play while a file grows, and one file with its index in front when it is whole."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files import real_path
from .encoding import import_av

_KNOWN_TAGS = frozenset({"title", "artist", "album", "comment", "genre", "copyright", "date", "description"})
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


def make_plain(path: Path, frames: int, rate: Fraction, metadata: Mapping[str, str]) -> None:
    """Puts a plain mp4, its index in front of its frames, in the place of a fragmented one of so many frames.

    Packets are copied as they are. The new file is made beside the old one, which stays until it is whole; links are
    followed. OSError or FFmpegError if it cannot be made, OutputError if the file does not hold these frames.
    """
    target = real_path(path)
    whole = target.with_name(f"{target.name}.tmp")
    whole.unlink(missing_ok=True)  # a killed run's
    try:
        with open(target, "rb") as source, open(whole, "xb") as file:
            quiet = _Quiet(file)
            copied = _copy(source, quiet, frames, rate, metadata)
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


def _copy(source: Any, file: Any, frames: int, rate: Fraction, metadata: Mapping[str, str]) -> int:
    """Copies the packets of an open video file into a plain mp4 with these tags; how many there were."""
    av, copied = import_av(), 0
    text = sum(len(f"{key}{value}".encode()) + _TAG_BYTES for key, value in metadata.items())
    # Room for the index is left in front: moving all frames behind it in the end would write the file twice.
    options = {"moov_size": str(_INDEX_BYTES + frames * _FRAME_BYTES + text)}
    if flag := _tag_flag(metadata):
        options["movflags"] = flag
    with av.open(source) as fragmented, av.open(file, "w", format="mp4", options=options) as plain:
        plain.metadata.update(metadata)
        video = fragmented.streams.video[0]
        stream = plain.add_stream_from_template(video, opaque=True)
        stream.time_base = video.time_base
        for packet in fragmented.demux(video):
            if packet.size:  # the last one only says that there are no more
                packet.stream = stream
                packet.duration = round(1 / (rate * packet.time_base))  # FFmpeg 7 does not know every frame's
                plain.mux(packet)
                copied += 1
    return copied


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
