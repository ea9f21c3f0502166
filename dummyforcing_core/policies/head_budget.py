"""Head Budget: every head gets the memory that keeps the total output change least within a budget of frames or bytes.

Dummy Forcing's head programming (arXiv 2601.20499, section 3.2) chooses one of three memories under a fixed number of
dummies; this chooses of more, by what each head loses with each, under what the cache may hold (budget.py).
"""

from dataclasses import dataclass
from typing import ClassVar

from ..errors import PlanError
from ..kv.bank import EpisodeEnd
from ..kv.output_change import OutputChange
from ..kv.plan import HeadMemory, HeadPlan
from .base import Seen, Setting
from .budget import allocate
from .observed_change import ObservedChange
from .options import Option, option

MEMORY = "memory"
_ONE_OF = ("budget_frames", "budget_gb", "speedup")


@dataclass(frozen=True)
class HeadBudget(ObservedChange):
    """One number says how much all heads may keep: mean frames, gigabytes of keys and values, or a speed-up.

    A head may always become a memory head, with a bank of past episodes' ends; that it then loses nothing is an
    assumption: no pass can show what a memory holds later.
    """

    budget_frames: float | None = option(
        None,
        Option(
            "history frames that a head keeps on average",
            0,
            unset="4",
            fraction=True,
            overrides=("budget_gb", "speedup"),
        ),
    )
    budget_gb: float | None = option(
        None,
        Option(
            "GiB of keys and values, the current chunk's included",
            0,
            unset="no",
            fraction=True,
            overrides=("speedup",),
        ),
    )
    speedup: float | None = option(
        None, Option("self-attention faster than under the family's own window, x times", 1, unset="no", fraction=True)
    )
    bank_chunks: int = option(2, Option("chunks that memory heads keep beyond the newest", 0))

    name: ClassVar[str] = "head_budget"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in _ONE_OF if getattr(self, name) is not None]
        if len(given) > 1:
            raise PlanError(f"expected one of {', '.join(_ONE_OF)}, got {' and '.join(given)}; leave the others out")

    def at_first(self, setting: Setting) -> HeadPlan:
        budget = self._budget(setting)
        plan = self.wide(setting, 1, setting.chunk_frames, self._memory(setting), self._rule(setting))
        needed = plan.cached_frames(setting.clip_frames)
        if self.budget_gb is not None and sum(needed) > budget:
            raise PlanError(
                f"expected a budget above {self.budget_gb:g} GiB, or a head profile: until heads have been observed "
                f"all keep {needed[0]} frames, which is more; take a profile, or allow more"
            )
        return plan

    def later(self, setting: Setting) -> HeadPlan:
        frames = -(-self._budget(setting) // (setting.layers * setting.heads))
        return self.uniform(setting, HeadMemory(0, min(frames, setting.clip_frames)), "budget")

    def replan(self, seen: Seen, setting: Setting) -> HeadPlan:
        assert isinstance(seen, OutputChange)
        memories: dict[str, HeadMemory] = {**seen.options, MEMORY: self._memory(setting)}
        losses = [[*change, 0.0] for row in seen.change.tolist() for change in row]
        costs = [memory.capacity_frames(setting.clip_frames) for memory in memories.values()]
        chosen = allocate([costs] * len(losses), losses, self._budget(setting))
        names = [list(memories)[option] for option in chosen]
        rows = [tuple(names[i : i + setting.heads]) for i in range(0, len(names), setting.heads)]
        kept = tuple(tuple(memories[name] for name in row) for row in rows)
        rule = self._rule(setting) if MEMORY in names else None
        return HeadPlan(kept, tuple(rows), setting.family.name, rule)

    def _rule(self, setting: Setting) -> EpisodeEnd | None:
        return EpisodeEnd(room_frames=self.bank_chunks * setting.chunk_frames) if self.bank_chunks else None

    def _memory(self, setting: Setting) -> HeadMemory:
        return HeadMemory(0, setting.chunk_frames, bank_frames=self.bank_chunks * setting.chunk_frames)

    def _budget(self, setting: Setting) -> int:
        """History frames of all heads together; PlanError if that is less than nothing."""
        heads, chunk = setting.layers * setting.heads, setting.chunk_frames
        if self.budget_gb is not None:
            if setting.kv is None:
                raise PlanError("expected a known size of the video for a budget in bytes, got none; give mean frames")
            current = heads * setting.kv.pass_frames
            frames = self.budget_gb * 2**30 / setting.kv.frame_bytes - current
            if frames < 0:
                least = current * setting.kv.frame_bytes / 2**30
                raise PlanError(
                    f"expected a budget of at least {least:.3g} GiB, which the current chunk alone takes at this size, "
                    f"got {self.budget_gb:g}; allow more, or make a smaller video"
                )
            return int(frames)
        if self.speedup is not None:
            window = setting.family.default_window_frames
            frames = heads * (window / self.speedup - chunk)
            if frames < 0:
                raise PlanError(
                    f"expected a speed-up of at most {window / chunk:.3g}, which heads without history have, got "
                    f"{self.speedup:g}; ask for less"
                )
            return int(frames)
        return int(heads * (4 if self.budget_frames is None else self.budget_frames))
