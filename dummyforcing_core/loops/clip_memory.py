"""What a clip remembers while it is made: the cache, what was observed, and what observing its heads again would need.

Between chunks only: the clean pass commits a chunk; if the policy asked for it, heads are observed in that pass or in a
denoising step before, and the cache is re-grouped by the new plan.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..errors import PlanError
from ..geometry import Span, chunk_spans
from ..kv.cache import KVCache, Observer
from ..kv.plan import HeadPlan
from ..models.denoiser import Denoiser, Step
from ..models.families import Family
from ..policies.base import Observing, Seen
from ..schedule import add_noise
from .decisions import Decisions, Logged, Resumed
from .run import MemoryLog, Run, StoredKV


class Unread:
    """Stands in for a denoiser in passes whose keys and values nobody reads: they come from a snapshot."""

    def __init__(self, denoise: Denoiser):
        self.geometry, self.project, self.time_signal = denoise.geometry, denoise.project, denoise.time_signal

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        return None


@dataclass(frozen=True, eq=False)
class Passed:
    """A clean pass that may have to be made again: its frames, their latent (B, C, t, h, w), the text they were read
    under.

    recached -- the window was re-cached before it
    """

    span: Span
    latent: Tensor
    context: Tensor
    recached: bool = False


class ClipMemory:
    """The memory of one clip under one policy. Made by the rollout, dead when it ends.

    log -- what was decided in the last chunk
    """

    def __init__(self, run: Run, decisions: Decisions | None = None):
        self._run = self._given = run
        self._recache_frames = run.family.default_window_frames if run.recaches else 0
        self.cache = run.new_cache()
        self._widest = check_memories(self.cache.plan, run.family)
        self._decisions = decisions or Resumed(run, self._widest)
        self._stored = None if self._decisions.reads_keys or run.made.fresh else run.made.stored
        if self._stored is not None:  # up to there only slots are followed
            self._run = replace(run, denoise=Unread(run.denoise))
        if self._widest.bank is not None and self._widest.bank.needs_switches and not run.prompts.may_switch:
            warnings.warn(
                "the clip has one prompt: no episode ends, and nothing is remembered beyond the newest frames; give "
                "it a schedule of prompts, or choose the bank rule key_novelty or every",
                stacklevel=2,
            )
        self.predicted_peak_bytes = self.cache.plan.resident_bytes(self.cache.shape)
        self.log: MemoryLog | None = None
        self._past: list[Passed] = []
        self._recached_at = -1  # first frame of the last chunk before which the window was re-cached
        self._context: Tensor | None = None  # of the chunk before
        self._observed = False
        self._observation: Observing | None = None
        self._marked: list[frozenset[int]] = []

    @property
    def _noisy(self) -> bool:
        """Whether the policy observes a denoising step, not the clean pass."""
        return self._run.policy.observed_step is not None

    @property
    def observed(self) -> tuple[int, Observer] | None:
        """The denoising step of this chunk that has to be watched, and by whom."""
        step = self._run.policy.observed_step
        return None if step is None or self._observation is None else (step, self._observation)

    def begin(self, span: Span, context: Tensor) -> None:
        """Before a chunk is denoised: frames may be marked, heads about to be observed; if its prompt is new and the
        family wants it, the window is re-cached."""
        switched = self._context is not None and context is not self._context
        self._observed, marked = self._decisions.begin(span, switched)
        self._marked = [marked]
        self.cache.marked = marked
        if switched:
            self._estimate(self.cache.plan.repack_peak_bytes(self.cache.shape, self.cache.plan))
            self.cache.switch()
        self._observation = self._decisions.observation() if self._observed else None
        if self._observed and self._noisy:
            self._widen()
        if self._decisions.recaches(span, switched):
            self._recache(span, context)

    def _recache(self, span: Span, context: Tensor) -> None:
        """LongLive's KV re-cache (arXiv 2509.22622, section 3.1).

        One bidirectional clean pass over the window before `span` under the new prompt. A global sink stays as it is,
        unless the window still begins with the clip; then the oldest frames of the pass are queries only. So does what
        is banked of the time before; what is banked of the window is read, and banked, again.
        """
        window = self._recache_frames
        parts = self._before(span, window)
        if not parts:  # a rebuilt cache, and the frames before this switch are out of every head's sight
            return
        latent = torch.cat(parts, dim=2)[:, :, -window:]
        frames = latent.shape[2]
        first = span.start - frames
        keep_sink = self._run.family.global_sink and first > 0
        kept = max(memory.sink_frames for row in self.cache.plan.memories for memory in row) if keep_sink else 0
        plan = self.cache.plan
        self._estimate(plan.repack_peak_bytes(self.cache.shape, plan))
        self.cache.clear(keep_sink, first)
        self.cache.begin(first, frames, key_frames=min(frames, window - kept))
        sigma = torch.zeros(latent.shape[0], frames)
        self._run.denoise(latent, sigma, context, Step(self.cache, output=False))
        self.cache.commit()
        self.cache.repack(plan)  # heads that were apart while their sinks stayed share buffers again
        self._recached_at = span.start

    def _before(self, span: Span, frames: int) -> list[Tensor]:
        """Latents that hold the `frames` frames right before `span`, as far as they are there without a gap."""
        parts: list[Tensor] = []
        start = span.start
        for passed in reversed(self._past):
            if passed.span.stop == start and start > span.start - frames:
                parts.insert(0, passed.latent)
                start = passed.span.start
        return parts

    def commit(self, span: Span, latent: Tensor, context: Tensor) -> Seen | None:
        """Reads a finished chunk, latent (B, C, span.frames, h, w), into the cache.

        If the policy observed its heads in this chunk, it plans anew from what was seen, which is returned.
        """
        recached, seen = self._recached_at == span.start, None
        if self._observed and self._noisy:  # before the chunk is read: what is marked goes into banks, and is not lost
            seen = self._replan(span)
        elif self._observed and self._widen() and recached:
            self._recache(span, context)
        observation = None if self._noisy else self._observation
        passes = [
            Passed(part, _frames(latent, part, span.start), context, recached and part.start == span.start)
            for part in span.passes(self._run.family.chunk_frames)
        ]
        for one in passes:
            self._run.on_step(one.span, len(self._run.schedule))
            reads = self._decisions.reads_keys
            self.cache.on_keys = partial(self._decisions.see_keys, one.span.frames) if reads else None
            clean_pass(self._run, self.cache, one.span, one.latent, context, observation)
            self.cache.on_keys = None
            self.cache.marked = self._decisions.committed(one.span, one.latent)
            self._marked.append(self.cache.marked)
        self._context = context
        if self._run.policy.may_observe_again or self._recache_frames:
            self._keep(passes, span.stop)
        if self._observed and not self._noisy:
            seen = self._replan(span)
        if self._stored is not None and self._stored.chunk == span.chunk:
            self._restore(self._stored)
        self.log = MemoryLog(self.cache.plan, self._observed, recached, tuple(self._marked))
        return seen

    def _restore(self, stored: StoredKV) -> None:
        """The cache's content as it was; from here on passes are made."""
        for layer in range(self.cache.plan.layers):
            self.cache.restore(layer, stored.layer(layer))
        self._run, self._stored = self._given, None

    def _widen(self) -> bool:
        """A cache of the widest plan, made anew if heads have been narrowed: they cannot be widened in place."""
        if self.cache.plan == self._widest:
            return False
        marked, banked = self.cache.marked, self.cache.banked_frames
        if banked:
            warnings.warn(
                f"heads are observed again: the {len(banked)} banked frames are read again without all that stood "
                "before them, and what is remembered of them may differ",
                stacklevel=2,
            )
        del self.cache  # first: the old and the new one need not fit together
        self.cache = self._run.new_cache(self._widest)
        self.cache.marked = marked
        self._estimate(self.cache.plan.resident_bytes(self.cache.shape))
        for passed in self._past:
            if passed.recached:
                self._recache(passed.span, passed.context)
            clean_pass(self._run, self.cache, passed.span, passed.latent, passed.context)
        return True

    def _replan(self, span: Span) -> Seen | None:
        """Goes over to the plan that the policy makes of what was observed."""
        plan, seen = self._decisions.replanned(span, self._observation)
        check_memories(plan, self._run.family)
        self._estimate(self.cache.plan.repack_peak_bytes(self.cache.shape, plan))
        self.cache.repack(plan)
        self._observation = None
        return seen

    def _keep(self, passes: list[Passed], stop_frame: int) -> None:
        """Retains what rebuilding the widest cache, or re-caching, would have to read from here on."""
        # Copies: a part of a long given start must not keep all of it alive.
        self._past += [replace(one, latent=one.latent.clone()) for one in passes]
        sink, recent = reach(self._widest)
        recent = max(recent, self._recache_frames)
        remembered = self.cache.marked.union(self.cache.banked_frames)
        self._past = [
            one
            for one in self._past
            if one.span.start < sink
            or one.span.stop > stop_frame - recent
            or not remembered.isdisjoint(range(one.span.start, one.span.stop))
        ]

    def _estimate(self, peak_bytes: int) -> None:
        self.predicted_peak_bytes = max(self.predicted_peak_bytes, peak_bytes)


