"""Static K/V storage of the heads of one layer that hold equally many frames.

Layout along tokens, frame by frame: [current | history]. `current` is written by every pass, right-aligned when the
pass is short; history fills left to right, so what is live is one contiguous slice at every moment. Keys are stored
rotated, hence slot order means nothing to attention: the ring never rolls, and a frame that is banked stays where it
is.

Heads with different (sink, recent) splits share a buffer as long as they hold equally many frames: each split is a
`HeadRange` with its own slots. This is what lets sink heads and dummy heads share one attention call.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import PlanError
from ..transfer import to_device
from .plan import HeadMemory, KVShape
from .rope import apply_rope, rope_table


@dataclass
class HeadRange:
    """Contiguous heads of a group with one memory; `slots[i]` is the frame index held in history slot i.

    The first slots are the pinned ones. Of the others those in `banked` (frame indices) are the bank, the rest the
    ring.
    """

    start: int
    stop: int
    memory: HeadMemory
    slots: list[int] = field(default_factory=list)
    banked: set[int] = field(default_factory=set)

    @property
    def span(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def capacity_frames(self) -> int:
        return self.memory.sink_frames + self.recent_frames + self.memory.bank_frames

    @property
    def recent_frames(self) -> int:
        return self.memory.recent_frames or 0

    @property
    def pinned_frames(self) -> int:
        return min(self.memory.sink_frames, len(self.slots))

    @property
    def is_full(self) -> bool:
        """Whether first and recent frames are all there; a bank may never fill."""
        return len(self.slots) - len(self.banked) == self.memory.sink_frames + self.recent_frames

    def ring(self) -> list[int]:
        """Slots of the recent frames, oldest frame first."""
        return [slot for slot in self.order() if slot >= self.pinned_frames and self.slots[slot] not in self.banked]

    def place(self, frames: Sequence[int], marked: Collection[int] = ()) -> list[tuple[int, int]]:
        """Takes frames in order; returns (slot, offset in `frames`) for those that stay, sorted by slot."""
        moves: dict[int, int] = {}
        for offset, frame in enumerate(frames):
            slot = self._slot(marked)
            if slot is None:
                continue
            self.slots[slot : slot + 1] = [frame]
            moves[slot] = offset
        return sorted(moves.items())

    def _slot(self, marked: Collection[int]) -> int | None:
        """Where the next frame goes: a new slot, or that of the oldest recent frame. If this one is banked, it stays in
        its slot, and the frame takes a new one, or that of the oldest banked frame, of unmarked ones if there are."""
        if len(self.slots) < self.memory.sink_frames:
            return len(self.slots)
        ring = self.ring()
        if len(ring) < self.recent_frames:
            return len(self.slots)
        if not ring:
            return None
        oldest = ring[0]
        if not self.memory.bank_frames or self.slots[oldest] not in marked:
            return oldest
        place = len(self.slots)
        if len(self.banked) == self.memory.bank_frames:
            gone = min(self.banked.difference(marked) or self.banked)
            self.banked.remove(gone)
            place = self.slots.index(gone, self.pinned_frames)
        self.banked.add(self.slots[oldest])
        return place

    def order(self) -> list[int]:
        """History slots from the oldest frame to the newest."""
        return sorted(range(len(self.slots)), key=self.slots.__getitem__)

    def shrunk_to(
        self, memory: HeadMemory, seen_frames: int, marked: Collection[int] = ()
    ) -> tuple[list[int], set[int]]:
        """Slots that survive under a narrower `memory`, pinned frames, bank, ring, each oldest first; and what is
        banked.

        A pinned frame never moves into the ring. PlanError if `memory` pins frames that are gone: of the
        `seen_frames` committed so far, some were evicted.
        """
        held = self.order()
        pinned = [slot for slot in held if slot < self.memory.sink_frames]
        spare = pinned[memory.sink_frames :]
        rest = [slot for slot in held if slot >= self.memory.sink_frames]
        more = memory.sink_frames - len(pinned)
        if more > 0:
            if len(held) < seen_frames:
                raise PlanError(
                    f"a head that holds frames {sorted(self.slots)} cannot become {memory}: its first frames are gone; "
                    "rebuild the cache by replay"
                )
            pinned, rest = pinned + rest[:more], rest[more:]
        border = max(len(rest) - (memory.recent_frames or 0), 0)
        bank = [slot for slot in spare + rest[:border] if self.slots[slot] in self.banked or self.slots[slot] in marked]
        bank = bank[max(len(bank) - memory.bank_frames, 0) :]
        return pinned[: memory.sink_frames] + bank + rest[border:], {self.slots[slot] for slot in bank}


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
        self.positions, self.range_frames = ranges[0].memory.positions, ranges[0].memory.range_frames
        # One allocation for the whole run: nothing grows, moves or is concatenated while a clip is made.
        tokens = (shape.pass_frames + ranges[0].capacity_frames) * shape.frame_tokens
        size = (shape.batch, tokens, len(heads), shape.head_dim)
        self.k, self.v = like.new_empty(size), like.new_empty(size)
        self.raw_k = like.new_empty(size) if self.own_positions else self.k
        self._stale_view = True

    @property
    def own_positions(self) -> bool:
        """Whether keys are kept as they are, and turned into a view of their own after every commit."""
        return self.positions != "absolute"

    @property
    def resident_frames(self) -> int:
        return len(self.ranges[0].slots)

    @property
    def resident_bytes(self) -> int:
        stored = [self.k, self.v] + ([self.raw_k] if self.own_positions else [])
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

    def position(self, pass_start: int) -> int:
        """Where a pass that begins with this frame stands."""
        if self.positions == "end":
            return self.range_frames - self.shape.pass_frames
        return self.resident_frames if self.positions == "rank" else pass_start

    def stage(self, k: Tensor, v: Tensor, frames: range, table: tuple[Tensor, Tensor]) -> None:
        """Writes a pass's k (unrotated) and v (B, L, H_group, D) over `current`; history stays as it is."""
        now = self.current(len(frames))
        if self.own_positions:
            self.raw_k[:, now] = k
            self._rotate_history(frames.start)
        self.k[:, now] = apply_rope(k, *table)
        self.v[:, now] = v

    def views(self, frames: int) -> tuple[Tensor, Tensor]:
        """K (rotated) and V of a pass of `frames` and all live history, one contiguous slice each."""
        live = self.live(frames)
        return self.k[:, live], self.v[:, live]

    def commit(self, frames: Sequence[int], marked: Collection[int] = ()) -> None:
        """Copies the current pass, whose frame indices are given, into history: pinned, then over the oldest that is
        not banked."""
        now = self.current(len(frames)).start
        tokens = self.shape.frame_tokens
        for heads in self.ranges:
            for slot, offset, length in runs(heads.place(frames, marked)):
                source = slice(now + offset * tokens, now + (offset + length) * tokens)
                target = self.history(slot, length)
                for x in (self.raw_k, self.v):  # raw_k is k itself at absolute positions
                    x[:, target, heads.span] = x[:, source, heads.span]
        self._stale_view = True

    def stored(self) -> tuple[Tensor, Tensor]:
        """All of the history as it is stored, slot after slot: K and V (B, frames * HW, H_group, D), views."""
        tokens = self.history(0, self.resident_frames)
        return self.raw_k[:, tokens], self.v[:, tokens]

    def restore(self, k: Tensor, v: Tensor) -> None:
        """Fills the history with what `stored` gave; the slots must be those of that time."""
        for there, x in zip(self.stored(), (k, v), strict=True):
            if there.shape != x.shape or there.dtype != x.dtype:
                raise PlanError(
                    f"expected stored keys and values of shape {tuple(there.shape)} {there.dtype}, got "
                    f"{tuple(x.shape)} {x.dtype}; remove the snapshot, and the clip is read again"
                )
            there.copy_(x)
        self._stale_view = True

    def slot_kv(self, head: int, slot: int) -> tuple[Tensor, Tensor]:
        """Stored K (rotated at absolute positions) and V (B, HW, D) of one history slot of group head `head`."""
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

    def _rotate_history(self, pass_start: int) -> None:
        """Own positions: rotates the raw history into the view, once after every commit."""
        if not self._stale_view:
            return
        for heads in self.ranges:
            places = self._places(heads, pass_start)
            cos, sin = rope_table(places, self.shape.rows, self.shape.cols, self.shape.head_dim, self.k.device)
            tokens = self.history(0, len(places))
            self.k[:, tokens, heads.span] = apply_rope(self.raw_k[:, tokens, heads.span], cos, sin)
        self._stale_view = False

    def _places(self, heads: HeadRange, pass_start: int) -> list[int]:
        """The position of every history slot."""
        order = heads.order()
        places = dict(zip(order, range(len(order)), strict=True))
        if self.positions == "end":  # true distances, but for what they would put before the range's begin
            shift = self.position(pass_start) - pass_start
            places = {slot: max(heads.slots[slot] + shift, rank) for slot, rank in places.items()}
        return [places[slot] for slot in range(len(order))]
