"""A naive memory that forgets no tensor: the oracle of the cache tests.

It keeps every frame's raw K and V of every layer in float64, works out from the definition which frames each head may
see, and attends densely under one mask per head. It shares no code with the engine, its rotary embedding included.

Shape letters: B batch, HW tokens per frame, L tokens of a pass, H heads, D head_dim.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from dummyforcing_core.kv.plan import HeadMemory, HeadPlan


class LostFramesError(Exception):
    """A head was asked to pin a frame that it no longer has."""


class NaiveHead:
    """Which committed frames one head may see.

    Pinned: the first `sink_frames` frames ever. Recent: the newest `recent_frames` among the others. Banked: of those
    that were marked when newer ones took their place, the newest `bank_frames`. A frame once lost never returns, and a
    frame once pinned never counts as recent.
    """

    def __init__(self, memory: HeadMemory):
        self.memory = memory
        self.lost: set[int] = set()
        self.was_pinned: set[int] = set()
        self.banked: list[int] = []
        self.settled = 0

    def pinned(self, committed: int) -> list[int]:
        return [f for f in range(committed) if f < self.memory.sink_frames and f not in self.lost]

    def recent(self, committed: int) -> list[int]:
        others = set(range(self.memory.sink_frames, committed)) - self.lost - self.was_pinned - set(self.banked)
        newest_first = sorted(others, reverse=True)
        limit = self.memory.recent_frames
        return sorted(newest_first if limit is None else newest_first[:limit])

    def visible(self, committed: int) -> list[int]:
        return self.pinned(committed) + sorted(self.banked + self.recent(committed))

    def settle(self, committed: int, marked: Collection[int] = ()) -> None:
        """What is out of sight after a commit, frame by frame, is banked or lost for good."""
        while self.settled < committed:
            self.settled += 1
            gone = set(range(self.settled)) - set(self.visible(self.settled)) - self.lost
            for frame in sorted(gone & set(marked)) if self.memory.bank_frames else []:
                if len(self.banked) == self.memory.bank_frames:  # what is no longer marked goes first, then the oldest
                    self.banked.remove(min(set(self.banked) - set(marked) or self.banked))
                self.banked.append(frame)
            self._forget()

    def _forget(self) -> None:
        self.was_pinned |= set(self.pinned(self.settled))
        self.lost |= set(range(self.settled)) - set(self.visible(self.settled))

    def can_become(self, memory: HeadMemory, committed: int) -> bool:
        return not self.lost or len(self.pinned(committed)) >= min(memory.sink_frames, committed)

    def become(self, memory: HeadMemory, committed: int, marked: Collection[int] = ()) -> None:
        if not self.can_become(memory, committed):
            raise LostFramesError(f"{sorted(self.lost)} are lost, {memory} wants some of them")
        before = set(self.visible(committed))
        self.was_pinned -= set(self.banked)
        kept_apart = set(self.banked) | set(marked)
        self.memory, self.banked = memory, []  # what was banked may be recent again
        bank = sorted((before - set(self.visible(committed))) & kept_apart)
        self.banked = bank[max(len(bank) - memory.bank_frames, 0) :]
        self._forget()


def rotate(x: Tensor, frames: Sequence[int], rows: int, cols: int) -> Tensor:
    """Rotary embedding of x (B, frames * rows * cols, D), frame i at position frames[i]; float64."""
    half = x.shape[-1] // 2
    spatial = x.shape[-1] // 6
    pairs = (half - 2 * spatial, spatial, spatial)
    angles = []
    for frame in frames:
        for row in range(rows):
            for col in range(cols):
                angle = []
                for position, count in zip((frame, row, col), pairs, strict=True):
                    angle += [position / 10_000 ** (i / count) for i in range(count)]
                angles.append(angle)
    angle = torch.tensor(angles, dtype=torch.float64).reshape(-1, half)
    pairs_of_x = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs_of_x * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


class NaiveCache:
    """All layers and heads; frames are committed in order from 0."""

    def __init__(self, plan: HeadPlan, rows: int, cols: int, pass_frames: int = 0):
        self.rows, self.cols, self.pass_frames = rows, cols, pass_frames
        self.marked: frozenset[int] = frozenset()
        self.heads = [[NaiveHead(memory) for memory in row] for row in plan.memories]
        self.k: list[list[Tensor]] = [[] for _ in plan.memories]  # per layer and frame (B, HW, H, D)
        self.v: list[list[Tensor]] = [[] for _ in plan.memories]

    @property
    def committed(self) -> int:
        return len(self.k[0])

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Masked dense attention of the current pass, q, k, v (B, L, H, D), over all that was ever committed."""
        hw = self.rows * self.cols
        now = range(self.committed, self.committed + q.shape[1] // hw)
        keys = torch.cat([*self.k[layer], k.double()], dim=1)
        values = torch.cat([*self.v[layer], v.double()], dim=1)
        out = torch.empty(q.shape, dtype=torch.float64)
        for h, head in enumerate(self.heads[layer]):
            seen = head.visible(self.committed)
            key_at, query_at = [*range(self.committed), *now], list(now)
            if head.memory.positions == "rank":
                query_at = [len(seen) + i for i in range(len(now))]
                key_at = [seen.index(f) if f in seen else 0 for f in range(self.committed)] + query_at
            elif head.memory.positions == "end":
                at = head.memory.range_frames - self.pass_frames
                query_at = [at + i for i in range(len(now))]
                places = {f: max(at - (now.start - f), rank) for rank, f in enumerate(seen)}
                key_at = [places.get(f, 0) for f in range(self.committed)] + query_at
            mask = torch.tensor([f in seen or f in now for f in [*range(self.committed), *now]]).repeat_interleave(hw)
            scores = rotate(q[:, :, h], query_at, self.rows, self.cols) @ rotate(
                keys[:, :, h], key_at, self.rows, self.cols
            ).transpose(1, 2)
            scores = (scores / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
            out[:, :, h] = scores.softmax(-1) @ values[:, :, h]
        return out

    def commit(self, passes: list[tuple[Tensor, Tensor]]) -> None:
        """Takes every layer's K and V (B, L, H, D) of a clean pass."""
        hw = self.rows * self.cols
        for layer, (k, v) in enumerate(passes):
            self.k[layer] += k.double().split(hw, dim=1)
            self.v[layer] += v.double().split(hw, dim=1)
        for row in self.heads:
            for head in row:
                head.settle(self.committed, self.marked)

    def repack(self, plan: HeadPlan) -> None:
        for row, memories in zip(self.heads, plan.memories, strict=True):
            for head, memory in zip(row, memories, strict=True):
                head.become(memory, self.committed, self.marked)

    def held(self, layer: int, head: int) -> list[int]:
        return self.heads[layer][head].visible(self.committed)

    def stored(self, layer: int, head: int) -> tuple[Tensor, Tensor]:
        """K as a cache stores it (rotated unless positions are ranks) and V of the visible frames, in order.

        There must have been a commit.
        """
        frames = self.held(layer, head)
        empty = self.k[layer][0][:, :0, head]
        k = torch.cat([empty, *(self.k[layer][f][:, :, head] for f in frames)], dim=1)
        v = torch.cat([empty, *(self.v[layer][f][:, :, head] for f in frames)], dim=1)
        if self.heads[layer][head].memory.positions == "absolute" and frames:
            k = rotate(k, frames, self.rows, self.cols)
        return k, v
