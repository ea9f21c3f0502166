"""The fixed clips of the evaluation and of the study: prompts, and what the world shows for them.

Where clips take a `seed`, 0 gives those of the evaluation and any other number others: what was chosen on the first can
be confirmed on the second.
"""

import torch

from dummyforcing_core.text.demo_text import ABSENT, LIGHT_SLOT, UNNAMED

from .prompts import describe, sample_clips
from .world import AXES, PALETTE, Clips, simulate

STILL, SIDEWAYS = 0, 1
COLOUR_SLOTS, MOTION_SLOTS = [0, 5], [2, 7]


def plain_clips(count: int, chunks: int = 7) -> Clips:
    """Clips as a user asks for them: one prompt that names everything, lights on, shapes well apart at first."""
    return _played(_named_start(count, seed=2024), chunks)


def crowded_clips(count: int, chunks: int = 7) -> Clips:
    """Two shapes that start in neighbouring cells, where they touch or soon hide each other."""
    return _played(_named_start(count, seed=2027, cells_apart=(1, 1)), chunks)


def long_clips(count: int, chunks: int, seed: int = 0) -> Clips:
    """Plain clips in which shape A always moves."""
    clips = _named_start(count, 2025 + seed)
    motion = clips.slots[:, 0, 2]
    clips.slots[:, 0, 2] = torch.where(motion == STILL, SIDEWAYS, motion)
    return _played(clips, chunks)


def gap_clips(count: int, gap: int, seed: int = 0) -> Clips:
    """Two lit chunks, `gap` dark ones, two lit ones; colours are named in the first two chunks only."""
    clips = _named_start(count, 2026 + seed)
    slots = clips.slots[:, :1].repeat(1, 4 + gap, 1)
    slots[:, 2:, COLOUR_SLOTS] = UNNAMED
    slots[:, 2 : 2 + gap, LIGHT_SLOT] = 0
    return _simulated(clips, slots)


def recoloured_clips(count: int, gap: int, seed: int = 0) -> Clips:
    """Two lit chunks, two lit ones that name colours which neither shape had, `gap` dark ones, two lit ones.

    Colours are named in the first four chunks only: what returns with the light is neither first nor newest."""
    clips = _named_start(count, 2029 + seed)
    return _simulated(clips, _renamed(clips, 2, 2 + gap))


def conflict_clips(count: int, gap: int, seed: int = 0) -> Clips:
    """The same, but half of the dark (rounded down) lies between the first colours and the second ones.

    Both pairs are then remembered across darkness, and the second one is right."""
    clips = _named_start(count, 2030 + seed)
    slots = _renamed(clips, 2 + gap // 2, 2 + gap - gap // 2)
    slots[:, 2 : 2 + gap // 2, COLOUR_SLOTS] = UNNAMED
    slots[:, 2 : 2 + gap // 2, LIGHT_SLOT] = 0
    return _simulated(clips, slots)


def episode_clips(count: int, gap: int, seed: int = 0) -> Clips:
    """Recoloured clips whose `gap` dark chunks, three at least, are three episodes of about equal length.

    Each names motions that no other does, nor the light: three more prompts whose content is not worth keeping."""
    clips = _named_start(count, 2031 + seed)
    slots = _renamed(clips, 2, 2 + gap)
    episode = 1 + torch.arange(gap) * 3 // gap
    for motion in MOTION_SLOTS:
        dark = slots[:, 4 : 4 + gap, motion]
        dark.copy_(torch.where(dark == UNNAMED, UNNAMED, (dark + episode) % len(AXES)))
    _no_speed_of_standing(slots)
    return _simulated(clips, slots)


def _renamed(clips: Clips, second: int, rest: int) -> torch.Tensor:
    """Slots (B, second + 2 + rest, TEXT_LEN): other colours are named in chunks `second` and `second` + 1, none after
    them, and of these `rest` chunks all but the last two are dark."""
    slots = clips.slots[:, :1].repeat(1, second + 2 + rest, 1)
    slots[:, second : second + 2, COLOUR_SLOTS] = _unused_colours(clips)[:, None]
    slots[:, second + 2 :, COLOUR_SLOTS] = UNNAMED
    slots[:, second:, 5] = torch.where(clips.present[:, 1:], slots[:, second:, 5], UNNAMED)
    slots[:, second + 2 : second + rest, LIGHT_SLOT] = 0
    return slots


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
    _no_speed_of_standing(start.slots)
    return start


def _no_speed_of_standing(slots: torch.Tensor) -> None:
    """Nobody writes "standing still fast"; in place, of slots (B, chunks, TEXT_LEN)."""
    for motion in MOTION_SLOTS:
        slots[..., motion + 1].masked_fill_(slots[..., motion] == STILL, UNNAMED)


def _played(start: Clips, chunks: int) -> Clips:
    slots = start.slots[:, :1].repeat(1, chunks, 1)
    return _simulated(start, slots)


def _simulated(start: Clips, slots: torch.Tensor) -> Clips:
    return simulate(start.colour[..., 0], start.kind[..., 0], start.present, slots, torch.zeros(len(start), 2, 2))
