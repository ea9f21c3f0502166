"""The take that a clip is written to, or goes on from."""

import contextlib
import os
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import takewhile
from pathlib import Path
from typing import Any

from ..errors import DummyForcingError, OutputError, shown
from ..files import real_path
from ..geometry import LatentShape, Span, pixel_frames
from ..loops.table import loop_of
from ..models.families import Family
from ..ownership import NameTaken, owned
from ..rates import clock
from ..takes.need import Room, take_bytes
from ..takes.prompts import TextAt, check_texts
from ..takes.take import FREE, MANIFEST, NO_MEMORY, Manifest, Recording, Take, check_same, differing, events_of
from .script import Script

MACHINE = ("device", "attention", "versions")  # on another one bits may differ
SHOWN = ("codec", "vae")  # a take can be decoded again, in another way
OPEN = ("prompt", "switches", "frames", "length", "made")  # may go on in another way behind what is made


@dataclass(frozen=True)
class ClipShape:
    """Of a clip: the shape of its latents, how many pixel frames its video shows, and its chunks."""

    latents: LatentShape
    frames: int
    spans: Sequence[Span]


@dataclass(frozen=True)
class TakeAt:
    """Where a clip is kept, and the take beside it that it branches from, behind so many chunks.

    snapshot_every -- chunks from one snapshot of keys and values to the next; 0: none
    call -- how the clip was asked for, to be kept
    """

    folder: Path
    parent: Path | None = None
    chunks: int = 0
    snapshot_every: int = 0
    call: Mapping[str, Any] | None = None


def open_take(
    where: TakeAt, conditions: Mapping[str, Any], clip: ClipShape, text_at: TextAt, family: Family
) -> Recording:
    """A new take in a folder, or the one that is there, to go on behind its last whole chunk. The folder must be owned.

    conditions -- of a report

    A clip may be longer than the take, and its prompts others behind what is made. DummyForcingError that names the
    first setting or prompt in which it is another clip. Warns of what may differ, and of what was cut.
    """
    # Where stills are encoded, what is shown is what the clip is made from, too.
    left_out = (*MACHINE, *OPEN) if loop_of(family).still_frames(family) else (*MACHINE, *OPEN, *SHOWN)
    alike = {name: value for name, value in conditions.items() if name not in left_out}
    machine = {name: conditions.get(name) for name in MACHINE}
    told = {"conditions": dict(conditions), "by": {"process": os.getpid(), "on": platform.node()}}
    parent = _parent(where)
    manifest = Manifest(alike, machine, clip.latents, parent=parent, shown_frames=clip.frames, call=where.call)
    if os.path.lexists(where.folder / MANIFEST):
        take, event = _taken_up(where.folder, manifest, text_at, family), "taken up"
    else:
        take, event = _begun(where, manifest, text_at, family, _room(where.folder, clip, where.chunks, family)), "begun"
    room = _room(where.folder, clip, len(take.entries), family)
    take.watch(room)
    if event == "taken up" and len(take.entries) < len(clip.spans):
        room.state()
    take.note(event, told)
    return take


def _begun(where: TakeAt, manifest: Manifest, text_at: TextAt, family: Family, room: Room) -> Recording:
    """A new take; a branch of one that nobody prunes meanwhile."""
    with contextlib.ExitStack() as stack:
        if where.parent is not None:
            try:
                stack.enter_context(owned_take(where.parent))
            except NameTaken:
                raise
            except OutputError:  # where nothing can be written, nothing is pruned either
                pass
            _check_branch(where, manifest, text_at, family)
        room.state()  # what will not fit is not begun
        return Recording.begin(where.folder, manifest)


