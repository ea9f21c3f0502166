"""The fixed clips of the evaluation: prompts, and what the world shows for them."""

import torch

from dummyforcing_core.text.demo_text import ABSENT, LIGHT_SLOT, UNNAMED

from .prompts import describe, sample_clips
from .world import PALETTE, Clips, simulate

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
    return _simulated(clips, slots)


def recoloured_clips(count: int, gap: int) -> Clips:
    """Two lit chunks, two lit ones that name colours which neither shape had, `gap` dark ones, two lit ones.

    Colours are named in the first four chunks only: what returns with the light is neither first nor newest."""
    clips = _named_start(count, seed=2029)
    slots = clips.slots[:, :1].repeat(1, 6 + gap, 1)
    slots[:, 2:4, [0, 5]] = _unused_colours(clips)[:, None]
    slots[:, 4:, [0, 5]] = UNNAMED
    slots[:, 2:, 5] = torch.where(clips.present[:, 1:], slots[:, 2:, 5], UNNAMED)
    slots[:, 4 : 4 + gap, LIGHT_SLOT] = 0
    return _simulated(clips, slots)


SWITCH = 3  # the chunk from which `switch_clips` hear another prompt


def switch_clips(count: int, chunks: int = 7) -> tuple[Clips, torch.Tensor]:
    """Clips whose prompt changes once, and which shape (B,) the change is of.

    A third of the changes are of colour, a third of kind, a third of both. Half of the second prompts name the rest as
    before, the others leave out what does not change but say how many shapes there are."""
    clips = _named_start(count, seed=2028)
    number = torch.arange(count)
    shape = torch.where(clips.present[:, 1], number % 2, 0)
    change, terse = number // 2 % 3, number // 6 % 2 == 1
    colours, third_kind = _unused_colours(clips)[:, 0], 3 - clips.kind[:, :, 0].sum(1)
    slots = clips.slots[:, :1].repeat(1, chunks, 1)
    later = clips.slots[:, 0].clone()
    later[terse] = UNNAMED
    later[:, 6] = torch.where(clips.present[:, 1], later[:, 6], ABSENT)
    later[:, LIGHT_SLOT] = 1
    recoloured, reshaped = change != 1, change != 0
    later[number[recoloured], 5 * shape[recoloured]] = colours[recoloured]
    later[number[reshaped], 5 * shape[reshaped] + 1] = third_kind[reshaped]
    slots[:, SWITCH:] = later[:, None]
    return _simulated(clips, slots), shape


def _unused_colours(clips: Clips) -> torch.Tensor:
    """(B, 2) two colours of which no shape of a clip has any at the start."""
    free = [[c for c in range(len(PALETTE)) if c not in used] for used in clips.colour[:, :, 0].tolist()]
    return torch.tensor([[left[n % len(left)], left[(n + 1) % len(left)]] for n, left in enumerate(free)])


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
    return _simulated(start, slots)


def _simulated(start: Clips, slots: torch.Tensor) -> Clips:
    return simulate(start.colour[..., 0], start.kind[..., 0], start.present, slots, torch.zeros(len(start), 2, 2))
