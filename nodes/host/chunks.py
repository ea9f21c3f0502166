"""A session's run, chunk by chunk: cancel, memory, and where the latents go."""

from collections.abc import Callable
from dataclasses import replace

import comfy.model_management
import torch
from torch import Tensor

from ...dummyforcing_core.geometry import LatentShape, Span
from ...dummyforcing_core.loops.latent_check import LatentCheck
from ...dummyforcing_core.loops.run import ChunkResult, Run
from ...dummyforcing_core.loops.table import sample
from ...dummyforcing_core.noise import NoiseFn
from ...dummyforcing_core.transfer import to_device
from .denoiser import check_shape
from .memory import free_for, kv_bytes
from .session import ARSampler, Session

OnChunk = Callable[[ChunkResult], bool]


def stream(session: Session, run: Run, on_chunk: OnChunk = lambda chunk: False) -> Tensor:
    """Samples a clip: (B, C, T, h, w) in the model's space, on ComfyUI's intermediate device.

    on_chunk -- called with every finished chunk; True ends the clip there
    """
    where = comfy.model_management.intermediate_device()
    latents: list[Tensor] = []

    def on_step(span: Span, step: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        run.on_step(span, step)

    switches = len(session.prompts.entries) - 1
    needed = kv_bytes(run.denoise.geometry, run.shape, run.policy, run.family, run.given_frames, switches)
    free_for(needed, session.device)
    chunks = sample(replace(run, on_step=on_step))
    try:
        with LatentCheck() as check:
            for chunk in chunks:
                check.add(chunk)
                latents.append(chunk.latent.to(where))
                if on_chunk(chunk):
                    break
    finally:
        chunks.close()  # the cache dies now, not when the traceback does
    return torch.cat(latents, dim=2)


def full_clip_sampler() -> ARSampler:
    """The SAMPLER for SamplerCustomAdvanced: shape, first noise and start come with its latent and noise."""

    def work(session: Session) -> Tensor:
        shape = LatentShape(*session.noise.shape)
        check_shape(shape, session.family)
        run = replace(session.run(shape), noise=_noise_of(session, shape))
        return stream(session, run, _reporting(session, shape))

    return ARSampler(work)


def _noise_of(session: Session, shape: LatentShape) -> NoiseFn:
    """The guider's noise and latent start every chunk; ours renoises."""
    latent = torch.zeros_like(session.noise) if session.latent is None else session.latent
    return over_latent(session, shape, latent, lambda span: session.noise[:, :, span.start : span.stop])


def over_latent(
    session: Session, shape: LatentShape, latent: Tensor, first: Callable[[Span], Tensor] | None = None
) -> NoiseFn:
    """Video to video: every chunk starts from `first` noise (None: ours) over the latent, as sigmas below 1 need it."""
    seeded = session.seeded_noise(shape)

    def noise(step: int, span: Span) -> Tensor:
        if step:
            return seeded(step, span)
        drawn = seeded(step, span) if first is None else first(span)
        return session.scaled(drawn, to_device(latent[:, :, span.start : span.stop].to(drawn.dtype), drawn.device))

    return noise


def _reporting(session: Session, shape: LatentShape) -> OnChunk:
    """Reports every chunk to ComfyUI: it previews the newest frame, and takes the last report for the whole clip."""
    where = comfy.model_management.intermediate_device()
    made: list[Tensor] = []

    def on_chunk(chunk: ChunkResult) -> bool:
        if session.callback is not None:
            made.append(chunk.latent.to(where))
            whole = chunk.span.stop == shape.frames
            shown = torch.cat(made, dim=2) if whole else chunk.latent[:, :, -1:]
            step = chunk.span.stop * session.steps // shape.frames - 1
            session.callback(step, shown, shown, session.steps)
        return False

    return on_chunk
