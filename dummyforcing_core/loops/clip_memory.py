"""What a clip remembers while it is made: the cache, what was observed, and what scoring its heads again would need.

Between chunks only: the clean pass commits a chunk; if the policy asked for it, heads are scored in that pass and the
cache is re-grouped by the new plan.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..geometry import Span, chunk_spans
from ..kv.cache import KVCache
from ..kv.plan import HeadPlan
from ..kv.scoring import HeadScores, Observation
from ..models.denoiser import Step
from ..schedule import add_noise
from .run import Run


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
    """The memory of one clip under one policy. Made by the rollout, dead when it ends."""

    def __init__(self, run: Run):
        self._run, self.setting = run, run.setting
        self._recache_frames = run.family.default_window_frames if run.recaches else 0
        self.cache = run.new_cache()
        self._widest = self.cache.plan
        self.observed: list[int] = []
        self.predicted_peak_bytes = self.cache.plan.resident_bytes(self.cache.shape)
        self._past: list[Passed] = []
        self._recached_at = -1  # first frame of the last chunk before which the window was re-cached
        self._context: Tensor | None = None  # of the chunk before

    def begin(self, span: Span, context: Tensor) -> None:
        """Before a chunk is denoised: if its prompt is new and the family wants it, re-caches the window."""
        if self._recache_frames and self._switched(context):
            self._recache(span, context)

    def _switched(self, context: Tensor) -> bool:
        return self._context is not None and context is not self._context

    def _recache(self, span: Span, context: Tensor) -> None:
        """LongLive's KV re-cache (arXiv 2509.22622, section 3.1).

        One bidirectional clean pass over the window before `span` under the new prompt. A global sink stays as it is,
        unless the window still begins with the clip; then the oldest frames of the pass are queries only.
        """
        window = self._recache_frames
        parts = self._before(span, window)
        if not parts:  # a rebuilt cache, and the frames before this switch are out of every head's sight
            return
        latent = torch.cat(parts, dim=2)[:, :, -window:]
        frames = latent.shape[2]
        first = span.start - frames
        keep_sink = self.setting.family.global_sink and first > 0
        kept = max(memory.sink_frames for row in self.cache.plan.memories for memory in row) if keep_sink else 0
        plan = self.cache.plan
        self._estimate(plan.repack_peak_bytes(self.cache.shape, plan))
        self.cache.clear(keep_sink)
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

    def commit(self, span: Span, latent: Tensor, context: Tensor) -> HeadScores | None:
        """Reads a finished chunk, latent (B, C, span.frames, h, w), into the cache.

        If the policy observes its heads in this chunk, it plans anew from their scores, which are returned.
        """
        observation = self._observation(span, context)
        passes = [
            Passed(part, _frames(latent, part, span.start), context, part.start == self._recached_at)
            for part in span.passes(self.setting.chunk_frames)
        ]
        for one in passes:
            self._run.on_step(one.span, len(self._run.schedule))
            clean_pass(self._run, self.cache, one.span, one.latent, context, observation)
        self._context = context
        if self._run.policy.may_observe_again or self._recache_frames:
            self._keep(passes, span.stop)
        return None if observation is None else self._replan(span, observation)

    def _observation(self, span: Span, context: Tensor) -> Observation | None:
        """An observation if the policy wants to score heads in this chunk, over a cache that is wide again."""
        policy, switched = self._run.policy, self._switched(context)
        if span.given or not policy.observes(span, self.setting, self.observed, switched):
            return None
        if self.cache.plan != self._widest:  # heads cannot be widened in place
            del self.cache  # first: the old and the new one need not fit together
            self.cache = self._run.new_cache(self._widest)
            self._estimate(self.cache.plan.resident_bytes(self.cache.shape))
            for passed in self._past:
                if passed.recached:
                    self._recache(passed.span, passed.context)
                clean_pass(self._run, self.cache, passed.span, passed.latent, passed.context)
            self.begin(span, context)
        return policy.observation(self.setting)

    def _replan(self, span: Span, observation: Observation) -> HeadScores:
        """Goes over to the plan that the policy makes of what was observed."""
        scores = observation.scores()
        plan = self._run.policy.replan(scores, self.setting)
        self._estimate(self.cache.plan.repack_peak_bytes(self.cache.shape, plan))
        self.cache.repack(plan)
        self.observed.append(span.chunk)
        return scores

    def _keep(self, passes: list[Passed], stop_frame: int) -> None:
        """Retains what rebuilding the widest cache, or re-caching, would have to read from here on."""
        # Copies: a part of a long given start must not keep all of it alive.
        self._past += [replace(one, latent=one.latent.clone()) for one in passes]
        sink, recent = reach(self._widest)
        recent = max(recent, self._recache_frames)
        self._past = [one for one in self._past if one.span.start < sink or one.span.stop > stop_frame - recent]

    def _estimate(self, peak_bytes: int) -> None:
        self.predicted_peak_bytes = max(self.predicted_peak_bytes, peak_bytes)


def reach(plan: HeadPlan) -> tuple[int, int]:
    """The most first frames and the most recent frames that any head keeps."""
    memories = [memory for row in plan.memories for memory in row]
    return max(memory.sink_frames for memory in memories), max(memory.recent_frames or 0 for memory in memories)


def clean_pass(
    run: Run, cache: KVCache, span: Span, latent: Tensor, context: Tensor, observation: Observation | None = None
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


def _frames(latents: Tensor, span: Span, first: int = 0) -> Tensor:
    """The span's frames of latents (B, C, T, h, w) that begin with latent frame `first`."""
    return latents[:, :, span.start - first : span.stop - first]
