"""What a clip remembers while it is made in rolling windows: cache, plan, and what a second look would need.

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
from ..geometry import LatentShape, Span
from ..kv.attention import AttentionFn
from ..kv.plan import HeadMemory, HeadPlan
from ..kv.rolling_cache import RollingCache
from ..kv.scoring import HeadScores, Observation
from ..models.denoiser import Denoiser
from ..models.families import Family
from ..noise import NoiseFn
from ..policies.base import Policy
from ..prompts import PromptSchedule
from ..schedule import Schedule
from .clip_memory import Past, clean_pass, kv_shape, retained, setting_of


class RollingMemory:
    """The memory of one clip under one policy. Made by the loop, dead when it ends."""

    def __init__(
        self,
        denoise: Denoiser,
        shape: LatentShape,
        schedule: Schedule,
        prompts: PromptSchedule,
        policy: Policy,
        family: Family,
        noise: NoiseFn,
        attend: AttentionFn,
    ):
        self.denoise, self.schedule, self.prompts, self.policy, self.noise = denoise, schedule, prompts, policy, noise
        self.setting = setting_of(denoise, shape, family)
        self._shape, self._attend = kv_shape(denoise, shape, family), attend
        self._widest = fitted(policy.plan(self.setting), family)
        self.cache = self._empty()
        self.observed: list[int] = []
        self.predicted_peak_bytes = self.cache.plan.resident_bytes(self._shape)
        self._past: Past = []
        self._prompt: Tensor | None = None

    def observation(self, span: Span) -> Observation | None:
        """Before a chunk's last window: an observation if the policy wants one, over a cache that is wide again."""
        switched = self._prompt is not None and self.prompts.at(span.start) is not self._prompt
        if not self.policy.observes(span, self.setting, self.observed, switched):
            return None
        if self.cache.plan != self._widest:  # heads cannot be widened in place
            del self.cache
            self.cache = self._empty()
            for passed, latent in self._past:
                self._clean_pass(passed, latent)
        return self.policy.observation(self.setting)

    def commit(self, span: Span, latent: Tensor, observation: Observation | None) -> HeadScores | None:
        """Reads a finished chunk, latent (B, C, F, h, w), into the cache; plans anew if heads were observed in it."""
        self._clean_pass(span, latent)
        self._prompt = self.prompts.at(span.start)
        scores = None
        if observation is not None:
            scores = observation.scores()
            plan = fitted(self.policy.replan(scores, self.setting), self.setting.family)
            peak = self.cache.plan.repack_peak_bytes(self._shape, plan)
            self.predicted_peak_bytes = max(self.predicted_peak_bytes, peak)
            self.cache.repack(plan)
            self.observed.append(span.chunk)
        if self.policy.may_observe_again:
            self._past = retained([*self._past, (span, latent)], span.stop, self._widest, 0)
        return scores

    def _clean_pass(self, span: Span, latent: Tensor) -> None:
        clean_pass(self.cache, self.denoise, latent, span, self.prompts.at(span.start), self.schedule, self.noise)

    def _empty(self) -> RollingCache:
        model, attended = self.denoise.geometry, self.setting.family.default_window_frames
        return RollingCache(self._widest, self._shape, attended, model.device, model.dtype, self._attend)


def fitted(plan: HeadPlan, family: Family) -> HeadPlan:
    """The plan in the terms of rolling windows; PlanError if a head is to see what the loop cannot show it."""
    rows = tuple(tuple(_fitted(memory, family) for memory in row) for row in plan.memories)
    return replace(plan, memories=rows)


def _fitted(memory: HeadMemory, family: Family) -> HeadMemory:
    attended, chunk = family.default_window_frames, family.chunk_frames
    sink, recent = memory.sink_frames, memory.recent_frames
    if memory.positions != "absolute":
        raise PlanError(
            f"a plan with {memory.positions} positions came; {family.title} places frames by its own rule: use a "
            "policy with absolute positions"
        )
    if recent is None:
        sink, recent = family.sink_frames, attended - chunk - family.sink_frames
    if sink > chunk or sink + recent + chunk > attended:
        raise PlanError(
            f"a plan of {sink} first and {recent} recent frames came; {family.title} keeps at most its first chunk of "
            f"{chunk} and attends to {attended} frames, the chunk of {chunk} included: ask for a sink of {chunk} or "
            f"less, and {attended - chunk} or fewer frames in all"
        )
    return replace(memory, sink_frames=sink, recent_frames=sink + recent if recent else 0)
