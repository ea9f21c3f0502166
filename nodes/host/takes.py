"""Takes of the output folder: their names, the one that a run is kept in, the one that was left unfinished."""

import contextlib
import itertools
import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfyui_version import __version__ as host_version

from ...dummyforcing_core.clips.render import device_name
from ...dummyforcing_core.clips.take_of import ClipShape, TakeAt, open_take, owned_take, taken_up
from ...dummyforcing_core.errors import DummyForcingError, OutputError, shown
from ...dummyforcing_core.files import make_folder, output_error
from ...dummyforcing_core.loops.table import loop_of
from ...dummyforcing_core.ownership import owned
from ...dummyforcing_core.takes.features import key_of
from ...dummyforcing_core.takes.take import EVENTS, MANIFEST, Recording, Take, glance
from .clip_job import ClipJob
from .denoiser import geometry_of
from .marks import model_mark, patch_mark, unchecked, weights_mark
from .prompt_words import PromptWords
from .settings import settings_of

TAKES = "takes"  # below the output folder
OFF, NEW, GO_ON, BRANCH = "off", "new", "go on", "branch"
WHOLE, NEW_PART = "whole clip", "new part"
VIDEO = "video"  # an event: files that a run wrote of it
ENDS = ("finished", "stopped", VIDEO)  # of the event log: whoever wrote it ended by itself
LONGEST_NAME = 120
LISTED = 8  # in an error
TAIL = 2**20  # bytes of the event log that its last line lies in

_settled: dict[tuple, tuple] = {}  # what a take was after a run -> its mark before
_made_now: set[str] = set()  # names of those that this process is making


@dataclass(frozen=True)
class TakeAsked:
    """What a Streaming Sampler is to do about takes.

    name       -- of the take that is gone on with or branched from; of a new one, its beginning
    from_chunk -- how many chunks a branch shares
    new_part   -- whether the video holds only what this run makes
    snapshot_every -- chunks from one snapshot of keys and values to the next; 0: none
    """

    mode: str = OFF
    name: str = ""
    from_chunk: int = 1
    new_part: bool = False
    snapshot_every: int = 0


NO_TAKE = TakeAsked()


def takes_folder() -> Path:
    """Where takes lie, one folder each."""
    return Path(folder_paths.get_output_directory()) / TAKES


def take_names() -> list[str]:
    """Of all takes, the newest first. Folders named as ours never are do not count: a page would read them as HTML."""
    with contextlib.suppress(OSError):
        found = [path.parent for path in takes_folder().glob(f"*/{MANIFEST}") if _is_plain(path.parent.name)]
        return [path.name for path in sorted(found, key=_changed, reverse=True)]
    return []


def take_folder(name: str) -> Path:
    """Of a take that is there; DummyForcingError names those that are."""
    plain = _plain(name)
    path = takes_folder() / plain
    if not os.path.lexists(path / MANIFEST):
        names = take_names()
        there = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
        raise DummyForcingError(
            f"expected the name of a take in output/{TAKES}, got {shown(repr(name))}; "
            + (f"there are: {there}" if names else "there is none on this machine: make one with take set to new")
        )
    return path


def read_take(name: str) -> Take:
    """A take by its name; the newest one for ""."""
    return Take(take_folder(name or _newest()))


def take_mark(mode: str | None, name: str | None) -> tuple:
    """Changes with a take that a node goes on with or branches from: its last answer no longer holds then.

    What a run itself has made of its take is no change: `settle` says so.
    """
    if mode in (OFF, NEW):  # the host shows None in place of a linked input
        return ()
    state = take_state(name)
    return _settled.get(state, state)


def settle(asked: TakeAsked, mark: tuple) -> None:
    """A run that began when `take_mark` was `mark` has ended well."""
    _settled[take_state(asked.name)] = mark


def take_state(name: str | None) -> tuple:
    """Changes whenever something is written of a take; the newest one for no name."""
    with contextlib.suppress(DummyForcingError, OSError):
        folder = take_folder(name or _newest())
        return folder.name, _changed(folder)
    return (name,)


def _newest() -> str:
    return next(iter(take_names()), "")


def unfinished() -> dict[str, Any] | None:
    """The newest take, if whoever made it died over it: {"name", "chunks", "frames", "of"}."""
    with contextlib.suppress(OSError, DummyForcingError, StopIteration):
        folder = takes_folder() / next(iter(take_names()))
        if folder.name in _made_now or _last_event(folder) in ENDS:
            return None
        with owned(folder):  # NameTaken: it is being made
            manifest, chunks = glance(folder)
        if not manifest.finished:
            return {"name": folder.name, "chunks": chunks}
    return None


def unfinished_note(asked: TakeAsked) -> list[str]:
    """A line about a take that was left unfinished, unless it is the one that is gone on with."""
    left = unfinished()
    if left is None or (asked.mode == GO_ON and asked.name in ("", left["name"])):
        return []
    return [
        f"take {left['name']} is unfinished, {left['chunks']} chunks of it are there: to go on with it, set take to "
        '"go on" and take_name to its name'
    ]


