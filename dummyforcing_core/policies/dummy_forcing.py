"""Dummy Forcing: heads that mostly look at the current chunk lose their history (arXiv 2601.20499, section 3).

Every head is scored once; the heads that would lose least become dummies with one packed frame, the rest keep either
the first frame (sink) or the recent window (neighbour). Training-free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..geometry import Span
from ..kv.output_change import NEAR, ChangeObservation, OutputChange, Project
from ..kv.plan import HeadMemory, HeadPlan
from ..kv.scoring import Observation
from .base import Observing, Policy, Seen, Setting, check_observed, head_count
from .head_programming import DUMMY, NEIGHBOUR, ROLES, SINK, assign_roles, roles_by_change
from .options import Option, option
from .profile import HeadProfile, changes_of

COSTS = ("mass", "output_change")


@dataclass(frozen=True, repr=False)
class DummyForcing(Policy):
    """Heterogeneous memory with dynamic head programming.

    With a profile the plan is narrow from the first chunk on, and nothing is observed. Without one, heads are scored in
    the first chunk that has a neighbour frame, and again after a prompt switch.
    """

    dummy_ratio: float = option(0.5, Option("share of heads without history", 0, 1))
    num_dummy: int | None = option(
        None, Option("number of such heads instead of a share", 0, overrides=("dummy_ratio",), unset="by the share")
    )
    local_chunks: int = option(1, Option("history of neighbour heads, in chunks", 1))
    packed_frames: int = option(1, Option("newest frames that dummy heads keep; the paper packs 1", 0))
    sink_frames: int = option(1, Option("first frames that sink heads keep", 1, flag="sink"))
    observe_chunk: int | None = option(None, Option("chunk whose heads are scored, 1 or later", 1, unset="auto"))
    reclassify_chunks: int | None = option(
        None, Option("score again every so many chunks", 1, flag="reclassify", unset="never")
    )
    score_stride: int = option(1, Option("score every so many query rows", 1))
    cost: str = option("mass", Option("what dummies are chosen by; mass is the paper's", choices=COSTS, later=True))
    profile: HeadProfile | None = option(  # noqa: RUF009
        None,
        Option(
            "saved head profile, instead of scoring",
            unset="none",
            overrides=("observe_chunk", "reclassify_chunks", "score_stride"),
            read=HeadProfile.read,
        ),
    )

    name: ClassVar[str] = "dummy"

    @property
    def may_observe_again(self) -> bool:
        return self.profile is None

    def plan(self, setting: Setting) -> HeadPlan:
        self._dummies(setting)
        if self.profile is None:
            check_observed(setting, self.observe_chunk)
        if self.profile is not None:
            self.profile.check(setting.layers, setting.heads)
            by_change = self.cost == "output_change"
            return self.replan(changes_of(self.profile) if by_change else self.profile.scores, setting)
        memory = HeadMemory(self.sink_frames, max(self._local_frames(setting), self.packed_frames))
        return self.uniform(setting, memory, "unclassified")

    def observes(self, span: Span, setting: Setting, observed: Sequence[int], switched: bool) -> bool:
        if self.profile is not None:
            return False
        if observed:
            due = self.reclassify_chunks is not None and span.chunk - observed[-1] >= self.reclassify_chunks
            return due or switched
        if self.observe_chunk is not None:
            return span.chunk == self.observe_chunk
        return span.start > self.sink_frames

    def observation(self, setting: Setting, project: Project) -> Observing:
        if self.cost == "output_change":
            options = {ROLES[role]: memory for role, memory in self._memories(setting).items()}
            options[NEAR] = HeadMemory(0, setting.chunk_frames)  # what pictures of the heads show
            return ChangeObservation(setting.layers, setting.heads, options, project)
        return Observation(setting.layers, setting.heads, self.score_stride)

    @property
    def observed_step(self) -> int | None:
        return 0 if self.cost == "output_change" else None

    def _memories(self, setting: Setting) -> dict[int, HeadMemory]:
        """What each role keeps."""
        return {
            DUMMY: HeadMemory(0, self.packed_frames),
            SINK: HeadMemory(self.sink_frames, 0),
            NEIGHBOUR: HeadMemory(0, self._local_frames(setting)),
        }

    def replan(self, seen: Seen, setting: Setting) -> HeadPlan:
        memory, dummies = self._memories(setting), self._dummies(setting)
        if isinstance(seen, OutputChange):
            roles = roles_by_change(seen.of(memory[SINK]), seen.of(memory[NEIGHBOUR]), seen.of(memory[DUMMY]), dummies)
        else:
            roles = assign_roles(seen.mass, dummies)
        return HeadPlan(
            tuple(tuple(memory[role] for role in row) for row in roles),
            tuple(tuple(ROLES[role] for role in row) for row in roles),
            setting.family.name,
        )

    def _local_frames(self, setting: Setting) -> int:
        return self.local_chunks * setting.chunk_frames

    def _dummies(self, setting: Setting) -> int:
        return head_count(setting, self.dummy_ratio, self.num_dummy, "dummy")
