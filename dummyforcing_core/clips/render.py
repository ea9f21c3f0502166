"""One clip from a pipeline to files, chunk by chunk: video, contact sheet, latents, report."""

import contextlib
import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from .. import __version__
from ..errors import DummyForcingError, OutputError
from ..files import check_name, check_regular, is_device, make_folder, real_path, rename_whole, write_atomic
from ..geometry import SPATIAL, TEMPORAL, LatentShape, chunk_spans, pixel_frames
from ..kv.plan import HeadPlan
from ..loops.latent_check import LatentCheck
from ..loops.run import ChunkResult, OnStep, Run
from ..loops.table import clip_kv_shape, sample
from ..models.families import Family
from ..models.finite import is_finite
from ..models.stepcache import NO_STEPS, StepCache
from ..noise import SeededNoise
from ..ownership import owned
from ..policies.base import Policy, Seen
from ..prompts import PromptSchedule
from ..rates import OWN_RATE, rate_text, seconds_text
from ..takes.prompts import prompts_behind, prompts_of
from ..takes.snapshot import with_snapshots
from ..takes.take import Recording
from ..transfer import wait_for
from ..vae.streaming import to_uint8
from .bank_history import BankHistory
from .contact_sheet import ContactSheet
from .decode import video_tags
from .doubts import warn_doubts
from .encoding import DEFAULT_ENCODING, Encoding
from .memory_use import MemoryUse
from .pipeline import Pipeline
from .report import RunReport, ms_since
from .script import Script
from .take_of import ClipShape, TakeAt, open_take, owned_take, prompt_at, taken_up
from .video import VideoWriter


@dataclass(frozen=True)
class Clip:
    """What to make.

    start  -- latents (1, 16, n, h, w) of a given image or clip, the first n latent frames
    crop   -- width and height that are shown of what is decoded
    frames -- pixel frames that are shown of what is decoded; None: all. Latents are kept whole
    fps    -- of the video; motion is made for 16
    files  -- what else it is made with, by name, for the report
    encoding -- of the video: codec and quality
    """

    script: Script
    shape: LatentShape
    seed: int
    policy: Policy
    steps: StepCache = NO_STEPS
    start: Tensor | None = None
    crop: tuple[int, int] | None = None
    frames: int | None = None
    fps: Fraction = OWN_RATE
    files: Mapping[str, str] = field(default_factory=dict)
    encoding: Encoding = DEFAULT_ENCODING

    @property
    def shown_frames(self) -> int:
        """Pixel frames of the video."""
        made = pixel_frames(self.shape.frames)
        return made if self.frames is None else min(self.frames, made)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the video, before it is enlarged."""
        return self.crop or (self.shape.width * SPATIAL, self.shape.height * SPATIAL)


@dataclass(frozen=True)
class Outputs:
    """Where a clip's files go; None leaves one out. keep_unfinished: whether what was made before a failure stays.

    take -- where it is kept as a take, new or to go on with
    """

    video: Path
    contact_sheet: Path | None = None
    latents: Path | None = None
    report: Path | None = None
    keep_unfinished: bool = True
    take: TakeAt | None = None

    @property
    def part(self) -> Path:
        """The video while it grows, playable at every moment; a link's beside the file that it points to."""
        return part_of(real_path(self.video) if self.video.is_symlink() else self.video)

    @property
    def latents_part(self) -> Path | None:
        """Where latents of an unfinished clip go if those of another are there."""
        return self.latents and part_of(self.latents)

    @property
    def all(self) -> list[Path]:
        """Every file and folder that is written."""
        take = None if self.take is None else self.take.folder
        files = (self.video, self.part, self.contact_sheet, self.latents, self.latents_part, self.report, take)
        return [file for file in files if file is not None]

    def check(self) -> None:
        """OutputError if the video's name is too long, or it or its part would take the place of a device, a pipe or a
        link."""
        check_name(self.video)
        check_regular(self.video, self.part)
        if self.part.is_symlink():
            raise OutputError(f"expected a file to write, got {self.part}, which is a link; remove it")


