"""The Streaming Sampler's run: sample, decode, write and show chunk by chunk, and say where time and memory went."""

import contextlib
import logging
import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from torch import Tensor

from ...dummyforcing_core.clips.memory_use import MemoryUse
from ...dummyforcing_core.clips.report import ChunkTiming, RunReport
from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.geometry import TEMPORAL, LatentShape, Span, pixel_frames
from ...dummyforcing_core.loops.rollout import ChunkResult
from ...dummyforcing_core.loops.table import price_shape, still_frames
from .clip_job import ClipJob, clip_job
from .clip_output import ClipOutput
from .files import OutputFile, workflow_tags
from .live import LiveView, live_view, remember_early_end
from .preview import preview_for
from .run import run_on
from .sampler import Clip, Given, Session, over_latent, stream
from .stills import host_stills


def empty_latent(batch: int, frames: int, height: int, width: int) -> dict[str, Tensor]:
    """A LATENT of zeros, (batch, 16, frames, height, width)."""
    device = comfy.model_management.intermediate_device()
    return {"samples": torch.zeros(batch, 16, frames, height, width, device=device)}


@dataclass
class Made:
    """What a run leaves: latents as a LATENT holds them, its files (none without a VAE), the report as text."""

    latents: Tensor
    files: list[OutputFile]
    report: str


def sample_clip(
    model: Any,
    conditioning: list,
    latent: dict,
    seed: int,
    fps: int,
    prefix: str,
    hidden: Any,
    vae: Any = None,
    start_latent: dict | None = None,
    sigmas: Tensor | None = None,
) -> Made:
    """One clip, streamed. `hidden` is the node's: its id, prompt and workflow."""
    began = time.perf_counter()
    job = clip_job(model, conditioning, latent, vae, start_latent, sigmas)
    logging.info("Dummy Forcing: predicted memory: %s", job.needs)
    report, chunks = RunReport(job.conditions(seed)), len(job.spans)
    with contextlib.ExitStack() as stack:
        view = stack.enter_context(live_view(hidden.unique_id, chunks, job.calls, fps))
        told = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        output = None
        if vae is not None:
            output = stack.enter_context(ClipOutput(vae, job.shape, fps, prefix, workflow_tags(hidden)))
        latents = _sampled(job, seed, fps, output, view, report, began)
        if output is not None:
            if job.live_vae is None:
                _decode(latents, output, report, view, began)
            output.finish()
        notes = [*job.notes, *(str(line.message) for line in told if issubclass(line.category, UserWarning))]
    if view.finish_asked.is_set() and len(report.chunks) < chunks:
        remember_early_end(seed, fps, prefix)
        report.conditions["frames"] = f"{report.pixel_frames} of {pixel_frames(job.shape.frames)}"
        notes.append(f"ended early after {len(report.chunks)} of {chunks} chunks")
    report.total_ms = _ms_since(began)
    text = "\n".join([*(f"note: {note}" for note in notes), report.table()])
    logging.info("Dummy Forcing:\n%s", text)
    latents = latents.to(comfy.model_management.intermediate_device())
    return Made(latents, output.files if output else [], text)


def _sampled(
    job: ClipJob, seed: int, fps: int, output: ClipOutput | None, view: LiveView, report: RunReport, began: float
) -> Tensor:
    """The clip's latents; with a live VAE its pixels are in `output` too."""
    live_output = None if job.live_vae is None else output

    def work(session: Session, host: Given) -> Tensor:
        report.init_ms = _ms_since(began)
        session.prompts.warn_unheard([span.start for span in job.spans], TEMPORAL / fps)
        run = _Run(session, job.shape, live_output, view, report, began)
        first = None if job.start is None else session.to_model(job.start.to(session.device, torch.float32))
        steps = session.step_cache
        report.conditions["skipped steps"] = ", ".join(map(str, sorted(steps.skipped))) or "none"
        noise = None
        if session.schedule.sigmas[0] < 1:
            below = session.to_model(job.canvas) if job.canvas.any() else job.canvas
            noise = over_latent(session, host, job.shape, below)
        still = None
        if still_frames(job.family) and live_output is not None:
            still = host_stills(session, job.live_vae, still_frames(job.family))
            live_output.on_pixels = still.keep
        made = stream(session, Clip(job.shape, first, noise, steps, run.step, run.chunk, still))
        report.memory = run.memory.rows()
        return made

    beside = [] if job.live_vae is None else [job.live_vae.patcher]
    needed = job.needs.kv + job.needs.decode
    return run_on(job.model, job.conditioning, job.shape, seed, work, job.sigmas, fps, needed, beside)


