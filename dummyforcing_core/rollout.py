"""The loop over chunks: denoise a chunk in a few steps, commit its keys and values, go on.

Self-Forcing's inference (arXiv 2506.08009, algorithm 2) with the memory left to a policy. Usage:

    for chunk in rollout(denoise, shape, Schedule.few_step(), prompts, Full(), family, noise):
        decoder.push(chunk.latent)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import AttentionFn, attention
from .cache import KVCache
from .errors import OutputError
from .geometry import LatentShape, Span, chunk_spans
from .models.denoiser import Denoiser, Step
from .models.families import Family
from .models.wan import Residual
from .noise import NoiseFn
from .plan import HeadPlan, KVShape
from .policies.base import Policy, Setting
from .prompts import PromptSchedule
from .schedule import Schedule, add_noise
from .scoring import Observation
from .stepcache import StepCache

OnStep = Callable[[Span, int], None]
Past = list[tuple[Span, Tensor]]


@dataclass(frozen=True)
class ChunkResult:
    """A finished chunk: where it lies, its latent (B, C, T, h, w), bit for bit what the clean pass read.

    plan: the head plan from here on.
    window_full: the chunk was made with as much history as its plan ever holds.
    history_bytes, resident_bytes, peak_bytes: K/V live and allocated once the chunk is committed, and the most that
    was allocated on the way.
    """

    span: Span
    latent: Tensor
    plan: HeadPlan
    window_full: bool
    history_bytes: int
    resident_bytes: int
    peak_bytes: int


@torch.inference_mode()
def rollout(
    denoise: Denoiser,
    shape: LatentShape,
    schedule: Schedule,
    prompts: PromptSchedule,
    policy: Policy,
    family: Family,
    noise: NoiseFn,
    start: Tensor | None = None,
    on_step: OnStep = lambda span, step: None,
    attend: AttentionFn = attention,
    steps: StepCache = StepCache(),  # noqa: B008  frozen
) -> Iterator[ChunkResult]:
    """Yields one ChunkResult per chunk.

    start   -- latents (B, C, n, h, w) of a given image or clip; chunk 0, primed by clean passes
    on_step -- called before every model call with the chunk and the step; raise in it to cancel
    steps   -- denoising steps that reuse the last residual
    """
    given = 0 if start is None else start.shape[2]
    setting = setting_of(denoise, shape, family, given)
    cache = new_cache(denoise, shape, policy, family, attend, given)
    observed: list[int] = []
    past: Past = []
    for span in setting.spans:
        full, context = cache.is_full, prompts.at(span.start)
        observation = None
        if start is not None and span.given:
            latent = _checked_start(start, shape)
            replay(cache, denoise, latent, prompts, schedule, noise, family.chunk_frames, given)
        else:
            latent = _denoised(cache, denoise, span, shape, schedule, context, noise, on_step, steps)
            on_step(span, len(schedule))
            switched = span.start > 0 and context is not prompts.at(span.start - 1)
            if policy.observes(span, setting, observed, switched):
                observation = policy.observation(setting)
                if observed:  # heads cannot be widened in place
                    del cache
                    cache = new_cache(denoise, shape, policy, family, attend, given)
                    for passed, old in past:
                        clean_pass(cache, denoise, old, passed, prompts.at(passed.start), schedule, noise)
            clean_pass(cache, denoise, latent, span, context, schedule, noise, observation)
        if observation is not None:
            cache.repack(policy.replan(observation.scores(), setting))
            observed.append(span.chunk)
        if policy.may_observe_again:
            past = _retained(past, span, latent, policy.plan(setting), family.chunk_frames)
        yield ChunkResult(
            span, latent, cache.plan, full, cache.history_bytes, cache.resident_bytes, cache.take_peak_bytes()
        )


def _denoised(
    cache: KVCache,
    denoise: Denoiser,
    span: Span,
    shape: LatentShape,
    schedule: Schedule,
    context: Tensor,
    noise: NoiseFn,
    on_step: OnStep,
    steps: StepCache,
) -> Tensor:
    cache.begin(span.start, span.frames)
    residual = Residual() if steps.skipped else None
    x = noise(0, span)
    for step, sigma in enumerate(schedule.sigmas):
        on_step(span, step)
        if step > 0:
            x = add_noise(x, noise(step, span), sigma)
        if residual is not None:
            residual.reuse = step in steps.skipped
        x0 = denoise(x, torch.full((shape.batch, span.frames), sigma), context, Step(cache, residual=residual))
        assert x0 is not None
        x = x0
    return x


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
    x = add_noise(latent, noise(len(schedule), span), sigma) if sigma else latent
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
    spans = chunk_spans(given_frames, chunk_frames) if given_frames else []
    spans += [span for span in chunk_spans(latents.shape[2], chunk_frames, given_frames) if not span.given]
    for span in spans:
        clean_pass(cache, denoise, latents[:, :, span.start : span.stop], span, prompts.at(span.start), schedule, noise)


def new_cache(
    denoise: Denoiser,
    shape: LatentShape,
    policy: Policy,
    family: Family,
    attend: AttentionFn = attention,
    given_frames: int = 0,
) -> KVCache:
    """An empty cache for a clip, laid out by the policy's first plan."""
    model = denoise.geometry
    plan = policy.plan(setting_of(denoise, shape, family, given_frames))
    return KVCache(plan, kv_shape(denoise, shape, family), model.device, model.dtype, attend)


def setting_of(denoise: Denoiser, shape: LatentShape, family: Family, given_frames: int = 0) -> Setting:
    """What a policy may look at in this run."""
    model = denoise.geometry
    return Setting(model.layers, model.heads, family, family.chunk_frames, shape.frames, given_frames)


def kv_shape(denoise: Denoiser, shape: LatentShape, family: Family) -> KVShape:
    """What a clip's cache is priced by."""
    model = denoise.geometry
    return KVShape(
        batch=shape.batch,
        rows=shape.rows,
        cols=shape.cols,
        head_dim=model.head_dim,
        element_bytes=torch.finfo(model.dtype).bits // 8,
        clip_frames=shape.frames,
        pass_frames=min(family.chunk_frames, shape.frames),
    )


def _retained(past: Past, span: Span, latent: Tensor, widest: HeadPlan, chunk_frames: int) -> Past:
    """The finished chunks that rebuilding the widest cache after `span` would have to read."""
    memories = [memory for row in widest.memories for memory in row]
    sink = max(memory.sink_frames for memory in memories)
    recent = max(memory.recent_frames or 0 for memory in memories)
    parts = [
        Span(span.chunk, first, min(first + chunk_frames, span.stop))
        for first in range(span.start, span.stop, chunk_frames)
    ]
    past = past + [(part, latent[:, :, part.start - span.start : part.stop - span.start]) for part in parts]
    return [(s, kept) for s, kept in past if s.start < sink or s.stop > span.stop - recent]


def _checked_start(start: Tensor, shape: LatentShape) -> Tensor:
    wanted = (shape.batch, shape.channels, shape.height, shape.width)
    if (*start.shape[:2], *start.shape[3:]) != wanted:
        raise OutputError(
            f"start latents of shape {tuple(start.shape)} came; this clip needs "
            f"({shape.batch}, {shape.channels}, frames, {shape.height}, {shape.width})"
        )
    return start
