"""Draws the templates' pictures, workflows/*.jpg: python scripts/draw_thumbnails.py [NAME ...]

Run it after the demo model has changed. It needs Pillow and PyAV, no GPU, and a minute. Names are the keys of
workflow_titles.py; without any, all are drawn. In a folder that is removed it runs, with this clone's demo model,

    python -m dummyforcing_core generate --prompt DEMO_PROMPT --policy dummy --size 64x64 --frames 81 --seed 42 ...
    python -m dummyforcing_core profile --prompts prompts/demo_world.txt ...

for the first template's clip and the sixth one's head map, and the like for the eighth one's two clips. The others
need checkpoints of gigabytes: their pictures are diagrams and say so. What moves is an animated WebP: the page asks for
a .jpg, and browsers go by what is in it.
"""

import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from workflow_nodes import ROOT
from workflow_prompts import DEMO_PROMPT, HIKER, RECOLOURED, RETURN, STORY
from workflow_titles import TITLES

SIDE, CLIP_SIDE = 512, 256  # pixels; the template browser shows 256
SCALE = 2  # drawn larger, then shrunk: smooth edges
MARGIN, TOP = 24, 76  # pixels; above TOP newer pages put a badge, on the left
SINK, NEIGHBOUR, CURRENT, PACKED = (86, 156, 222), (92, 190, 126), (232, 150, 84), (150, 154, 168)
BACKGROUND, EMPTY, TEXT, FAINT = (20, 21, 26), (46, 48, 58), (236, 238, 244), (150, 154, 168)
ROLES = {"sink": SINK, "neighbour": NEIGHBOUR, "dummy": CURRENT}

Colour = tuple[int, int, int]
Frames = list[Image.Image]


class Card:
    """A square picture with a line below that says what it is."""

    def __init__(self, caption: str):
        self.image = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)
        self.text(MARGIN, SIDE - 44, caption, 21, FAINT)

    def text(self, x: float, y: float, words: str, size: int, colour: Colour = TEXT) -> None:
        """Words with their upper left corner at (x, y)."""
        self.draw.text((x * SCALE, y * SCALE), words, colour, ImageFont.load_default(size * SCALE))

    def box(self, x: float, y: float, width: float, height: float, colour: Colour, filled: bool = True) -> None:
        """A rectangle with rounded corners."""
        corners = tuple(side * SCALE for side in (x, y, x + width, y + height))
        radius = min(width, height) * SCALE * 0.15
        fill, outline = (colour, None) if filled else (None, colour)
        self.draw.rounded_rectangle(corners, radius, fill, outline, round(2 * SCALE))

    def done(self) -> Image.Image:
        """The card at its real size."""
        return self.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def core(*words: object) -> None:
    """One command of the core."""
    subprocess.run([sys.executable, "-m", "dummyforcing_core", *map(str, words)], cwd=ROOT, check=True)


def made(*words: object) -> Frames:
    """The frames of a clip of the demo model, with the workflows' seed."""
    import av

    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "demo.mp4"
        core("generate", *words, "--size", "64x64", "--seed", 42, "--device", "cpu", "--out", clip)
        with av.open(str(clip)) as container:
            return [frame.to_image() for frame in container.decode(video=0)]


def demo() -> Frames:
    """The demo workflow's own clip."""
    frames = made("--prompt", DEMO_PROMPT, "--policy", "dummy", "--frames", 81)
    return [frame.resize((CLIP_SIDE, CLIP_SIDE), Image.Resampling.LANCZOS) for frame in frames]


def image_start() -> Frames:
    """One given latent frame, then the frames that are made, one by one."""
    columns, pitch = 6, (SIDE - 2 * MARGIN) / 6
    frames = []
    for made in range(1, 22):
        card = Card("diagram: 21 latent frames, 5 s")
        for index in range(21):
            x, y = MARGIN + (index + 3) % columns * pitch, TOP + (index + 3) // columns * pitch
            colour = SINK if index == 0 else CURRENT if index == made - 1 else NEIGHBOUR if index < made else EMPTY
            card.box(x, y, pitch - 8, pitch - 8, colour)
        _picture(card, MARGIN, TOP, 3 * pitch - 8, pitch - 8)
        card.text(MARGIN, SIDE - 112, "your picture, and how it goes on", 27)
        frames.append(card.done())
    return frames


