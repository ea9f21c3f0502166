"""What a clip remembers while it is made: the cache, what was observed, and what a second look would need.

Between chunks only: the clean pass commits a chunk; if the policy asked for it, heads are scored in that pass and the
cache is re-grouped by the new plan.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..geometry import LatentShape, Span, chunk_spans
from ..kv.attention import AttentionFn, attention
from ..kv.cache import KVCache
from ..kv.plan import HeadPlan, KVShape
from ..kv.scoring import HeadScores, Observation
from ..models.denoiser import Denoiser, Step
from ..models.families import Family
from ..noise import NoiseFn
from ..policies.base import Policy, Setting
from ..prompts import PromptSchedule
from ..schedule import Schedule, add_noise

Past = list[tuple[Span, Tensor]]
OnPass = Callable[[Span], None]


class ClipMemory:
    """The memory of one clip under one policy. Made by the rollout, dead when it ends."""

    def __init__(
        self,
        denoise: Denoiser,
        shape: LatentShape,
        schedule: Schedule,
        prompts: PromptSchedule,
        policy: Policy,
        family: Family,
        noise: NoiseFn,
        attend: AttentionFn = attention,
        given_frames: int = 0,
    ):
        self.denoise, self.schedule, self.prompts, self.policy, self.noise = denoise, schedule, prompts, policy, noise
        self.setting = setting_of(denoise, shape, family, given_frames)
        again = recaches(family, prompts)
        self._recache_frames = family.default_window_frames if again else 0
        self._empty = lambda: new_cache(denoise, shape, policy, family, attend, given_frames, again)
        self.cache = self._empty()
        self._widest = self.cache.plan
        self.observed: list[int] = []
        self.scores: HeadScores | None = None  # of the last observed chunk
        self.predicted_peak_bytes = self.cache.plan.resident_bytes(self.cache.shape)
        self._past: Past = []
        self._recached: set[int] = set()  # first frames of the chunks before which the window was read again
        self._prompt: Tensor | None = None

    def levels(self, span: Span) -> tuple[float, ...]:
        """Noise levels of a chunk's denoising steps."""
        return self.schedule.levels(first=span.start == self.setting.given_frames)

    def told_levels(self, span: Span) -> tuple[float, ...]:
        """What the network is told of them."""
        return self.schedule.told_levels(first=span.start == self.setting.given_frames)

    def begin(self, span: Span) -> None:
        """Before a chunk is denoised: if its prompt is new and the family wants it, re-caches the window."""
        if self._recache_frames and self._switched(span):
            self._recache(span)

    def _switched(self, span: Span) -> bool:
        return self._prompt is not None and self.prompts.at(span.start) is not self._prompt

    def _recache(self, span: Span) -> None:
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
        self._price(plan.repack_peak_bytes(self.cache.shape, plan))
        self.cache.clear(keep_sink)
        self.cache.begin(first, frames, key_frames=min(frames, window - kept))
        sigma = torch.zeros(latent.shape[0], frames)
        self.denoise(latent, sigma, self.prompts.at(span.start), Step(self.cache, output=False))
        self.cache.commit()
        self.cache.repack(plan)  # heads that were apart while their sinks stayed share buffers again
        self._recached.add(span.start)

    def _before(self, span: Span, frames: int) -> list[Tensor]:
        """Passes that hold the `frames` latent frames right before `span`, as far as they are there without a gap."""
        parts: list[Tensor] = []
        start = span.start
        for passed, latent in reversed(self._past):
            if passed.stop == start and start > span.start - frames:
                parts.insert(0, latent)
                start = passed.start
        return parts

    def commit(self, span: Span, latent: Tensor, on_pass: OnPass = lambda part: None) -> None:
        """Reads a finished chunk, latent (B, C, span.frames, h, w), into the cache; observes and plans anew if due.

        on_pass -- called before every clean pass; a long given start takes more than one
        """
        parts = [
            (part, latent[:, :, part.start - span.start : part.stop - span.start])
            for part in span.passes(self.setting.chunk_frames)
        ]
        observation = self._observation(span)
        for part, frames in parts:
            on_pass(part)
            self._clean_pass(part, frames, observation)
        if observation is not None:
            self.scores = observation.scores()
            plan = self.policy.replan(self.scores, self.setting)
            self._price(self.cache.plan.repack_peak_bytes(self.cache.shape, plan))
            self.cache.repack(plan)
            self.observed.append(span.chunk)
        self._prompt = self.prompts.at(span.start)
        if self.policy.may_observe_again or self._recache_frames:
            # Copies: a part of a long given start must not keep all of it alive.
            parts = [(part, frames.clone()) for part, frames in parts]
            self._past = retained(self._past + parts, span.stop, self._widest, self._recache_frames)

    def _observation(self, span: Span) -> Observation | None:
        """An observation if the policy wants to score heads in this chunk, over a cache that is wide again."""
        switched = self._switched(span)
        if span.given or not self.policy.observes(span, self.setting, self.observed, switched):
            return None
        if self.cache.plan != self._widest:  # heads cannot be widened in place
            del self.cache
            self.cache = self._empty()
            self._price(self.cache.plan.resident_bytes(self.cache.shape))
            for passed, latent in self._past:
                if passed.start in self._recached:
                    self._recache(passed)
                self._clean_pass(passed, latent, None)
            self.begin(span)
        return self.policy.observation(self.setting)

    def _price(self, peak_bytes: int) -> None:
        self.predicted_peak_bytes = max(self.predicted_peak_bytes, peak_bytes)

    def _clean_pass(self, span: Span, latent: Tensor, observation: Observation | None) -> None:
        context = self.prompts.at(0 if span.given else span.start)  # a given start is one chunk
        clean_pass(self.cache, self.denoise, latent, span, context, self.schedule, self.noise, observation)


