"""The Streaming Sampler's run: sample, decode, write and show chunk by chunk, and say where time and memory went."""

import contextlib
import logging
import time
from collections.abc import Iterable
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
from ...dummyforcing_core.takes.take import Entry
from ...dummyforcing_core.transfer import wait_for
from .chunks import each_chunk, over_latent, stream
from .clip_job import ClipJob, policy_text
from .clip_output import ClipOutput
from .files import Destination, OutputFile
from .kept import KeptClip, kept_clip
from .live import LiveView, live_view, remember_early_end
from .memory import CANVAS, JOINED, check_main_memory
from .notes import notes_of, told
from .preview import preview_for
from .prompt_words import PromptWords, words_of
from .remembered import RememberedFrames
from .session import Session, Task, with_session
from .shown import Shown, shown_of, with_shown
from .stills import host_stills
from .takes import NO_TAKE, OFF, TakeAsked, unfinished_note


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
    """What a run leaves: its LATENT, its files, the report as text, the frames in the bank (B * N, H, W, 3) in [0, 1],
    the name of its take.

    Without a VAE there are no files and no frames, without a take no name.
    """

    latent: dict[str, Any]
    files: list[OutputFile]
    report: str
    remembered: Tensor | None
    take: str = ""


def sample_clip(job: ClipJob, seed: int, to: Destination, asked: TakeAsked = NO_TAKE) -> Sampled:
    """One clip, streamed; `asked`: the take that it is kept in, or goes on from."""
    began = time.perf_counter()
    check_main_memory(job.shape, JOINED if asked.mode == OFF else CANVAS)
    logging.info("Dummy Forcing: predicted memory: %s", job.needs)
    left = unfinished_note(asked)
    known = [*left, *notes_of(job, to.hidden.prompt, to.node)]
    words = words_of(job.conditioning, to.hidden.prompt, to.node)
    report, chunks = RunReport(job.conditions(seed, words)), len(job.spans)
    with contextlib.ExitStack() as stack:
        notes = stack.enter_context(told())
        kept = stack.enter_context(kept_clip(asked, job, seed, words, to.prefix))
        about = {"memory": policy_text(job.policy).replace("_", " "), "prompt": words.texts[0], "take": kept.name}
        view = stack.enter_context(live_view(to.node, chunks, job.calls - kept.calls_saved, to.fps, **about))
        view.tell(known)
        output = None
        if job.vae is not None:
            report.conditions["codec"] = str(to.encoding)
            output = stack.enter_context(ClipOutput(job.vae, job.shape, job.shown, to, kept.left_out))
            view.part = output.files[0].shown_part
        watched = _Watched(job, words, output, view, report, began, kept)
        latents = _sampled(job, seed, to.fps, watched)
        if output is not None:
            if not job.live:
                _decode(latents, output, watched)
            output.finish()
            kept.written(output.files)
        kept.ended(watched.done == chunks)
    report.conditions |= kept.conditions
    if watched.done < chunks:
        remember_early_end(seed, to.fps, to.prefix, to.encoding.codec, to.encoding.crf)
        there = min(pixel_frames(latents.shape[2]), job.shown.frames)
        report.conditions.pop("made", None)
        report.conditions |= {"frames": f"{there} of {job.shown.frames}", "length": seconds_text(there, to.fps)}
        notes.append(f"ended early after {watched.done} of {chunks} chunks")
    report.total_ms = ms_since(began)
    table = report.table()
    logging.info("Dummy Forcing:\n%s", _text(notes, table))  # the log has the others already
    device = comfy.model_management.intermediate_device()
    made = with_shown(latents.to(device), job.shown)
    text = _text([*known, *notes], table)
    if output is None:
        return Sampled(made, [], text, None, kept.name)
    return Sampled(made, output.files, text, watched.remembered.image().to(device), kept.name)


def _text(notes: list[str], table: str) -> str:
    return "\n".join([*(f"note: {note}" for note in notes), table])