def part_of(path: Path) -> Path:
    """The name of a file that is not whole yet."""
    return path.with_name(f"{path.stem}.part{path.suffix}")


@dataclass(frozen=True, eq=False)
class Rendered:
    """A finished clip: its report, the head plan it ended with, and the scores that plan was made from, if any."""

    report: RunReport
    plan: HeadPlan
    scores: Seen | None


def render(pipeline: Pipeline, clip: Clip, outputs: Outputs, on_step: OnStep = lambda span, step: None) -> Rendered:
    """Makes one clip.

    The video gets its own name when it is whole, then the other files are written. Whatever fails before, an
    interruption too, leaves the part, which plays, and the latents that were made, if they are wanted, and a warning
    names both. OutputError if another run writes one of these files.
    """
    outputs.check()
    prompts, began = prompt_schedule(pipeline, clip), time.perf_counter()
    run = replace(clip_run(pipeline, clip, prompts), on_step=on_step)
    if outputs.take is not None:
        make_folder(outputs.take.folder)
    with contextlib.ExitStack() as stack:
        if outputs.take is not None:
            stack.enter_context(owned_take(outputs.take.folder))
        stack.enter_context(owned(*outputs.all))
        take = _take(pipeline, clip, outputs.take)
        record = _Record(pipeline, clip, prompts, began, outputs.latents is not None, take)
        try:
            with _writer(pipeline, clip, outputs.part) as video, LatentCheck() as latents:
                if outputs.take is not None:
                    run = with_snapshots(run, outputs.take.folder, outputs.take.snapshot_every)
                _fill(video, record, latents, pipeline, run, clip)
            rename_whole(outputs.part, outputs.video)
        except BaseException:
            record.keep_unfinished(outputs)
            raise
        return record.written(outputs)


def _fill(
    video: VideoWriter, record: "_Record", latents: LatentCheck, pipeline: Pipeline, run: Run, clip: Clip
) -> None:
    """Samples, decodes and writes, chunk by chunk."""
    decoder, stills, device = pipeline.new_decoder(), pipeline.kept_stills(), run.denoise.geometry.device

    def decoded(latent: Tensor) -> np.ndarray:
        record.add_latent(latent)
        pixels = decoder.push(latent)
        if stills is not None:
            stills.keep(pixels)
        return _shown(clip, video, pixels)

    def write(frames: np.ndarray) -> None:
        video.write(frames)
        record.add_frames(frames)

    take, text_at = record.take, partial(prompt_at, clip.script)
    if take is not None:
        for entry in take.entries:
            write(frames := decoded(take.latent(entry.span, device)))
            # A run may have been killed behind the chunk and before its picture; a parent's are the parent's.
            if len(frames) and entry.file.parent == take.folder and take.picture(entry.span.chunk) is None:
                take.add_picture(entry.span.chunk, frames[-1])
        prompts = prompts_behind(take, run.prompts, text_at)
        run = replace(run, made=take.made(device), prompts=prompts)
    for chunk, diffuse_ms in _timed(sample(replace(run, still=stills)), device):
        latents.add(chunk)
        # First: whatever fails from here on, the chunk is there. One that cannot be used is refused a moment later.
        if take is not None and is_finite(chunk.latent):
            take.add(chunk, prompts_of(run, chunk, text_at))
        decode_began = time.perf_counter()
        frames = decoded(chunk.latent)
        decode_ms = ms_since(decode_began)
        write(frames)
        if take is not None and len(frames):
            take.add_picture(chunk.span.chunk, frames[-1])
        record.add(chunk, diffuse_ms, decode_ms)
    rest = decoder.flush()
    if rest.shape[2]:
        write(_shown(clip, video, rest))
    if take is not None and not take.manifest.finished:
        take.finish()


