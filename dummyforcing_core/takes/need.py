"""What a take will need on the disk: said beforehand, and watched while it grows."""

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..errors import OutputError
from ..geometry import LatentShape, Span

CHUNK_BYTES = 2048  # at most, of a record's head, a line of the log: what is not latents
PICTURE_BYTES = 12 * 1024  # a picture of a chunk, about
PLAN_BYTES = 512 * 1024  # of head plans, which are kept where they change
MIB = 2**20


def latent_bytes(shape: LatentShape, frames: int, element_bytes: int) -> int:
    """Of so many latent frames, exactly."""
    return shape.batch * shape.channels * frames * shape.height * shape.width * element_bytes


def take_bytes(shape: LatentShape, spans: Sequence[Span], window_frames: int = 0, element_bytes: int = 4) -> int:
    """The most that a take's latents need for these chunks, pictures and prompts' features (megabytes each) aside.

    window_frames -- of an unfinished rolling window that is kept with every chunk
    """
    frames = sum(span.frames for span in spans) + window_frames * len(spans)
    return latent_bytes(shape, frames, element_bytes) + CHUNK_BYTES * len(spans) + PLAN_BYTES


class Room:
    """Watches the disk of a take that still has to grow by so many bytes; a line, once, when they do not fit any more.

    `state` says beforehand what is needed, or raises OutputError if the disk cannot hold it.
    """

    def __init__(self, folder: Path, needed: int, pictures: int):
        self._folder, self._left, self._pictures, self._told = folder, needed, pictures, False

    def state(self) -> None:
        free, needed, folder = _free(self._folder), self._left, self._folder
        if free is None:
            return
        if needed > free + PLAN_BYTES:
            raise OutputError(
                f"expected {needed / MIB:,.0f} MiB of room for the take {folder}, got {free / MIB:,.0f} MiB; free "
                "some, choose another disk, or make the clip shorter"
            )
        whole = needed + self._pictures * PICTURE_BYTES
        warnings.warn(f"the take will need about {whole / MIB:,.1f} MiB, {free / MIB:,.0f} are free", stacklevel=2)

    def took(self, count: int) -> None:
        """So many bytes are written."""
        self._left = max(self._left - count, 0)
        free = None if self._told else _free(self._folder)
        if free is not None and self._left > free + PLAN_BYTES:
            self._told = True
            warnings.warn(
                f"the disk runs full: the take still needs {self._left / MIB:,.0f} MiB, {free / MIB:,.0f} are free; "
                "what is made stays, and can be gone on with once there is room",
                stacklevel=3,
            )


def _free(folder: Path) -> int | None:
    """Bytes that are free where a folder is; None where the system does not say."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
