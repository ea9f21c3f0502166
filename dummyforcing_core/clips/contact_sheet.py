"""A picture of a whole clip: frames in a grid, picked while the clip streams by."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import OutputError
from ..files import write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image

_TILE_WIDTH = 224  # what a tile is brought to when no scale is given, in pixels
_MARGIN, _GAP, _COLUMN_GAP = 20, 6, 14
_BACKGROUND, _CAPTION, _TITLE = (24, 24, 26), (150, 150, 156), (232, 232, 236)
_CAPTION_SIZE, _TITLE_SIZE = 13, 17
_TITLE_LINES = 4


def contact_sheet(
    frames: Iterable[np.ndarray],
    columns: int,
    captions: Sequence[str] | None = None,
    *,
    title: str | None = None,
    scale: float | None = None,
    by_column: bool = False,
) -> Image:
    """Frames, each (H, W, 3) uint8 and all of one size, as tiles on a dark sheet.

    captions: one short text per frame, under its tile. title: text above everything (the prompt), wrapped.
    scale: size of a tile relative to its frame; None brings small frames up by a whole factor, large ones down.
    by_column: time runs down the columns instead of along the rows.
    OutputError when there are no frames, their sizes differ, or captions do not match them.
    """
    tiles = [_tile(frame, scale) for frame in frames]
    if not tiles:
        raise OutputError("expected at least one frame for a contact sheet, got none; give some")
    if len({tile.size for tile in tiles}) > 1:
        raise OutputError(f"expected frames of one size, got {sorted({t.size for t in tiles})}; make them alike")
    if captions is not None and len(captions) != len(tiles):
        raise OutputError(f"expected {len(tiles)} captions, one a frame, got {len(captions)}; give one each, or none")
    if columns < 1:
        raise OutputError(f"expected 1 column or more, got {columns}; give at least 1")
    return _lay_out(tiles, columns, captions, title, by_column)


class ContactSheet:
    """Collects evenly spaced frames of a clip as it streams by, holding only their tiles.

        sheet = ContactSheet(total_frames=81)          # 21 tiles: frame 0, 4, 8, ... 80
        for frames in chunks:
            sheet.add(frames)                          # (f, H, W, 3) uint8
        sheet.save("clip.png", title=prompt)

    7 columns of 3, time running downwards: in a clip of 7 chunks of 3 latent frames, each column is one chunk.
    A clip that ends early gives the tiles it reached.
    """

    def __init__(
        self, total_frames: int, columns: int = 7, rows: int = 3, fps: float = 16, scale: float | None = None
    ) -> None:
        if min(total_frames, columns, rows) < 1:
            raise OutputError(
                f"a contact sheet of {total_frames} frames in {columns} columns and {rows} rows is empty; "
                "all of them must be at least 1"
            )
        self.rows, self.fps, self.scale = rows, fps, scale
        self.picked_frames = evenly_spaced(total_frames, columns * rows)
        self._wanted = frozenset(self.picked_frames)
        self._tiles: list[np.ndarray] = []
        self._captions: list[str] = []
        self._seen_frames = 0

    def add(self, frames: np.ndarray) -> None:
        """The next frames of the clip, (f, H, W, 3) uint8."""
        for index, frame in enumerate(frames, start=self._seen_frames):
            if index in self._wanted:
                self._tiles.append(np.asarray(_tile(frame, self.scale)))
                self._captions.append(f"frame {index}   {index / self.fps:.2f} s")
        self._seen_frames += len(frames)

    def image(self, title: str | None = None) -> Image:
        """The sheet of what was collected so far; OutputError if that is nothing."""
        columns = -(-len(self._tiles) // self.rows)
        return contact_sheet(self._tiles, max(columns, 1), self._captions, title=title, scale=1, by_column=True)

    def save(self, path: str | os.PathLike[str], title: str | None = None) -> None:
        """Write the sheet as PNG, whole or not at all."""
        save_png(self.image(title), path)


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` indices from 0 to total - 1, both ends included, as even as integers allow; all of them if fewer."""
    count = min(total, count)
    if count <= 1:
        return [0] * count
    return [(2 * i * (total - 1) + count - 1) // (2 * (count - 1)) for i in range(count)]


def save_png(image: Image, path: str | os.PathLike[str]) -> None:
    """Write a picture as PNG so that it is there whole or not at all; OutputError if it cannot be written."""
    memory = io.BytesIO()
    image.save(memory, format="PNG", optimize=True)
    write_atomic(path, memory.getvalue())


def _tile(frame: np.ndarray, scale: float | None) -> Image:
    from PIL import Image

    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise OutputError(
            f"expected a frame (height, width, 3) uint8, got {tuple(frame.shape)} {frame.dtype}; convert it"
        )
    picture = Image.fromarray(np.ascontiguousarray(frame))
    if scale is None:
        scale = _TILE_WIDTH / picture.width
        scale = max(1, round(scale)) if scale > 1 else scale
    if scale == 1:
        return picture
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    # Small clips keep their hard pixels; anything else is resampled smoothly.
    whole = scale > 1 and float(scale).is_integer()
    return picture.resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


def _lay_out(
    tiles: Sequence[Image], columns: int, captions: Sequence[str] | None, title: str | None, by_column: bool
) -> Image:
    from PIL import Image, ImageDraw

    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    tile_width, tile_height = tiles[0].size
    caption_font, title_font = _font(_CAPTION_SIZE), _font(_TITLE_SIZE)
    caption_height = _CAPTION_SIZE + 9 if captions is not None else 0
    # With time running down, wider gaps between the columns show what belongs together.
    gap_x = _COLUMN_GAP if by_column else _GAP
    width = 2 * _MARGIN + columns * tile_width + (columns - 1) * gap_x
    lines = _wrap(title, title_font, width - 2 * _MARGIN) if title else []
    line_height = round(_TITLE_SIZE * 1.4)
    top = _MARGIN + (len(lines) * line_height + 12 if lines else 0)
    height = top + rows * (tile_height + caption_height) + (rows - 1) * _GAP + _MARGIN

    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + number * line_height), line, font=title_font, fill=_TITLE)
    for number, tile in enumerate(tiles):
        column, row = divmod(number, rows) if by_column else (number % columns, number // columns)
        x = _MARGIN + column * (tile_width + gap_x)
        y = top + row * (tile_height + caption_height + _GAP)
        sheet.paste(tile, (x, y))
        if captions is not None:
            text = _fit(captions[number], caption_font, tile_width)
            draw.text((x + 1, y + tile_height + 4), text, font=caption_font, fill=_CAPTION)
    return sheet


def _font(size: int) -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size)
    except (ImportError, OSError, TypeError):
        return ImageFont.load_default()  # a Pillow without FreeType has one small bitmap font


def _fit(text: str, font: Any, width: int) -> str:
    """The text, shortened with dots if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """The text in lines of at most `width` pixels, at most _TITLE_LINES of them."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > _TITLE_LINES:
        lines[_TITLE_LINES - 1 :] = [" ".join(lines[_TITLE_LINES - 1 :])]
    return [_fit(line, font, width) for line in lines]