def _take(pipeline: Pipeline, clip: Clip, where: TakeAt | None) -> Recording | None:
    """The take that the clip is written to, if it is."""
    if where is None:
        return None
    given = 0 if clip.start is None else clip.start.shape[2]
    spans = chunk_spans(clip.shape.frames, pipeline.family.chunk_frames, given)
    shape, text_at = ClipShape(clip.shape, clip.shown_frames, spans), partial(prompt_at, clip.script)
    take = open_take(where, conditions(pipeline, clip), shape, text_at, pipeline.family)
    take.check_run(spans, pipeline.denoiser.geometry)
    if there := taken_up(take, clip.fps):
        warnings.warn(there, stacklevel=3)
    return take


class _Record:
    """What a clip leaves beside its video: pictures, latents if they are wanted, figures."""

    def __init__(
        self,
        pipeline: Pipeline,
        clip: Clip,
        prompts: PromptSchedule,
        began: float,
        keep_latents: bool,
        take: Recording | None,
    ):
        self._keep_latents, self.take = keep_latents, take
        self._clip, self._init_ms, self._began = clip, pipeline.init_ms, began
        kept = {} if take is None else {"take": str(take.folder), "chunks there": len(take.entries)}
        self._report = RunReport(conditions(pipeline, clip) | kept, init_ms=pipeline.init_ms)
        shape = clip_kv_shape(pipeline.denoiser.geometry, clip.shape, pipeline.family, len(prompts.entries) - 1)
        self._memory, self._bank = MemoryUse(shape), BankHistory(clip.fps, clip.shown_frames)
        self.sheet = ContactSheet(clip.shown_frames, fps=float(clip.fps))
        self.latents: list[Tensor] = []
        self.frames = 0  # in the video

    def add_latent(self, latent: Tensor) -> None:
        """A chunk (1, 16, t, h, w) that is finished, its pixels not yet."""
        if self._keep_latents:
            self.latents.append(latent.cpu())

    def add_frames(self, frames: np.ndarray) -> None:
        """Frames (f, H, W, 3) that are in the video."""
        self.sheet.add(frames)
        self.frames += len(frames)

    def add(self, chunk: ChunkResult, diffuse_ms: float, decode_ms: float) -> None:
        """A chunk whose frames are in the video."""
        self._memory.add(chunk)
        self._bank.add(chunk)
        self._report.add_chunk(chunk, diffuse_ms, decode_ms, ms_since(self._began))

    def keep_unfinished(self, outputs: Outputs) -> None:
        """What stays of a clip that was not finished, and a warning that names it."""
        if not outputs.keep_unfinished:
            with contextlib.suppress(OSError):
                outputs.part.unlink(missing_ok=True)
            return
        kept = []
        if self.take is not None:
            kept.append(f"{self.take.folder} holds {len(self.take.entries)} chunks, the same command goes on with them")
        if self.frames:  # else a part that is there is an earlier run's
            kept.append(f"what was finished, {self.frames} frames, plays in {outputs.part}")
        latents = [*takewhile(is_finite, self.latents)]  # the newest may not have been looked at
        if outputs.latents and outputs.latents_part and latents:
            there = outputs.latents.exists() and not is_device(outputs.latents)
            path = outputs.latents_part if there else outputs.latents
            try:
                save_latents(path, torch.cat(latents, dim=2))
                kept.append(f"its latents are in {path}, --start-latents goes on from them")
            except OutputError as error:
                kept.append(str(error))
        if kept:
            warnings.warn("; ".join(kept), stacklevel=2)

    def written(self, outputs: Outputs) -> Rendered:
        """Writes all that goes with a whole video."""
        try:
            if outputs.latents:
                save_latents(outputs.latents, torch.cat(self.latents, dim=2))
            if outputs.contact_sheet:
                self.sheet.save(outputs.contact_sheet, title=self._clip.script.title)
            self._report.total_ms = self._init_ms + ms_since(self._began)
            self._report.memory, self._report.bank = self._memory.rows(), self._bank.changes
            if outputs.report:
                self._report.write(outputs.report)
        except DummyForcingError as error:
            raise OutputError(f"{error}; the video is whole and stays: {outputs.video}") from error
        return Rendered(self._report, self._plan, self._memory.scores)

    @property
    def _plan(self) -> HeadPlan:
        if self._memory.last is not None:
            return self._memory.last.plan
        assert self.take is not None  # all of it was there
        return self.take.entries[-1].log.plan


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
    prompts.warn_unused(starts, float(TEMPORAL / clip.fps))
    warn_doubts(pipeline.family, len(contexts) > 1, clip.start)
    return prompts.blended(clip.script.blend_chunks, starts)


