"""The decision as data: what every attention head remembers, and what that costs.

A policy makes a `HeadPlan`, the cache executes it. Plans count *history* frames: a window of W frames with S sink
frames and chunks of F frames (current chunk included, as families state it) is HeadMemory(S, W - S - F).
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ..errors import PlanError, shown
from ..reading import parse_json
from .bank import BankRule, rule_document, rule_of

FORMAT = "dummyforcing.head_plan"
VERSION = 2  # 1 has no bank
READ = (1, VERSION)
POSITIONS = ("absolute", "rank", "end")


@dataclass(frozen=True)
class HeadMemory:
    """History one head keeps, in latent frames: the first `sink_frames`, the newest `recent_frames`, and of those
    between them up to `bank_frames` that the plan's rule marked.

    recent_frames None keeps everything.
    positions: "absolute" rotates keys by their frame index; "rank" by their place among the frames held; "end" by
    their distance from the pass, which stands at the end of `range_frames`, and where that is too far by their place,
    counted from 0 (after Infinity-RoPE, arXiv 2511.20649). The latter two never leave the trained range.
    switch_frames: of the recent frames, those that stay when the prompt changes; None: all.
    """

    sink_frames: int = 0
    recent_frames: int | None = None
    positions: Literal["absolute", "rank", "end"] = "absolute"
    bank_frames: int = 0
    range_frames: int = 0
    switch_frames: int | None = None

    def __post_init__(self) -> None:
        recent = 0 if self.recent_frames is None else self.recent_frames
        switch = 0 if self.switch_frames is None else self.switch_frames
        for frames in (self.sink_frames, recent, self.bank_frames, self.range_frames, switch):
            if type(frames) is not int or frames < 0:
                raise PlanError(
                    f"{shown(self)} has a count of {shown(repr(frames))} frames; give whole numbers, 0 or more"
                )
        if self.positions not in POSITIONS:
            raise PlanError(f"positions {shown(repr(self.positions))} are unknown; known: {', '.join(POSITIONS)}")
        if self.bank_frames and not self.recent_frames:
            raise PlanError(
                f"{shown(self)} has a bank and no count of recent frames; frames are banked when they leave the recent "
                "ones: keep at least a chunk of those"
            )
        if (self.positions == "end") != (self.range_frames > 0):
            raise PlanError(f"{shown(self)} needs range_frames with positions 'end', and with no others")

    def within(self, clip_frames: int) -> "HeadMemory":
        """The same memory with every count resolved for a clip of `clip_frames`."""
        sink = min(self.sink_frames, clip_frames)
        room = clip_frames - sink
        recent = room if self.recent_frames is None else min(self.recent_frames, room)
        bank = min(self.bank_frames, room - recent)
        return replace(self, sink_frames=sink, recent_frames=recent, bank_frames=bank)

    def capacity_frames(self, clip_frames: int) -> int:
        """The most history frames this head ever holds in a clip of `clip_frames`."""
        memory = self.within(clip_frames)
        return memory.sink_frames + (memory.recent_frames or 0) + memory.bank_frames


@dataclass(frozen=True)
class KVShape:
    """What turns frames into bytes: one run's batch, tokens per frame, head size, element size and lengths."""

    batch: int
    rows: int
    cols: int
    head_dim: int
    element_bytes: int
    clip_frames: int
    pass_frames: int

    @property
    def frame_tokens(self) -> int:
        return self.rows * self.cols

    @property
    def frame_bytes(self) -> int:
        """K and V of one frame of one head."""
        return 2 * self.batch * self.frame_tokens * self.head_dim * self.element_bytes


def _natural(number: object) -> int:
    """A whole number from 0 up; TypeError for anything else that JSON can hold."""
    if type(number) is not int or number < 0:
        raise TypeError(f"{shown(repr(number))} is no whole number from 0 up")
    return number


