"""Policies that plan by what heads lose with less history: from a profile, or from one pass of the clip itself."""

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..geometry import Span
from ..kv.bank import BankRule
from ..kv.output_change import ChangeObservation, Project, memory_options
from ..kv.plan import HeadMemory, HeadPlan
from .base import Observing, Policy, Seen, Setting, check_observed
from .options import Option, option
from .profile import HeadProfile, changes_of


@dataclass(frozen=True, kw_only=True)
class ObservedChange(Policy):
    """With a profile the plan is narrow from the first chunk on. Without one every head keeps two chunks until the
    first chunk that has far frames, and is observed in a denoising step of it."""

    observe_chunk: int | None = option(None, Option("chunk whose heads are observed, 2 or later", 2, unset="auto"))
    reclassify_chunks: int | None = option(
        None, Option("observe again every so many chunks", 1, flag="reclassify", unset="never")
    )
    observe_step: int = option(0, Option("denoising step that is observed, 0 is the first", 0))
    profile: HeadProfile | None = option(  # noqa: RUF009
        None,
        Option(
            "saved head profile, instead of observing",
            unset="none",
            overrides=("observe_chunk", "reclassify_chunks", "observe_step"),
            read=HeadProfile.read,
        ),
    )

    @abstractmethod
    def replan(self, seen: Seen, setting: Setting) -> HeadPlan:
        """The plan that follows from what was observed."""

    @abstractmethod
    def at_first(self, setting: Setting) -> HeadPlan:
        """The plan until heads have been observed."""

    def wide(
        self, setting: Setting, sink_frames: int, recent_frames: int, later: HeadMemory, rule: BankRule | None
    ) -> HeadPlan:
        """That plan: two chunks, as far as the family's window has room, and what any head keeps later, at least.

        Heads that are observed again go back to it, and must find in it what memory heads, `later`, had banked by then.
        """
        chunk = setting.chunk_frames
        room = setting.family.default_window_frames - chunk - sink_frames
        recent = max(min(2 * chunk, room), recent_frames)
        again = self.reclassify_chunks is not None
        memory = replace(later, sink_frames=sink_frames, recent_frames=recent, bank_frames=later.bank_frames * again)
        return self.uniform(setting, memory, "unclassified", rule)

    def from_profile(self, profile: HeadProfile) -> Seen:
        """What this policy goes by in a profile; PlanError if it is not there."""
        return changes_of(profile)

    def options(self, setting: Setting) -> Mapping[str, HeadMemory]:
        """The memories that heads are asked about."""
        return memory_options(setting.chunk_frames)

    @property
    def may_observe_again(self) -> bool:
        return self.profile is None and self.reclassify_chunks is not None

    @property
    def observed_step(self) -> int | None:
        return self.observe_step

    def plan(self, setting: Setting) -> HeadPlan:
        if self.profile is not None:
            self.profile.check(setting.layers, setting.heads)
            return self.replan(self.from_profile(self.profile), setting)
        check_observed(setting, self.observe_chunk)
        if not any(self.observes(span, setting, (), False) for span in setting.spans if not span.given):
            warnings.warn(
                "the clip ends before its heads are observed: all keep what they have; make it longer, or give a "
                "head profile",
                stacklevel=2,
            )
        return self.at_first(setting)

    def observes(self, span: Span, setting: Setting, observed: Sequence[int], switched: bool) -> bool:
        if self.profile is not None:
            return False
        if observed:
            return self.reclassify_chunks is not None and span.chunk - observed[-1] >= self.reclassify_chunks
        if self.observe_chunk is not None:
            return span.chunk == self.observe_chunk
        return span.start > setting.chunk_frames

    def observation(self, setting: Setting, project: Project) -> Observing:
        return ChangeObservation(setting.layers, setting.heads, self.options(setting), project)
