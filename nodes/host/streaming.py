"""The Streaming Sampler's run: sample, decode, write and show chunk by chunk, and say where time and memory went."""

import contextlib
import logging
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from torch import Tensor

from ...dummyforcing_core.clips.bank_history import BankHistory
from ...dummyforcing_core.clips.memory_use import MemoryUse
from ...dummyforcing_core.clips.report import RunReport, ms_since
from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.geometry import TEMPORAL, LatentShape, Span, check_shown_size, made_size, pixel_frames
from ...dummyforcing_core.loops.run import ChunkResult, Run
from ...dummyforcing_core.loops.table import clip_kv_shape, loop_of
from ...dummyforcing_core.rates import OWN_RATE, frames_in, seconds_text, speed_note
from ...dummyforcing_core.transfer import wait_for
from .chunks import over_latent, stream
from .clip_job import ClipJob, policy_text
from .clip_output import ClipOutput
from .files import Destination, OutputFile
from .live import LiveView, live_view, remember_early_end
from .memory import check_main_memory
from .notes import notes_of, told
from .preview import preview_for
from .prompt_words import PromptWords, words_of
from .remembered import RememberedFrames
from .session import Session, Task, with_session
from .shown import Shown, shown_of, with_shown
from .stills import host_stills


def empty_clip(size: tuple[int, int], seconds: float, batch: int) -> dict[str, Any]:
    """A LATENT of zeros for a clip of this size and length, (batch, 16, frames, h, w) as 16 frames per second take."""
    check_shown_size(*size)
    frames = frames_in(seconds, OWN_RATE)
    made = LatentShape.of_pixels(*made_size(*size), frames, batch)
    check_main_memory(made)
    device = comfy.model_management.intermediate_device()
    samples = torch.zeros(made.batch, made.channels, made.frames, made.height, made.width, device=device)
    return with_shown(samples, Shown(size, frames, (), seconds))


@dataclass
class Sampled:
    """What a run leaves: its LATENT, its files, the report as text, the frames in the bank (B * N, H, W, 3) in [0, 1].

    Without a VAE there are no files and no frames.
    """

    latent: dict[str, Any]
    files: list[OutputFile]
    report: str
    remembered: Tensor | None


def sample_clip(job: ClipJob, seed: int, to: Destination) -> Sampled:
    """One clip, streamed."""
    began = time.perf_counter()
    logging.info("Dummy Forcing: predicted memory: %s", job.needs)
    known = notes_of(job, to.hidden.prompt, to.node)
    words = words_of(job.conditioning, to.hidden.prompt, to.node)
    report, chunks = RunReport(job.conditions(seed, words)), len(job.spans)
    with contextlib.ExitStack() as stack:
        about = {"memory": policy_text(job.policy).replace("_", " "), "prompt": words.texts[0]}
        view = stack.enter_context(live_view(to.node, chunks, job.calls, to.fps, **about))
        view.tell(known)
        notes = stack.enter_context(told())
        output = None
        if job.vae is not None:
            report.conditions["codec"] = str(to.encoding)
            output = stack.enter_context(ClipOutput(job.vae, job.shape, job.shown, to))
            view.part = output.files[0].shown_part
        watched = _Watched(job, words, output, view, report, began)
        latents = _sampled(job, seed, to.fps, watched)
        if output is not None:
            if not job.live:
                _decode(latents, output, watched)
            output.finish()
    if view.finish_asked.is_set() and len(report.chunks) < chunks:
        remember_early_end(seed, to.fps, to.prefix, to.encoding.codec, to.encoding.crf)
        there = min(report.pixel_frames, job.shown.frames)
        report.conditions.pop("made", None)
        report.conditions |= {"frames": f"{there} of {job.shown.frames}", "length": seconds_text(there, to.fps)}
        notes.append(f"ended early after {len(report.chunks)} of {chunks} chunks")
    report.total_ms = ms_since(began)
    table = report.table()
    logging.info("Dummy Forcing:\n%s", _text(notes, table))  # the log has the others already
    device = comfy.model_management.intermediate_device()
    made = with_shown(latents.to(device), job.shown)
    text = _text([*known, *notes], table)
    if output is None:
        return Sampled(made, [], text, None)
    return Sampled(made, output.files, text, watched.remembered.image().to(device))


def _text(notes: list[str], table: str) -> str:
    return "\n".join([*(f"note: {note}" for note in notes), table])


def _sampled(job: ClipJob, seed: int, fps: Fraction, watched: "_Watched") -> Tensor:
    """The clip's latents as a LATENT holds them; with a live VAE its pixels are written too."""

    def work(session: Session) -> Tensor:
        run = _run_of(job, session, watched)
        session.prompts.warn_unused([span.start for span in job.spans], float(TEMPORAL / fps))
        watched.begin(session, run)
        made = stream(session, run, watched.chunk)
        watched.report.memory, watched.report.bank = watched.memory.rows(), watched.bank.changes
        return made

    beside = (job.vae.patcher,) if job.live else ()
    needed = job.needs.kv + job.needs.decode
    task = Task(job.model, job.conditioning, job.shape, seed, job.sigmas, float(fps), needed, beside)
    return with_session(task, work)