@dataclass(frozen=True)
class HeadPlan:
    """One memory and one role label per layer and head. Knows layers x heads, never the resolution.

    bank -- which frames heads with a bank keep
    """

    memories: tuple[tuple[HeadMemory, ...], ...]
    roles: tuple[tuple[str, ...], ...]
    family: str = ""
    bank: BankRule | None = None

    def __post_init__(self) -> None:
        if not self.memories or not all(len(row) == len(self.memories[0]) > 0 for row in self.memories):
            raise PlanError("a head plan needs at least one layer, and equally many heads in every layer")
        if [len(row) for row in self.roles] != [len(row) for row in self.memories]:
            raise PlanError(f"roles do not match the {self.layers} layers x {self.heads} heads of the memories")
        if self.bank_frames and self.bank is None:
            raise PlanError("expected a rule that says which frames are banked, got none; give the plan one")

    @classmethod
    def uniform(
        cls, layers: int, heads: int, memory: HeadMemory, role: str, family: str = "", bank: BankRule | None = None
    ) -> "HeadPlan":
        """The same memory for every head."""
        return cls(((memory,) * heads,) * layers, ((role,) * heads,) * layers, family, bank)

    @property
    def layers(self) -> int:
        return len(self.memories)

    @property
    def heads(self) -> int:
        return len(self.memories[0])

    @property
    def bank_frames(self) -> int:
        """The most frames that any head's bank holds."""
        return max(memory.bank_frames for row in self.memories for memory in row)

    def check(self, layers: int, heads: int) -> None:
        """Raises PlanError unless the plan is for a model of this geometry."""
        if (self.layers, self.heads) != (layers, heads):
            raise PlanError(
                f"the head plan is for {self.layers} layers x {self.heads} heads, the model has {layers} x {heads}; "
                "make a plan for this model"
            )

    def cached_frames(self, clip_frames: int) -> list[int]:
        """The history capacity of every head, in frames, layer by layer."""
        return [memory.capacity_frames(clip_frames) for row in self.memories for memory in row]

    def attention_flops(self, shape: KVShape, history_frames: int) -> int:
        """Multiply-adds times two of one pass over a whole chunk's self-attention, with that much history behind it."""
        keys = sum(min(history_frames, held) + shape.pass_frames for held in self.cached_frames(shape.clip_frames))
        queries = shape.batch * shape.pass_frames * shape.frame_tokens
        return 4 * queries * keys * shape.frame_tokens * shape.head_dim

    def history_bytes(self, shape: KVShape, committed_frames: int) -> int:
        """Bytes of live history once `committed_frames` have been committed; with a bank the most that there can be."""
        held = (min(committed_frames, frames) for frames in self.cached_frames(shape.clip_frames))
        return sum(held) * shape.frame_bytes

    def layer_bytes(self, shape: KVShape, layer: int) -> int:
        """Bytes allocated for one layer: history, the current pass, and the key view of heads with own positions."""
        total = 0
        for memory in self.memories[layer]:
            frames = shape.pass_frames + memory.capacity_frames(shape.clip_frames)
            total += frames * shape.frame_bytes * (2 if memory.positions == "absolute" else 3) // 2
        return total

    def resident_bytes(self, shape: KVShape) -> int:
        """Bytes allocated for the whole run while this plan holds."""
        return sum(self.layer_bytes(shape, layer) for layer in range(self.layers))

    def repack_peak_bytes(self, shape: KVShape, after: "HeadPlan") -> int:
        """The most bytes allocated while the cache goes from this plan to `after`, one layer at a time."""
        old = [self.layer_bytes(shape, layer) for layer in range(self.layers)]
        new = [after.layer_bytes(shape, layer) for layer in range(self.layers)]
        return max(sum(new[: layer + 1]) + sum(old[layer:]) for layer in range(self.layers))

    def peak_bytes(self, shape: KVShape, later: "HeadPlan | None" = None) -> int:
        """The most bytes allocated in a run that begins with this plan and may narrow it, or go over to `later`."""
        whole = self.repack_peak_bytes(shape, self)
        return whole if later is None else max(whole, self.repack_peak_bytes(shape, later), later.resident_bytes(shape))

    def to_json(self) -> str:
        """Text form: format, version, family, geometry, distinct memories, and one index and role per head."""
        distinct = list(dict.fromkeys(memory for row in self.memories for memory in row))
        document = {
            "format": FORMAT,
            "version": VERSION,
            "family": self.family,
            "layers": self.layers,
            "heads": self.heads,
            "memories": [asdict(memory) for memory in distinct],
            "assignment": [[distinct.index(memory) for memory in row] for row in self.memories],
            "roles": [list(row) for row in self.roles],
            "bank": None if self.bank is None else rule_document(self.bank),
        }
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str) -> "HeadPlan":
        """Reads `to_json`'s form; PlanError names what is wrong."""
        try:
            document = parse_json(text)
            found = document["format"], document["version"]
        except (ValueError, TypeError, KeyError) as error:
            raise PlanError(
                f"expected a head plan, JSON with format {FORMAT!r}, got {shown(repr(error))}; save it again"
            ) from error
        if found not in [(FORMAT, version) for version in READ] or type(found[1]) is not int:
            said = ", ".join(shown(repr(part)) for part in found)
            raise PlanError(f"expected a head plan of format {FORMAT!r}, version {VERSION}, got {said}; save it again")
        try:
            memories = [HeadMemory(**entry) for entry in document["memories"]]
            plan = cls(
                tuple(tuple(memories[_natural(index)] for index in row) for row in document["assignment"]),
                tuple(tuple(map(str, row)) for row in document["roles"]),
                str(document["family"]),
                None if document.get("bank") is None else rule_of(document["bank"]),
            )
            plan.check(_natural(document["layers"]), _natural(document["heads"]))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise PlanError(f"the head plan is damaged: {shown(repr(error), 200)}; save it again") from error
        return plan
