"""Random prompts for the demo world, as slot values, and the same slots as English."""

import torch

from dummyforcing_core.text.demo_text import ABSENT, LIGHT_SLOT, TEXT_LEN, UNNAMED
from dummyforcing_core.text.demo_words import COLOURS, KINDS, MOTIONS, SPEEDS

from .world import JITTER_PX, Clips, simulate

ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")


def sample_clips(count: int, chunks: int, generator: torch.Generator) -> Clips:
    """`count` clips of `chunks` chunks: a third with one constant prompt, the rest varied,
    most of those with one or two spells of darkness in which colours must be remembered."""
    draw = _Draw(count, chunks, generator)
    colour, kind = draw.two_different(len(COLOURS)), draw.two_different(len(KINDS))
    present = torch.stack([torch.ones(count, dtype=torch.bool), ~draw.chance(0.18)], 1)
    place = draw.places()
    constant = draw.chance(0.35)
    motion, speed = draw.motions()
    silent = draw.chance(0.35, count, chunks, 2)
    silent[:, 0] = draw.chance(0.08, count, 2)

    slots = torch.empty(count, chunks, TEXT_LEN, dtype=torch.long)
    for shape in range(2):
        for column, said in enumerate(draw.said(~silent[:, :, shape])):
            value = (colour, kind, motion, speed, place)[column][..., shape]
            value = value if value.dim() == 2 else value[:, None].expand(count, chunks)
            slots[:, :, 5 * shape + column] = torch.where(said, value, UNNAMED)
    alone = ~present[:, 1]
    slots[alone, :, 5:10] = UNNAMED
    slots[alone, :, 6] = ABSENT
    slots[:, :, LIGHT_SLOT] = 1
    slots[constant] = slots[constant, :1].expand(-1, chunks, -1)
    slots[:, :, LIGHT_SLOT] = torch.where((constant | draw.chance(0.35))[:, None], 1, draw.light())
    jitter = (torch.rand(count, 2, 2, generator=generator) * 2 - 1) * JITTER_PX
    changes = (draw.chance(0.6) & ~constant)[:, None] & present
    for column, first, n, share in ((0, colour, len(COLOURS), 0.25), (1, kind, len(KINDS), 0.15)):
        plan = draw.changing(first, n, share, changes)
        for shape in range(2):
            said = slots[:, :, 5 * shape + column]
            change = torch.zeros_like(said, dtype=torch.bool)
            change[:, 1:] = plan[:, 1:, shape] != plan[:, :-1, shape]
            heard = change | ((said != UNNAMED) & present[:, shape, None])
            slots[:, :, 5 * shape + column] = torch.where(heard, plan[:, :, shape], said)
    return simulate(colour, kind, present, slots, jitter)


class _Draw:
    """Random values for a batch of clips, all from one generator: a seed's clips hang on the order of the calls."""

    def __init__(self, count: int, chunks: int, generator: torch.Generator):
        self._count, self._chunks, self._generator = count, chunks, generator

    def chance(self, share: float, *shape: int) -> torch.Tensor:
        """True so often; (count,) unless a shape is given."""
        return torch.rand(shape or (self._count,), generator=self._generator) < share

    def pick(self, n: int, *shape: int) -> torch.Tensor:
        """Numbers below n, likewise."""
        return torch.randint(n, shape or (self._count,), generator=self._generator)

    def two_different(self, n: int) -> torch.Tensor:
        """(count, 2) numbers below n."""
        first = self.pick(n)
        return torch.stack([first, (first + 1 + self.pick(n - 1)) % n], 1)

    def changing(self, first: torch.Tensor, n: int, share: float, where: torch.Tensor) -> torch.Tensor:
        """(count, chunks, 2) numbers below n that begin as `first` (count, 2) and are never equal.

        Shapes of `where` (count, 2) take another one, which neither has, in this share of the chunks."""
        now, plan = first.clone(), [first]
        for _ in range(1, self._chunks):
            for shape in range(2):
                other = self.pick(n - 2)  # of those left when the two in use are taken out
                low, high = now.amin(1), now.amax(1)
                other += (other >= low).long()
                other += (other >= high).long()
                change = self.chance(share) & where[:, shape]
                now[:, shape] = torch.where(change, other, now[:, shape])
            plan.append(now.clone())
        return torch.stack(plan, 1)

    def places(self) -> torch.Tensor:
        """(count, 2) cells of both shapes: mostly well apart; one clip in five may start in neighbouring cells."""
        gap = [[max(abs(a // 3 - b // 3), abs(a % 3 - b % 3)) for b in range(9)] for a in range(9)]
        weight = torch.tensor([0.0, 0.2, 1.0])[torch.tensor(gap)].flatten()
        cells = torch.multinomial(weight, self._count, True, generator=self._generator)
        return torch.stack([cells // 9, cells % 9], 1)

    def motions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Motion and speed, (count, chunks, 2) each; a plan changes at some chunks only."""
        size = (self._count, self._chunks, 2)
        motion, speed = self.pick(len(MOTIONS), *size), self.pick(len(SPEEDS), *size)
        speed = torch.where(self.chance(0.25, *size), UNNAMED, speed)
        changes = self.chance(0.3, self._count, self._chunks, 1)
        changes[:, 0] = True
        for chunk in range(1, self._chunks):
            keep = ~changes[:, chunk]
            motion[:, chunk] = torch.where(keep, motion[:, chunk - 1], motion[:, chunk])
            speed[:, chunk] = torch.where(keep, speed[:, chunk - 1], speed[:, chunk])
        return motion, speed

    def said(self, moves_said: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Whether a shape's colour, kind, motion, speed and place are named, (count, chunks) each."""
        later = torch.arange(self._chunks) > 0
        colour = ~later | self.chance(0.4)[:, None]
        colour = colour & ~(self.chance(0.04)[:, None] & ~later)
        kind = ~(later & self.chance(0.35)[:, None]) & ~(self.chance(0.03)[:, None] & ~later)
        place = ~(later & self.chance(0.5)[:, None]) & ~(self.chance(0.08)[:, None])
        return colour, kind, moves_said, moves_said, place

    def light(self) -> torch.Tensor:
        """(count, chunks) 0/1: one dark spell of 1..4 chunks somewhere after chunk 0."""
        shares = torch.tensor([0.2, 0.2, 0.35, 0.25])  # long spells are the ones worth learning
        length = torch.multinomial(shares, self._count, True, generator=self._generator) + 1
        start = 1 + (torch.rand(self._count, generator=self._generator) * (self._chunks - 1)).long()
        # Most spells end inside the clip: only the light after the dark shows what was remembered.
        inside = torch.minimum(start, (self._chunks - 1 - length).clamp(min=1))
        start = torch.where(self.chance(0.8), inside, start)
        chunk = torch.arange(self._chunks)
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
