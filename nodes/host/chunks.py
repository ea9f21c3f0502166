"""A session's run, chunk by chunk: cancel, memory, and where the latents go."""

import logging
from collections.abc import Callable
from dataclasses import replace

import comfy.model_management
import torch
from torch import Tensor

from ...dummyforcing_core.geometry import LatentShape, Span
from ...dummyforcing_core.loops.latent_check import LatentCheck
from ...dummyforcing_core.loops.run import ChunkResult, Run
from ...dummyforcing_core.loops.table import loop_of, sample
from ...dummyforcing_core.noise import NoiseFn
from ...dummyforcing_core.transfer import to_device
from .denoiser import check_shape
from .memory import free_for, kv_bytes
from .session import ARSampler, Session
from .shown import extended, made_side

OnChunk = Callable[[ChunkResult], bool]


def stream(session: Session, run: Run, on_chunk: OnChunk = lambda chunk: False) -> Tensor:
    """Samples a clip: (B, C, T, h, w) in the model's space, on ComfyUI's intermediate device.

    on_chunk -- called with every finished chunk; True ends the clip there
    """
    where = comfy.model_management.intermediate_device()
    latents: list[Tensor] = []

    def keep(chunk: ChunkResult) -> bool:
        latents.append(chunk.latent.to(where))
        return on_chunk(chunk)

    each_chunk(session, run, keep)
    return torch.cat(latents, dim=2)


def each_chunk(session: Session, run: Run, on_chunk: OnChunk) -> None:
    """Samples a clip of which only `on_chunk` keeps anything; True from it ends the clip there."""

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
                if on_chunk(chunk):
                    break
    finally:
        chunks.close()  # the cache dies now, not when the traceback does


def full_clip_sampler() -> ARSampler:
    """The SAMPLER for SamplerCustomAdvanced: shape, first noise and start come with its latent and noise."""

    def work(session: Session) -> Tensor:
        for note in session.notes:
            logging.warning("Dummy Forcing: %s", note)
        asked = LatentShape(*session.noise.shape)
        shape = _made(session, asked)
        check_shape(shape, session.family)
        run = replace(session.run(shape), noise=_noise_of(session, shape))
        made = stream(session, run, _reporting(session, asked))
        return made[:, :, : asked.frames, : asked.height, : asked.width]

    return ARSampler(work)


def _made(session: Session, asked: LatentShape) -> LatentShape:
    """What is made for the latent that the guider was called with, and cut again: the host wants back its shape."""
    frames = loop_of(session.family).made_frames(session.family, session.schedule, asked.frames)
    return replace(asked, frames=frames, height=made_side(asked.height), width=made_side(asked.width))


def _noise_of(session: Session, shape: LatentShape) -> NoiseFn:
    """The guider's noise and latent start every chunk; ours renoises, and fills what is made beyond them."""
    latent = torch.zeros_like(session.noise) if session.latent is None else session.latent
    seeded, given = session.seeded_noise(shape), session.noise

    def first(span: Span) -> Tensor:
        there = given[:, :, span.start : span.stop]
        if there.shape[2:] == (span.frames, shape.height, shape.width):
            return there
        noise = seeded(0, span).to(given.dtype)
        noise[:, :, : there.shape[2], : there.shape[3], : there.shape[4]] = there
        return noise

    return over_latent(session, shape, extended(latent, shape), first)


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
            whole = chunk.span.stop >= shape.frames
            shown = torch.cat(made, dim=2)[:, :, : shape.frames] if whole else chunk.latent[:, :, -1:]
            shown = shown[..., : shape.height, : shape.width]
            step = min(chunk.span.stop, shape.frames) * session.steps // shape.frames - 1
            session.callback(step, shown, shown, session.steps)
        return False

    return on_chunk