def _writer(pipeline: Pipeline, clip: Clip, path: Path) -> VideoWriter:
    return VideoWriter(
        path,
        *clip.size,
        clip.fps,
        clip.encoding,
        scale=pipeline.video_scale,
        metadata=video_tags(clip.script.title, pipeline.name, clip.seed, clip.policy),
    )


def _shown(clip: Clip, video: VideoWriter, pixels: Tensor) -> np.ndarray:
    """Of decoded pixels (1, 3, f, H, W) what the video shows, (f, H, W, 3) uint8: cut to its size and length."""
    return to_uint8(pixels, clip.size)[0][: clip.shown_frames - video.frames_written]


def script_conditions(script: Script) -> dict[str, Any]:
    """Prompts as a report has them; where they switch (first latent frames) only if they do."""
    switches = [start for start, _ in script.lines[1:]]
    return {
        "prompt": script.title,
        **({"switches": switches} if switches else {}),
        **({"blend chunks": script.blend_chunks} if script.blend_chunks else {}),
    }


def shown_conditions(size: tuple[int, int], frames: int, fps: Fraction) -> dict[str, Any]:
    """The video as a report has it."""
    return {"size": "{}x{}".format(*size), "frames": frames, "fps": rate_text(fps)}


def made_conditions(size: tuple[int, int], frames: int, fps: Fraction, shape: LatentShape) -> dict[str, str]:
    """How long a video of this size is, and what was made for it if that is more than it shows."""
    made_size, made_frames = (shape.width * SPATIAL, shape.height * SPATIAL), pixel_frames(shape.frames)
    length = {"length": seconds_text(frames, fps)}
    if (made_size, made_frames) == (size, frames):
        return length
    return length | {"made": "{}x{}, {} frames ({} latent)".format(*made_size, made_frames, shape.frames)}


def made_by(fingerprint: str, family: Family, policy: Policy, steps: StepCache, dtype: torch.dtype) -> dict[str, str]:
    """Of the model and its settings, what another clip in the same folder must share."""
    return {
        "fingerprint": fingerprint,
        "family": family.name,
        "policy": str(policy),
        "skipped steps": ", ".join(map(str, sorted(steps.skipped))) or "none",
        "dtype": str(dtype).removeprefix("torch."),
    }


def conditions(pipeline: Pipeline, clip: Clip) -> dict[str, Any]:
    """What a report says of how a clip was made."""
    model = pipeline.denoiser.geometry
    return {
        "model": pipeline.name,
        **made_by(pipeline.fingerprint, pipeline.family, clip.policy, clip.steps, model.dtype),
        **clip.files,
        **script_conditions(clip.script),
        **shown_conditions(clip.size, clip.shown_frames, clip.fps),
        "codec": str(clip.encoding),
        "seed": clip.seed,
        **made_conditions(clip.size, clip.shown_frames, clip.fps, clip.shape),
        "device": device_name(model.device),
        "attention": pipeline.backend.title,
        "versions": {"dummyforcing": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def device_name(device: torch.device) -> str:
    """The device as a report names it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
