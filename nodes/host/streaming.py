"""The Streaming Sampler's run: sample, decode, write and show chunk by chunk, and say where time and memory went."""

import contextlib
import itertools
import logging
import time
import warnings
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from torch import Tensor

from ...dummyforcing_core import __version__
from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.geometry import SPATIAL, LatentShape, Span, chunk_spans, pixel_frames, screen_size
from ...dummyforcing_core.loops import model_calls, price_shape, still_frames
from ...dummyforcing_core.memory_use import MemoryUse
from ...dummyforcing_core.policies import Policy
from ...dummyforcing_core.render import device_name
from ...dummyforcing_core.report import ChunkTiming, RunReport
from ...dummyforcing_core.rollout import ChunkResult
from .clip_output import ClipOutput
from .decoder import streams
from .files import OutputFile, workflow_tags
from .live import LiveView, early_ends, live_view
from .memory import check_fits, fits_together, needs_of
from .preview import preview_for
from .run import run_on
from .sampler import Clip, Given, Session, over_latent, schedule_from, stream
from .settings import default_policy, family_of, settings_of
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
    canvas = latent["samples"]
    if canvas.ndim != 5 or latent.get("noise_mask") is not None:
        raise DummyForcingError(
            f"a latent of shape {tuple(canvas.shape)}{' with a noise mask' if 'noise_mask' in latent else ''} came; "
            "connect the empty video latent of Clip Size (batch, 16, frames, h, w), without a mask"
        )
    shape = LatentShape(*canvas.shape)
    start = None if start_latent is None else _checked_start(start_latent["samples"], shape)
    given = 0 if start is None else start.shape[2]
    family, known_from = family_of(model)
    settings = settings_of(model)
    policy = settings.policy or default_policy(family)
    notes = list(settings.notes)
    needs_with = partial(needs_of, model, shape, policy, family, given, len(conditioning) - 1)
    streaming_vae = vae if vae is not None and streams(vae) else None
    needs = needs_with(streaming_vae)
    if streaming_vae is not None and not still_frames(family) and not fits_together(model, streaming_vae, needs):
        notes.append(f"decoding waits for the last chunk: it does not fit beside the model ({needs})")
        streaming_vae, needs = None, needs_with(None)
    check_fits(model, needs, shape, policy, family)
    logging.info("Dummy Forcing: predicted memory: %s", needs)
    schedule = family.schedule if sigmas is None else schedule_from(sigmas, family.schedule)
    report = RunReport(
        {
            "family": f"{family.name} ({known_from})",
            "policy": policy_text(policy),
            "size": "{}x{}".format(*screen_size(shape.width * SPATIAL, shape.height * SPATIAL)),
            "frames": pixel_frames(shape.frames),
            "prompts": len(conditioning),
            "steps": ", ".join(f"{level:.3f}" for level in schedule.sigmas),
            "seed": seed,
            "predicted memory": str(needs),
            "device": device_name(model.load_device),
            "versions": {"dummyforcing": __version__, "torch": torch.__version__},
        }
    )
    chunks = len(chunk_spans(shape.frames, family.chunk_frames, given))
    calls = model_calls(family, schedule, shape.frames, given)

    with contextlib.ExitStack() as stack:
        view = stack.enter_context(live_view(hidden.unique_id, chunks, calls, fps))
        told = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        output = None
        if vae is not None:
            output = stack.enter_context(ClipOutput(vae, shape, fps, prefix, workflow_tags(hidden)))
        decodes_later = streaming_vae is None

        def work(session: Session, host: Given) -> Tensor:
            report.init_ms = 1000 * (time.perf_counter() - began)
            run = _Run(session, shape, None if decodes_later else output, view, report, began)
            first = None if start is None else session.to_model(start.to(session.device, torch.float32))
            steps = session.step_cache
            report.conditions["skipped steps"] = ", ".join(map(str, sorted(steps.skipped))) or "none"
            noise = None
            if session.schedule.sigmas[0] < 1:
                noise = over_latent(session, host, shape, session.to_model(canvas) if canvas.any() else canvas)
            still = None
            if still_frames(family) and streaming_vae is not None and output is not None:
                still = host_stills(session, streaming_vae, still_frames(family))
                output.on_pixels = still.keep
            made = stream(session, Clip(shape, first, noise, steps, run.step, run.chunk, still))
            report.memory = run.memory.rows()
            return made

        beside = [] if streaming_vae is None else [streaming_vae.patcher]
        latents = run_on(model, conditioning, shape, seed, work, sigmas, fps, needs.kv + needs.decode, beside)
        if output is not None:
            if decodes_later:
                _decode(latents, output, report, view, began)
            output.finish()
        notes += [str(warning.message) for warning in told if issubclass(warning.category, UserWarning)]
    if view.finish_asked.is_set() and len(report.chunks) < chunks:
        # The host shows fingerprint_inputs None in place of an input that is linked.
        for key in itertools.product((seed, None), (fps, None), (prefix, None)):
            early_ends[key] += 1
        report.conditions["frames"] = f"{report.pixel_frames} of {pixel_frames(shape.frames)}"
        notes.append(f"ended early after {len(report.chunks)} of {chunks} chunks")
    report.total_ms = 1000 * (time.perf_counter() - began)
    text = "\n".join([*(f"note: {note}" for note in notes), report.table()])
    logging.info("Dummy Forcing:\n%s", text)
    latents = latents.to(comfy.model_management.intermediate_device())
    return Made(latents, output.files if output else [], text)


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
        diffuse_ms = 1000 * (time.perf_counter() - self._chunk_began)
        decode_ms, pixels = 0.0, np.empty((0, 2, 2, 3), np.uint8)
        if self._output is not None:
            pixels = self._output.add(self._session.to_latent(chunk.latent))[0]
            decode_ms = self._output.decode_ms[-1]
            self._view.kept |= len(pixels) > 0
        span = chunk.span
        if not len(pixels):
            pixels = self._preview(chunk.latent, pixel_frames(span.stop) - pixel_frames(span.start))
        self._report.first_frame_ms = self._report.first_frame_ms or 1000 * (time.perf_counter() - self._began)
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
            report.first_frame_ms = 1000 * (time.perf_counter() - began)