@contextlib.contextmanager
def run_take(asked: TakeAsked, job: ClipJob, seed: int, words: PromptWords, prefix: str) -> Iterator[Recording | None]:
    """The take that a run is kept in, owned until the block ends; None if none is asked for. Its log says how it ended.

    Warns of what goes on, and of what cannot be checked.
    """
    if asked.mode == OFF:
        yield None
        return
    where = _where(asked, prefix)
    with contextlib.ExitStack() as stack:
        stack.enter_context(owned_take(where.folder))
        take = _opened(where, job, seed, words)
        _made_now.add(take.folder.name)
        stack.callback(_made_now.discard, take.folder.name)
        try:
            yield take
        except comfy.model_management.InterruptProcessingException:
            _ended(take, "cancelled")
            raise
        except Exception as error:
            _ended(take, shown(error, 200))
            raise


def _ended(take: Recording, why: str) -> None:
    with contextlib.suppress(OutputError):  # a full disk: why it ended is told elsewhere
        take.note("stopped", {"why": why})


def _opened(where: TakeAt, job: ClipJob, seed: int, words: PromptWords) -> Recording:
    shape = ClipShape(job.shape, job.shown.frames, job.spans)
    take = open_take(where, _conditions(job, seed), shape, lambda frame: words.at_frame(frame, job.fps), job.family)
    take.check_run(job.spans, geometry_of(job.model))
    if there := taken_up(take, job.fps):
        warnings.warn(f"take {take.folder.name}: {there}", stacklevel=3)
        if unknown := unchecked(job.model):
            warnings.warn(
                f"take {take.folder.name}: nothing tells whether these are as they were, leave them so: "
                f"{shown(', '.join(unknown), 200)}",
                stacklevel=3,
            )
    return take


def _where(asked: TakeAsked, prefix: str) -> TakeAt:
    """A folder that is there, or a new one of its own."""
    if asked.mode == GO_ON:
        return TakeAt(take_folder(asked.name or _newest()))
    if asked.mode == BRANCH:
        parent = take_folder(asked.name or _newest())
        return TakeAt(_new_folder(f"{parent.name}_branch"[-LONGEST_NAME:]), parent, asked.from_chunk)
    base = asked.name or re.sub(r"%[^%]*%", "", prefix.replace("\\", "/").rpartition("/")[2]).strip("_ .") or "take"
    return TakeAt(_new_folder(_plain(base)))


def _new_folder(base: str) -> Path:
    """base_00001 or the first number that nobody has: made here, so that nobody else takes it."""
    make_folder(takes_folder())
    for number in itertools.count(1):
        path = takes_folder() / f"{base}_{number:05}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise output_error(path, error) from error
        break
    return path


def _is_plain(name: str) -> bool:
    odd = re.search(r'[*?<>:"|/\\\x00-\x1f\x7f]', name)
    return not odd and bool(name.strip(". ")) and name[0] != "." and len(os.fsencode(name)) <= LONGEST_NAME


def _plain(name: str) -> str:
    """A name that is one folder on every system; DummyForcingError for any other."""
    plain = name.strip()
    if not _is_plain(plain):
        raise DummyForcingError(
            f"expected a plain name for a take, got {shown(repr(name))}; write e.g. story_00001, without folders"
        )
    return plain


def _conditions(job: ClipJob, seed: int) -> dict[str, Any]:
    """What has to be the same to go on with a take, and what has to be for the same bits."""
    settings, model = settings_of(job.model), job.model
    stills = job.vae is not None and job.live and loop_of(job.family).still_frames(job.family)
    return {
        "model": model_mark(model),
        "patches": patch_mark(model),
        "other patches": unchecked(model),
        "family": job.family.name,
        "policy": str(job.policy),
        "skipped steps": str(settings.steps),
        "dtype": str(geometry_of(model).dtype).removeprefix("torch."),
        "size": "{}x{}".format(*job.shown.size),
        "fps": str(job.fps),
        "seed": seed,
        "steps": [float(sigma) for sigma in job.schedule.sigmas],
        "start": "" if job.start is None else key_of(job.start),
        "canvas": key_of(job.canvas) if job.canvas.any() else "",
        "vae": weights_mark(job.vae.first_stage_model) if stills else "",
        "device": device_name(model.load_device),
        "attention": getattr(optimized_attention, "__name__", "unknown"),
        "versions": {"torch": torch.__version__, "comfyui": host_version},
    }


def _last_event(folder: Path) -> str:
    path = folder / EVENTS
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL, 0))
        lines = file.read().splitlines()
    try:
        return str(json.loads(lines[-1])["event"])
    except (ValueError, IndexError, KeyError, TypeError, RecursionError):
        return ""


def _changed(folder: Path) -> float:
    """When something was last written of a take."""
    return max((path.stat().st_mtime for path in folder.iterdir() if path.is_file()), default=0.0)
