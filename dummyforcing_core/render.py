"""One clip from a pipeline to files, chunk by chunk: video, contact sheet, latents, report."""

import contextlib
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from . import __version__
from .contact_sheet import ContactSheet
from .errors import OutputError
from .geometry import FPS, SPATIAL, LatentShape, Span, pixel_frames
from .noise import SeededNoise
from .pipeline import Pipeline
from .policies.base import Policy
from .prompts import PromptSchedule
from .report import ChunkTiming, RunReport
from .rollout import ChunkResult, first_plan, kv_shape, rollout
from .streaming import to_uint8
from .video import VideoWriter


@dataclass(frozen=True)
class Clip:
    """What to make. prompts: one for the whole clip, or one per chunk."""

    prompts: Sequence[str]
    shape: LatentShape
    seed: int
    policy: Policy

    @property
    def title(self) -> str:
        """The prompts in order, repeats left out."""
        return "  |  ".join(p for i, p in enumerate(self.prompts) if i == 0 or p != self.prompts[i - 1])


@dataclass(frozen=True)
class Outputs:
    """Where a clip's files go; None leaves one out."""

    video: Path
    contact_sheet: Path | None = None
    latents: Path | None = None
    report: Path | None = None

    @property
    def part(self) -> Path:
        """The video while it grows: playable at every moment, and all that an interrupted run leaves."""
        return self.video.with_name(f"{self.video.stem}.part{self.video.suffix}")


def render(
    pipeline: Pipeline,
    clip: Clip,
    outputs: Outputs,
    on_step: Callable[[Span, int], None] = lambda span, step: None,
) -> RunReport:
    """Makes one clip and returns its report.

    The video gets its own name when it is whole. An error leaves no file behind; KeyboardInterrupt (or anything else
    that is no Exception, raised in `on_step`) leaves the part.
    """
    began = time.perf_counter()
    report = RunReport(_conditions(pipeline, clip), init_ms=pipeline.init_ms)
    sheet = ContactSheet(pixel_frames(clip.shape.frames))
    latents: list[Tensor] = []
    peak = history = 0
    try:
        with _writer(pipeline, clip, outputs.part) as video:
            decoder = pipeline.new_decoder()
            for chunk, diffuse_ms in _timed_chunks(pipeline, clip, on_step):
                _check_finite(chunk)
                decode_began = time.perf_counter()
                frames = to_uint8(decoder.push(chunk.latent))[0]
                decode_ms = _ms_since(decode_began)
                video.write(frames)
                sheet.add(frames)
                report.first_frame_ms = report.first_frame_ms or _ms_since(began)
                span = chunk.span
                report.chunks.append(
                    ChunkTiming(span.chunk, span.start, span.frames, diffuse_ms, decode_ms, chunk.window_full)
                )
                peak, history = max(peak, chunk.resident_bytes), chunk.history_bytes
                if outputs.latents:
                    latents.append(chunk.latent.cpu())
            rest = decoder.flush()
            if rest.shape[2]:
                video.write(to_uint8(rest)[0])
                sheet.add(to_uint8(rest)[0])
        if outputs.latents:
            save_latents(outputs.latents, torch.cat(latents, dim=2))
        if outputs.contact_sheet:
            sheet.save(outputs.contact_sheet, title=clip.title)
        report.total_ms = pipeline.init_ms + _ms_since(began)
        report.memory = _memory(pipeline, clip, history, peak)
        if outputs.report:
            report.write(outputs.report)
        outputs.part.replace(outputs.video)
    except Exception:
        with contextlib.suppress(OSError):
            outputs.part.unlink(missing_ok=True)
        raise
    return report


def save_latents(path: Path, latents: Tensor) -> None:
    """Writes latents (B, 16, T, h, w) as the one tensor "latent" of a .safetensors file, whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    try:
        save_file({"latent": latents.contiguous()}, unfinished)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error}; choose another folder or free some space") from error


def _timed_chunks(pipeline: Pipeline, clip: Clip, on_step: Callable[[Span, int], None]):
    """(chunk, ms) pairs; the device is waited for, so the time is the chunk's own."""
    contexts = {prompt: pipeline.encode(prompt) for prompt in clip.prompts}
    prompts = PromptSchedule.per_chunk([contexts[p] for p in clip.prompts], pipeline.family.chunk_frames)
    device = pipeline.denoiser.geometry.device
    chunks = rollout(
        pipeline.denoiser,
        clip.shape,
        pipeline.family.schedule,
        prompts,
        clip.policy,
        pipeline.family,
        SeededNoise(clip.seed, clip.shape, pipeline.family.chunk_frames, device),
        on_step=on_step,
        attend=pipeline.backend.run,
    )
    while True:
        began = time.perf_counter()
        chunk = next(chunks, None)
        if chunk is None:
            return
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        yield chunk, _ms_since(began)


def _check_finite(chunk: ChunkResult) -> None:
    if not bool(chunk.latent.isfinite().all()):
        raise OutputError(
            f"chunk {chunk.span.chunk} came out as NaN or infinity; try --dtype bf16 or fp32, and check that the "
            "checkpoint is intact and of the family you named"
        )


def _writer(pipeline: Pipeline, clip: Clip, path: Path) -> VideoWriter:
    comment = f"{pipeline.name}, seed {clip.seed}, {clip.policy}"
    return VideoWriter(
        path,
        clip.shape.width * SPATIAL,
        clip.shape.height * SPATIAL,
        FPS,
        scale=pipeline.video_scale,
        metadata={"title": clip.title, "comment": comment},
    )


def _memory(pipeline: Pipeline, clip: Clip, history: int, peak: int) -> dict:
    plan = first_plan(pipeline.denoiser, clip.shape, clip.policy, pipeline.family)
    shape = kv_shape(pipeline.denoiser, clip.shape, pipeline.family)
    cached = plan.cached_frames(clip.shape.frames)
    resident = plan.resident_bytes(shape)
    return {
        "history_bytes": {"predicted": plan.history_bytes(shape, clip.shape.frames), "actual": history},
        "resident_bytes": {"predicted": resident, "actual": peak},
        "peak_bytes": {"predicted": resident, "actual": peak},
        "cached_frames": {"mean": sum(cached) / len(cached), "max": max(cached)},
    }


def _conditions(pipeline: Pipeline, clip: Clip) -> dict:
    model = pipeline.denoiser.geometry
    return {
        "model": pipeline.name,
        "family": pipeline.family.name,
        "policy": str(clip.policy),
        "prompt": clip.title,
        "size": f"{clip.shape.width * SPATIAL}x{clip.shape.height * SPATIAL}",
        "frames": pixel_frames(clip.shape.frames),
        "seed": clip.seed,
        "device": device_name(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": pipeline.backend.title,
        "versions": {"dummyforcing": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def device_name(device: torch.device) -> str:
    """The device as a report names it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def _ms_since(began: float) -> float:
    return 1000 * (time.perf_counter() - began)