def _picture(card: Card, x: float, y: float, width: float, height: float) -> None:
    """A landscape in a frame."""
    card.box(x, y, width, height, SINK, filled=False)
    hill = [(0.05, 0.95), (0.3, 0.35), (0.5, 0.75), (0.66, 0.5), (0.95, 0.95)]
    card.draw.polygon([((x + a * width) * SCALE, (y + b * height) * SCALE) for a, b in hill], SINK)
    sun = (x + 0.72 * width, y + 0.14 * height)
    card.draw.ellipse([side * SCALE for side in (*sun, sun[0] + 20, sun[1] + 20)], SINK)


def interactive_story_60s() -> Frames:
    """The workflow's own four prompts, and where in the minute the clip is."""
    scenes = [line.split(" | ") for line in STORY.splitlines()]
    colours = (SINK, NEIGHBOUR, CURRENT, (196, 120, 190))
    part = (SIDE - 2 * MARGIN) / 4
    frames = []
    for step in range(24):
        card = Card("diagram: 60 s, the template's own prompts")
        for index, ((start, prompt), colour) in enumerate(zip(scenes, colours, strict=True)):
            told = step // 6 == index
            card.box(MARGIN + index * part, TOP, part - 6, 44, colour if step // 6 >= index else EMPTY)
            card.text(MARGIN + index * part + 10, TOP + 8, start, 24, BACKGROUND if step // 6 >= index else FAINT)
            top = TOP + 82 + index * 76
            card.box(MARGIN, top, 10, 60, colour if told else EMPTY)
            for row, words in enumerate(_lines(prompt, 36, 2)):
                card.text(MARGIN + 26, top + 30 * row, words, 23, TEXT if told else FAINT)
        card.box(MARGIN, TOP + 54, (step + 1) / 24 * (SIDE - 2 * MARGIN) - 6, 8, TEXT)
        frames.append(card.done())
    return frames


def _lines(text: str, length: int, count: int) -> list[str]:
    rows, row = [], ""
    for word in text.split():
        if len(row) + len(word) > length:
            rows.append(row)
            row = ""
        row += f"{word} "
    return [*rows[: count - 1], f"{rows[count - 1].strip()} ..."]


def long_1080p() -> Frames:
    """Thirty seconds of chunks, and what the heads still hold while each is made."""
    chunks, columns = 41, 9
    pitch = (SIDE - 2 * MARGIN) / columns
    legend = ((CURRENT, "being made"), (NEIGHBOUR, "last chunk: kept"), (SINK, "first frame: kept"))
    frames = []
    for now in range(chunks):
        card = Card("diagram: 41 chunks, 30 s")
        card.text(SIDE - MARGIN - 200, MARGIN - 6, "1920 x 1080", 36)
        held = {0: SINK, now - 1: NEIGHBOUR, now: CURRENT}
        for chunk in range(chunks):
            x, y = MARGIN + chunk % columns * pitch, TOP + 4 + chunk // columns * 46
            seen = held.get(chunk)
            card.box(x, y, pitch - 6, 40, seen or (FAINT if chunk < now else EMPTY), filled=bool(seen) or chunk > now)
        for row, (colour, name) in enumerate(legend):
            card.box(MARGIN, 338 + row * 38, 22, 22, colour)
            card.text(MARGIN + 36, 332 + row * 38, name, 26)
        frames.append(card.done())
    return frames


def seen(head: int, frame: int, past: int) -> Colour | None:
    """What head 0..11 keeps of a past frame, coloured: six dummies, three sink, three neighbour heads."""
    if head >= 6:
        return PACKED if frame == past - 1 else None
    if head % 2:
        return SINK if frame == 0 else None
    return NEIGHBOUR if frame >= past - 3 else None


def dense_vs_dummy_forcing_480p() -> Frames:
    """Heads by latent frames, twice, chunk after chunk."""
    columns, rows, pitch_y = 21, 12, 12.5
    pitch_x = (SIDE - 2 * MARGIN) / columns
    frames = []
    for past in range(0, columns, 3):
        card = Card("diagram: rows are heads, columns frames")
        for panel, name in enumerate(("dense: every head keeps all", "Dummy Forcing: heads keep little")):
            top = TOP - 10 + panel * 200
            card.text(MARGIN, top, name, 25)
            for head in range(rows):
                for frame in range(past + 3):
                    kept = NEIGHBOUR if panel == 0 else seen(head, frame, past) or EMPTY
                    colour = CURRENT if frame >= past else kept
                    card.box(MARGIN + frame * pitch_x, top + 38 + head * pitch_y, pitch_x - 3, pitch_y - 3, colour)
        frames.append(card.done())
    return frames


def profile_heads_and_save() -> Frames:
    """The head map of the demo model: roles, and where the heads look."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.json"
        core("profile", "--prompts", ROOT / "prompts" / "demo_world.txt", "--device", "cpu", "--out", path)
        profile = json.loads(path.read_text(encoding="utf-8"))
    card = Card("the bundled demo model, layers by heads")
    x = MARGIN
    for name, colour in ROLES.items():
        card.box(x, SIDE - 88, 22, 22, colour)
        card.text(x + 32, SIDE - 93, name, 25)
        x += 62 + 13 * len(name)
    for box, role, mass in _cells(profile["roles"], profile["scores"]):
        card.box(*box, ROLES[role])
        left, top, width, height = box
        for share, colour in zip(mass, ROLES.values(), strict=True):
            card.box(left, top + height - 14, share * width, 14, tuple(c // 2 + 127 for c in colour))  # type: ignore
            left += share * width
    return [card.done()]


def _cells(roles: list[list[str]], mass: list[list[list[float]]]) -> Iterator[tuple]:
    """Box, role and masses of every head."""
    pitch_x, pitch_y = (SIDE - 2 * MARGIN) / len(roles[0]), (SIDE - 96 - TOP) / len(roles)
    for layer, row in enumerate(roles):
        for head, role in enumerate(row):
            box = (MARGIN + head * pitch_x, TOP + layer * pitch_y, pitch_x - 6, pitch_y - 6)
            yield box, role, mass[layer][head]


def teacache_on_top() -> Frames:
    """Passes of a few chunks, one step of each left out."""
    columns, left, top = 4, 150, TOP
    pitch_x, pitch_y = (SIDE - MARGIN - left) / columns, 66
    rows = (("step 0", CURRENT), ("step 1", CURRENT), ("step 2", None), ("step 3", CURRENT), ("clean", NEIGHBOUR))
    frames = []
    for done in range(1, columns * len(rows) + 1):
        card = Card("diagram: the report names the steps")
        card.text(SIDE - MARGIN - 200, MARGIN - 2, "chunk 1, 2, 3 ...", 27, FAINT)
        for row, (name, colour) in enumerate(rows):
            card.text(MARGIN, top + 12 + row * pitch_y, name, 27, FAINT)
            for column in range(columns):
                x, y, made = left + column * pitch_x, top + row * pitch_y, column * len(rows) + row < done
                card.box(x, y, pitch_x - 8, pitch_y - 8, (colour or PACKED) if made else EMPTY, colour is not None)
                if colour is None and made:
                    card.text(x + 6, y + 16, "reused", 21, FAINT)
        frames.append(card.done())
    return frames


def long_memory_demo() -> Frames:
    """The workflow's own two clips beside each other, every second frame, above the prompt."""
    policies = {
        "window of 6 frames": ("window", "--window", 6, "--sink", 0),
        "Head Forcing": ("head_forcing", "--memory-ratio", 0.5),
    }
    with tempfile.TemporaryDirectory() as folder:
        schedule = Path(folder) / "schedule.txt"
        schedule.write_text(RECOLOURED, encoding="utf-8")
        clips = [made("--schedule", schedule, "--policy", *one, "--seconds", 6.5) for one in policies.values()]
    side = (SIDE - 3 * MARGIN) // 2
    frames = []
    for number in range(0, len(clips[0]), 2):
        card = Card("the bundled demo model, 6.5 s")
        for column, (name, clip) in enumerate(zip(policies, clips, strict=True)):
            x = MARGIN + column * (side + MARGIN)
            card.text(x, TOP, name, 26)
            card.image.paste(clip[number].resize((side * SCALE,) * 2), (x * SCALE, (TOP + 42) * SCALE))
        for row, words in enumerate(textwrap.wrap(_told(RECOLOURED, number / 16), 38)[:3]):
            card.text(MARGIN, TOP + 54 + side + 30 * row, words, 23)
        frames.append(card.done())
    return frames


def _told(schedule: str, second: float) -> str:
    """The prompt of that second."""
    lines = [line.split(" | ") for line in schedule.splitlines()]
    return [prompt for start, prompt in lines if float(start.rpartition(":")[2]) <= second][-1]


def returning_character_120s() -> Frames:
    """The eight episodes of the workflow, and whose ends the memory heads hold while each is made."""
    scenes = [line.split(" | ") for line in RETURN.splitlines()]
    there = [HIKER.lower() in prompt.lower() for _, prompt in scenes]
    at_the_end = [seen and "leaves" not in prompt for seen, (_, prompt) in zip(there, scenes, strict=True)]
    pitch = (SIDE - 2 * MARGIN) / 4
    frames = []
    for now in range(len(scenes)):
        card = Card("diagram: 120 s, the template's own prompts")
        for index, (start, _) in enumerate(scenes):
            x, y = MARGIN + index % 4 * pitch, TOP + index // 4 * 96
            colour = EMPTY if index > now else (NEIGHBOUR if index == now else SINK)
            card.box(x, y, pitch - 8, 86, colour)
            card.text(x + 8, y + 6, start, 22, FAINT if index > now else BACKGROUND)
            if there[index]:
                _person(card, x + pitch - 42, y + 14, 60, FAINT if index > now else BACKGROUND)
        card.text(MARGIN, TOP + 206, "memory heads: ends of past episodes", 24)
        for slot in range(6):
            x, held = MARGIN + slot * (SIDE - 2 * MARGIN) / 6, slot + max(0, now - 6)
            filled = held < now
            card.box(x, TOP + 246, 70, 70, SINK if filled else EMPTY)
            if filled and at_the_end[held]:
                _person(card, x + 24, TOP + 254, 54, BACKGROUND)
        frames.append(card.done())
    return frames


def _person(card: Card, x: float, y: float, height: float, colour: Colour) -> None:
    """A head above a coat."""
    head = height * 0.36
    card.draw.ellipse([side * SCALE for side in (x, y, x + head, y + head)], colour)
    coat = [(x + head / 2, y + head * 0.9), (x + head * 1.15, y + height), (x - head * 0.15, y + height)]
    card.draw.polygon([(a * SCALE, b * SCALE) for a, b in coat], colour)


Drawing = tuple[Callable[[], Frames], int]
DRAWINGS: dict[str, Drawing] = {  # with the milliseconds of a frame
    "demo": (demo, 62),
    "image_start": (image_start, 250),
    "interactive_story_60s": (interactive_story_60s, 400),
    "long_1080p": (long_1080p, 200),
    "dense_vs_dummy_forcing_480p": (dense_vs_dummy_forcing_480p, 700),
    "profile_heads_and_save": (profile_heads_and_save, 0),
    "teacache_on_top": (teacache_on_top, 300),
    "long_memory_demo": (long_memory_demo, 125),
    "returning_character_120s": (returning_character_120s, 1200),
}
FILMED = {"demo", "long_memory_demo"}


def main(names: list[str]) -> None:
    """Draws these, or all."""
    for name in names or DRAWINGS:
        draw, milliseconds = DRAWINGS[name]
        first, *others = draw()
        path = ROOT / "workflows" / f"{TITLES[name]}.jpg"
        if others:
            how = {"quality": 80, "method": 6} if name in FILMED else {"lossless": True}
            first.save(path, "WEBP", save_all=True, append_images=others, duration=milliseconds, loop=0, **how)
        else:
            first.save(path, "JPEG", quality=90, optimize=True)
        print(f"{path.name}: {1 + len(others)} frames, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
