"""Random prompts for the demo world, as slot values, and the same slots as English."""

import torch

from dummyforcing_core.text.demo_text import ABSENT, LIGHT_SLOT, TEXT_LEN, UNNAMED
from dummyforcing_core.text.demo_words import COLOURS, KINDS, MOTIONS, SPEEDS

from .world import JITTER_PX, Clips, simulate

ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")


def sample_clips(count: int, chunks: int, generator: torch.Generator) -> Clips:
    """`count` clips of `chunks` chunks: a third with one constant prompt, the rest varied,
    most of those with one or two spells of darkness in which colours must be remembered."""

    def chance(share: float, *shape: int) -> torch.Tensor:
        return torch.rand(shape or (count,), generator=generator) < share

    def pick(n: int, *shape: int) -> torch.Tensor:
        return torch.randint(n, shape or (count,), generator=generator)

    def two_different(n: int) -> torch.Tensor:
        first = pick(n)
        return torch.stack([first, (first + 1 + pick(n - 1)) % n], 1)

    colour, kind = two_different(len(COLOURS)), two_different(len(KINDS))
    present = torch.stack([torch.ones(count, dtype=torch.bool), ~chance(0.18)], 1)
    # Mostly well apart; one clip in five may start in neighbouring cells.
    gap = [[max(abs(a // 3 - b // 3), abs(a % 3 - b % 3)) for b in range(9)] for a in range(9)]
    weight = torch.tensor([0.0, 0.2, 1.0])[torch.tensor(gap)].flatten()
    cells = torch.multinomial(weight, count, True, generator=generator)
    place = torch.stack([cells // 9, cells % 9], 1)
    constant = chance(0.35)

    motion, speed = pick(len(MOTIONS), count, chunks, 2), pick(len(SPEEDS), count, chunks, 2)
    speed = torch.where(chance(0.25, count, chunks, 2), UNNAMED, speed)
    # A plan changes at some chunks only; in between it is repeated or left unnamed.
    changes = chance(0.3, count, chunks, 1)
    changes[:, 0] = True
    for chunk in range(1, chunks):
        keep = ~changes[:, chunk]
        motion[:, chunk] = torch.where(keep, motion[:, chunk - 1], motion[:, chunk])
        speed[:, chunk] = torch.where(keep, speed[:, chunk - 1], speed[:, chunk])
    silent = chance(0.35, count, chunks, 2)
    silent[:, 0] = chance(0.08, count, 2)

    slots = torch.empty(count, chunks, TEXT_LEN, dtype=torch.long)
    later = torch.arange(chunks) > 0
    for shape in range(2):
        colour_said = ~later | chance(0.4)[:, None]
        colour_said = colour_said & ~(chance(0.04)[:, None] & ~later)
        kind_said = ~(later & chance(0.35)[:, None]) & ~(chance(0.03)[:, None] & ~later)
        place_said = ~(later & chance(0.5)[:, None]) & ~(chance(0.08)[:, None])
        columns = {
            0: (colour[:, shape], colour_said),
            1: (kind[:, shape], kind_said),
            2: (motion[:, :, shape], ~silent[:, :, shape]),
            3: (speed[:, :, shape], ~silent[:, :, shape]),
            4: (place[:, shape], place_said),
        }
        for column, (value, said) in columns.items():
            value = value if value.dim() == 2 else value[:, None].expand(count, chunks)
            slots[:, :, 5 * shape + column] = torch.where(said, value, UNNAMED)
    alone = ~present[:, 1]
    slots[alone, :, 5:10] = UNNAMED
    slots[alone, :, 6] = ABSENT
    slots[:, :, LIGHT_SLOT] = 1
    slots[constant] = slots[constant, :1].expand(-1, chunks, -1)
    slots[:, :, LIGHT_SLOT] = torch.where((constant | chance(0.35))[:, None], 1, _light(count, chunks, generator))
    jitter = (torch.rand(count, 2, 2, generator=generator) * 2 - 1) * JITTER_PX
    return simulate(colour, kind, present, slots, jitter)


def _light(count: int, chunks: int, generator: torch.Generator) -> torch.Tensor:
    """(count, chunks) 0/1: one dark spell of 1..4 chunks somewhere after chunk 0."""
    length = torch.multinomial(torch.tensor([0.3, 0.25, 0.3, 0.15]), count, True, generator=generator) + 1
    start = 1 + (torch.rand(count, generator=generator) * (chunks - 1)).long()
    # Most spells end inside the clip: only the light after the dark shows what was remembered.
    start = torch.where(
        torch.rand(count, generator=generator) < 0.8, torch.minimum(start, (chunks - 1 - length).clamp(min=1)), start
    )
    chunk = torch.arange(chunks)
    return 1 - ((chunk >= start[:, None]) & (chunk < (start + length)[:, None])).long()


def describe(slots: list[int]) -> str:
    """English for one prompt's slot values; `parse_prompt` reads the same values back."""
    shapes = [_describe_shape(slots[0:5])]
    if slots[6] != ABSENT:
        shapes.append(_describe_shape(slots[5:10]))
    return " and ".join(shapes) + ("" if slots[LIGHT_SLOT] else ", lights off")


def _describe_shape(values: list[int]) -> str:
    colour, kind, motion, speed, place = values
    words = ["a", COLOURS[colour] if colour >= 0 else "", KINDS[kind] if kind >= 0 else "shape"]
    if place >= 0:
        where = " ".join(w for w in (ROWS[place // 3], COLUMNS[place % 3]) if w)
        words.append(f"at the {where or 'middle'}")
    words += [MOTIONS[motion] if motion >= 0 else "", SPEEDS[speed] if speed >= 0 else ""]
    return " ".join(word for word in words if word)
