"""The loop over chunks: denoise a chunk in a few steps, commit its keys and values, go on.

Self-Forcing's inference (arXiv 2506.08009, algorithm 2) with the memory left to a policy. Usage:

    for chunk in rollout(denoise, shape, Schedule.few_step(), prompts, Full(), family, noise):
        decoder.push(chunk.latent)
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import OutputError
from ..geometry import LatentShape, Span
from ..kv.attention import AttentionFn, attention
from ..kv.cache import KVCache, Observer
from ..kv.plan import HeadPlan
from ..kv.scoring import HeadScores
from ..models.denoiser import Denoiser, Step
from ..models.families import Family
from ..models.stepcache import NO_STEPS, StepCache
from ..models.wan import Residual
from ..noise import NoiseFn
from ..policies.base import Policy
from ..prompts import PromptSchedule
from ..schedule import Schedule, add_noise
from .clip_memory import ClipMemory

OnStep = Callable[[Span, int], None]
Watch = Callable[[Span, int], Observer | None]


@dataclass(frozen=True)
class ChunkResult:
    """A finished chunk: where it lies, its latent (B, C, T, h, w), bit for bit what the clean pass read.

    plan: the head plan from here on; scores: what it was made from, if heads were observed in this chunk.
    window_full: the chunk was made with as much history as its plan ever holds.
    history_bytes, resident_bytes, peak_bytes: K/V live and allocated once the chunk is committed, and the most that
    was allocated on the way; predicted_...: what the plan, or for the peak the plans so far, priced that at.
    """

    span: Span
    latent: Tensor
    plan: HeadPlan
    window_full: bool
    history_bytes: int
    resident_bytes: int
    peak_bytes: int
    predicted_history_bytes: int
    predicted_resident_bytes: int
    predicted_peak_bytes: int
    scores: HeadScores | None = None

    @classmethod
    def of(
        cls,
        cache: KVCache,
        span: Span,
        latent: Tensor,
        window_full: bool,
        predicted_peak_bytes: int,
        scores: HeadScores | None,
    ) -> "ChunkResult":
        """A chunk that was made with a cache and is committed to it."""
        plan, shape = cache.plan, cache.shape
        return cls(
            span,
            latent,
            plan,
            window_full,
            cache.history_bytes,
            cache.resident_bytes,
            cache.take_peak_bytes(),
            plan.history_bytes(shape, cache.committed_frames),
            plan.resident_bytes(shape),
            predicted_peak_bytes,
            scores,
        )


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
    steps: StepCache = NO_STEPS,
    watch: Watch = lambda span, step: None,
) -> Generator[ChunkResult, None, None]:
    """Yields one ChunkResult per chunk.

    start   -- latents (B, C, n, h, w) of a given image or clip; chunk 0, primed by clean passes
    on_step -- called before every model call with the chunk and the step; raise in it to cancel
    steps   -- denoising steps that reuse the last residual
    watch   -- may give an observer of a denoising step's attention
    """
    given = 0 if start is None else checked_start(start, shape).shape[2]
    memory = ClipMemory(denoise, shape, schedule, prompts, policy, family, noise, attend, given)
    for span in memory.setting.spans:
        full = memory.cache.is_full
        if start is not None and span.given:
            latent = start
        else:
            memory.begin(span)
            latent = _denoised(memory, span, shape, on_step, steps, watch)
        memory.commit(span, latent, lambda part: on_step(part, len(schedule)))
        scores = memory.scores if span.chunk in memory.observed else None
        yield ChunkResult.of(memory.cache, span, latent, full, memory.predicted_peak_bytes, scores)


def _denoised(
    memory: ClipMemory, span: Span, shape: LatentShape, on_step: OnStep, steps: StepCache, watch: Watch
) -> Tensor:
    noise, context = memory.noise, memory.prompts.at(span.start)
    levels = memory.levels(span)
    residual = Residual() if steps.skipped and levels is memory.schedule.sigmas else None
    x = noise(0, span)
    for i, (sigma, told) in enumerate(zip(levels, memory.told_levels(span), strict=True)):
        on_step(span, i)
        memory.cache.begin(span.start, span.frames, watch(span, i))
        if i > 0:
            x = add_noise(x, noise(i, span), sigma)
        if residual is not None:
            residual.reuse = i in steps.skipped
        per_frame = torch.full((shape.batch, span.frames), sigma)
        x0 = memory.denoise(x, per_frame, context, Step(memory.cache, residual=residual, told=told))
        assert x0 is not None
        x = x0
    return x


def checked_start(start: Tensor, shape: LatentShape) -> Tensor:
    """A given start; OutputError unless it is of the clip's size."""
    wanted = (shape.batch, shape.channels, shape.height, shape.width)
    if (*start.shape[:2], *start.shape[3:]) != wanted:
        raise OutputError(
            f"start latents of shape {tuple(start.shape)} came; this clip needs "
            f"({shape.batch}, {shape.channels}, frames, {shape.height}, {shape.width})"
        )
    return start
