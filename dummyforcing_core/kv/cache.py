"""The KV cache of one clip: executes a head plan in static buffers, never decides.

Usage, once per pass: `cache.begin(start, frames)`, let the model's forward call the cache as its self-attention, and
after the clean pass `cache.commit()`. Between chunks `cache.repack(plan)` narrows what heads hold and frees the rest.
Noisy passes only ever write `current`: committed history stays bit for bit as it is.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from ..errors import PlanError
from ..transfer import to_device
from .attention import AttentionFn, attention
from .group_buffer import GroupBuffer, HeadRange
from .plan import HeadMemory, HeadPlan, KVShape
from .rope import apply_rope, rope_table


@dataclass(frozen=True)
class Region:
    """A run of keys one head sees: its frame indices in slot order, its first and last+1 token.

    name -- current, sink, recent or bank; of the latter two there may be several runs
    """

    name: str
    frames: tuple[int, ...]
    start_token: int
    stop_token: int


class Observer(Protocol):
    """Watches one pass: called for every layer and set of heads that see the same regions."""

    def __call__(self, layer: int, heads: list[int], q: Tensor, k: Tensor, v: Tensor, regions: list[Region]) -> None:
        """q (B, Lq, len(heads), D), k and v (B, Lk, len(heads), D), q and k rotated; regions tile k's tokens."""
        ...


def both(first: Observer | None, second: Observer | None) -> Observer | None:
    """One observer that passes on to two, where there are two."""
    if first is None or second is None:
        return first or second

    def observe(layer: int, heads: list[int], q: Tensor, k: Tensor, v: Tensor, regions: list[Region]) -> None:
        first(layer, heads, q, k, v, regions)
        second(layer, heads, q, k, v, regions)

    return observe


@dataclass(frozen=True)
class Held:
    """The frames in a head's history slots, and which of them are banked."""

    slots: tuple[int, ...] = ()
    banked: frozenset[int] = frozenset()


def _groups(memories: list[HeadMemory], slots: list[Held]) -> list[tuple[list[int], list[HeadRange]]]:
    """Heads by (positions, capacity, resident frames), and inside a group contiguous ranges of equal memory."""
    # Resident frames are part of the key: what is live must be one contiguous slice for all heads of a buffer, and some
    # heads stay behind others for a while. A bank fills at a pace of its own: its heads share with their like only.
    table: dict[tuple, dict[tuple[HeadMemory, Held], list[int]]] = defaultdict(dict)
    for head, (memory, held) in enumerate(zip(memories, slots, strict=True)):
        frames = memory.sink_frames + (memory.recent_frames or 0) + memory.bank_frames
        like = (memory, held) if memory.bank_frames else None
        key = memory.positions, memory.range_frames, frames, len(held.slots), like
        table[key].setdefault((memory, held), []).append(head)
    result = []
    for group in table.values():
        heads: list[int] = []
        ranges = []
        for (memory, held), members in group.items():
            stop = len(heads) + len(members)
            ranges.append(HeadRange(len(heads), stop, memory, list(held.slots), set(held.banked)))
            heads += members
        result.append((heads, ranges))
    return result


def _after_switch(memory: HeadMemory) -> int:
    recent = memory.recent_frames or 0
    return recent if memory.switch_frames is None else min(recent, memory.switch_frames)