def _sampled(job: ClipJob, seed: int, fps: Fraction, watched: "_Watched") -> Tensor:
    """The clip's latents as a LATENT holds them; with a live VAE its pixels are written too."""
    kept = watched.kept

    def work(session: Session) -> Tensor:
        run = _run_of(job, session, watched)
        session.prompts.warn_unused([span.start for span in job.spans], float(TEMPORAL / fps))
        watched.begin(session, run)
        run = kept.taken_up(run, watched.past)
        if kept.latents is None:
            made = stream(session, run, watched.chunk)
        else:
            made = session.noise  # the host makes it a LATENT, all of it at once: the clip's own lie in a file
            each_chunk(session, run, watched.chunk)
        watched.report.memory, watched.report.bank = watched.memory.rows(), watched.bank.changes
        return made

    beside = (job.vae.patcher,) if job.live else ()
    needed = job.needs.kv + job.needs.decode
    task = Task(job.model, job.conditioning, job.shape, seed, job.sigmas, float(fps), needed, beside)
    made = with_session(task, work)
    return made if kept.latents is None else kept.latents.whole()


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
    """What happens around a run's chunks: time, pixels, report, the page, the take."""

    memory: MemoryUse

    def __init__(
        self,
        job: ClipJob,
        words: PromptWords,
        output: ClipOutput | None,
        view: LiveView,
        report: RunReport,
        began: float,
        kept: KeptClip,
    ):
        self.output, self.view, self.report, self.kept = output, view, report, kept
        self.done = 0  # chunks of the clip
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
        self._session, self._run = session, run
        self._preview = preview_for(session.latent_format, run.shape.height, run.shape.width, session.device)
        self._chunk_began = time.perf_counter()

    def past(self, run: Run, entries: Iterable[tuple[Entry, Tensor]]) -> None:
        """Chunks of the take, with their latents: into the video, or out of it."""
        self._run = run
        self.remembered.skip(self.kept.left_out)
        for entry, latent in entries:
            comfy.model_management.throw_exception_if_processing_interrupted()
            shown = self._session.to_latent(latent)
            self.kept.add_latents(shown)
            if self.output is not None and self._job.live:
                self.kept.decode(self.output, entry.span, shown)
                self.view.kept |= not self.kept.left_out
            marks = entry.log.marked[-1] if entry.log.marked else ()
            self.remembered.committed(entry.span, entry.log.plan, marks)
            self.done = entry.span.chunk + 1
        self._chunk_began = time.perf_counter()

    @property
    def spans(self) -> list[Span]:
        """Of the clip's chunks."""
        return self._job.spans

    def step(self, span: Span, step: int) -> None:
        """Before every model call."""
        self.view.step()

    def chunk(self, chunk: ChunkResult) -> bool:
        """After every chunk; True if the page asked to end here."""
        wait_for(self._session.device)
        diffuse_ms = ms_since(self._chunk_began)
        self.kept.add(self._run, chunk)  # first: whatever fails from here on, the chunk is there
        shown = self._session.to_latent(chunk.latent)
        self.kept.add_latents(shown)
        decode_ms, pixels = 0.0, np.empty((0, 2, 2, 3), np.uint8)
        if self.output is not None and self._job.live:
            pixels = self.output.add(shown)[0]
            decode_ms = self.output.decode_ms[-1]
            self.view.kept |= len(pixels) > 0
        span = chunk.span
        if not len(pixels):
            pixels = self._preview(chunk.latent, pixel_frames(span.stop) - pixel_frames(span.start))
        self.kept.add_picture(span, pixels)
        self.report.add_chunk(chunk, diffuse_ms, decode_ms, ms_since(self._began))
        self.memory.add(chunk)
        self.bank.add(chunk)
        self.remembered.committed(span, chunk.plan, chunk.banked)
        self.view.about["remembers"] = self.bank.held
        self.view.about["prompt"] = self._words.at(self._session.prompts, span.start)
        self.view.chunk(chunk, pixels)
        self.done, self._chunk_began = span.chunk + 1, time.perf_counter()
        return self.view.finish_asked.is_set()

    def decoded(self, number: int, decode_ms: float) -> None:
        """The chunk `number` of those that this run made was decoded after all were sampled."""
        self.report.chunks[number] = replace(self.report.chunks[number], decode_ms=decode_ms)
        if number == 0:
            self.report.first_frame_ms = ms_since(self._began)


def _decode(latents: Tensor, output: ClipOutput, watched: _Watched) -> None:
    """Decodes a sampled clip, a LATENT's samples, chunk by chunk."""
    spans = watched.spans
    new = watched.done - len(watched.report.chunks)
    for span in spans[: watched.done]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        watched.view.decoding(span.chunk + 1, watched.done)
        watched.kept.decode(output, span, latents[:, :, span.start : span.stop])
        watched.view.kept |= output.frames > 0
        if span.chunk >= new:
            watched.decoded(span.chunk - new, output.decode_ms[-1])


def decode_clip(latent: dict, vae: Any, to: Destination, piece_frames: int = 4) -> list[OutputFile]:
    """Decodes a LATENT to one video per batch item, `piece_frames` latent frames at a time."""
    samples = latent["samples"]
    if samples.ndim != 5:
        raise DummyForcingError(
            f"expected a video latent, got shape {tuple(samples.shape)}; connect the Streaming Sampler's"
        )
    shape, pieces = LatentShape(*samples.shape), samples.split(piece_frames, dim=2)
    return decode_pieces(pieces, shape, shown_of(latent), vae, to)


def decode_pieces(
    pieces: Iterable[Tensor], shape: LatentShape, shown: Shown, vae: Any, to: Destination
) -> list[OutputFile]:
    """Decodes latents of `shape` that come piece by piece, as a LATENT holds them, to one video per batch item."""
    if line := speed_note(to.fps):
        logging.warning("Dummy Forcing: %s", line)
    bar = comfy.utils.ProgressBar(shape.frames, node_id=to.hidden.unique_id)
    with told() as notes, ClipOutput(vae, shape, shown, to) as output:
        for piece in pieces:
            comfy.model_management.throw_exception_if_processing_interrupted()
            output.add(piece)
            bar.update(piece.shape[2])
        output.finish()
    for note in notes:
        logging.warning("Dummy Forcing: %s", note)
    return output.files
