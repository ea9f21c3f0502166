"""A video file that grows chunk by chunk and plays at every moment, and its reader."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import OutputError, shown
from ..files import advice_on, output_error
from ..rates import rate_of, rate_text
from ..reading import unreadable
from .colours import CHROMA_IN_THE_MIDDLE, tag, to_rgb, to_yuv
from .encoding import DEFAULT_ENCODING, Encoding, import_av
from .mp4 import Fragments, make_plain
from .sound import Sound


class VideoWriter:
    """Writes one clip as an mp4 that grows in fragments, each write() a piece that plays on its own.

        with VideoWriter("clip.mp4", width=832, height=480) as video:
            for frames in chunks:          # (f, 480, 832, 3) uint8, RGB
                video.write(frames)        # on disk and playable when this returns

    The file stands under its final name from the first chunk on, and a killed process loses nothing that was
    written. An existing file is replaced by the first chunk, not before; a writer that fails before it leaves no
    new file behind. At a good end, finish() or that of the block, it becomes a plain mp4 with its index in front, for
    which the disk must hold it twice for a moment. The same frames give the same bytes, whatever the number of cores.

    Colours: RGB is converted with, and tagged as, BT.709 in limited range. The sides, times `scale` (an integer
    nearest-neighbour enlargement), must be even. `metadata` takes the tags mp4 knows (title, artist, comment, ...) and
    any other key, such as a workflow.

    Raises OutputError, one line each: no PyAV, no such encoder, odd sides, a folder that cannot be written, a full
    disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        fps: Fraction | int = 16,
        encoding: Encoding = DEFAULT_ENCODING,
        *,
        scale: int = 1,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.width, self.height, self.encoding, self.scale = width, height, encoding, scale
        self.fps = rate_of(fps)
        self.frames_written = 0
        self._metadata = dict(metadata or {})
        self._closed = False
        self._check_numbers()
        self._av = import_av()
        self._encoder = self._open_encoder()
        self._fragments = Fragments(self._add_stream, self._metadata)
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

    def finish(self, sound: Sound | None = None) -> None:
        """Close a clip that is whole, put its index in front and `sound` under it; a closed one is left as it is.

        If that cannot be done, on a full disk say, the file stays as it grew, and a warning says so; one that only
        its sound does not let be done is made without, and a warning says that.
        """
        if self._closed:
            return
        self.close()
        if not self.frames_written:
            return
        if sound is not None:
            try:
                make_plain(self.path, self.frames_written, self.fps, self._metadata, sound)
                return
            except (OSError, ValueError, self._av.error.FFmpegError) as error:
                warnings.warn(f"the video has no sound: it could not be taken over ({shown(error)})", stacklevel=2)
        try:
            make_plain(self.path, self.frames_written, self.fps, self._metadata)
        except (OSError, self._av.error.FFmpegError) as error:
            warnings.warn(
                "the video plays, but not every program seeks in it or takes it: its index could not be put in front "
                f"({advice_on(error)})",
                stacklevel=2,
            )

    def close(self) -> None:
        """Let go of the file as it grew; a clip without a single frame leaves none. Calling it again does nothing."""
        if self._closed:
            return
        try:
            if self.frames_written and not self._torn:
                self._append(self._encoder.encode(None))
                self._check_size()
        finally:
            self._release()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.close()

    @property
    def _size(self) -> tuple[int, int]:
        return self.width * self.scale, self.height * self.scale

    def _check_numbers(self) -> None:
        if min(self.width, self.height, self.scale) < 1:
            raise OutputError(
                f"cannot write {self.path}: {self.width}x{self.height}, scale {self.scale}; "
                "all of them must be at least 1"
            )
        self.encoding.check_size(*self._size)

    def _open_encoder(self) -> Any:
        """An opened encoder, which lives on through the clip."""
        self.encoding.check_encoder()
        self._home = self._av.open(io.BytesIO(), "w", format="mp4")  # nothing is muxed into it
        try:
            return self._add_stream(self._home)
        except self._av.error.FFmpegError as error:
            raise OutputError(
                f"cannot write {self.path}: {self.encoding.encoder} refuses {'{}x{}'.format(*self._size)} pixels at "
                f"{rate_text(self.fps)} fps ({error.strerror}); choose another size"
            ) from error

    def _add_stream(self, container: Any) -> Any:
        return self.encoding.add_stream(container, *self._size, self.fps)

    def _encode(self, frame: np.ndarray, index: int) -> list[Any]:
        if self.scale > 1:
            frame = frame.repeat(self.scale, axis=0).repeat(self.scale, axis=1)
        yuv = to_yuv(self._av, frame)
        yuv.pts, yuv.time_base = index, 1 / self.fps
        return list(self._encoder.encode(yuv))

    def _append(self, packets: list[Any]) -> None:
        """Put packets at the end of the file, whole or not at all."""
        if not packets:
            return
        try:
            self._write_bytes(self._fragments.of(packets))
        except OSError as error:
            self._release()
            raise output_error(self.path, error, self.frames_written) from error

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
        if self._closed:
            return
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
    with opened(path) as container:
        for frame in container.decode(video=0):
            yield to_rgb(frame)


def frame_count(path: str | os.PathLike[str]) -> int:
    """Frames of a video file, counted without decoding them. OutputError if it cannot be read."""
    with opened(path) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


@contextlib.contextmanager
def opened(source: str | os.PathLike[str] | io.BytesIO) -> Iterator[Any]:
    """A container with a video in it, of a file or of one in memory; OutputError, also for what fails while it is
    read."""
    av = import_av()
    in_memory = isinstance(source, io.BytesIO)
    name = "the video in memory" if in_memory else shown(source, 200)
    if isinstance(source, io.BytesIO):
        source.seek(0)
    elif why := unreadable(source):
        raise OutputError(f"cannot read {name}: {why}")
    try:
        with av.open(source if in_memory else str(source)) as container:
            if not container.streams.video:
                raise OutputError(f"cannot read {name}: there is no video in it; give another file")
            yield container
    except (OSError, av.error.FFmpegError) as error:
        raise OutputError(f"cannot read {name}: {error.strerror or error}; give another file") from error


def clip_bytes(frames: np.ndarray, fps: Fraction | int, longest_px: int = 512) -> bytes:
    """Frames (f, H, W, 3) uint8 as a small mp4 in memory, for previews: fast rather than fine.

    Sides are reduced until none is above `longest_px`, and made even.
    """
    av = import_av()
    height, width = frames.shape[1:3]
    ratio = min(1.0, longest_px / max(height, width))
    width, height = (max(2, round(side * ratio) // 2 * 2) for side in (width, height))
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height = width, height
        tag(stream.codec_context)
        options = {"crf": "26", "preset": "ultrafast", "tune": "zerolatency"}
        stream.codec_context.options = options | CHROMA_IN_THE_MIDDLE
        for frame in frames:
            container.mux(stream.encode(to_yuv(av, frame, (width, height))))
        container.mux(stream.encode(None))
    return memory.getvalue()