class KVCache:
    """All layers' memories. Implements the forward's `SelfAttention`; dies with the run that made it."""

    def __init__(
        self,
        plan: HeadPlan,
        shape: KVShape,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        attend: AttentionFn = attention,
    ):
        if torch.empty((), dtype=dtype).element_size() != shape.element_bytes:
            raise PlanError(
                f"expected a dtype of {shape.element_bytes} bytes per element, as the plan was estimated, got {dtype}"
            )
        self.plan, self.shape, self.attend = plan, shape, attend
        self._like = torch.empty(0, device=device, dtype=dtype)
        self.layers: list[list[GroupBuffer]] = []
        for layer in range(plan.layers):
            memories = self._memories(plan, layer)
            self._check_range(memories)
            self.layers.append([self._buffer(*group) for group in _groups(memories, [Held() for _ in memories])])
        self.committed_frames = 0  # taken in by this cache; heads that hold fewer have evicted some
        self.query_frames = range(0)
        self.pass_frames = range(0)  # those of them that become keys
        self._tables: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.marked: frozenset[int] = frozenset()  # frames that are banked when they leave the ring
        self.on_keys: Callable[[Tensor], None] | None = None  # sees every layer's k (B, L, H, D), not rotated
        self.on_output: Callable[[int, Tensor], None] | None = None  # sees every layer's output (B, L, H, D)
        self._observer: Observer | None = None
        self._peak_bytes = 0

    def _memories(self, plan: HeadPlan, layer: int) -> list[HeadMemory]:
        return [memory.within(self.shape.clip_frames) for memory in plan.memories[layer]]

    def _check_range(self, memories: list[HeadMemory]) -> None:
        for memory in memories:
            frames = memory.capacity_frames(self.shape.clip_frames) + self.shape.pass_frames
            if memory.positions == "end" and frames > memory.range_frames:
                raise PlanError(
                    f"expected a memory that fits {memory.range_frames} positions, {self.shape.pass_frames} of them "
                    f"for the pass, got {frames - self.shape.pass_frames} frames of history; use a smaller bank or "
                    "window"
                )

    def _buffer(self, heads: list[int], ranges: list[HeadRange]) -> GroupBuffer:
        return GroupBuffer(heads, ranges, self.plan.heads, self.shape, self._like)

    # -- one pass ------------------------------------------------------------------------------------------------

    def begin(
        self, start_frame: int, frames: int, observer: Observer | None = None, key_frames: int | None = None
    ) -> None:
        """Opens a pass over latent frames start_frame .. start_frame + frames - 1, watched by `observer` if given.

        Only the newest `key_frames` of them (default: all) become keys and values; the others are queries only.
        """
        if not 0 < frames <= self.shape.pass_frames:
            raise PlanError(
                f"expected a pass of 1 to {self.shape.pass_frames} frames, got {frames}; make the cache for longer "
                "passes"
            )
        stop = start_frame + frames
        if self.query_frames != range(start_frame, stop):  # the steps of a chunk share its rotary tables
            self._tables.clear()
        self.query_frames = range(start_frame, stop)
        self.pass_frames = range(stop - (frames if key_frames is None else key_frames), stop)
        self._observer = observer

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Stages k, v and attends, group by group. All (B, L, H, D), not rotated; returns (B, L, H, D)."""
        frames = len(self.pass_frames)
        out = torch.empty_like(q)
        if self.on_keys is not None:
            self.on_keys(k)
        for group in self.layers[layer]:
            # Keys are written before queries are looked at: a chunk attends to itself in both directions.
            self._stage(group, k, v)
            gq = apply_rope(group.pick(q), *self._rotation(group, self.query_frames))
            keys, values = group.views(frames)
            if self._observer is not None:
                for r in group.ranges:
                    seen_q, seen_k, seen_v = (x[:, :, r.span] for x in (gq, keys, values))
                    self._observer(layer, group.heads[r.span], seen_q, seen_k, seen_v, self._regions(group, r))
            o = self.attend(gq, keys, values)
            if group.whole_layer:  # no gather, no scatter, no copy
                out = o
            else:
                out[:, :, group.index] = o
        if self.on_output is not None:
            self.on_output(layer, out)
        return out

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Stages k, v (B, L, H, D) of a layer whose output nobody reads."""
        if self.on_keys is not None:
            self.on_keys(k)
        for group in self.layers[layer]:
            self._stage(group, k, v)

    def _stage(self, group: GroupBuffer, k: Tensor, v: Tensor) -> None:
        tokens = len(self.pass_frames) * self.shape.frame_tokens
        k, v = (group.pick(x[:, x.shape[1] - tokens :]) for x in (k, v))
        group.stage(k, v, self.pass_frames, self._rotation(group, self.pass_frames))

    def _rotation(self, group: GroupBuffer, frames: range) -> tuple[Tensor, Tensor]:
        """Tables for frames of this pass: their own positions, or their places behind the frames held."""
        start = frames.start
        if group.own_positions:
            start = group.position(self.pass_frames.start) + frames.start - self.pass_frames.start
        key = start, len(frames)
        if key not in self._tables:
            at = range(start, start + len(frames))
            self._tables[key] = rope_table(at, self.shape.rows, self.shape.cols, self.shape.head_dim, self._like.device)
        return self._tables[key]

    # -- between passes ------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Makes the current pass (the clean one) history."""
        for groups in self.layers:
            for group in groups:
                group.commit(self.pass_frames, self.marked)
        self.committed_frames += len(self.pass_frames)
        self.query_frames = self.pass_frames = range(0)

    def clear(self, keep_sink: bool, first_frame: int = 0) -> None:
        """Forgets the recent frames, what is banked from `first_frame` on, and unless `keep_sink` the pinned frames."""
        for layer in range(len(self.layers)):
            memories = self._memories(self.plan, layer)
            held = [self._range_of(layer, head) for head in range(len(memories))]
            # Without pinned frames in front of them, banked ones would be taken for these.
            banked = [{frame for frame in r.banked if frame < first_frame and keep_sink} for r in held]
            kept = [
                (list(range(r.pinned_frames)) if keep_sink else [])
                + [slot for slot in r.order() if slot >= r.pinned_frames and r.slots[slot] in stay]
                for r, stay in zip(held, banked, strict=True)
            ]
            self._replace(layer, self._repacked(layer, memories, list(zip(kept, banked, strict=True))))
        if not keep_sink:
            self.committed_frames = 0

    def switch(self) -> None:
        """The prompt changes: heads that do not keep all of their recent frames then drop the older ones."""
        for layer in range(len(self.layers)):
            memories = self._memories(self.plan, layer)
            if any(memory.switch_frames is not None for memory in memories):
                short = [replace(memory, recent_frames=_after_switch(memory)) for memory in memories]
                self._replace(layer, self._repacked(layer, memories, self._survivors(layer, short)))

    def repack(self, plan: HeadPlan) -> None:
        """Goes over to `plan`, layer by layer, dropping frames it does not keep.

        PlanError, and nothing changed, if it needs frames that are gone.
        """
        plan.check(len(self.layers), self.plan.heads)
        # All layers are asked first: a plan that cannot be met must leave every one of them as it was.
        survivors = [self._survivors(layer, self._memories(plan, layer)) for layer in range(len(self.layers))]
        # One layer at a time: old and new buffers are never there twice over.
        for layer, kept in enumerate(survivors):
            self._replace(layer, self._repacked(layer, self._memories(plan, layer), kept))
        self.plan = plan

    def _replace(self, layer: int, new: list[GroupBuffer]) -> None:
        self._peak_bytes = max(self._peak_bytes, self.resident_bytes + sum(g.resident_bytes for g in new))
        self.layers[layer] = new

    def _survivors(self, layer: int, memories: list[HeadMemory]) -> list[tuple[list[int], set[int]]]:
        """Per head, the history slots that stay under the new memories, in their new order, and what is banked."""
        kept = []
        for head, memory in enumerate(memories):
            source, i = self._find(layer, head)
            if memory.positions != source.positions and not source.own_positions:  # raw keys are not there
                raise PlanError("a head cannot leave absolute positions; rebuild the cache by replay")
            kept.append(source.range_of(i).shrunk_to(memory, self.committed_frames, self.marked))
        return kept

    def _repacked(
        self, layer: int, memories: list[HeadMemory], kept: list[tuple[list[int], set[int]]]
    ) -> list[GroupBuffer]:
        """New buffers of one layer, filled from the present ones."""
        found = [self._find(layer, head) for head in range(len(memories))]
        held = [
            Held(tuple(g.range_of(i).slots[slot] for slot in stay), frozenset(banked))
            for (g, i), (stay, banked) in zip(found, kept, strict=True)
        ]
        buffers = [self._buffer(*group) for group in _groups(memories, held)]
        for group in buffers:
            for i, head in enumerate(group.heads):
                source, j = found[head]
                for slot, old_slot in enumerate(kept[head][0]):
                    k, v = source.slot_kv(j, old_slot)
                    if source.own_positions and not group.own_positions:
                        k = self._rotated(k, held[head].slots[slot])
                    group.set_slot(i, slot, k, v)
        return buffers

    def _rotated(self, k: Tensor, frame: int) -> Tensor:
        """Raw keys (B, HW, D) of one frame of one head at their absolute position."""
        shape = self.shape
        table = rope_table([frame], shape.rows, shape.cols, shape.head_dim, self._like.device)
        return apply_rope(k[:, :, None], *table)[:, :, 0]

    # -- what is held --------------------------------------------------------------------------------------------

    def _find(self, layer: int, head: int) -> tuple[GroupBuffer, int]:
        group = next(g for g in self.layers[layer] if head in g.heads)
        return group, group.heads.index(head)

    def _range_of(self, layer: int, head: int) -> HeadRange:
        group, i = self._find(layer, head)
        return group.range_of(i)

    def export(self, layer: int, head: int) -> tuple[list[int], Tensor, Tensor]:
        """One head's history in temporal order: frame indices, K as stored and V, each (B, frames * HW, D)."""
        group, i = self._find(layer, head)
        held = group.range_of(i)
        pairs = [group.slot_kv(i, slot) for slot in held.order()]
        empty = group.v[:, :0, i]
        k, v = (torch.cat([empty, *parts], dim=1) for parts in (zip(*pairs, strict=True) if pairs else ((), ())))
        return [held.slots[slot] for slot in held.order()], k, v

    def stored(self, layer: int) -> list[tuple[Tensor, Tensor]]:
        """A layer's whole history, group after group, for `restore`: views of K and V (B, frames * HW, H_group, D)."""
        return [group.stored() for group in self.layers[layer]]

    def restore(self, layer: int, stored: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Fills a layer whose slots are those of the time when `stored` was asked. PlanError if they are not."""
        if len(stored) != len(self.layers[layer]):
            raise PlanError(
                f"expected keys and values of {len(self.layers[layer])} groups of heads in layer {layer}, got "
                f"{len(stored)}; remove the snapshot, and the clip is read again"
            )
        for group, (k, v) in zip(self.layers[layer], stored, strict=True):
            group.restore(to_device(k, group.k.device), to_device(v, group.v.device))

    def regions(self, layer: int, head: int) -> list[Region]:
        """What `head`'s queries see in the current pass, as token ranges of its group's live view."""
        group, i = self._find(layer, head)
        return self._regions(group, group.range_of(i))

    def _regions(self, group: GroupBuffer, held: HeadRange) -> list[Region]:
        rest = groupby(held.slots[held.pinned_frames :], key=lambda frame: "bank" if frame in held.banked else "recent")
        parts = [(name, list(frames)) for name, frames in rest] or [("recent", [])]
        return self._tiled([("current", self.pass_frames), ("sink", held.slots[: held.pinned_frames]), *parts])

    def _tiled(self, parts: Sequence[tuple[str, Sequence[int]]]) -> list[Region]:
        """Regions of keys that lie in this order, given their names and frame indices."""
        regions, token = [], 0
        for name, frames in parts:
            stop = token + len(frames) * self.shape.frame_tokens
            regions.append(Region(name, tuple(frames), token, stop))
            token = stop
        return regions

    @property
    def is_full(self) -> bool:
        """Whether every head holds as many first and recent frames as it ever will; a bank may never fill."""
        return all(held.is_full for layer in self.layers for group in layer for held in group.ranges)

    @property
    def banked_frames(self) -> list[int]:
        """Frames in the bank of the heads whose bank holds most."""
        banks = (sorted(held.banked) for layer in self.layers for group in layer for held in group.ranges)
        return max(banks, key=len)

    @property
    def history_bytes(self) -> int:
        """Bytes of live history."""
        return sum(len(g.heads) * g.resident_frames for layer in self.layers for g in layer) * self.shape.frame_bytes

    def take_peak_bytes(self) -> int:
        """The most bytes allocated since the last time this was asked."""
        peak, self._peak_bytes = max(self._peak_bytes, self.resident_bytes), 0
        return peak

    @property
    def resident_bytes(self) -> int:
        """Bytes allocated."""
        return sum(group.resident_bytes for layer in self.layers for group in layer)
