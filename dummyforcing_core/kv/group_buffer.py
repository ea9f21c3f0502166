"""Static K/V storage of the heads of one layer that hold equally many frames.

Layout along tokens, frame by frame: [current | pinned | ring]. `current` is written by every pass, right-aligned when
the pass is short; history fills left to right, so what is live is one contiguous slice at every moment. Keys are
stored rotated, hence slot order means nothing to attention and the ring never rolls.

Heads with different (sink, recent) splits share a buffer as long as they hold equally many frames: each split is a
`HeadRange` with its own slots. This is what lets sink heads and dummy heads share one attention call.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import PlanError
from ..transfer import to_device
from .plan import HeadMemory, KVShape
from .rope import apply_rope, rope_table


@dataclass
class HeadRange:
    """Contiguous heads of a group with one memory; `slots[i]` is the frame index held in history slot i."""

    start: int
    stop: int
    memory: HeadMemory
    slots: list[int] = field(default_factory=list)
    cursor: int = 0  # ring slot that holds the oldest frame once the ring is full

    @property
    def span(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def capacity_frames(self) -> int:
        return self.memory.sink_frames + (self.memory.recent_frames or 0)

    @property
    def pinned_frames(self) -> int:
        return min(self.memory.sink_frames, len(self.slots))

    def place(self, frames: Sequence[int]) -> list[tuple[int, int]]:
        """Takes frames in order; returns (slot, offset in `frames`) for those that stay, sorted by slot."""
        moves: dict[int, int] = {}
        recent = self.memory.recent_frames or 0
        for offset, frame in enumerate(frames):
            slot = len(self.slots)
            if slot < self.capacity_frames:
                self.slots.append(frame)
            elif recent:  # full: the newest frame takes the place of the oldest recent one
                slot = self.memory.sink_frames + self.cursor
                self.cursor = (self.cursor + 1) % recent
                self.slots[slot] = frame
            else:
                continue
            moves[slot] = offset
        return sorted(moves.items())

    def order(self) -> list[int]:
        """History slots from the oldest frame to the newest."""
        return sorted(range(len(self.slots)), key=self.slots.__getitem__)

    def shrunk_to(self, memory: HeadMemory, seen_frames: int) -> list[int]:
        """Slots that survive under a narrower `memory`: its pinned frames, then its ring, oldest first.

        A pinned frame never moves into the ring. PlanError if `memory` pins frames that are gone: of the
        `seen_frames` committed so far, some were evicted.
        """
        held = self.order()
        pinned = [slot for slot in held if slot < self.memory.sink_frames]
        ring = [slot for slot in held if slot >= self.memory.sink_frames]
        more = memory.sink_frames - len(pinned)
        if more > 0:
            if len(held) < seen_frames:
                raise PlanError(
                    f"a head that holds frames {sorted(self.slots)} cannot become {memory}: its first frames are gone; "
                    "rebuild the cache by replay"
                )
            pinned, ring = pinned + ring[:more], ring[more:]
        recent = memory.recent_frames or 0
        return pinned[: memory.sink_frames] + (ring[-recent:] if recent else [])


def runs(moves: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Joins (slot, offset) pairs into (slot, offset, length) where both go up together."""
    joined: list[tuple[int, int, int]] = []
    for slot, offset in moves:
        if joined and joined[-1][0] + joined[-1][2] == slot and joined[-1][1] + joined[-1][2] == offset:
            first, start, length = joined[-1]
            joined[-1] = first, start, length + 1
        else:
            joined.append((slot, offset, 1))
    return joined


