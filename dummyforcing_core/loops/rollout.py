"""The loop over chunks: denoise a chunk in a few steps, commit its keys and values, go on.

Self-Forcing's inference (arXiv 2506.08009, algorithm 2) with the memory left to a policy. Usage:

    for chunk in rollout(Run(denoise, shape, Schedule.few_step(), prompts, Full(), family, noise)):
        decoder.push(chunk.latent)
"""

from collections.abc import Generator
from dataclasses import replace

import torch
from torch import Tensor

from ..geometry import Span
from ..kv.cache import KVCache, Observer, both
from ..models.denoiser import Step
from ..models.wan import Residual
from ..schedule import add_noise
from .clip_memory import ClipMemory
from .run import ChunkResult, Run


@torch.inference_mode()
def rollout(run: Run) -> Generator[ChunkResult, None, None]:
    """Yields one ChunkResult per chunk that is not made."""
    memory = ClipMemory(run)
    for span in run.spans:
        context = run.prompts.at(span.start)
        full = memory.cache.is_full
        memory.begin(span, context)  # a new prompt ends an episode, and the family may re-cache its window
        if run.is_made(span):
            latent = run.made.latent(span)
        elif run.start is not None and span.given:
            latent = run.start
        else:
            latent = denoised(run, memory.cache, span, context, observed=memory.observed)
        seen = memory.commit(span, latent, context)  # the clean pass; heads that were observed are re-grouped here
        if run.is_made(span):
            continue
        run.on_commit(span, latent, memory.cache)
        result = ChunkResult.of(memory.cache, span, latent, full, memory.predicted_peak_bytes, seen)
        yield replace(result, log=memory.log)


def denoised(
    run: Run,
    cache: KVCache,
    span: Span,
    context: Tensor,
    position: int | None = None,
    observed: tuple[int, Observer] | None = None,
) -> Tensor:
    """A chunk (B, C, span.frames, h, w) out of noise, read against the history in `cache`, which stays as it is.

    position -- of the chunk's first frame, where that is not its place in the clip
    observed -- a step, the last one if there is none such, and who watches it; it runs even if step caching would skip
    it
    """
    levels = run.levels(span)
    last = len(levels) - 1
    # A first chunk with noise levels of its own skips no step: the steps to skip were chosen for the others.
    residual = Residual() if run.steps.skipped and levels is run.schedule.sigmas else None
    x = run.noise(0, span)
    for i, (sigma, timestep) in enumerate(zip(levels, run.timesteps(span), strict=True)):
        run.on_step(span, i)
        observer = observed[1] if observed is not None and i == min(observed[0], last) else None
        cache.begin(span.start if position is None else position, span.frames, both(run.watch(span, i), observer))
        if i > 0:
            x = add_noise(x, run.noise(i, span), sigma)
        if residual is not None:
            residual.reuse = i in run.steps.skipped and observer is None
        per_frame = torch.full((run.shape.batch, span.frames), sigma)
        x0 = run.denoise(x, per_frame, context, Step(cache, residual=residual, timestep=timestep))
        assert x0 is not None  # only a pass whose output is not read has none
        x = x0
    return x
