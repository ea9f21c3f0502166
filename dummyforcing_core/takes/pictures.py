"""A small picture per chunk of a take: what a filmstrip and a contact sheet show. Losing one costs nothing."""

import contextlib
import io
from pathlib import Path

import numpy as np

from ..errors import DummyForcingError, OutputError
from ..files import make_folder, write_atomic
from ..reading import unreadable

PICTURES = "pictures"
LONGEST_PX = 256
MOST_BYTES = 2**20


def write_picture(folder: Path, chunk: int, frame: np.ndarray) -> None:
    """Keeps frame (H, W, 3) uint8 as the picture of a chunk. OutputError if it cannot be written."""
    from PIL import Image

    pictures = folder / PICTURES
    if pictures.is_symlink():
        raise OutputError(f"expected a folder of pictures, got {pictures}, which is a link; remove it")
    make_folder(pictures)
    image = Image.fromarray(frame)
    image.thumbnail((LONGEST_PX, LONGEST_PX))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    write_atomic(pictures / name_of(chunk), data.getvalue())


def read_picture(folder: Path, chunk: int) -> bytes | None:
    """A chunk's picture as JPEG; None if there is none, or a file that is no such picture."""
    from PIL import Image

    path = folder / PICTURES / name_of(chunk)
    with contextlib.suppress(OSError, DummyForcingError, ValueError, SyntaxError):
        if path.parent.is_symlink() or path.is_symlink() or unreadable(path) or path.stat().st_size > MOST_BYTES:
            return None
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return data if max(image.size) <= LONGEST_PX else None
    return None


def name_of(chunk: int) -> str:
    """The file of a chunk's picture."""
    return f"{chunk:05d}.jpg"
