"""What a run keeps of its clip beside the video: its take, if it has one, and its latents in a file."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import folder_paths
import numpy as np
from torch import Tensor

from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.geometry import Span, pixel_frames
from ...dummyforcing_core.loops.run import ChunkResult, Run
from ...dummyforcing_core.loops.table import loop_of
from ...dummyforcing_core.models.finite import is_finite
from ...dummyforcing_core.rates import clock
from ...dummyforcing_core.takes.prompts import prompts_behind, prompts_of
from ...dummyforcing_core.takes.snapshot import with_snapshots
from ...dummyforcing_core.takes.take import Entry, Recording
from .clip_job import ClipJob
from .clip_output import LOOKBACK_FRAMES, ClipOutput
from .files import OutputFile
from .mapped import MappedLatents
from .prompt_words import PromptWords
from .takes import VIDEO, TakeAsked, run_take

Past = Callable[[Run, Iterable[tuple[Entry, Tensor]]], None]


@contextlib.contextmanager
def kept_clip(asked: TakeAsked, job: ClipJob, seed: int, words: PromptWords, prefix: str) -> Iterator["KeptClip"]:
    """The take of a run, open until the block ends."""
    with run_take(asked, job, seed, words, prefix) as take:
        yield KeptClip(take, asked, job, words)


class KeptClip:
    """Of one run.

    name        -- of its take, "" without one
    left_out    -- pixel frames of what was there, if the video holds only the new part
    calls_saved -- of the model, by what was there
    latents     -- where the whole clip's go; None without a take: they stay in memory
    conditions  -- lines of the report
    """

    def __init__(self, take: Recording | None, asked: TakeAsked, job: ClipJob, words: PromptWords):
        self._take, self._asked, self._job, self._words = take, asked, job, words
        self.name = "" if take is None else take.folder.name
        self.latents = None if take is None else MappedLatents(job.shape)
        self._there, self._frames = (0, 0) if take is None else (len(take.entries), take.frames)
        self.left_out = pixel_frames(self._frames) if asked.new_part and job.vae is not None else 0
        if self._there and self.left_out >= job.shown.frames:
            raise DummyForcingError(
                f"expected a new part to make, got the take {self.name}, of which all is there; make the clip longer, "
                "or take the whole clip as the video"
            )

    @property
    def calls_saved(self) -> int:
        if not self._there:
            return 0
        job, given = self._job, 0 if self._job.start is None else self._job.start.shape[2]
        calls = loop_of(job.family).model_calls(job.family, job.schedule, self._frames, min(given, self._frames))
        return max(calls - self._there, 0)

    @property
    def conditions(self) -> dict[str, str]:
        if self._take is None:
            return {}
        behind = f", gone on behind {self._there} chunks" if self._there else ""
        shown = f"video: from {clock(float(self.left_out / self._job.fps))} on" if self.left_out else ""
        return {"take": ", ".join([f"{self.name}{behind}", *([shown] if shown else [])])}

    def taken_up(self, run: Run, past: Past) -> Run:
        """The run behind what is there, of which `past` is told."""
        if self._take is None:
            return run
        run = with_snapshots(run, self._take.folder, self._asked.snapshot_every)
        if not self._there:
            return run
        device = run.denoise.geometry.device
        prompts = prompts_behind(self._take, run.prompts, self._text_at)
        run = replace(run, prompts=prompts, made=self._take.made(device))
        past(run, ((entry, self._take.latent(entry.span, device)) for entry in self._take.entries))
        return run

    def add(self, run: Run, chunk: ChunkResult) -> None:
        """A finished chunk; it is on the disk when this returns. One that cannot be used is refused a moment later."""
        if self._take is not None and is_finite(chunk.latent):
            self._take.add(chunk, prompts_of(run, chunk, self._text_at))

    def add_latents(self, latents: Tensor) -> None:
        """The clip's next latents, as a LATENT holds them."""
        if self.latents is not None:
            self.latents.add(latents)

    def add_picture(self, span: Span, frames: np.ndarray) -> None:
        """Frames (f, H, W, 3) uint8 of a finished chunk."""
        if self._take is not None and len(frames):
            self._take.add_picture(span.chunk, frames[-1])

    def decode(self, output: ClipOutput, span: Span, latents: Tensor) -> None:
        """A chunk of the past or the present, into the video or, as far as the decoder looks back, past it."""
        if not self.left_out or span.start >= self._frames:
            output.add(latents)
        elif loop_of(self._job.family).still_frames(self._job.family) or span.stop > self._frames - LOOKBACK_FRAMES:
            output.skip(latents)

    def written(self, files: Iterable[OutputFile]) -> None:
        """The videos of the run are whole."""
        if self._take is not None:
            root = Path(folder_paths.get_output_directory())
            self._take.note(VIDEO, {"files": [file.path.relative_to(root).as_posix() for file in files]})

    def ended(self, whole: bool) -> None:
        """The run has come to its end; not `whole`: because somebody asked for it."""
        if self._take is None:
            return
        if not whole:
            self._take.note("stopped", {"why": "ended early"})
        elif not self._take.manifest.finished:
            self._take.finish()

    def _text_at(self, frame: int) -> str:
        return self._words.at_frame(frame, self._job.fps)
