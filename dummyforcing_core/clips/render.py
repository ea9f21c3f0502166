"""One clip from a pipeline to files, chunk by chunk: video, contact sheet, latents, report."""

import contextlib
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from .. import __version__
from ..errors import DummyForcingError, OutputError
from ..files import output_error, write_atomic
from ..geometry import FPS, SPATIAL, TEMPORAL, LatentShape, chunk_spans, pixel_frames
from ..kv.plan import HeadPlan
from ..kv.scoring import HeadScores
from ..loops.latent_check import LatentCheck
from ..loops.run import ChunkResult, OnStep, Run
from ..loops.table import clip_kv_shape, sample
from ..models.stepcache import NO_STEPS, StepCache
from ..noise import SeededNoise
from ..policies.base import Policy
from ..prompts import PromptSchedule
from ..transfer import wait_for
from ..vae.streaming import to_uint8
from .contact_sheet import ContactSheet
from .memory_use import MemoryUse
from .pipeline import Pipeline
from .report import RunReport, ms_since
from .script import Script
from .video import VideoWriter


@dataclass(frozen=True)
class Clip:
    """What to make.

    start -- latents (1, 16, n, h, w) of a given image or clip, the first n latent frames
    crop  -- width and height that are shown of what is decoded
    """

    script: Script
    shape: LatentShape
    seed: int
    policy: Policy
    steps: StepCache = NO_STEPS
    start: Tensor | None = None
    crop: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the video, before it is enlarged."""
        return self.crop or (self.shape.width * SPATIAL, self.shape.height * SPATIAL)


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


@dataclass(frozen=True, eq=False)
class Rendered:
    """A finished clip: its report, the head plan it ended with, and the scores that plan was made from, if any."""

    report: RunReport
    plan: HeadPlan
    scores: HeadScores | None


def render(pipeline: Pipeline, clip: Clip, outputs: Outputs, on_step: OnStep = lambda span, step: None) -> Rendered:
    """Makes one clip.

    The video gets its own name when it is whole, then the other files are written. An error before leaves no file
    behind, one after leaves the video; KeyboardInterrupt (or anything else that is no Exception, raised in `on_step`)
    leaves the part.
    """
    prompts, began = prompt_schedule(pipeline, clip), time.perf_counter()
    record = _Record(pipeline, clip, len(prompts.entries) - 1, began)
    try:
        with _writer(pipeline, clip, outputs.part) as video, LatentCheck() as latents:
            decoder, stills = pipeline.new_decoder(), pipeline.kept_stills()
            run = replace(clip_run(pipeline, clip, prompts), on_step=on_step, still=stills)
            for chunk, diffuse_ms in _timed(sample(run), run.denoise.geometry.device):
                latents.add(chunk)
                decode_began = time.perf_counter()
                pixels = decoder.push(chunk.latent)
                if stills is not None:
                    stills.keep(pixels)
                frames = to_uint8(pixels, clip.size)[0]
                decode_ms = ms_since(decode_began)
                _write(video, frames, outputs)
                record.add(chunk, frames, diffuse_ms, decode_ms)
                if outputs.latents:
                    record.latents.append(chunk.latent.cpu())
            rest = decoder.flush()
            if rest.shape[2]:
                frames = to_uint8(rest, clip.size)[0]
                _write(video, frames, outputs)
                record.sheet.add(frames)
        _rename(outputs.part, outputs.video)
    except Exception:
        with contextlib.suppress(OSError):
            outputs.part.unlink(missing_ok=True)
        raise
    return record.written(outputs)


class _Record:
    """What a clip leaves beside its video: pictures, latents if they are wanted, figures."""

    def __init__(self, pipeline: Pipeline, clip: Clip, switches: int, began: float):
        self._clip, self._init_ms, self._began = clip, pipeline.init_ms, began
        self._report = RunReport(conditions(pipeline, clip), init_ms=pipeline.init_ms)
        shape = clip_kv_shape(pipeline.denoiser.geometry, clip.shape, pipeline.family, switches)
        self._memory = MemoryUse(shape)
        self.sheet = ContactSheet(pixel_frames(clip.shape.frames))
        self.latents: list[Tensor] = []

    def add(self, chunk: ChunkResult, frames: np.ndarray, diffuse_ms: float, decode_ms: float) -> None:
        """A chunk whose frames (f, H, W, 3) are in the video."""
        self.sheet.add(frames)
        self._memory.add(chunk)
        self._report.add_chunk(chunk, diffuse_ms, decode_ms, ms_since(self._began))

    def written(self, outputs: Outputs) -> Rendered:
        """Writes all that goes with a whole video."""
        try:
            if outputs.latents:
                save_latents(outputs.latents, torch.cat(self.latents, dim=2))
            if outputs.contact_sheet:
                self.sheet.save(outputs.contact_sheet, title=self._clip.script.title)
            self._report.total_ms = self._init_ms + ms_since(self._began)
            self._report.memory = self._memory.rows()
            if outputs.report:
                self._report.write(outputs.report)
        except DummyForcingError as error:
            raise OutputError(f"{error}; the video is whole and stays: {outputs.video}") from error
        assert self._memory.last is not None
        return Rendered(self._report, self._memory.last.plan, self._memory.scores)


def save_latents(path: Path, latents: Tensor) -> None:
    """Writes latents (B, 16, T, h, w) as the one tensor "latent" of a .safetensors file, whole or not at all."""
    write_atomic(path, save({"latent": latents.contiguous()}))


def clip_run(pipeline: Pipeline, clip: Clip, prompts: PromptSchedule) -> Run:
    """What a loop samples for this clip."""
    family, device = pipeline.family, pipeline.denoiser.geometry.device
    return Run(
        pipeline.denoiser,
        clip.shape,
        family.schedule,
        prompts,
        clip.policy,
        family,
        SeededNoise(clip.seed, clip.shape, family.chunk_frames, device),
        clip.start,
        pipeline.backend.run,
        clip.steps,
    )


def _timed(chunks: Iterator[ChunkResult], device: torch.device) -> Iterator[tuple[ChunkResult, float]]:
    """(chunk, ms) pairs; the device is waited for, so the time is the chunk's own."""
    while True:
        began = time.perf_counter()
        chunk = next(chunks, None)
        if chunk is None:
            return
        wait_for(device)
        yield chunk, ms_since(began)


