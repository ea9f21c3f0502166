"""A take as people look at it: how far it is, what its video shows, its chunks on a sheet."""

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import OutputError, shown
from ..files import write_atomic
from ..geometry import SPATIAL, pixel_frames, screen_size
from ..rates import OWN_RATE, clock, rate_of
from ..takes.take import LATENTS, Take
from .contact_sheet import contact_sheet

MOST_TILES, COLUMNS = 240, 12
SEPARATOR = "  |  "  # of prompts in one line


def rate_of_take(take: Take) -> Fraction:
    """Frames per second that its prompts were timed by."""
    try:
        return rate_of(str(take.manifest.conditions.get("fps", "")))
    except OutputError:  # of a take that somebody else has written
        return OWN_RATE


def size_of_take(take: Take) -> tuple[int, int]:
    """Width and height that its video shows."""
    shape = take.manifest.shape
    whole = screen_size(shape.width * SPATIAL, shape.height * SPATIAL)
    sides = str(take.manifest.conditions.get("size", "")).split("x")
    if len(sides) != 2 or not all(side.isdecimal() and len(side) < 6 for side in sides):
        return whole
    width, height = map(int, sides)
    return (width, height) if 2 <= width <= shape.width * SPATIAL and 2 <= height <= shape.height * SPATIAL else whole


def frames_of_take(take: Take) -> int:
    """Pixel frames that its video shows of what is there."""
    made = pixel_frames(take.frames)
    return min(take.manifest.shown_frames or made, made)


def texts_of_take(take: Take) -> list[tuple[int, str]]:
    """(first latent frame, prompt) of what is there, "" for one whose words nobody knows."""
    found: list[tuple[int, str]] = []
    last: str | None = None
    for entry in take.entries:
        for one in entry.heard[:1]:
            now = one.text or one.features  # while a switch is blended, the text holds
            if now != last:
                found.append((one.frame, one.text))
            last = now
    return found


def title_of_take(take: Take) -> str:
    """Its prompts in one line, those that are still to come too where they are known."""
    lines = (take.manifest.call or {}).get("lines")
    told = [line[1] for line in lines if isinstance(line, list) and len(line) == 2] if isinstance(lines, list) else []
    return SEPARATOR.join(map(str, told or [text for _, text in texts_of_take(take) if text]))


def state_of_take(take: Take) -> str:
    """How far it is, and what it takes on the disk."""
    done = "finished" if take.manifest.finished else "unfinished, `take resume` goes on"
    size = (take.folder / LATENTS).stat().st_size if (take.folder / LATENTS).exists() else 0
    there, whole = second_of(take, take.frames), second_of(take, take.manifest.shape.frames)
    parent = "" if take.manifest.parent is None else f", a branch of {shown(take.manifest.parent[0], 255)}"
    return f"{len(take.entries)} chunks, {there} of {whole}, {size / 2**10:,.0f} KiB, {done}{parent}"


def second_of(take: Take, frame: int) -> str:
    """Where a latent frame begins in the video."""
    return clock(float(pixel_frames(frame) / rate_of_take(take)))


def save_sheet(take: Take, path: Path) -> int:
    """Writes a picture per chunk on one sheet, evenly chosen ones of a long take; how many of them had none.

    OutputError if there is no chunk or the file cannot be written.
    """
    if not take.entries:
        raise OutputError(
            f"expected a take that holds a chunk, got {take.folder}, which holds none; go on with it first"
        )
    step = -(-len(take.entries) // MOST_TILES)
    chosen = take.entries[::step]
    pictures = [take.picture(entry.span.chunk) for entry in chosen]
    captions = [second_of(take, entry.span.start) for entry in chosen]
    title = title_of_take(take) or take.folder.name
    sheet = contact_sheet(_tiles(pictures, size_of_take(take)), COLUMNS, captions, title=title, scale=1.0)
    data = io.BytesIO()
    sheet.save(data, "PNG")
    write_atomic(path, data.getvalue())
    return sum(picture is None for picture in pictures)


def _tiles(pictures: list[bytes | None], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Pictures as frames of one size, a dark one where there is none."""
    from PIL import Image

    there = [Image.open(io.BytesIO(picture)).size for picture in pictures if picture is not None]
    width, height = there[0] if there else (max(size[0] // 4, 2), max(size[1] // 4, 2))
    for picture in pictures:
        if picture is None:
            yield np.full((height, width, 3), 24, np.uint8)
        else:
            yield np.asarray(Image.open(io.BytesIO(picture)).convert("RGB").resize((width, height)))