@contextlib.contextmanager
def owned_take(folder: Path) -> Iterator[None]:
    """Owns a take's folder while the block runs; a new one in which no take was begun is gone then.

    NameTaken says who has it, as far as its event log tells.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(_drop_empty, folder)  # behind the lock in it
        try:
            stack.enter_context(owned(folder))
        except NameTaken as error:
            who = _holder(folder)
            raise NameTaken(
                f"expected the take {shown(folder, 200)} to be free, got another run that is writing it{who}; wait for "
                "it, or choose another name"
            ) from error
        yield


def _drop_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _holder(folder: Path) -> str:
    """Who took it up last: ", process 12 on box, since 2026-11-27T21:03:04+00:00"."""
    for event in reversed(events_of(folder)):
        by = event.get("by")
        if isinstance(by, dict):
            return shown(f", process {by.get('process')} on {by.get('on')}, since {event.get('time')}", 160)
    return ""


def _taken_up(folder: Path, manifest: Manifest, text_at: TextAt, family: Family) -> Recording:
    """The take that is there, for a clip that may be longer and go on under other prompts."""
    take, parent = Recording(folder), manifest.parent
    check_same(take.manifest, manifest, folder)
    if parent is not None and take.manifest.parent != parent:
        raise DummyForcingError(
            f"expected the take {shown(folder, 200)} to branch from {parent[0]} behind chunk {parent[1] - 1}, got one "
            "that does not; leave --branch out to go on with it, or choose another folder"
        )
    longer = take.manifest.shape.frames < manifest.shape.frames
    chunks = shared_chunks(take, family) if longer else len(take.entries)
    check_texts(take, chunks, text_at)
    if longer:
        take.lengthen(manifest.shape, chunks)
    take.retell(manifest.shown_frames, manifest.call)
    if other := differing(take.manifest.machine, manifest.machine):
        warnings.warn(
            f"the take {folder} was made with another {' and other '.join(other)}: from here on its bits may differ "
            "from those of a clip that is made at once",
            stacklevel=4,
        )
    return take


def _room(folder: Path, clip: ClipShape, there: int, family: Family) -> Room:
    """For the chunks behind those that are there; all loops make float32 latents."""
    rest = clip.spans[there:]
    return Room(folder, take_bytes(clip.latents, rest, window_frames(family)), len(rest))


def _parent(where: TakeAt) -> tuple[str, int] | None:
    if where.parent is None:
        return None
    if real_path(where.parent).parent != real_path(where.folder).parent:
        raise DummyForcingError(
            f"expected a take beside {shown(where.parent, 200)}, from which it branches, got "
            f"{shown(where.folder, 200)}; nothing of the parent is copied: let both lie in one folder"
        )
    return real_path(where.parent).name, where.chunks


def _check_branch(where: TakeAt, manifest: Manifest, text_at: TextAt, family: Family) -> None:
    """DummyForcingError unless the clip's first chunks can be those of its parent. A line if their memory cannot be."""
    assert where.parent is not None
    parent = Take(where.parent)
    theirs, own = (
        {name: value for name, value in one.conditions.items() if name not in FREE}
        for one in (parent.manifest, manifest)
    )
    check_same(
        replace(parent.manifest, conditions=theirs, shape=manifest.shape),
        replace(manifest, conditions=own),
        parent.folder,
    )
    others = {*differing(parent.manifest.conditions, manifest.conditions)}.intersection(FREE).difference(NO_MEMORY)
    if others:
        warnings.warn(
            f"the branch has another {' and '.join(sorted(others))} than {parent.folder.name}: its heads read the "
            "shared chunks anew",
            stacklevel=4,
        )
    there = shared_chunks(parent, family)
    if not there:
        raise DummyForcingError(
            f"expected a take with a whole chunk to branch behind, got {shown(where.parent, 200)}, which has none; "
            "make it longer first"
        )
    if not 1 <= where.chunks <= there:
        raise DummyForcingError(
            f"expected to branch behind 1 to {there} whole chunks of {shown(where.parent, 200)}, got {where.chunks}; "
            "choose one of these"
        )
    check_texts(parent, where.chunks, text_at)


def prompt_at(script: Script, frame: int) -> str:
    """The prompt of the chunk that begins with this latent frame, in words."""
    return [prompt for start, prompt in script.lines if start <= frame][-1]


def window_frames(family: Family) -> int:
    """Latent frames that are begun and not finished behind a finished chunk: of a rolling window."""
    return loop_of(family).pass_frames(family) - family.chunk_frames


def shared_chunks(take: Take, family: Family) -> int:
    """Chunks that a longer clip begins with too: whole ones, and those behind which a rolling window was full."""
    window = window_frames(family) // family.chunk_frames

    def lasting(number: int) -> bool:
        entry = take.entries[number]
        return (entry.span.given or entry.span.frames == family.chunk_frames) and entry.window == window

    return len([*takewhile(lasting, range(len(take.entries)))])


def taken_up(take: Recording, fps: Fraction) -> str:
    """One line of where a clip goes on; "" for a new one."""
    if not take.entries:
        return ""
    count = len(take.entries)
    until = clock(float(pixel_frames(take.frames) / fps))
    there = f"{count} {'chunk is' if count == 1 else 'chunks are'} there already, up to {until}"
    return f"{there}: only the video is written again" if take.manifest.finished else there
