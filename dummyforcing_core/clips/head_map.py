"""A picture of a model's heads: one cell per layer and head, coloured by role, with the masses behind the choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..kv.scoring import HeadScores

if TYPE_CHECKING:
    from PIL.Image import Image

ROLE_COLOURS = {
    "sink": (66, 133, 194),
    "neighbour": (76, 158, 106),
    "dummy": (196, 106, 60),
    "full": (110, 110, 118),
    "window": (110, 110, 118),
    "unclassified": (110, 110, 118),
}
REGION_COLOURS = ((150, 200, 240), (160, 220, 180), (240, 190, 150))  # sink, neighbour, current
_BACKGROUND, _TEXT = (24, 24, 26), (200, 200, 206)
_MARGIN, _LABEL, _GAP = 16, 54, 2


def head_map(roles: Sequence[Sequence[str]], scores: HeadScores | None = None, title: str = "") -> Image:
    """Draws roles (layers x heads). With scores, every cell has a bar of its sink, neighbour and current mass."""
    from PIL import Image, ImageDraw, ImageFont

    layers, heads = len(roles), len(roles[0])
    width, height = _cell_size(heads)
    font = ImageFont.load_default(13)
    legend = [role for role in ROLE_COLOURS if any(role in row for row in roles)]
    top = _MARGIN + (24 if title else 0) + 24
    size = (
        max(_MARGIN * 2 + _LABEL + heads * width, 560),
        top + layers * height + _MARGIN + 22,
    )
    image = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(image)
    if title:
        draw.text((_MARGIN, _MARGIN), title, _TEXT, ImageFont.load_default(15))
    x = _MARGIN
    for role in legend:
        count = sum(row.count(role) for row in map(list, roles))
        text = f"{role} {count}"
        draw.rectangle((x, top - 20, x + 11, top - 9), ROLE_COLOURS[role])
        draw.text((x + 17, top - 22), text, _TEXT, font)
        x += 34 + int(draw.textlength(text, font))
    if scores is not None:
        draw.text((x, top - 22), "bar: sink | neighbour | current mass", (140, 140, 146), font)
    for layer, row in enumerate(roles):
        y = top + layer * height
        if height >= 12 or layer % 5 == 0:
            draw.text((_MARGIN, y + height / 2), f"layer {layer}", _TEXT, font, anchor="lm")
        for head, role in enumerate(row):
            x = _MARGIN + _LABEL + head * width
            mass = None if scores is None else scores.mass[layer, head].tolist()
            _cell(draw, (x, y, x + width - _GAP, y + height - _GAP), role, mass)
    draw.text((_MARGIN + _LABEL, top + layers * height + 4), f"{heads} heads, {layers} layers", (140, 140, 146), font)
    return image


def _cell_size(heads: int) -> tuple[int, int]:
    """Pixels of one cell, so that the picture stays about a page wide."""
    width = min(64, max(16, 1100 // heads))
    return width, max(12, width // 2)


def _cell(draw, box: tuple[int, int, int, int], role: str, mass: list[float] | None) -> None:
    left, top, right, bottom = box
    draw.rectangle(box, ROLE_COLOURS.get(role, (110, 110, 118)))
    if mass is None:
        return
    bar = max(3, (bottom - top) // 4)
    start = float(left)
    for share, colour in zip(mass, REGION_COLOURS, strict=True):
        stop = start + share * (right - left)
        draw.rectangle((round(start), bottom - bar, round(stop), bottom), colour)
        start = stop
