"""A take: one clip as a folder, from which it can be gone on with, bit for bit.

    take.json       format, version, how the clip is made, whether it is finished: replaced whole
    latents.take    one record per chunk (records.py): its latent, what was decided of memory in it, and what latents
                    cannot rebuild: an unfinished rolling window, stills that were encoded
    prompts.take    the text features that chunks are made with, each once
    pictures/       a small picture per chunk
    kv.take         keys and values behind a chunk, if they are wanted (snapshot.py)
    events.jsonl    what happened, a line each, for people

A chunk counts once its record is on the disk. Whoever writes owns the folder (ownership.py).
"""

import contextlib
import json
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import DummyForcingError, OutputError, PlanError, shown
from ..files import json_text, make_folder, output_error, real_path, write_atomic
from ..geometry import LatentShape, Span
from ..kv.plan import HeadPlan
from ..kv.scoring import HeadScores
from ..loops.run import ChunkResult, Made, MemoryLog, StoredKV
from ..models.denoiser import ModelGeometry
from ..reading import MOST_TEXT_BYTES, parse_json, read_text
from .features import FEATURES, FeatureWriter, key_of, read_features
from .need import Room
from .pictures import PICTURES, read_picture, write_picture
from .records import MAGIC, Record, RecordWriter, Scanned, payload, scan, sync_folder
from .snapshot import PART, read_snapshot

FORMAT, VERSION = "dummyforcing.take", 1
MANIFEST, LATENTS, EVENTS = "take.json", "latents.take", "events.jsonl"
MOST_BRANCHES = 64  # one from another
# Of a branch these may be others than its parent's; the memory of shared chunks depends on all but the first.
FREE = (
    "seed", "policy", "skipped steps", "model", "fingerprint", "lora", "patches", "other patches", "steps",
)  # fmt: skip
OTHER = "begin another take"
NO_MEMORY = ("seed", "skipped steps", "steps")
MOST_HEADER = 2**26  # bytes: a head plan of any model, many times over


@dataclass(frozen=True)
class Manifest:
    """How a clip is made. conditions -- what has to be the same to go on; machine -- what has to be for the same bits.

    shape -- of the whole clip's latents; finished -- all of them are there
    shown_frames -- pixel frames that its video shows; None: all that are made
    call -- how it was asked for, for whoever asked; None where nobody said
    parent -- the name of the take beside it whose first chunks are this one's too, and how many they are
    parent_key -- of the last of their latents, by which another take of that name is found out; "" in older manifests
    """

    conditions: Mapping[str, Any]
    machine: Mapping[str, Any]
    shape: LatentShape
    finished: bool = False
    parent: tuple[str, int] | None = None
    shown_frames: int | None = None
    call: Mapping[str, Any] | None = None
    parent_key: str = ""

    def write(self, folder: Path) -> None:
        """Replaces the folder's manifest, whole, on the disk when this returns."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "conditions": dict(self.conditions),
            "machine": dict(self.machine),
            "latents": [self.shape.batch, self.shape.channels, self.shape.frames, self.shape.height, self.shape.width],
            "finished": self.finished,
            "parent": None if self.parent is None else list(self.parent),
            "parent key": self.parent_key,
            "shown frames": self.shown_frames,
            "call": None if self.call is None else dict(self.call),
        }
        write_atomic(folder / MANIFEST, json_text(document, indent=1).encode("utf-8"), lasting=True)
        try:
            sync_folder(folder)
        except OSError as error:
            raise output_error(folder, error) from error

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads `write`'s file; OutputError names what is wrong."""
        path = folder / MANIFEST
        try:
            document = parse_json(read_text(path, "take", OutputError))
            found = document["format"], document["version"]
            if found[0] == FORMAT and type(found[1]) is int and found[1] > VERSION:
                raise OutputError(
                    f"expected a take of version {VERSION} or older, got {shown(path, 200)}, of version {found[1]}; "
                    "update Dummy Forcing"
                )
            if found != (FORMAT, VERSION) or type(found[1]) is not int:
                raise ValueError(f"format {shown(repr(found[0]))}, version {shown(repr(found[1]))}")
            sizes = document["latents"]
            if len(sizes) != 5 or not all(type(size) is int and 0 < size < 2**24 for size in sizes):
                raise ValueError("sizes of latents")
            conditions, machine = dict(document["conditions"]), dict(document["machine"])
            parent = None if document.get("parent") is None else _parent(*document["parent"])
            shown_frames = document.get("shown frames")
            if shown_frames is not None and (type(shown_frames) is not int or shown_frames < 1):
                raise ValueError("shown frames")
            call = None if document.get("call") is None else dict(document["call"])
            done, key = document["finished"] is True, document.get("parent key", "")
            if not isinstance(key, str):
                raise ValueError("parent key")
            return cls(conditions, machine, LatentShape(*sizes), done, parent, shown_frames, call, key)
        except (ValueError, TypeError, KeyError) as error:
            raise OutputError(
                f"expected a take, {FORMAT!r} of version {VERSION}, got {shown(path, 200)} "
                f"({shown(repr(error), 200)}); give the folder of a take"
            ) from error


