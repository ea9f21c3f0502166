"""Draws workflows/*.jpg: python scripts/draw_thumbnails.py DEMO_CLIP.mp4 HEAD_MAP.png

DEMO_CLIP is what the demo workflow wrote to the output folder, HEAD_MAP what this writes with the demo model:
python -m dummyforcing_core profile --prompts prompts/demo_world.txt --out profile.json --picture map.png
The other pictures are diagrams. None shows what a model has not made. Needs Pillow and PyAV.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from workflow_nodes import ROOT
from workflow_prompts import STORY

WIDTH, HEIGHT = 512, 320
SCALE = 2  # drawn larger, then shrunk: smooth edges
SINK, NEIGHBOUR, CURRENT, PACKED = (86, 156, 222), (92, 190, 126), (232, 150, 84), (150, 154, 168)
BACKGROUND, EMPTY, TEXT, FAINT = (20, 21, 26), (46, 48, 58), (236, 238, 244), (150, 154, 168)
MARGIN, TOP, BOTTOM = 20, 58, 286  # of the drawing between title and caption, pixels

Colour = tuple[int, int, int]


class Card:
    """A picture with a title above and a line below that says what it is."""

    def __init__(self, title: str, caption: str):
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)
        self.text(MARGIN, 16, title, 22)
        self.text(MARGIN, HEIGHT - 26, caption, 12, FAINT)

    def text(self, x: float, y: float, words: str, size: int, colour: Colour = TEXT) -> None:
        """Words with their upper left corner at (x, y)."""
        self.draw.text((x * SCALE, y * SCALE), words, colour, ImageFont.load_default(size * SCALE))

    def box(self, x: float, y: float, width: float, height: float, colour: Colour, filled: bool = True) -> None:
        """A rectangle with rounded corners."""
        corners = tuple(side * SCALE for side in (x, y, x + width, y + height))
        radius = min(width, height) * SCALE * 0.15
        fill, outline = (colour, None) if filled else (None, colour)
        self.draw.rounded_rectangle(corners, radius, fill, outline, round(1.5 * SCALE))

    def paste(self, picture: Image.Image, x: int, y: int, factor: float, nearest: bool = False) -> None:
        """Another picture, `factor` times its size."""
        how = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
        size = (round(picture.width * factor * SCALE), round(picture.height * factor * SCALE))
        self.image.paste(picture.resize(size, how), (x * SCALE, y * SCALE))

    def done(self) -> Image.Image:
        """The card at its real size."""
        return self.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def demo(clip: Path) -> Image.Image:
    """Twelve frames of the demo workflow's own clip."""
    import av

    with av.open(str(clip)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    card = Card("Demo: nothing to download", "12 frames that this workflow made: 64x64 pixels, 5 seconds, on a CPU")
    for index in range(12):
        frame = frames[index * (len(frames) - 1) // 11]
        card.paste(frame, MARGIN + index % 6 * 79, 76 + index // 6 * 94, 76 / frame.width, nearest=True)
    return card.done()


def seen(head: int, frame: int, frames: int) -> Colour | None:
    """What head 0..11 keeps of a past frame, coloured: six dummies, three sink, three neighbour heads."""
    if head >= 6:
        return PACKED if frame == frames - 1 else None
    if head % 2:
        return SINK if frame == 0 else None
    return NEIGHBOUR if frame >= frames - 3 else None


def dense_vs_dummy_forcing_480p() -> Image.Image:
    """Heads by frames, twice."""
    card = Card("Dense against Dummy Forcing", "Diagram: rows are attention heads, columns the latent frames they see")
    panel, past, rows = (WIDTH - 3 * MARGIN) / 2, 18, 12
    pitch_x, pitch_y = panel / (past + 3), 14
    for side, name in enumerate(("dense: all 21 frames", "Dummy Forcing")):
        left = MARGIN + side * (panel + MARGIN)
        card.text(left, TOP, name, 15, FAINT)
        for head in range(rows):
            for frame in range(past + 3):
                colour = CURRENT if frame >= past else NEIGHBOUR if side == 0 else seen(head, frame, past) or EMPTY
                card.box(left + frame * pitch_x, TOP + 28 + head * pitch_y, pitch_x - 2, pitch_y - 3, colour)
    return card.done()


def long_1080p() -> Image.Image:
    """Thirty seconds of chunks, and what is still in memory at the last one."""
    card = Card("30 seconds at 1080P", "Diagram: 41 chunks; coloured is what the heads still hold at the last one")
    card.box(MARGIN, TOP + 4, 224, 126, FAINT, filled=False)
    card.text(MARGIN + 58, TOP + 54, "1920 x 1080", 18, FAINT)
    items = (
        (SINK, "first frame: sink heads"),
        (NEIGHBOUR, "last chunk: neighbour heads"),
        (CURRENT, "chunk being made"),
    )
    for row, (colour, name) in enumerate(items):
        card.box(MARGIN + 250, TOP + 16 + row * 36, 14, 14, colour)
        card.text(MARGIN + 272, TOP + 14 + row * 36, name, 14)
    chunks, pitch = 41, (WIDTH - 2 * MARGIN) / 41
    for chunk in range(chunks):
        colour = {0: SINK, chunks - 2: NEIGHBOUR, chunks - 1: CURRENT}.get(chunk, EMPTY)
        card.box(MARGIN + chunk * pitch, 210, pitch - 2.5, 40, colour)
    card.text(MARGIN, 256, "0 s", 13, FAINT)
    card.text(WIDTH - MARGIN - 28, 256, "30 s", 13, FAINT)
    return card.done()


def interactive_story_60s() -> Image.Image:
    """The workflow's own four prompts along a line of time."""
    card = Card("A story of four prompts", "Diagram: 60 seconds, the workflow's prompts by their first words")
    colours = (SINK, NEIGHBOUR, CURRENT, (196, 120, 190))
    part = (WIDTH - 2 * MARGIN) / 4
    for index, (line, colour) in enumerate(zip(STORY.splitlines(), colours, strict=True)):
        start, prompt = line.split(" | ")
        card.box(MARGIN + index * part, TOP + 4, part - 4, 34, colour)
        card.text(MARGIN + index * part + 8, TOP + 10, start, 16, BACKGROUND)
        top = TOP + 56 + index * 42
        card.box(MARGIN, top + 4, 10, 26, colour)
        for row, words in enumerate(_lines(prompt, 62, 2)):
            card.text(MARGIN + 22, top + 17 * row, words, 14, TEXT if row == 0 else FAINT)
    return card.done()


def _lines(text: str, length: int, count: int) -> list[str]:
    rows, row = [], ""
    for word in text.split():
        if len(row) + len(word) > length:
            rows.append(row)
            row = ""
        row += f"{word} "
    return [*rows[: count - 1], f"{rows[count - 1].strip()} ..."]


def image_start() -> Image.Image:
    """One given frame, then the frames that are made."""
    card = Card("Start from an image", "Diagram: 1 given latent frame and 20 made ones are 81 frames, 5 seconds")
    card.box(MARGIN, TOP + 10, 190, 110, SINK, filled=False)
    hill = [(30, 168), (80, 108), (112, 146), (140, 120), (200, 168)]
    card.draw.polygon([(x * SCALE, y * SCALE) for x, y in hill], SINK)
    card.draw.ellipse(tuple(v * SCALE for v in (158, 82, 178, 102)), SINK)
    card.text(232, TOP + 30, "your picture: the first frame", 16)
    card.text(232, TOP + 58, "the prompt says how it moves", 16)
    pitch = (WIDTH - 2 * MARGIN) / 21
    for frame in range(21):
        card.box(MARGIN + frame * pitch, 204, pitch - 3, 52, SINK if frame == 0 else CURRENT)
    return card.done()


def profile_heads_and_save(head_map: Path) -> Image.Image:
    """The head map of the demo model."""
    card = Card("Profile heads and save", "The head map of the bundled demo model, as Profile Heads shows it")
    with Image.open(head_map) as picture:
        factor = min((WIDTH - 2 * MARGIN) / picture.width, (BOTTOM - TOP) / picture.height)
        card.paste(picture.convert("RGB"), round((WIDTH - factor * picture.width) / 2), TOP, factor)
    return card.done()


def teacache_on_top() -> Image.Image:
    """Passes of a few chunks, one step of each left out."""
    card = Card("TeaCache on top", "Diagram: passes of six chunks; the report names the steps really skipped")
    columns, pitch_x, pitch_y, left = 6, 63, 37, 112
    rows = (("step 0", CURRENT), ("step 1", CURRENT), ("step 2", None), ("step 3", CURRENT), ("clean pass", NEIGHBOUR))
    for row, (name, colour) in enumerate(rows):
        top = TOP + 10 + row * pitch_y
        card.text(MARGIN, top + 6, name, 14, FAINT)
        for column in range(columns):
            card.box(
                left + column * pitch_x, top, pitch_x - 8, pitch_y - 8, colour or PACKED, filled=colour is not None
            )
            if colour is None:
                card.text(left + column * pitch_x + 8, top + 7, "reused", 12, FAINT)
    card.text(left, 254, "chunk 1, 2, 3 ...", 13, FAINT)
    return card.done()


def main(demo_clip: str, head_map: str) -> None:
    """Draws all."""
    made: dict[str, Callable[[], Image.Image]] = {
        "demo": lambda: demo(Path(demo_clip)),
        "profile_heads_and_save": lambda: profile_heads_and_save(Path(head_map)),
    }
    for make in (dense_vs_dummy_forcing_480p, long_1080p, interactive_story_60s, image_start, teacache_on_top):
        made[make.__name__] = make
    for name, draw in made.items():
        draw().save(ROOT / "workflows" / f"{name}.jpg", quality=90, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
