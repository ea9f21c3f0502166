"""The KV cache of Rolling Forcing (arXiv 2509.25161): which history a pass sees, and where it stands.

After the public code (TencentARC/RollingForcing, wan/modules/causal_model.py). With A attended frames and chunks of F:

    window of q frames   keys: [window | sink | newest A - q - sink frames behind it]; nothing of it is stored
    clean pass           keys: [chunk | what a head holds of the A - F frames behind it]; is committed

Positions are absolute, but for the sink in a window: it stands directly in front of the oldest frame that is seen, so
that no distance exceeds A. In a clean pass it stays where it was made, and is out of sight A frames later; its places
then go to more recent frames.

What a pass sees is scattered over a ring, so it is gathered layer by layer. A window's keys and values exist for one
layer at a time: only a chunk's are resident and estimated.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import AttentionFn, attention
from .cache import KVCache, Observer, Region
from .group_buffer import GroupBuffer, HeadRange, runs
from .plan import HeadPlan, KVShape
from .rope import apply_rope, rope_table


@dataclass(frozen=True)
class Visible:
    """What heads of equal memory see in a pass: history slots, oldest first. at: their place among a call's heads."""

    held: HeadRange
    at: slice
    pinned: list[int]
    ring: list[int]

    @property
    def frames(self) -> int:
        return len(self.pinned) + len(self.ring)


class RollingCache(KVCache):
    """A KVCache with two kinds of passes: `begin` opens a clean one, `begin_window` one that is never committed.

    attended_frames -- A
    """

    def __init__(
        self,
        plan: HeadPlan,
        shape: KVShape,
        attended_frames: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        attend: AttentionFn = attention,
    ):
        super().__init__(plan, shape, device, dtype, attend)
        self.attended_frames = attended_frames
        self._observers: list[Observer] = []
        self._turns: dict[int, tuple[Tensor, Tensor]] = {}

    def begin(
        self, start_frame: int, frames: int, observer: Observer | None = None, key_frames: int | None = None
    ) -> None:
        super().begin(start_frame, frames, observer, key_frames)
        self._observers = [] if observer is None else [observer]

    def begin_window(self, start_frame: int, frames: int, *observers: Observer | None) -> None:
        """Opens a pass over a window of frames start_frame .. start_frame + frames - 1."""
        self._tables.clear()
        self._turns.clear()
        self.query_frames = range(start_frame, start_frame + frames)
        self.pass_frames = range(0)  # none of them becomes history
        self._observers = [observer for observer in observers if observer is not None]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.pass_frames:  # a clean pass; a window's keys are never stored
            self.store(layer, k, v)
        out = torch.empty_like(q)
        for group in self.layers[layer]:
            rotation = self._rotation(group, self.query_frames)
            gq, gk = (apply_rope(group.pick(x), *rotation) for x in (q, k))
            for call in self._calls(group):
                spans = [seen.held.span for seen in call]
                queries = torch.cat([gq[:, :, span] for span in spans], dim=2)
                keys = self._gathered(call, gk, group.k, group)
                if not self.pass_frames:  # in a clean pass the sink stays where it was made
                    self._move_sinks(call, keys, gk.shape[1])
                values = self._gathered(call, group.pick(v), group.v, group)
                self._show(layer, group, call, (queries, keys, values))
                o = self.attend(queries, keys, values)
                out[:, :, torch.cat([group.index[span] for span in spans])] = o
        if self.on_output is not None:
            self.on_output(layer, out)
        return out

    def _seen(self, held: HeadRange) -> tuple[list[int], list[int]]:
        """History slots that the open pass sees, oldest first: pinned, ring."""
        pinned, order = held.pinned_frames, held.order()
        if not self.pass_frames:
            return order[:pinned], _newest(order[pinned:], self.attended_frames - len(self.query_frames) - pinned)
        # In a clean pass age decides, not the ring: a sink that is A frames old is out of sight, though it is held.
        first = self.query_frames.stop - self.attended_frames
        near = [slot for slot in order if held.slots[slot] >= first]
        near = _newest(near, max(held.memory.sink_frames, held.memory.recent_frames or 0))
        return [slot for slot in near if slot < pinned], [slot for slot in near if slot >= pinned]

    def _calls(self, group: GroupBuffer) -> list[list[Visible]]:
        """The group's heads by how many frames they see, one attention call each; in a window that is one."""
        table: dict[int, list[Visible]] = {}
        for held in group.ranges:
            pinned, ring = self._seen(held)
            call = table.setdefault(len(pinned) + len(ring), [])
            first = call[-1].at.stop if call else 0
            call.append(Visible(held, slice(first, first + held.stop - held.start), pinned, ring))
        return list(table.values())

    def _gathered(self, call: list[Visible], own: Tensor, stored: Tensor, group: GroupBuffer) -> Tensor:
        """The pass's own keys or values (B, L, H_group, D), then what is seen of the stored: (B, Lk, H_call, D)."""
        length, tokens = own.shape[1], self.shape.frame_tokens
        out = own.new_empty(own.shape[0], length + call[0].frames * tokens, call[-1].at.stop, own.shape[3])
        for seen in call:
            out[:, :length, seen.at] = own[:, :, seen.held.span]
            moves = [(slot, place) for place, slot in enumerate(seen.pinned + seen.ring)]
            for slot, place, frames in runs(moves):
                target = slice(length + place * tokens, length + (place + frames) * tokens)
                out[:, target, seen.at] = stored[:, group.history(slot, frames), seen.held.span]
        return out

    def _move_sinks(self, call: list[Visible], keys: Tensor, own_tokens: int) -> None:
        """Turns sinks' keys, which follow `own_tokens`, from frames 0, 1, .. to right before the rest that is seen.

        Rotations add up: what was turned by f, and now by p, stands at f + p. Rows and columns stay.
        """
        by = self.query_frames.start - call[0].frames
        if by not in self._turns:
            self._turns[by] = rope_table([by], 1, 1, self.shape.head_dim, self._like.device)
        for seen in call:
            sink = slice(own_tokens, own_tokens + len(seen.pinned) * self.shape.frame_tokens)
            keys[:, sink, seen.at] = apply_rope(keys[:, sink, seen.at], *self._turns[by])

    def _show(self, layer: int, group: GroupBuffer, call: list[Visible], qkv: tuple[Tensor, Tensor, Tensor]) -> None:
        for seen in call if self._observers else []:
            regions = self._regions(group, seen.held)
            for observer in self._observers:
                q, k, v = (x[:, :, seen.at] for x in qkv)
                observer(layer, group.heads[seen.held.span], q, k, v, regions)

    def _regions(self, group: GroupBuffer, held: HeadRange) -> list[Region]:
        pinned, ring = ([held.slots[slot] for slot in slots] for slots in self._seen(held))
        return self._tiled([("current", self.query_frames), ("sink", pinned), ("recent", ring)])


def _newest(slots: list[int], count: int) -> list[int]:
    return slots[max(len(slots) - count, 0) :]