@dataclass(frozen=True)
class Heard:
    """What a chunk is made with, by its first latent frame: the prompt, "" where nobody knows it, and the key of its
    text features, "" if they are not kept."""

    frame: int
    text: str
    features: str = ""

    @classmethod
    def of_json(cls, frame: object, text: object, features: object) -> "Heard":
        """ValueError for what is none."""
        if type(frame) is not int or not isinstance(text, str) or not isinstance(features, str):
            raise ValueError(f"a prompt of {shown(repr(frame))}")
        if not re.fullmatch(r"([0-9a-f]{16})?", features):
            raise ValueError(f"features {shown(repr(features))}")
        return cls(frame, sys.intern(text), sys.intern(features))  # held once: most chunks have those of the one before


@dataclass(frozen=True)
class Entry:
    """One chunk of a take: its span, what was decided of memory, and where the rest lies.

    file   -- of its record: the take's own, or of the one that it branched from
    heard  -- its prompt, and those of the chunks of an unfinished rolling window behind it
    window -- how many these are; stills -- frames that were encoded
    """

    span: Span
    log: MemoryLog
    record: Record
    file: Path
    heard: tuple[Heard, ...] = ()
    window: int = 0
    stills: tuple[int, ...] = ()


class Take:
    """The chunks of a take that are there, to be read; `Recording` appends to it.

    check -- whether every byte is; without it a record counts that lies in the file, until it is read
    fresh -- of so many of its first chunks the memory was another's: a parent's under another policy, other weights
    """

    def __init__(self, folder: Path, depth: int = 0, check: bool = True):
        _check_files(folder)
        self.folder, self.manifest, self.fresh = folder, Manifest.read(folder), 0
        self._file = folder / LATENTS
        parent = self.manifest.parent
        self.entries: list[Entry] = [] if parent is None else self._shared(*parent, depth, check)
        found = scan(folder / LATENTS, check) if (folder / LATENTS).exists() else Scanned((), 0, 0)
        self.torn = found.torn
        for record in found.records:
            self.entries.append(self._entry(record))

    @property
    def frames(self) -> int:
        """Latent frames that are there."""
        return self.entries[-1].span.stop if self.entries else 0

    @property
    def spans(self) -> list[Span]:
        return [entry.span for entry in self.entries]

    @property
    def missing(self) -> str:
        """What differs from a take that is whole, in words; "" for one that is."""
        parts = [f"{self.torn} bytes behind the last whole chunk"] if self.torn else []
        if self.manifest.finished and self.frames < self.manifest.shape.frames:
            parts.append(f"latent frames from {self.frames} on, though it says that it is finished")
        return " and ".join(parts)

    def latent(self, span: Span, device: torch.device | str = "cpu") -> Tensor:
        """A chunk's latent (B, C, span.frames, h, w)."""
        return self._tensors(self.entries[span.chunk])["latent"].to(device)

    def features(self, entry: Entry, heard: Heard) -> Tensor | None:
        """Text features (B or 1, S, text_dim) that a chunk was made with; None if they are not there."""
        return read_features(entry.file.parent, heard.features) if heard.features else None

    def picture(self, chunk: int) -> bytes | None:
        """A small picture of a chunk as JPEG; None if there is none."""
        return read_picture(self.entries[chunk].file.parent, chunk)

    def made(self, device: torch.device | str = "cpu") -> Made:
        """For a run that goes on behind these chunks. Latents are read one by one, when they are asked for."""
        window: tuple[Tensor, ...] = ()
        stills: dict[int, Tensor] = {}
        for entry in self.entries:
            tensors = self._tensors(entry) if entry.stills or entry is self.entries[-1] else {}
            window = tuple(tensors[name].to(device) for name in _numbered(tensors, "window"))
            stills |= {frame: tensors[f"still.{frame}"].to(device) for frame in entry.stills}
        log = tuple(entry.log for entry in self.entries)
        return Made(lambda span: self.latent(span, device), log, window, stills, self.stored(), self.fresh)

    def stored(self) -> StoredKV | None:
        """The snapshot, if there is one that fits; a line says why one does not."""
        return read_snapshot(self.folder, self._key_of_chunk)

    @property
    def mute(self) -> list[int]:
        """First latent frames of own chunks whose text features are lost or damaged."""
        own = [one for entry in self.entries if entry.file.parent == self.folder for one in entry.heard]
        keys = {one.features for one in own if one.features}
        lost = {key for key in keys if read_features(self.folder, key) is None}
        return sorted({one.frame for one in own if one.features in lost})

    def read_all(self) -> None:
        """Reads every tensor; OutputError for one that cannot be."""
        for entry in self.entries:
            if not all(bool(x.isfinite().all()) for x in self._tensors(entry).values()):
                raise OutputError(
                    f"chunk {entry.span.chunk} of the take {shown(self.folder, 200)} is not finite; make it anew"
                )

    def key_behind(self, chunks: int) -> str:
        """A key of the last of the first so many chunks, whose bits depend on all before; "" for none."""
        return self._key_of_chunk(chunks - 1)

    def check_run(self, spans: Sequence[Span], model: ModelGeometry) -> None:
        """OutputError unless the chunks are the first of these, and their plans are for this model."""
        for entry, span in zip(self.entries, spans, strict=False):
            fits = (entry.log.plan.layers, entry.log.plan.heads) == (model.layers, model.heads)
            if entry.span != span or not fits:
                raise OutputError(
                    f"expected chunk {span.chunk} of the take {shown(self.folder, 200)} to be latent frames "
                    f"{span.start} to {span.stop - 1} of this model, got {entry.span.start} to {entry.span.stop - 1} "
                    "of another; choose another folder"
                )

    def _key_of_chunk(self, chunk: int) -> str:
        return key_of(self.latent(self.spans[chunk])) if 0 <= chunk < len(self.entries) else ""

    def _shared(self, name: str, chunks: int, depth: int, check: bool) -> list[Entry]:
        """The chunks of the take that this one branched from, which lies beside it."""
        if depth == MOST_BRANCHES:
            raise OutputError(
                f"expected at most {MOST_BRANCHES} branches in a row, got more at {shown(self.folder, 200)}"
            )
        beside = real_path(self.folder).parent / name
        if not os.path.lexists(beside / MANIFEST):
            raise OutputError(
                f"expected the take {shown(beside, 200)}, from which {shown(self.folder, 200)} branched, got none; "
                "give it back"
            )
        parent = Take(beside, depth + 1, check)
        there, here = parent.manifest.shape, self.manifest.shape
        if len(parent.entries) < chunks or replace(there, frames=1) != replace(here, frames=1):
            raise OutputError(
                f"expected {chunks} chunks of {here} in {shown(parent.folder, 200)}, from which "
                f"{shown(self.folder, 200)} branched, got {len(parent.entries)} of {there}; give them back"
            )
        key = self.manifest.parent_key
        if check and key and key != parent.key_behind(chunks):
            raise OutputError(
                f"expected the take from which {shown(self.folder, 200)} branched at {shown(beside, 200)}, got another "
                "of that name; give it back"
            )
        others = [name for name in differing(parent.manifest.conditions, self.manifest.conditions) if name in FREE]
        self.fresh = chunks if {*others}.difference(NO_MEMORY) else min(parent.fresh, chunks)
        return parent.entries[:chunks]

    def _log(self, log: MemoryLog) -> MemoryLog:
        """The same decisions; what is as in the chunk before is held once for both."""
        if not self.entries:
            return log
        last = self.entries[-1].log
        plan, marked = last.plan if last.plan == log.plan else log.plan, log.marked
        return replace(log, plan=plan, marked=last.marked if last.marked == marked else marked)

    def _tensors(self, entry: Entry) -> dict[str, Tensor]:
        try:
            found: dict[str, Tensor] = load(payload(entry.file, entry.record))
        except SafetensorError as error:
            raise OutputError(
                f"expected tensors in the take {shown(self.folder, 200)}, got {shown(error, 200)}; go on with a copy "
                "of it that has them"
            ) from error
        return found

    def _entry(self, record: Record) -> Entry:
        """OutputError for a record that is whole and yet none of this clip."""
        number = len(self.entries)
        try:
            header = _header(self.folder / LATENTS, record)
            told, shape = parse_json(header["__metadata__"]["chunk"]), tuple(header["latent"]["shape"])
            _check_tensors(header)
            clip = self.manifest.shape
            if type(told["stop"]) is not int:
                raise TypeError("no frame number")
            span = Span(number, self.frames, told["stop"], given=told["given"] is True)
            if span.stop > clip.frames or shape != (clip.batch, clip.channels, span.frames, clip.height, clip.width):
                raise ValueError(f"latents {shape} up to frame {span.stop}")
            as_before = told["plan"] is None and self.entries
            plan = self.entries[-1].log.plan if as_before else HeadPlan.from_json(told["plan"])
            marked = tuple(frozenset(frames) for frames in told["marked"])
            if not all(type(frame) is int and 0 <= frame < clip.frames for frames in marked for frame in frames):
                raise ValueError("marks of frames that there are not")
            log = self._log(MemoryLog(plan, told["observed"] is True, told["recached"] is True, marked))
            heard = tuple(Heard.of_json(*one) for one in told.get("heard", ()))
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, PlanError) as error:
            raise OutputError(
                f"chunk {number} of the take {shown(self.folder, 200)} is damaged ({shown(repr(error), 200)}); go on "
                "with a copy of it that is not"
            ) from error
        windows, stills = (_numbered(header, kind) for kind in ("window", "still"))
        frames = tuple(int(name.split(".")[1]) for name in stills)
        return Entry(span, log, record, self._file, heard, len(windows), frames)