def check_memories(plan: HeadPlan, family: Family) -> HeadPlan:
    """The plan; PlanError if a bank could miss frames, or positions would leave the range that was trained."""
    for memory in {memory for row in plan.memories for memory in row}:
        recent = memory.recent_frames
        if memory.bank_frames and recent is not None and recent < family.chunk_frames:
            raise PlanError(
                f"expected heads with a bank to keep a chunk, {family.chunk_frames} or more recent frames, got "
                f"{recent}; keep more"
            )
        frames = memory.sink_frames + memory.bank_frames + (recent or 0) + family.chunk_frames
        if memory.positions == "rank" and recent is not None and frames > family.trained_frames:
            raise PlanError(
                f"expected at most {family.trained_frames} frames under rank positions, the chunk of "
                f"{family.chunk_frames} included, as {family.title} was trained on, got {frames}; use a smaller bank "
                "or window, or absolute positions"
            )
    return plan


def passing(plan: HeadPlan, family: Family) -> HeadPlan:
    """The plan for a loop whose frames all pass: none ever comes to a bank, and none leaves early at a switch. A line
    says so."""
    memories = {memory for row in plan.memories for memory in row}
    if not any(memory.bank_frames or memory.switch_frames is not None for memory in memories):
        return plan
    warnings.warn(
        f"{family.title} keeps no frame longer than its window, and drops none at a switch: heads keep their first and "
        "recent frames only, there is no bank",
        stacklevel=2,
    )
    rows = tuple(tuple(replace(memory, bank_frames=0, switch_frames=None) for memory in row) for row in plan.memories)
    return replace(plan, memories=rows, bank=None)


