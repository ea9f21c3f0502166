"""A video file that grows chunk by chunk and plays at every moment, and its reader."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import OutputError
from ..files import output_error
from ..rates import rate_of, rate_text
from ..reading import unreadable
from .colours import tag, to_rgb, to_yuv

_KEYFRAME_SECONDS = 2
_KNOWN_TAGS = frozenset({"title", "artist", "album", "comment", "genre", "copyright", "date", "description"})


class VideoWriter:
    """Writes one clip as h264 in a fragmented mp4, each write() a piece that plays on its own.

        with VideoWriter("clip.mp4", width=832, height=480) as video:
            for frames in chunks:          # (f, 480, 832, 3) uint8, RGB
                video.write(frames)        # on disk and playable when this returns

    The file stands under its final name from the first chunk on, and a killed process loses nothing that was
    written. An existing file is replaced by the first chunk, not before; a writer that fails before it leaves no
    new file behind. The same frames give the same bytes, whatever the number of cores.

    Colours: RGB is converted with, and tagged as, BT.709 in limited range. The sides, times `scale` (an integer
    nearest-neighbour enlargement), must be even. `metadata` takes the tags mp4 knows (title, artist, comment, ...) and
    any other key, such as a workflow.

    Raises OutputError, one line each: no PyAV, no libx264, odd sides, a folder that cannot be written, a full disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        fps: Fraction | int = 16,
        crf: int = 16,
        *,
        scale: int = 1,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.width, self.height, self.crf, self.scale = width, height, crf, scale
        self.fps = rate_of(fps)
        self.frames_written = 0
        self._metadata = dict(metadata or {})
        self._closed = False
        self._check_numbers()
        self._av = _import_av()
        self._check_encoder()
        try:
            # The encoder lives on through the clip, in a container of its own that nothing is muxed into.
            _, self._home, self._encoder = self._new_container(index=1)
            self._encoder.codec_context.open()
        except self._av.error.FFmpegError as error:
            raise OutputError(
                f"cannot write {self.path}: libx264 refuses {width * scale}x{height * scale} pixels at "
                f"{rate_text(self.fps)} fps ({error.strerror}); choose another size"
            ) from error
        self._fragments = 0
        self._good_bytes = 0
        self._torn = False
        try:
            self._is_new = not self.path.exists()
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            # Append mode proves now that the place is writable, without touching a clip that is already there;
            # unbuffered, so that a full disk is reported by the write that meets it. It stays open between chunks.
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            self._closed = True
            raise output_error(self.path, error) from error

    def write(self, frames: np.ndarray) -> None:
        """Append frames (f, height, width, 3) uint8 RGB; f may be 0. On return they are in the file and play."""
        if self._closed:
            raise OutputError(f"cannot write {self.path}: this video is already closed")
        expected = (self.height, self.width, 3)
        if frames.ndim != 4 or frames.shape[1:] != expected or frames.dtype != np.uint8:
            raise OutputError(
                f"cannot write {self.path}: expected frames (frames, {self.height}, {self.width}, 3) uint8, got "
                f"{tuple(frames.shape)} {frames.dtype}; convert them"
            )
        packets: list[Any] = []
        for index, frame in enumerate(frames, start=self.frames_written):
            packets += self._encode(frame, index)
        self._append(packets)
        self.frames_written += len(frames)

    def close(self) -> None:
        """Finish the file; a clip without a single frame leaves none. Calling it again does nothing."""
        if self._closed:
            return
        try:
            if self.frames_written:
                self._append(self._encoder.encode(None))
                self._check_size()
        finally:
            self._release()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_numbers(self) -> None:
        if min(self.width, self.height, self.scale) < 1:
            raise OutputError(
                f"cannot write {self.path}: {self.width}x{self.height}, scale {self.scale}; "
                "all of them must be at least 1"
            )
        if not 0 <= self.crf <= 51:
            raise OutputError(
                f"cannot write {self.path}: expected crf 0 (lossless) to 51 (worst), got {self.crf}; try 16"
            )
        width, height = self.width * self.scale, self.height * self.scale
        if width % 2 or height % 2:
            raise OutputError(
                f"cannot write {self.path}: {width}x{height} pixels, but both sides of a video must be even numbers; "
                "crop it or choose another size"
            )

    def _check_encoder(self) -> None:
        try:
            self._av.codec.Codec("libx264", "w")
        except ValueError as error:
            raise OutputError(
                f"cannot write {self.path}: this build of PyAV has no h264 encoder (libx264); "
                "the build on PyPI has it: pip install --force-reinstall av"
            ) from error

    def _new_container(self, index: int) -> tuple[io.BytesIO, Any, Any]:
        """An mp4 in memory, (bytes, container, its h264 stream); its next fragment has the number `index`."""
        memory = io.BytesIO()
        # Keys that mp4 does not know, such as a workflow, are dropped unless all are written as free tags.
        free = "+use_metadata_tags" if set(self._metadata) - _KNOWN_TAGS else ""
        options = {
            "movflags": f"frag_keyframe+empty_moov+default_base_moof+frag_discont{free}",
            "fragment_index": str(index),
            "avoid_negative_ts": "disabled",  # or a fragment that starts later would be moved to time 0
        }
        container = self._av.open(memory, "w", format="mp4", options=options)
        container.metadata.update(self._metadata)
        stream = container.add_stream("libx264", rate=self.fps)
        context = stream.codec_context
        context.width, context.height = self.width * self.scale, self.height * self.scale
        context.gop_size = max(1, round(self.fps * _KEYFRAME_SECONDS))
        # One thread: x264's output depends on the number of threads, and this is far from the slow part.
        context.thread_count = 1
        # zerolatency: every frame that goes in comes out at once, so a chunk is complete when it is written.
        # veryfast: generation waits for it, and at crf 16 slower presets gave files of the same size.
        tag(context, {"crf": str(self.crf), "preset": "veryfast", "tune": "zerolatency"})
        return memory, container, stream

    def _encode(self, frame: np.ndarray, index: int) -> list[Any]:
        if self.scale > 1:
            frame = frame.repeat(self.scale, axis=0).repeat(self.scale, axis=1)
        yuv = to_yuv(self._av, frame)
        yuv.pts, yuv.time_base = index, 1 / self.fps
        return list(self._encoder.encode(yuv))

    def _append(self, packets: list[Any]) -> None:
        """Mux packets into fragments in memory and put them at the end of the file, whole or not at all."""
        if not packets:
            return
        # A muxer holds its newest fragment back until the next one begins; closing one per chunk brings it out.
        memory, container, stream = self._new_container(self._fragments + 1)
        for packet in packets:
            packet.stream = stream
            packet.duration = 1  # in frames; without it a chunk of one frame has no length
            container.mux(packet)
        container.close()
        data = memory.getvalue()
        kept = (b"moof", b"mdat") if self._fragments else (b"ftyp", b"moov", b"moof", b"mdat")
        boxes = [box for kind, box in _boxes(data) if kind in kept]
        try:
            self._write_bytes(b"".join(boxes))
        except OSError as error:
            self._release()
            raise output_error(self.path, error, self.frames_written) from error
        self._fragments += sum(box[4:8] == b"moof" for box in boxes)

    def _write_bytes(self, data: bytes) -> None:
        if self._good_bytes:
            self._check_size()
        self._torn = True
        if not self._good_bytes and os.fstat(self._file.fileno()).st_size:
            self._file.truncate(0)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._good_bytes += len(data)
        self._torn = False

    def _check_size(self) -> None:
        """OutputError if the file is not what was written here: its frames would not be those that were counted."""
        found = os.fstat(self._file.fileno()).st_size
        if found != self._good_bytes:
            self._release()
            raise OutputError(
                f"expected {self.path} to hold the {self._good_bytes} bytes that were written, got {found}: something "
                "else writes or cuts it; choose another name"
            )

    def _release(self) -> None:
        """Let go of the file, and drop a fragment of which only a part was written."""
        self._closed = True
        self._home = self._encoder = None
        with contextlib.suppress(OSError):
            if self._torn:
                self._file.truncate(self._good_bytes)
        with contextlib.suppress(OSError):
            self._file.close()
        if self._is_new and not self._good_bytes:
            with contextlib.suppress(OSError):
                self.path.unlink()