def _run_of(job: ClipJob, session: Session, watched: "_Watched") -> Run:
    """The job as a run of the core, over the video that lies in its latent if there is one."""
    start = None if job.start is None else session.to_model(job.start.to(session.device, torch.float32))
    run = replace(session.run(job.shape), start=start, on_step=watched.step)
    if session.schedule.sigmas[0] < 1:
        below = session.to_model(job.canvas) if job.canvas.any() else job.canvas
        run = replace(run, noise=over_latent(session, job.shape, below))
    frames = loop_of(job.family).still_frames(job.family)
    if frames and job.live and watched.output is not None:
        still = host_stills(session, job.vae, frames)
        watched.output.on_pixels = still.keep
        run = replace(run, still=still)
    return run


class _Watched:
    """What happens around a run's chunks: time, pixels, report, the page."""

    memory: MemoryUse

    def __init__(
        self,
        job: ClipJob,
        words: PromptWords,
        output: ClipOutput | None,
        view: LiveView,
        report: RunReport,
        began: float,
    ):
        self.output, self.view, self.report = output, view, report
        self._job, self._words, self._began = job, words, began
        self.bank, self.remembered = BankHistory(job.fps, job.shown.frames), RememberedFrames(job.family)
        if output is not None:
            output.on_frames = self.remembered.add

    def begin(self, session: Session, run: Run) -> None:
        """The model is loaded; the first chunk comes next."""
        self.report.init_ms = ms_since(self._began)
        self.report.conditions["skipped steps"] = session.settings.steps_text(run.steps)
        switches = len(session.prompts.entries) - 1
        self.memory = MemoryUse(clip_kv_shape(run.denoise.geometry, run.shape, run.family, switches))
        self._session = session
        self._preview = preview_for(session.latent_format, run.shape.height, run.shape.width, session.device)
        self._chunk_began = time.perf_counter()

    def step(self, span: Span, step: int) -> None:
        """Before every model call."""
        self.view.step()

    def chunk(self, chunk: ChunkResult) -> bool:
        """After every chunk; True if the page asked to end here."""
        wait_for(self._session.device)
        diffuse_ms = ms_since(self._chunk_began)
        decode_ms, pixels = 0.0, np.empty((0, 2, 2, 3), np.uint8)
        if self.output is not None and self._job.live:
            pixels = self.output.add(self._session.to_latent(chunk.latent))[0]
            decode_ms = self.output.decode_ms[-1]
            self.view.kept |= len(pixels) > 0
        span = chunk.span
        if not len(pixels):
            pixels = self._preview(chunk.latent, pixel_frames(span.stop) - pixel_frames(span.start))
        self.report.add_chunk(chunk, diffuse_ms, decode_ms, ms_since(self._began))
        self.memory.add(chunk)
        self.bank.add(chunk)
        self.remembered.committed(chunk)
        self.view.about["remembers"] = self.bank.held
        self.view.about["prompt"] = self._words.at(self._session.prompts, span.start)
        self.view.chunk(chunk, pixels)
        self._chunk_began = time.perf_counter()
        return self.view.finish_asked.is_set()

    def decoded(self, number: int, decode_ms: float) -> None:
        """Chunk `number` was decoded after all were sampled."""
        self.report.chunks[number] = replace(self.report.chunks[number], decode_ms=decode_ms)
        if number == 0:
            self.report.first_frame_ms = ms_since(self._began)


def _decode(latents: Tensor, output: ClipOutput, watched: _Watched) -> None:
    """Decodes a sampled clip, a LATENT's samples, chunk by chunk."""
    chunks = list(watched.report.chunks)
    for number, timing in enumerate(chunks):
        comfy.model_management.throw_exception_if_processing_interrupted()
        watched.view.decoding(number + 1, len(chunks))
        pixels = output.add(latents[:, :, timing.start_frame : timing.start_frame + timing.frames])
        watched.view.kept |= pixels.shape[1] > 0
        watched.decoded(number, output.decode_ms[-1])


def decode_clip(latent: dict, vae: Any, to: Destination, piece_frames: int = 4) -> list[OutputFile]:
    """Decodes a LATENT to one video per batch item, `piece_frames` latent frames at a time."""
    samples = latent["samples"]
    if samples.ndim != 5:
        raise DummyForcingError(
            f"expected a video latent, got shape {tuple(samples.shape)}; connect the Streaming Sampler's"
        )
    shape, shown = LatentShape(*samples.shape), shown_of(latent)
    if line := speed_note(to.fps):
        logging.warning("Dummy Forcing: %s", line)
    bar = comfy.utils.ProgressBar(shape.frames, node_id=to.hidden.unique_id)
    with told() as notes, ClipOutput(vae, shape, shown, to) as output:
        for piece in samples.split(piece_frames, dim=2):
            comfy.model_management.throw_exception_if_processing_interrupted()
            output.add(piece)
            bar.update(piece.shape[2])
        output.finish()
    for note in notes:
        logging.warning("Dummy Forcing: %s", note)
    return output.files