def prompt_schedule(pipeline: Pipeline, clip: Clip) -> PromptSchedule:
    """The clip's prompts as features, blended if the script says so; equal prompts are one tensor: no switch."""
    contexts = {prompt: pipeline.encode(prompt) for prompt in clip.script.prompts}
    prompts = PromptSchedule(tuple((start, contexts[prompt]) for start, prompt in clip.script.lines))
    given = 0 if clip.start is None else clip.start.shape[2]
    starts = [span.start for span in chunk_spans(clip.shape.frames, pipeline.family.chunk_frames, given)]
    prompts.warn_unused(starts, TEMPORAL / FPS)
    return prompts.blended(clip.script.blend_chunks, starts)


def _writer(pipeline: Pipeline, clip: Clip, path: Path) -> VideoWriter:
    comment = f"{pipeline.name}, seed {clip.seed}, {clip.policy}"
    return VideoWriter(
        path,
        *clip.size,
        FPS,
        scale=pipeline.video_scale,
        metadata={"title": clip.script.title, "comment": comment},
    )


def _write(video: VideoWriter, frames: np.ndarray, outputs: Outputs) -> None:
    """Appends frames. A full disk is told of the clip: the part, whose frames the writer kept, will not stay."""
    try:
        video.write(frames)
    except OutputError as error:
        if isinstance(error.__cause__, OSError):
            raise output_error(outputs.video, error.__cause__) from error
        raise


def _rename(part: Path, video: Path) -> None:
    try:
        part.replace(video)
    except OSError as error:
        raise output_error(video, error) from error


def asked_conditions(clip: Clip) -> dict[str, Any]:
    """Of `conditions`, what is known without a model; where prompts switch (first latent frames) only if they do."""
    script = clip.script
    switches = [start for start, _ in script.lines[1:]]
    return {
        "prompt": script.title,
        **({"switches": switches} if switches else {}),
        **({"blend chunks": script.blend_chunks} if script.blend_chunks else {}),
        "size": "{}x{}".format(*clip.size),
        "frames": pixel_frames(clip.shape.frames),
        "seed": clip.seed,
    }


def conditions(pipeline: Pipeline, clip: Clip) -> dict[str, Any]:
    """What a report says of how a clip was made."""
    model = pipeline.denoiser.geometry
    return {
        "model": pipeline.name,
        "family": pipeline.family.name,
        "policy": str(clip.policy),
        "skipped steps": ", ".join(map(str, sorted(clip.steps.skipped))) or "none",
        **asked_conditions(clip),
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
