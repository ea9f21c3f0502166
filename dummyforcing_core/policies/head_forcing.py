"""Head Forcing: local, anchor and memory heads, and an episodic memory for the latter (after arXiv 2605.14487).

The paper's method section is not public: this is a design of our own on its idea. Heads that change their layer's
output most without far frames are memory heads; their bank keeps the ends of past episodes. All others keep what is
near.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import PlanError
from ..kv.bank import BankRule, EpisodeEnd, Every, KeyNovelty
from ..kv.output_change import OutputChange, Project
from ..kv.plan import POSITIONS, HeadMemory, HeadPlan
from ..kv.scoring import HeadScores, Observation
from .base import Observing, Seen, Setting, head_count
from .observed_change import ObservedChange
from .options import Option, option
from .profile import HeadProfile

RULES = ("episode_end", "key_novelty", "every")


@dataclass(frozen=True)
class HeadForcing(ObservedChange):
    """Roles by output change, or by attention mass as in the paper: most on far frames remember, least are local."""

    memory_ratio: float = option(0.33, Option("share of heads that remember", 0, 1))
    num_memory: int | None = option(
        None, Option("number of such heads instead of a share", 0, overrides=("memory_ratio",), unset="by the share")
    )
    anchor_ratio: float = option(0.0, Option("share of the other heads that keep the first frames", 0, 1))
    bank_chunks: int = option(2, Option("chunks that memory heads keep beyond the newest", 0))
    recent_chunks: int = option(1, Option("newest chunks that memory heads keep", 1))
    local_frames: int = option(1, Option("newest frames that the other heads keep", 0))
    memory_sink: int = option(0, Option("first frames that memory heads keep besides; they hold back what is newer", 0))
    sink_frames: int = option(3, Option("first frames that anchor heads keep, where there are any", 1, flag="sink"))
    bank_rule: str = option("episode_end", Option("what is banked", choices=RULES))
    novelty: float | None = option(
        None, Option("how new it must be, 1 - cosine", 0, 2, unset="the rule's", fraction=True)
    )
    first_chunk: int = option(0, Option("1 banks the first chunk until episodes need its place", 0, 1))
    every_frames: int = option(6, Option("of rule every: one frame of so many", 1))
    positions: str = option("absolute", Option("of memory heads", choices=POSITIONS))
    roles_by: str = option("output_change", Option("what heads are told apart by", choices=("output_change", "mass")))

    name: ClassVar[str] = "head_forcing"

    def plan(self, setting: Setting) -> HeadPlan:
        self._check_range(setting)
        return super().plan(setting)

    def at_first(self, setting: Setting) -> HeadPlan:
        self._memory_heads(setting)
        sink = max(self.memory_sink, self.sink_frames if self.anchor_ratio else 0)
        recent = max(self.recent_chunks * setting.chunk_frames, self.local_frames)
        return self.wide(setting, sink, recent, self._memory(setting), self.rule(setting))

    def later(self, setting: Setting) -> HeadPlan:
        options = self.options(setting)  # which heads remember changes no size
        return self.replan(OutputChange(options, torch.zeros(setting.layers, setting.heads, len(options))), setting)

    def observation(self, setting: Setting, project: Project) -> Observing:
        if self.roles_by == "mass":
            return Observation(setting.layers, setting.heads)
        return super().observation(setting, project)

    def from_profile(self, profile: HeadProfile) -> Seen:
        return profile.scores if self.roles_by == "mass" else super().from_profile(profile)

    def replan(self, seen: Seen, setting: Setting) -> HeadPlan:
        roles = self._roles(_worth(seen), setting)
        memories = {
            "memory": self._memory(setting),
            "anchor": HeadMemory(self.sink_frames, 1),
            "local": HeadMemory(0, self.local_frames),
        }
        rows = tuple(tuple(memories[role] for role in row) for row in roles)
        return HeadPlan(rows, roles, setting.family.name, self.rule(setting))

    def rule(self, setting: Setting) -> BankRule | None:
        """What marks frames; None without a bank."""
        room = self.bank_chunks * setting.chunk_frames
        if not room:
            return None
        if self.bank_rule == "every":
            return Every(self.every_frames, room_frames=room)
        novelty = {} if self.novelty is None else {"novelty": self.novelty}
        if self.bank_rule == "key_novelty":
            return KeyNovelty(**novelty, room_frames=room)
        return EpisodeEnd(**novelty, first_chunk=bool(self.first_chunk), room_frames=room)

    def _roles(self, worth: Tensor, setting: Setting) -> tuple[tuple[str, ...], ...]:
        """By rank of what far frames are worth to heads, (layers, heads); of equal ones the lower layer, then head."""
        total = worth.numel()
        memory = self._memory_heads(setting)
        anchors = round(self.anchor_ratio * (total - memory))
        roles = ["local"] * total
        for rank, head in enumerate(worth.flatten().sort(descending=True, stable=True).indices.tolist()):
            if rank < memory + anchors:
                roles[head] = "memory" if rank < memory else "anchor"
        return tuple(tuple(roles[i : i + setting.heads]) for i in range(0, total, setting.heads))

    def _memory(self, setting: Setting) -> HeadMemory:
        chunk = setting.chunk_frames
        frames = setting.family.trained_frames if self.positions == "end" else 0
        recent, bank = self.recent_chunks * chunk, self.bank_chunks * chunk
        return HeadMemory(self.memory_sink, recent, self.positions, bank, frames)  # type: ignore[arg-type]

    def _check_range(self, setting: Setting) -> None:
        """Before the first chunk, not once heads are observed."""
        chunk, trained = setting.chunk_frames, setting.family.trained_frames
        room = (trained - self.memory_sink) // chunk - 1 - self.recent_chunks
        if self.positions != "absolute" and self.bank_chunks > room:
            raise PlanError(
                f"expected bank_chunks of at most {max(room, 0)} under {self.positions} positions, so that heads stay "
                f"within the {trained} frames that {setting.family.title} was trained on, got {self.bank_chunks}; "
                "keep fewer chunks, or use absolute positions"
            )

    def _memory_heads(self, setting: Setting) -> int:
        return head_count(setting, self.memory_ratio, self.num_memory, "memory")


def _worth(seen: Seen) -> Tensor:
    """What far frames are worth to every head: (layers, heads)."""
    if isinstance(seen, OutputChange):
        return seen.far
    assert isinstance(seen, HeadScores)
    return torch.sub(1, seen.mass[..., 2])