class _Run:
    """What happens around the rollout's chunks: time, pixels, report, the page."""

    def __init__(
        self,
        session: Session,
        shape: LatentShape,
        output: ClipOutput | None,
        view: LiveView,
        report: RunReport,
        began: float,
    ):
        self.memory = MemoryUse(price_shape(session.denoise, shape, session.family, len(session.prompts.entries) - 1))
        self._session, self._output, self._view, self._report, self._began = session, output, view, report, began
        self._preview = preview_for(session.latent_format, shape.height, shape.width, session.device)
        self._chunk_began = time.perf_counter()

    def step(self, span: Span, step: int) -> None:
        """Before every model call."""
        self._view.step()

    def chunk(self, chunk: ChunkResult) -> bool:
        """After every chunk; True if the page asked to end here."""
        _check_finite(chunk)
        device = self._session.device
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        diffuse_ms = _ms_since(self._chunk_began)
        decode_ms, pixels = 0.0, np.empty((0, 2, 2, 3), np.uint8)
        if self._output is not None:
            pixels = self._output.add(self._session.to_latent(chunk.latent))[0]
            decode_ms = self._output.decode_ms[-1]
            self._view.kept |= len(pixels) > 0
        span = chunk.span
        if not len(pixels):
            pixels = self._preview(chunk.latent, pixel_frames(span.stop) - pixel_frames(span.start))
        self._report.first_frame_ms = self._report.first_frame_ms or _ms_since(self._began)
        self._report.chunks.append(
            ChunkTiming(span.chunk, span.start, span.frames, diffuse_ms, decode_ms, chunk.window_full)
        )
        self.memory.add(chunk)
        self._view.chunk(chunk, pixels)
        self._chunk_began = time.perf_counter()
        return self._view.finish_asked.is_set()


def _decode(latents: Tensor, output: ClipOutput, report: RunReport, view: LiveView, began: float) -> None:
    """Decodes a sampled clip, a LATENT's samples, chunk by chunk; the report gets the times."""
    for number, timing in enumerate(report.chunks):
        comfy.model_management.throw_exception_if_processing_interrupted()
        view.decoding(number + 1, len(report.chunks))
        pixels = output.add(latents[:, :, timing.start_frame : timing.start_frame + timing.frames])
        report.chunks[number] = replace(timing, decode_ms=output.decode_ms[-1])
        view.kept |= pixels.shape[1] > 0
        if number == 0:
            report.first_frame_ms = _ms_since(began)


def decode_clip(latent: dict, vae: Any, fps: int, prefix: str, hidden: Any, piece_frames: int = 4) -> list[OutputFile]:
    """Decodes a LATENT to one video per batch item, `piece_frames` latent frames at a time."""
    samples = latent["samples"]
    if samples.ndim != 5:
        raise DummyForcingError(f"a latent of shape {tuple(samples.shape)} came; connect a video latent")
    shape = LatentShape(*samples.shape)
    bar = comfy.utils.ProgressBar(shape.frames, node_id=hidden.unique_id)
    with ClipOutput(vae, shape, fps, prefix, workflow_tags(hidden)) as output:
        for piece in samples.split(piece_frames, dim=2):
            comfy.model_management.throw_exception_if_processing_interrupted()
            output.add(piece)
            bar.update(piece.shape[2])
        output.finish()
    return output.files


def _check_finite(chunk: ChunkResult) -> None:
    if not bool(chunk.latent.isfinite().all()):
        raise DummyForcingError(
            f"chunk {chunk.span.chunk + 1} came out as NaN or infinity; check that the checkpoint is of the family in "
            "the report, and try another weight_dtype"
        )


def _ms_since(began: float) -> float:
    return 1000 * (time.perf_counter() - began)