class GroupBuffer:
    """K and V (B, tokens, H_group, D) of one head group. Executes; decides nothing."""

    def __init__(self, heads: list[int], ranges: list[HeadRange], layer_heads: int, shape: KVShape, like: Tensor):
        self.ranges, self.heads, self.shape = ranges, heads, shape
        self.whole_layer = heads == list(range(layer_heads))
        self.index = to_device(torch.tensor(heads), like.device)
        self.rank_positions = ranges[0].memory.positions == "rank"
        # One allocation for the whole run: nothing grows, moves or is concatenated while a clip is made.
        tokens = (shape.pass_frames + ranges[0].capacity_frames) * shape.frame_tokens
        size = (shape.batch, tokens, len(heads), shape.head_dim)
        self.k, self.v = like.new_empty(size), like.new_empty(size)
        self.raw_k = like.new_empty(size) if self.rank_positions else self.k
        self._stale_view = True

    @property
    def resident_frames(self) -> int:
        return len(self.ranges[0].slots)

    @property
    def resident_bytes(self) -> int:
        stored = [self.k, self.v] + ([self.raw_k] if self.rank_positions else [])
        return sum(x.numel() * x.element_size() for x in stored)

    def current(self, frames: int) -> slice:
        """Tokens of a pass of `frames`."""
        # Right-aligned: a short last chunk still touches the history behind it without a gap.
        end = self.shape.pass_frames * self.shape.frame_tokens
        return slice(end - frames * self.shape.frame_tokens, end)

    def history(self, slot: int, frames: int = 1) -> slice:
        """Tokens of `frames` history slots from `slot` on."""
        start = (self.shape.pass_frames + slot) * self.shape.frame_tokens
        return slice(start, start + frames * self.shape.frame_tokens)

    def live(self, frames: int) -> slice:
        """Tokens attention reads in a pass of `frames`: current, then history, without a gap."""
        return slice(self.current(frames).start, self.history(self.resident_frames, 0).stop)

    def stage(self, k: Tensor, v: Tensor, frames: int, cos: Tensor, sin: Tensor) -> None:
        """Writes a pass's k (unrotated) and v (B, L, H_group, D) over `current`; history stays as it is."""
        now = self.current(frames)
        if self.rank_positions:
            self.raw_k[:, now] = k
            self._rotate_history()
        self.k[:, now] = apply_rope(k, cos, sin)
        self.v[:, now] = v

    def views(self, frames: int) -> tuple[Tensor, Tensor]:
        """K (rotated) and V of a pass of `frames` and all live history, one contiguous slice each."""
        live = self.live(frames)
        return self.k[:, live], self.v[:, live]

    def commit(self, frames: Sequence[int]) -> None:
        """Copies the current pass, whose frame indices are given, into history: pinned, then over the oldest."""
        now = self.current(len(frames)).start
        tokens = self.shape.frame_tokens
        for heads in self.ranges:
            for slot, offset, length in runs(heads.place(frames)):
                source = slice(now + offset * tokens, now + (offset + length) * tokens)
                target = self.history(slot, length)
                for x in (self.raw_k, self.v):  # raw_k is k itself unless positions are ranks
                    x[:, target, heads.span] = x[:, source, heads.span]
        self._stale_view = True

    def slot_kv(self, head: int, slot: int) -> tuple[Tensor, Tensor]:
        """Stored K (rotated unless positions are ranks) and V (B, HW, D) of one history slot of group head `head`."""
        tokens = self.history(slot)
        return self.raw_k[:, tokens, head], self.v[:, tokens, head]

    def pick(self, x: Tensor) -> Tensor:
        """This group's heads of x (B, L, H, D), in group order."""
        return x if self.whole_layer else x[:, :, self.index]

    def set_slot(self, head: int, slot: int, k: Tensor, v: Tensor) -> None:
        """Fills one history slot of group head `head` with what `slot_kv` gave."""
        tokens = self.history(slot)
        self.raw_k[:, tokens, head], self.v[:, tokens, head] = k, v

    def range_of(self, head: int) -> HeadRange:
        return next(r for r in self.ranges if r.start <= head < r.stop)

    def _rotate_history(self) -> None:
        """Rank positions: rotates the raw history into the view, once after every commit."""
        if not self._stale_view:
            return
        for heads in self.ranges:
            ranks = sorted(range(len(heads.slots)), key=heads.order().__getitem__)
            cos, sin = rope_table(ranks, self.shape.rows, self.shape.cols, self.shape.head_dim, self.k.device)
            tokens = self.history(0, len(ranks))
            self.k[:, tokens, heads.span] = apply_rope(self.raw_k[:, tokens, heads.span], cos, sin)
        self._stale_view = False