def read_frames(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """The frames of a video file one by one, each (H, W, 3) uint8 RGB, read as BT.709 unless it says otherwise.

    Only one frame is held at a time. A file that cannot be read is an OutputError.
    """
    with _opened(path) as container:
        for frame in container.decode(video=0):
            yield to_rgb(frame)


def frame_count(path: str | os.PathLike[str]) -> int:
    """Frames of a video file, counted without decoding them. OutputError if it cannot be read."""
    with _opened(path) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """A container with a video in it; OutputError, also for what fails while it is read."""
    av = _import_av()
    if why := unreadable(path):
        raise OutputError(f"cannot read {path}: {why}")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise OutputError(f"cannot read {path}: there is no video in it; give another file")
            yield container
    except (OSError, av.error.FFmpegError) as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}; give another file") from error


def clip_bytes(frames: np.ndarray, fps: Fraction | int, longest_px: int = 512) -> bytes:
    """Frames (f, H, W, 3) uint8 as a small mp4 in memory, for previews: fast rather than fine.

    Sides are reduced until none is above `longest_px`, and made even.
    """
    av = _import_av()
    height, width = frames.shape[1:3]
    ratio = min(1.0, longest_px / max(height, width))
    width, height = (max(2, round(side * ratio) // 2 * 2) for side in (width, height))
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height = width, height
        tag(stream.codec_context, {"crf": "26", "preset": "ultrafast", "tune": "zerolatency"})
        for frame in frames:
            container.mux(stream.encode(to_yuv(av, frame, (width, height))))
        container.mux(stream.encode(None))
    return memory.getvalue()


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The top-level boxes of an mp4: (kind, the whole box)."""
    start = 0
    while start < len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], data[start : start + size]
        start += size


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise OutputError("video files need PyAV, which is not installed: pip install av") from error
    return av
