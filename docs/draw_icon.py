"""Draws docs/icon.png (400x400) and docs/banner.png (1680x720, 21:9): python docs/draw_icon.py [DIR]

The icon is a grid of attention heads; those that keep a memory form a play sign, the dummies stay dark. The banner
adds what the three kinds of heads see of a clip. Needs Pillow only.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SINK, NEIGHBOUR, CURRENT = (86, 156, 222), (92, 190, 126), (232, 150, 84)
BACKGROUND, DARK, TEXT, FAINT = (20, 21, 26), (46, 48, 58), (236, 238, 244), (150, 154, 168)
CELLS = 9
SCALE = 4  # drawn larger, then shrunk: smooth edges

# Per lane: name, what such heads keep, the past frames they see (of 12) and their colour.
LANES = (
    ("sink heads", "the first frame", {0}, SINK),
    ("neighbour heads", "the last chunk", {9, 10, 11}, NEIGHBOUR),
    ("dummy heads", "one packed frame", {11}, FAINT),
)
PAST, NOW = 12, 3


def in_play_sign(column: int, row: int) -> bool:
    """Whether the cell belongs to a triangle that points right."""
    middle = CELLS // 2
    return 2 <= column <= 7 and abs(row - middle) <= (7 - column) * 0.72 + 0.3


def cell_colour(column: int, row: int) -> tuple[int, int, int]:
    """Sink heads stand at the left edge of the sign, neighbour heads in it, dummies around it."""
    if not in_play_sign(column, row):
        return DARK
    return SINK if column <= 3 else NEIGHBOUR if column <= 5 else CURRENT


def heads(side: int) -> Image.Image:
    """The grid of heads as a square picture of `side` pixels."""
    image = Image.new("RGB", (side * SCALE, side * SCALE), BACKGROUND)
    draw = ImageDraw.Draw(image)
    margin = side * SCALE * 0.06
    pitch = (side * SCALE - 2 * margin) / CELLS
    for row in range(CELLS):
        for column in range(CELLS):
            x, y = margin + column * pitch, margin + row * pitch
            gap = pitch * 0.09
            box = (x + gap, y + gap, x + pitch - gap, y + pitch - gap)
            draw.rounded_rectangle(box, pitch * 0.24, cell_colour(column, row))
    return image.resize((side, side), Image.Resampling.LANCZOS)


def icon() -> Image.Image:
    """400x400."""
    return heads(400)


def lane(seen: set[int], colour: tuple[int, int, int], width: int, height: int) -> Image.Image:
    """A strip of frames: the past that these heads see, then the current chunk."""
    image = Image.new("RGB", (width * SCALE, height * SCALE), BACKGROUND)
    draw = ImageDraw.Draw(image)
    pitch = width * SCALE / (PAST + NOW)
    for frame in range(PAST + NOW):
        fill = CURRENT if frame >= PAST else colour if frame in seen else DARK
        box = (frame * pitch + pitch * 0.1, 0, (frame + 1) * pitch - pitch * 0.1, height * SCALE - 1)
        draw.rounded_rectangle(box, pitch * 0.14, fill)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    """1680x720."""
    image = Image.new("RGB", (1680, 720), BACKGROUND)
    draw = ImageDraw.Draw(image)
    image.paste(heads(560), (60, 80))
    left = 700
    draw.text((left, 84), "Dummy Forcing", TEXT, ImageFont.load_default(104))
    draw.text((left, 214), "long video on Wan2.1, live, chunk by chunk", FAINT, ImageFont.load_default(41))
    font = ImageFont.load_default(29)
    for number, (name, keeps, seen, colour) in enumerate(LANES):
        y = 312 + number * 118
        draw.text((left, y), name, TEXT, font)
        draw.text((1620, y), keeps, FAINT, font, anchor="ra")
        image.paste(lane(seen, colour, 920, 44), (left, y + 42))
    draw.text((1620, 668), "current chunk", CURRENT, ImageFont.load_default(24), anchor="ra")
    return image


def main(folder: Path) -> None:
    """Writes both pictures into `folder`."""
    icon().save(folder / "icon.png", optimize=True)
    banner().save(folder / "banner.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
