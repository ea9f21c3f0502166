"""Dummy Forcing: heads that mostly look at the current chunk lose their history (arXiv 2601.20499, section 3).

Every head is scored once; the heads that would lose least become dummies with one packed frame, the rest keep either
the first frame (sink) or the recent window (neighbour). Training-free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..errors import PlanError
from ..geometry import Span
from ..kv.plan import HeadMemory, HeadPlan
from ..kv.scoring import HeadScores, Observation
from .base import Policy, Setting
from .head_programming import NEIGHBOUR, ROLES, SINK, assign_roles
from .profile import HeadProfile


@dataclass(frozen=True)
class DummyForcing(Policy):
    """Heterogeneous memory with dynamic head programming.

    dummy_ratio   -- share of all heads that become dummies; `num_dummy`, a count, overrides it
    local_chunks  -- history of neighbour heads, in chunks
    packed_frames -- newest frames that dummy heads keep; 1 is the paper's packing, 0 leaves them bare
    sink_frames   -- first frames that sink heads keep
    observe_chunk -- ordinal of the scored chunk; None: the first with a neighbour frame
    reclassify_chunks -- score again every so many chunks; None: only after a prompt switch
    score_stride  -- score every so many query rows
    profile       -- saved scores: the plan is narrow from the first chunk on, and nothing is observed
    """

    dummy_ratio: float = 0.5
    num_dummy: int | None = None
    local_chunks: int = 1
    packed_frames: int = 1
    sink_frames: int = 1
    observe_chunk: int | None = None
    reclassify_chunks: int | None = None
    score_stride: int = 1
    profile: HeadProfile | None = None

    name: ClassVar[str] = "dummy"

    @property
    def may_observe_again(self) -> bool:
        return self.profile is None

    def __post_init__(self) -> None:
        if not 0 <= self.dummy_ratio <= 1:
            raise PlanError(f"a dummy ratio of {self.dummy_ratio} came; it is a share of heads, 0 to 1")
        lowest = {"num_dummy": 0, "local_chunks": 1, "packed_frames": 0, "sink_frames": 1}
        lowest |= {"reclassify_chunks": 1, "score_stride": 1}
        for field, least in lowest.items():
            value = getattr(self, field)
            if value is not None and value < least:
                raise PlanError(f"{field} {value} came; it must be at least {least}")
        if self.observe_chunk is not None and self.observe_chunk < 1:
            raise PlanError(
                f"observe chunk {self.observe_chunk} came; chunk 0 has no history to score, use 1 or more, or auto"
            )

    def plan(self, setting: Setting) -> HeadPlan:
        self._dummies(setting)
        last = setting.last_chunk
        if self.observe_chunk is not None and self.observe_chunk > last:
            raise PlanError(
                f"observe chunk {self.observe_chunk} came, but the clip's last chunk is {last}; "
                "use a smaller one, auto, or a longer clip"
            )
        if self.profile is not None:
            self.profile.check(setting.layers, setting.heads)
            return self.replan(self.profile.scores, setting)
        memory = HeadMemory(self.sink_frames, max(self._local_frames(setting), self.packed_frames))
        return HeadPlan.uniform(setting.layers, setting.heads, memory, "unclassified", setting.family.name)

    def observes(self, span: Span, setting: Setting, observed: Sequence[int], switched: bool) -> bool:
        if self.profile is not None:
            return False
        if observed:
            due = self.reclassify_chunks is not None and span.chunk - observed[-1] >= self.reclassify_chunks
            return due or switched
        if self.observe_chunk is not None:
            return span.chunk == self.observe_chunk
        return span.start > self.sink_frames

    def observation(self, setting: Setting) -> Observation:
        return Observation(setting.layers, setting.heads, self.score_stride)

    def replan(self, scores: HeadScores, setting: Setting) -> HeadPlan:
        roles = assign_roles(scores.mass, self._dummies(setting))
        memory = {
            ROLES.index("dummy"): HeadMemory(0, self.packed_frames),
            SINK: HeadMemory(self.sink_frames, 0),
            NEIGHBOUR: HeadMemory(0, self._local_frames(setting)),
        }
        return HeadPlan(
            tuple(tuple(memory[role] for role in row) for row in roles),
            tuple(tuple(ROLES[role] for role in row) for row in roles),
            setting.family.name,
        )

    def _local_frames(self, setting: Setting) -> int:
        return self.local_chunks * setting.chunk_frames

    def _dummies(self, setting: Setting) -> int:
        total = setting.layers * setting.heads
        count = round(self.dummy_ratio * total) if self.num_dummy is None else self.num_dummy
        if count > total:
            raise PlanError(
                f"{count} dummy heads came, the model has {total} ({setting.layers} layers x {setting.heads} heads); "
                "use fewer, or a ratio"
            )
        return count