class Recording(Take):
    """A take that grows. The folder must be owned."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        _drop_unfinished(folder)
        self._writer, self._features = RecordWriter(folder / LATENTS), FeatureWriter(folder)
        if self.torn:
            warnings.warn(
                f"the take {folder} ended in {self.torn} bytes of a chunk that was not whole: they are cut off",
                stacklevel=3,
            )
        self.torn = 0
        if lost := self.missing:
            warnings.warn(f"the take {folder} lacks {lost}: they are made anew", stacklevel=3)
            self.manifest = replace(self.manifest, finished=False)
            self.manifest.write(folder)
        self._room: Room | None = None

    def watch(self, room: Room) -> None:
        """The disk that it grows on."""
        self._room = room

    @classmethod
    def begin(cls, folder: Path, manifest: Manifest) -> "Recording":
        """A new take in a folder that has none. OutputError if it cannot be made."""
        make_folder(folder)
        _check_files(folder)
        if (folder / LATENTS).exists():
            raise OutputError(
                f"expected a folder without a take, got {shown(folder, 200)}, which holds {LATENTS} and no {MANIFEST}; "
                "give the manifest back, or choose another folder"
            )
        if manifest.parent is not None:
            name, chunks = manifest.parent
            parent = Take(real_path(folder).parent / name, check=False)
            manifest = replace(manifest, parent_key=parent.key_behind(chunks))
        manifest.write(folder)
        for above in real_path(folder).parents:  # the folder's own name, and those that were made with it
            with contextlib.suppress(OSError):  # of one that may only be entered
                sync_folder(above)
        return cls(folder)

    def retell(self, shown_frames: int | None, call: Mapping[str, Any] | None) -> None:
        """How many pixel frames its video shows from now on, and how it is asked for."""
        told = replace(self.manifest, shown_frames=shown_frames, call=call)
        if told != self.manifest:
            self.manifest = told
            told.write(self.folder)

    def lengthen(self, shape: LatentShape, chunks: int) -> None:
        """Makes it the beginning of a longer clip, which shares its first `chunks` chunks; the others are dropped."""
        dropped, self.entries = len(self.entries) - chunks, self.entries[:chunks]
        own = [entry.record for entry in self.entries if entry.file == self.folder / LATENTS]
        self._writer.cut(own[-1].start + own[-1].length if own else len(MAGIC))
        parent = self.manifest.parent
        if parent is not None:  # of whose chunks some may be among those that are dropped
            parent = parent[0], min(parent[1], chunks)
        key = self.manifest.parent_key
        if parent != self.manifest.parent and parent is not None:
            key = self.key_behind(parent[1])
        self.manifest = replace(self.manifest, shape=shape, finished=False, parent=parent, parent_key=key)
        self.manifest.write(self.folder)
        self.note("lengthened", {"frames": shape.frames, "dropped": dropped})

    def add(self, chunk: ChunkResult, prompts: Iterable[tuple[int, str, Tensor]] = ()) -> None:
        """Appends a finished chunk; it is on the disk when this returns.

        prompts -- what it was made with, and the chunks of a rolling window behind it are: their first latent frames,
        texts, and what a text encoder made of these, (B or 1, S, text_dim)
        """
        assert chunk.log is not None
        log, heard = (
            self._log(chunk.log),
            tuple(Heard(frame, text, self._features.add(x)) for frame, text, x in prompts),
        )
        same = bool(self.entries) and self.entries[-1].log.plan == log.plan
        told = {
            "stop": chunk.span.stop,
            "given": chunk.span.given,
            "plan": None if same else log.plan.to_json(),
            "observed": log.observed,
            "recached": log.recached,
            "marked": [sorted(frames) for frames in log.marked],
            "heard": [[one.frame, one.text, one.features] for one in heard],
        }
        tensors = {"latent": chunk.latent} | {f"window.{i}": x for i, x in enumerate(chunk.window)}
        if chunk.still is not None:
            tensors[f"still.{chunk.still[0]}"] = chunk.still[1]
        own = {name: x.cpu().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}
        data = save(own, {"chunk": json.dumps(told)})  # which refuses tensors that share memory
        record, still = self._writer.append(data), () if chunk.still is None else (chunk.still[0],)
        before = self.entries[-1] if self.entries else None
        self.entries.append(Entry(chunk.span, log, record, self._file, heard, len(chunk.window), still))
        if self._room is not None:
            self._room.took(len(data))
        if told_of := happened(chunk, self.entries[-1], before):
            self.note("decided", told_of)

    def add_features(self, features: Tensor) -> None:
        """Gives back those of a chunk that is there, if they were lost."""
        self._features.add(features)

    def add_picture(self, chunk: int, frame: np.ndarray) -> None:
        """Keeps frame (H, W, 3) uint8 as the picture of a chunk that is there."""
        write_picture(self.folder, chunk, frame)

    def note(self, event: str, more: Mapping[str, Any] | None = None) -> None:
        """One line of the event log: what happened behind the chunks that are there, and what more is to be said."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        line = json_text({"chunk": len(self.entries), "time": now, "event": event, **(more or {})})
        path = self.folder / EVENTS
        _check_files(self.folder)
        try:
            with path.open("a+b") as file:
                if end := file.seek(0, os.SEEK_END):
                    file.seek(end - 1)
                    line = line if file.read(1) == b"\n" else f"\n{line}"  # behind one that was torn
                file.write(line.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise output_error(path, error) from error

    def finish(self) -> None:
        """All chunks are there."""
        self.note("finished")  # first: who dies in between says so twice, and not never
        self.manifest = replace(self.manifest, finished=True)
        self.manifest.write(self.folder)


def happened(chunk: ChunkResult, entry: Entry, before: Entry | None) -> dict[str, Any]:
    """What was decided in a chunk, for the event log; nothing in most."""
    log, told = entry.log, dict[str, Any]()
    said, last = (one.heard[0] if one is not None and one.heard else None for one in (entry, before))
    if said is not None and (last is None or (said.text, said.features) != (last.text, last.features)):
        told["prompt"] = said.text or said.features
    if before is None or before.log.plan != log.plan:
        roles = Counter(role for row in log.plan.roles for role in row)
        told["heads"] = dict(sorted(roles.items()))
    if log.recached:
        told["recached"] = True
    if chunk.banked and (before is None or set(before.log.marked[-1:]) != set(log.marked[-1:])):
        told["banked"] = list(chunk.banked)
    if chunk.scores is not None:  # (layers, heads, regions or options)
        seen = chunk.scores.mass if isinstance(chunk.scores, HeadScores) else chunk.scores.change
        told["scores"] = [[[round(x, 4) for x in head] for head in layer] for layer in seen.tolist()]
    return told


def events_of(folder: Path) -> list[dict[str, Any]]:
    """The event log, without lines that are none; nothing of one that is too long to be ours."""
    path, found = folder / EVENTS, list[dict[str, Any]]()
    _check_files(folder)
    if not path.exists() or path.stat().st_size > MOST_TEXT_BYTES:
        return found
    for line in path.read_bytes().splitlines():
        try:
            event = parse_json(line.decode("utf-8"))
        except ValueError:
            continue
        found += [event] if isinstance(event, dict) else []
    return found


def glance(folder: Path) -> tuple[Manifest, int]:
    """A take's manifest and how many chunks it seems to hold, without a look at what they hold."""
    _check_files(folder)
    manifest, latents = Manifest.read(folder), folder / LATENTS
    own = len(scan(latents, check=False).records) if latents.exists() else 0
    return manifest, own + (manifest.parent[1] if manifest.parent else 0)


def differing(there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Names of settings that are not the same."""
    return [name for name in dict.fromkeys([*there, *asked]) if there.get(name) != asked.get(name)]


def check_same(take: Manifest, manifest: Manifest, folder: Path) -> None:
    """DummyForcingError that names the first setting in which a take differs from what is asked for."""
    there, asked = take.conditions, manifest.conditions
    for name in differing(there, asked):
        raise DummyForcingError(
            f"expected {shown(name)} {shown(repr(there.get(name)), 200)}, as of the take {shown(folder, 200)}, got "
            f"{shown(repr(asked.get(name)), 200)}; ask for the same, or {'branch from it' if name in FREE else OTHER}"
        )
    ours, theirs = take.shape, manifest.shape
    if replace(ours, frames=1) != replace(theirs, frames=1) or ours.frames > theirs.frames:
        raise DummyForcingError(
            f"expected latents of {ours}, as of the take {shown(folder, 200)}, got {theirs}; ask for the same "
            "size, and for the same length or more"
        )


def _check_files(folder: Path) -> None:
    """OutputError for a link, a pipe or a device in the place of a file: what is written would go elsewhere."""
    for name in (MANIFEST, LATENTS, FEATURES, EVENTS):
        path = folder / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise OutputError(
                f"expected a file of a take, got {shown(path, 200)}, which is a link or no file; remove it"
            )


def _drop_unfinished(folder: Path) -> None:
    """Takes away what killed runs left on the way to files of a take, which is owned; links are left alone."""
    left, pictures = [folder / PART, *folder.glob(f"{MANIFEST}.*.tmp")], folder / PICTURES
    if not pictures.is_symlink():
        left += pictures.glob("*.jpg.*.tmp")
    for path in left:
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                path.unlink()


def _check_tensors(header: Mapping[str, Any]) -> None:
    """ValueError for a record that holds anything but a chunk's tensors, all in one floating dtype."""
    names = set(header) - {"__metadata__", "latent"}
    if not all(re.fullmatch(r"(window|still)\.[0-9]{1,9}", name) for name in names):
        raise ValueError(f"tensors {shown(sorted(names))}")
    kinds = {header[name]["dtype"] for name in (*names, "latent")}
    if len(kinds) != 1 or not kinds <= {"F16", "BF16", "F32", "F64"}:
        raise ValueError(f"dtypes {shown(sorted(map(str, kinds)))}")


def _parent(name: object, chunks: object) -> tuple[str, int]:
    """A take beside the one that names it; ValueError for a way that leads elsewhere."""
    if not isinstance(name, str) or type(chunks) is not int or chunks < 0:
        raise ValueError("no parent")
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name:
        raise ValueError(f"a parent that is not beside it: {shown(repr(name))}")
    return name, chunks


def _header(path: Path, record: Record) -> dict[str, Any]:
    """The header of a record, which is a .safetensors file; ValueError or TypeError if it has none."""
    length = int.from_bytes(payload(path, record, 8), "little")
    if length > min(record.length - 8, MOST_HEADER):
        raise ValueError("a header longer than its record")
    return dict(parse_json(payload(path, record, 8 + length)[8:].decode("utf-8")))


def _numbered(tensors: Mapping[str, Tensor], kind: str) -> list[str]:
    """Names "kind.0", "kind.1", .. by number."""
    names = [name for name in tensors if name.startswith(f"{kind}.") and name.split(".")[1].isdecimal()]
    return sorted(names, key=lambda name: int(name.split(".")[1]))