def reach(plan: HeadPlan) -> tuple[int, int]:
    """The most first frames and the most recent frames that any head keeps."""
    memories = [memory for row in plan.memories for memory in row]
    return max(memory.sink_frames for memory in memories), max(memory.recent_frames or 0 for memory in memories)


def clean_pass(
    run: Run, cache: KVCache, span: Span, latent: Tensor, context: Tensor, observation: Observer | None = None
) -> None:
    """Reads finished frames once at the context noise level and commits their keys and values.

    With an observation, the last layer's attention runs too, so that its heads are seen.
    """
    sigma = run.schedule.context_noise
    x = add_noise(latent, run.noise(len(run.schedule) + span.part, span), sigma) if sigma else latent
    cache.begin(span.start, span.frames, observation)
    step = Step(cache, output=observation is not None)
    run.denoise(x, torch.full((latent.shape[0], span.frames), sigma), context, step)
    cache.commit()


@torch.inference_mode()
def replay(run: Run, cache: KVCache, latents: Tensor) -> None:
    """Rebuilds a cache from finished latents (B, C, T, h, w) by clean passes over the same chunks as the rollout's.

    Exact on one device, backend and version.
    """
    chunk_frames = run.family.chunk_frames
    for span in chunk_spans(latents.shape[2], chunk_frames, run.given_frames):
        context = run.prompts.at(span.start)
        for part in span.passes(chunk_frames):
            clean_pass(run, cache, part, _frames(latents, part), context)


@torch.inference_mode()
def replay_clip(run: Run, latents: Tensor, log: Sequence[MemoryLog]) -> KVCache:
    """The cache as it was behind the last chunk of the log, from finished latents (B, C, T, h, w): plans, re-caches and
    what was marked are those of the log, and nothing is observed. Exact on one device, backend and version."""
    memory = ClipMemory(run, Logged(log))
    for span in run.spans[: len(log)]:
        context = run.prompts.at(span.start)
        memory.begin(span, context)
        memory.commit(span, _frames(latents, span), context)
    return memory.cache


def _frames(latents: Tensor, span: Span, first: int = 0) -> Tensor:
    """The span's frames of latents (B, C, T, h, w) that begin with latent frame `first`."""
    return latents[:, :, span.start - first : span.stop - first]