def policy_text(policy: Policy) -> str:
    """A policy by name and what differs from its defaults."""
    changed = {
        field.name: getattr(policy, field.name)
        for field in fields(policy)  # type: ignore[arg-type]
        if getattr(policy, field.name) != field.default
    }
    return ", ".join([type(policy).__name__, *(f"{name} {value}" for name, value in changed.items())])


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


def _checked_start(start: Tensor, shape: LatentShape) -> Tensor:
    wanted = (shape.channels, shape.height, shape.width)
    if start.ndim != 5 or (start.shape[1], *start.shape[3:]) != wanted or start.shape[0] not in (1, shape.batch):
        raise DummyForcingError(
            f"a start_latent of shape {tuple(start.shape)} came; this clip needs ({shape.batch} or 1, "
            f"{shape.channels}, frames, {shape.height}, {shape.width}): scale the image to "
            f"{shape.width * SPATIAL}x{shape.height * SPATIAL} before encoding it"
        )
    if start.shape[2] >= shape.frames:
        raise DummyForcingError(
            f"the start has {start.shape[2]} latent frames, the clip {shape.frames} in all; make the clip longer"
        )
    return start.expand(shape.batch, -1, -1, -1, -1)


def _check_finite(chunk: ChunkResult) -> None:
    if not bool(chunk.latent.isfinite().all()):
        raise DummyForcingError(
            f"chunk {chunk.span.chunk + 1} came out as NaN or infinity; check that the checkpoint is of the family in "
            "the report, and try another weight_dtype"
        )
