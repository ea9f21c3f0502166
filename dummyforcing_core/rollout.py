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
from .models.denoiser import Denoiser
from .models.families import Family
from .noise import NoiseFn
from .plan import HeadPlan, KVShape
from .policies.base import Policy, Setting
from .prompts import PromptSchedule
from .schedule import Schedule, add_noise


@dataclass(frozen=True)
class ChunkResult:
    """A finished chunk: where it lies, its latent (B, C, T, h, w), bit for bit what the clean pass read.

    window_full: the chunk was made with as much history as the plan will ever hold.
    history_bytes, resident_bytes: live and allocated K/V once the chunk is committed.
    """

    span: Span
    latent: Tensor
    window_full: bool
    history_bytes: int
    resident_bytes: int


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
    on_step: Callable[[Span, int], None] = lambda span, step: None,
    attend: AttentionFn = attention,
) -> Iterator[ChunkResult]:
    """Yields one ChunkResult per chunk.

    start   -- latents (B, C, n, h, w) of a given image or clip; chunk 0, primed by clean passes
    on_step -- called before every model call with the chunk and the step; raise in it to cancel
    """
    given = 0 if start is None else start.shape[2]
    spans = chunk_spans(shape.frames, family.chunk_frames, given)
    cache = new_cache(denoise, shape, policy, family, attend)
    for span in spans:
        full = cache.is_full
        if start is not None and span.given:
            latent = _checked_start(start, shape)
            replay(cache, denoise, latent, prompts, schedule, noise, family.chunk_frames, given)
        else:
            latent = _denoised(cache, denoise, span, shape, schedule, prompts.at(span.start), noise, on_step)
            on_step(span, len(schedule))
            clean_pass(cache, denoise, latent, span, prompts.at(span.start), schedule, noise)
        yield ChunkResult(span, latent, full, cache.history_bytes, cache.resident_bytes)


def _denoised(
    cache: KVCache,
    denoise: Denoiser,
    span: Span,
    shape: LatentShape,
    schedule: Schedule,
    context: Tensor,
    noise: NoiseFn,
    on_step: Callable[[Span, int], None],
) -> Tensor:
    cache.begin(span.start, span.frames)
    x = noise(0, span)
    for step, sigma in enumerate(schedule.sigmas):
        on_step(span, step)
        if step > 0:
            x = add_noise(x, noise(step, span), sigma)
        x0 = denoise(x, torch.full((shape.batch, span.frames), sigma), context, cache)
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
) -> None:
    """Reads a finished chunk once at the context noise level and commits its keys and values."""
    sigma = schedule.context_noise
    x = add_noise(latent, noise(len(schedule), span), sigma) if sigma else latent
    cache.begin(span.start, span.frames)
    denoise(x, torch.full((latent.shape[0], span.frames), sigma), context, cache, output=False)
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
    denoise: Denoiser, shape: LatentShape, policy: Policy, family: Family, attend: AttentionFn = attention
) -> KVCache:
    """An empty cache for a clip, laid out by the policy's first plan."""
    model = denoise.geometry
    plan = first_plan(denoise, shape, policy, family)
    return KVCache(plan, kv_shape(denoise, shape, family), model.device, model.dtype, attend)


def first_plan(denoise: Denoiser, shape: LatentShape, policy: Policy, family: Family) -> HeadPlan:
    """The head plan a clip starts with."""
    model = denoise.geometry
    return policy.plan(Setting(model.layers, model.heads, family, family.chunk_frames, shape.frames))


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


def _checked_start(start: Tensor, shape: LatentShape) -> Tensor:
    wanted = (shape.batch, shape.channels, shape.height, shape.width)
    if (*start.shape[:2], *start.shape[3:]) != wanted:
        raise OutputError(
            f"start latents of shape {tuple(start.shape)} came; this clip needs "
            f"({shape.batch}, {shape.channels}, frames, {shape.height}, {shape.width})"
        )
    return start