def clean_pass(
    cache: KVCache,
    denoise: Denoiser,
    latent: Tensor,
    span: Span,
    context: Tensor,
    schedule: Schedule,
    noise: NoiseFn,
    observation: Observation | None = None,
) -> None:
    """Reads a finished chunk once at the context noise level and commits its keys and values.

    With an observation, the last layer's attention runs too, so that its heads are seen.
    """
    sigma = schedule.context_noise
    x = add_noise(latent, noise(len(schedule) + span.part, span), sigma) if sigma else latent
    cache.begin(span.start, span.frames, observation)
    step = Step(cache, output=observation is not None)
    denoise(x, torch.full((latent.shape[0], span.frames), sigma), context, step)
    cache.commit()


@torch.inference_mode()
def replay(
    cache: KVCache,
    denoise: Denoiser,
    latents: Tensor,
    prompts: PromptSchedule,
    schedule: Schedule,
    noise: NoiseFn,
    chunk_frames: int,
    given_frames: int = 0,
) -> None:
    """Rebuilds a cache from finished latents (B, C, T, h, w) by clean passes over the same chunks as the rollout's.

    The first `given_frames` were the clip's given start. Exact on one device, backend and version.
    """
    for span in chunk_spans(latents.shape[2], chunk_frames, given_frames):
        for part in span.passes(chunk_frames):
            frames = latents[:, :, part.start : part.stop]
            clean_pass(cache, denoise, frames, part, prompts.at(span.start), schedule, noise)


def new_cache(
    denoise: Denoiser,
    shape: LatentShape,
    policy: Policy,
    family: Family,
    attend: AttentionFn = attention,
    given_frames: int = 0,
    recache: bool = False,
) -> KVCache:
    """An empty cache for a clip, laid out by the policy's first plan."""
    model = denoise.geometry
    plan = policy.plan(setting_of(denoise, shape, family, given_frames))
    return KVCache(plan, kv_shape(denoise, shape, family, recache), model.device, model.dtype, attend)


def recaches(family: Family, prompts: PromptSchedule) -> bool:
    """Whether a clip's window will be read again under a new prompt."""
    return family.recache and len(prompts.entries) > 1


def setting_of(denoise: Denoiser, shape: LatentShape, family: Family, given_frames: int = 0) -> Setting:
    """What a policy may look at in this run."""
    model = denoise.geometry
    return Setting(model.layers, model.heads, family, family.chunk_frames, shape.frames, given_frames)


def kv_shape(denoise: Denoiser, shape: LatentShape, family: Family, recache: bool = False) -> KVShape:
    """What a clip's cache is priced by. A clip that re-caches has passes as long as the family's window."""
    model = denoise.geometry
    longest = family.default_window_frames if recache else family.chunk_frames
    return KVShape(
        batch=shape.batch,
        rows=shape.rows,
        cols=shape.cols,
        head_dim=model.head_dim,
        element_bytes=torch.finfo(model.dtype).bits // 8,
        clip_frames=shape.frames,
        pass_frames=min(longest, shape.frames),
    )


def retained(past: Past, stop_frame: int, widest: HeadPlan, recache_frames: int) -> Past:
    """The passes that rebuilding the widest cache, or re-caching, after `stop_frame` would have to read."""
    memories = [memory for row in widest.memories for memory in row]
    sink = max(memory.sink_frames for memory in memories)
    recent = max(*(memory.recent_frames or 0 for memory in memories), recache_frames)
    return [(span, latent) for span, latent in past if span.start < sink or span.stop > stop_frame - recent]
