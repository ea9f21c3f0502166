"""Teacher-forced policy error: the same finished latents, the same noise, two memories.

The primary measure of what a policy costs: no drift, no chaos, only what its heads no longer see.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import AttentionFn, attention
from .clip_memory import ClipMemory
from .geometry import LatentShape, Span
from .models.denoiser import Denoiser, Step
from .models.families import Family
from .noise import NoiseFn
from .policies.base import Policy
from .prompts import PromptSchedule
from .schedule import Schedule, add_noise


@dataclass(frozen=True, eq=False)
class ChunkError:
    """Relative L2 error of one chunk against the reference, averaged over the denoising steps.

    velocity: of the network's output. heads (layers, heads): of every head's attention output.
    """

    span: Span
    velocity: float
    heads: Tensor


@torch.inference_mode()
def teacher_forced(
    denoise: Denoiser,
    latents: Tensor,
    schedule: Schedule,
    prompts: PromptSchedule,
    policy: Policy,
    reference: Policy,
    family: Family,
    noise: NoiseFn,
    attend: AttentionFn = attention,
) -> Iterator[ChunkError]:
    """Errors of `policy` against `reference`, chunk by chunk, along finished latents (B, C, T, h, w).

    Head errors include what earlier layers pass on; the first layer's are the head's own.
    """
    shape = LatentShape(*latents.shape)
    memories = [ClipMemory(denoise, shape, schedule, prompts, p, family, noise, attend) for p in (reference, policy)]
    for span in memories[0].setting.spans:
        latent = latents[:, :, span.start : span.stop]
        velocity, heads = [], []
        for memory in memories:
            memory.begin(span)
        told_levels = memories[0].told_levels(span)
        for i, (sigma, told) in enumerate(zip(memories[0].levels(span), told_levels, strict=True)):
            x = add_noise(latent, noise(i, span), sigma)
            (x0, outputs), (other_x0, other_outputs) = (_step(memory, x, sigma, told, span) for memory in memories)
            velocity.append(float((other_x0 - x0).norm() / (x - x0).norm()))
            heads.append(_head_error(outputs, other_outputs))
        yield ChunkError(span, sum(velocity) / len(velocity), torch.stack(heads).mean(0))
        for memory in memories:
            memory.commit(span, latent)


def _step(memory: ClipMemory, x: Tensor, sigma: float, told: float, span: Span) -> tuple[Tensor, list[Tensor]]:
    outputs: list[Tensor] = []
    cache = memory.cache
    cache.begin(span.start, span.frames)
    cache.on_output = lambda layer, out: outputs.append(out)
    try:
        levels = torch.full((x.shape[0], span.frames), sigma)
        x0 = memory.denoise(x, levels, memory.prompts.at(span.start), Step(cache, told=told))
    finally:
        cache.on_output = None
    assert x0 is not None
    return x0, outputs


def _head_error(outputs: list[Tensor], others: list[Tensor]) -> Tensor:
    """(layers, heads) relative L2 between outputs (B, L, H, D) of every layer."""
    rows = [_norms(other - out) / _norms(out).clamp_min(1e-12) for out, other in zip(outputs, others, strict=True)]
    return torch.stack(rows).cpu()


def _norms(x: Tensor) -> Tensor:
    """L2 norm per head of x (B, L, H, D)."""
    return torch.linalg.vector_norm(x.float(), dim=(0, 1, 3))
