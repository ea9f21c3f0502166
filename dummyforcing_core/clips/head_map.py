"""Pictures of a model's heads, one cell per layer and head: roles with the masses behind them, and output changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..kv.output_change import OutputChange
from ..kv.scoring import HeadScores
from ..policies.base import Seen
from ..policies.profile import HeadProfile

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

ROLE_COLOURS = {
    "sink": (66, 133, 194),
    "neighbour": (76, 158, 106),
    "dummy": (196, 106, 60),
    "memory": (178, 72, 132),
    "anchor": (66, 133, 194),
    "local": (196, 106, 60),
    "static": (196, 106, 60),
    "dynamic": (178, 72, 132),
    "nothing": (90, 60, 50),
    "newest frame": (196, 106, 60),
    "newest chunk": (76, 158, 106),
    "first frame": (66, 133, 194),
    "first and newest frame": (120, 120, 190),
    "full": (110, 110, 118),
    "window": (110, 110, 118),
    "unclassified": (110, 110, 118),
}
REGION_COLOURS = ((150, 200, 240), (160, 220, 180), (240, 190, 150))  # sink, neighbour, current
CHANGE_TITLE = "output change without far frames: white the most, black none"
_BACKGROUND, _TEXT, _FAINT = (24, 24, 26), (200, 200, 206), (140, 140, 146)
_MARGIN, _LABEL, _GAP = 16, 54, 2


class _Grid:
    """A picture with one cell per layer and head, below a head of so many pixels."""

    def __init__(self, layers: int, heads: int, top: int):
        from PIL import Image, ImageDraw, ImageFont

        self.top = top
        self.width = min(64, max(16, 1100 // heads))  # of a cell, so that the picture stays about a page wide
        self.height = max(12, self.width // 2)
        size = max(_MARGIN * 2 + _LABEL + heads * self.width, 560), top + layers * self.height + _MARGIN + 22
        self.image = Image.new("RGB", size, _BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(13)
        for layer in range(layers):
            at = _MARGIN, top + (layer + 0.5) * self.height
            self.draw.text(at, f"layer {layer}", _TEXT, self.font, anchor="lm")
        below = _MARGIN + _LABEL, top + layers * self.height + 4
        self.draw.text(below, f"{heads} heads, {layers} layers", _FAINT, self.font)

    def box(self, layer: int, head: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a cell."""
        x, y = _MARGIN + _LABEL + head * self.width, self.top + layer * self.height
        return x, y, x + self.width - _GAP, y + self.height - _GAP


def head_map(roles: Sequence[Sequence[str]], scores: HeadScores | None = None, title: str = "") -> Image:
    """Draws roles (layers x heads). With scores, every cell has a bar of its sink, neighbour and current mass."""
    from PIL import ImageFont

    top = _MARGIN + (24 if title else 0) + 24
    grid = _Grid(len(roles), len(roles[0]), top)
    draw = grid.draw
    if title:
        draw.text((_MARGIN, _MARGIN), title, _TEXT, ImageFont.load_default(15))
    x = _MARGIN
    for role in (role for role in ROLE_COLOURS if any(role in row for row in roles)):
        text = f"{role} {sum(list(row).count(role) for row in roles)}"
        draw.rectangle((x, top - 20, x + 11, top - 9), ROLE_COLOURS[role])
        draw.text((x + 17, top - 22), text, _TEXT, grid.font)
        x += 34 + int(draw.textlength(text, grid.font))
    if scores is not None:
        draw.text((x, top - 22), "bar: sink | neighbour | current mass", _FAINT, grid.font)
    for layer, row in enumerate(roles):
        for head, role in enumerate(row):
            mass = None if scores is None else scores.mass[layer, head].tolist()
            _cell(draw, grid.box(layer, head), role, mass)
    return grid.image


def change_map(change: Tensor) -> Image:
    """Draws by how much every head's output changes (layers, heads) without far frames: the brighter, the more."""
    top = _MARGIN + 24
    grid = _Grid(change.shape[0], change.shape[1], top)
    grid.draw.text((_MARGIN, top - 22), CHANGE_TITLE, _TEXT, grid.font)
    for layer, row in enumerate((change / change.max().clamp_min(1e-12)).tolist()):
        for head, share in enumerate(row):
            grid.draw.rectangle(grid.box(layer, head), (round(255 * share),) * 3, outline=_FAINT)
    return grid.image


def profile_map(profile: HeadProfile, roles: Sequence[Sequence[str]], title: str) -> Image:
    """The head map and, where the profile has output changes, their map below it."""
    changes = [] if profile.changes is None else [change_map(profile.changes.far)]
    return _stacked([head_map(roles, profile.scores, title), *changes])


def observed_map(roles: Sequence[Sequence[str]], seen: Seen | None, title: str) -> Image:
    """The head map of a clip, with what its roles were made from."""
    if isinstance(seen, OutputChange):
        return _stacked([head_map(roles, None, title), change_map(seen.far)])
    return head_map(roles, seen, title)


def _stacked(maps: Sequence[Image]) -> Image:
    """One below the other."""
    from PIL import Image

    picture = Image.new("RGB", (maps[0].width, sum(one.height for one in maps)), _BACKGROUND)
    for i, one in enumerate(maps):
        picture.paste(one, (0, sum(before.height for before in maps[:i])))
    return picture


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
