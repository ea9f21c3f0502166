"""What a clip remembers while it is made in rolling windows: the cache, and what scoring its heads again would need.

A policy plans as for the loop over chunks; two things are put into Rolling Forcing's terms. "Everything" is what the
family keeps: its sink, and as many recent frames as fill A attended frames. And a head with both holds as many more
recent frames as it has in its sink, because a clean pass leaves the sink behind and puts these in its place.

Heads are scored in a chunk's last window, by all of its queries, not in the clean pass: W of W + 1 queries stand in
windows, so this is where a role costs and saves; and A frames into a clip a clean pass no longer sees the sink, so that
no later score would know of it.
"""

from dataclasses import replace

from torch import Tensor

from ..errors import PlanError
from ..geometry import Span
from ..kv.plan import HeadMemory, HeadPlan
from ..kv.rolling_cache import RollingCache
from ..models.families import Family
from ..policies.base import Observing, Seen
from .clip_memory import Passed, clean_pass, passing, reach
from .run import Run


class RollingMemory:
    """The memory of one clip under one policy. Made by the loop, dead when it ends."""

    def __init__(self, run: Run):
        self._run, self.setting = run, run.setting
        self._widest = fitted(run.policy.plan(self.setting), run.family)
        self.cache = self._empty()
        self.observed: list[int] = []
        self.predicted_peak_bytes = self.cache.plan.resident_bytes(self.cache.shape)
        self._past: list[Passed] = []
        self._context: Tensor | None = None  # of the chunk that was committed last

    def observation(self, span: Span, context: Tensor) -> Observing | None:
        """Before a chunk's last window: an observation if the policy wants one, over a cache that is wide again."""
        policy, switched = self._run.policy, self._context is not None and context is not self._context
        if not policy.observes(span, self.setting, self.observed, switched):
            return None
        self._widen()
        return policy.observation(self.setting, self._run.denoise.project)

    def go_on(self, span: Span, latent: Tensor, context: Tensor) -> None:
        """Reads a chunk that is made into the cache; its plan holds."""
        log = self._run.log_of(span)
        if log.observed:
            self._widen()
        self.commit(span, latent, context, None)
        if log.observed:
            self._go_over(span, log.plan)

    def commit(self, span: Span, latent: Tensor, context: Tensor, observation: Observing | None) -> Seen | None:
        """Reads a finished chunk, latent (B, C, F, h, w), into the cache; plans anew if heads were observed in it."""
        clean_pass(self._run, self.cache, span, latent, context)
        self._context = context
        seen = None if observation is None else self._replan(span, observation)
        if self._run.policy.may_observe_again:
            self._past.append(Passed(span, latent, context))
            sink, recent = reach(self._widest)
            self._past = [one for one in self._past if one.span.start < sink or one.span.stop > span.stop - recent]
        return seen

    def _replan(self, span: Span, observation: Observing) -> Seen:
        """Goes over to the plan that the policy makes of what was observed."""
        seen = observation.result()
        self._go_over(span, fitted(self._run.policy.replan(seen, self.setting), self._run.family))
        return seen

    def _go_over(self, span: Span, plan: HeadPlan) -> None:
        peak = self.cache.plan.repack_peak_bytes(self.cache.shape, plan)
        self.predicted_peak_bytes = max(self.predicted_peak_bytes, peak)
        self.cache.repack(plan)
        self.observed.append(span.chunk)

    def _widen(self) -> None:
        """A cache of the widest plan, made anew if heads have been narrowed: they cannot be widened in place."""
        if self.cache.plan == self._widest:
            return
        del self.cache  # first: the old and the new one need not fit together
        self.cache = self._empty()
        for passed in self._past:
            clean_pass(self._run, self.cache, passed.span, passed.latent, passed.context)

    def _empty(self) -> RollingCache:
        run, model = self._run, self._run.denoise.geometry
        attended = run.family.default_window_frames
        return RollingCache(self._widest, run.kv_shape, attended, model.device, model.dtype, run.attend)


def fitted(plan: HeadPlan, family: Family) -> HeadPlan:
    """The plan in the terms of rolling windows; PlanError if a head is to see what the loop cannot show it."""
    plan = passing(plan, family)
    rows = tuple(tuple(_fitted(memory, family) for memory in row) for row in plan.memories)
    return replace(plan, memories=rows)


def _fitted(memory: HeadMemory, family: Family) -> HeadMemory:
    attended, chunk = family.default_window_frames, family.chunk_frames
    sink, recent = memory.sink_frames, memory.recent_frames
    if memory.positions != "absolute":
        raise PlanError(
            f"expected a plan with absolute positions, got {memory.positions} ones; {family.title} places frames by "
            "its own rule: use a policy with absolute positions"
        )
    if recent is None:
        sink, recent = family.sink_frames, attended - chunk - family.sink_frames
    if sink > chunk or sink + recent + chunk > attended:
        raise PlanError(
            f"expected a plan that fits {attended} attended frames, the chunk of {chunk} included, got one of {sink} "
            f"first and {recent} recent frames; {family.title} keeps at most its first chunk: ask for a sink of "
            f"{chunk} or less, and {attended - chunk} or fewer frames in all"
        )
    return replace(memory, sink_frames=sink, recent_frames=sink + recent if recent else 0)
