"""The fixed clips of the evaluation: prompts, and what the world shows for them."""

import torch

from dummyforcing_core.text.demo_text import LIGHT_SLOT, UNNAMED

from .prompts import describe, sample_clips
from .world import Clips, simulate

STILL, SIDEWAYS = 0, 1


def plain_clips(count: int, chunks: int = 7) -> Clips:
    """Clips as a user asks for them: one prompt that names everything, lights on, shapes well apart at first."""
    return _played(_named_start(count, seed=2024), chunks)


def crowded_clips(count: int, chunks: int = 7) -> Clips:
    """Two shapes that start in neighbouring cells, where they touch or soon hide each other."""
    return _played(_named_start(count, seed=2027, cells_apart=(1, 1)), chunks)


def long_clips(count: int, chunks: int) -> Clips:
    """Plain clips in which shape A always moves."""
    clips = _named_start(count, seed=2025)
    motion = clips.slots[:, 0, 2]
    clips.slots[:, 0, 2] = torch.where(motion == STILL, SIDEWAYS, motion)
    return _played(clips, chunks)


def gap_clips(count: int, gap: int) -> Clips:
    """Two lit chunks, `gap` dark ones, two lit ones; colours are named in the first two chunks only."""
    clips = _named_start(count, seed=2026)
    slots = clips.slots[:, :1].repeat(1, 4 + gap, 1)
    slots[:, 2:, [0, 5]] = UNNAMED
    slots[:, 2 : 2 + gap, LIGHT_SLOT] = 0
    return simulate(clips.colour, clips.kind, clips.present, slots, torch.zeros(count, 2, 2))


def prompts_of(clips: Clips) -> list[list[str]]:
    """One English prompt per clip and chunk."""
    return [[describe(slots) for slots in clip] for clip in clips.slots.tolist()]


def _named_start(count: int, seed: int, cells_apart: tuple[int, int] = (2, 2)) -> Clips:
    """First chunks that name every slot, from a fixed seed.

    Two shapes start at least and at most so many cells apart, along the axis where that is more.
    Well apart, one clip in six has one shape; crowded, none has.
    """
    clips = sample_clips(100 * count, 1, torch.Generator().manual_seed(seed))
    first = clips.slots[:, 0]
    a, b = first[:, 4], first[:, 9]
    apart = torch.maximum((a // 3 - b // 3).abs(), (a % 3 - b % 3).abs())
    placed = (first[:, 5:10] >= 0).all(1) & (apart >= cells_apart[0]) & (apart <= cells_apart[1])
    named = (first[:, :5] >= 0).all(1)
    alone = count // 6 if cells_apart[0] > 1 else 0
    pairs = (named & placed).nonzero()[: count - alone, 0]
    chosen = torch.cat([(named & ~clips.present[:, 1]).nonzero()[:alone, 0], pairs])
    if len(chosen) < count:
        raise ValueError(f"only {len(chosen)} of {100 * count} random prompts fit; {count} are needed")
    start = Clips(*(getattr(clips, name)[chosen] for name in Clips.__dataclass_fields__))
    for motion, speed in ((2, 3), (7, 8)):  # nobody writes "standing still fast"
        start.slots[:, 0, speed].masked_fill_(start.slots[:, 0, motion] == STILL, UNNAMED)
    return start


def _played(start: Clips, chunks: int) -> Clips:
    slots = start.slots[:, :1].repeat(1, chunks, 1)
    return simulate(start.colour, start.kind, start.present, slots, torch.zeros(len(start), 2, 2))
