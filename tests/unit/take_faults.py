"""A clip that dies at the n-th write, flush, sync, rename or removal of a file, in a child of this process.

python -m tests.unit.take_faults FOLDER --stride 7      # prints one JSON line: points, tried, died, wrong

It dies in four ways: before the call; with half of a write done; and as the power goes, which takes from the take's
files what was not synced, and in the last way the names that no sync of their folder has made last, too.
"""

import argparse
import builtins
import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dummyforcing_core.__main__ import main
from dummyforcing_core.errors import OutputError
from dummyforcing_core.models import checkpoints
from dummyforcing_core.takes.records import scan
from dummyforcing_core.takes.take import EVENTS, LATENTS, MANIFEST, Recording, Take, events_of

DIED = 77
CLIP = ("--prompt", "a red circle", "--frames", "33", "--policy", "window", "--crf", "40", "--snapshot-every", "2")
CALLS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "link", "truncate", "ftruncate")
WAYS = ("killed", "torn", "power", "power, names")
OPEN, TAKE = io.open, "take"
FILES = r"take\.json|latents\.take|prompts\.take|kv\.take|events\.jsonl|pictures/\d{5}\.jpg"


class Disk:
    """Knows of a take's files what was synced: all that a power cut must leave."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._held: dict[int, bytes] = {}  # by inode
        self._names: dict[int, dict[str, int]] = {}  # inodes by name, by the folder's inode

    def begun(self, number: int) -> None:
        """An empty file was opened: its inode may have been another's."""
        if not os.fstat(number).st_size:
            self._held.pop(os.fstat(number).st_ino, None)

    def synced(self, number: int) -> None:
        path, inode = Path(os.readlink(f"/proc/self/fd/{number}")), os.fstat(number).st_ino
        if path.is_dir():
            self._names[inode] = {one.name: one.stat().st_ino for one in path.iterdir()}
        elif self._folder in path.parents and path.exists():
            self._held[inode] = path.read_bytes()

    def lose(self, names: bool) -> None:
        """Puts the take's folder back to what is sure to be there."""
        if not self._folder.exists():
            return
        inode, above = (path.stat().st_ino for path in (self._folder, self._folder.parent))
        files = {path: path.stat().st_ino for path in self._folder.rglob("*") if path.is_file()}
        if names:
            there = self._names.get(inode, {})
            files = {self._folder / name: one for name, one in there.items() if not (self._folder / name).is_dir()}
            shutil.rmtree(self._folder)
            if self._names.get(above, {}).get(self._folder.name) != inode:
                return
            self._folder.mkdir()
        for path, one in files.items():
            with OPEN(path, "wb") as file:
                file.write(self._held.get(one, b""))


class Points:
    """Counts what changes files; at point `last` the process ends at once, in one of `WAYS`.

    told -- is given how many chunks were added to the take before
    """

    def __init__(self, last: int | None, way: str, disk: Disk, told: int):
        self.count, self._last, self._way, self._disk, self._told = 0, last, way, disk, told
        self._added = 0

    def here(self, half: Callable[[], object] = lambda: None) -> None:
        self.count += 1
        if self.count == self._last:
            if self._way == "torn":
                half()
            elif self._way != "killed":
                self._disk.lose("names" in self._way)
            os.write(self._told, str(self._added).encode())
            os._exit(DIED)

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))
        builtins.open = io.open = self._file
        add = Recording.add

        def added(take: Recording, *args: Any, **more: Any) -> None:
            add(take, *args, **more)
            self._added += 1

        Recording.add = added

    def _counted(self, name: str, call: Callable) -> Callable:
        def counted(*args: Any, **more: Any) -> Any:
            self.here()
            result = call(*args, **more)
            if name == "fsync":
                self._disk.synced(args[0])
            return result

        return counted

    def _file(self, file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        made = OPEN(file, mode, *args, **more)
        if not set(mode) & set("wax+"):
            return made
        self._disk.begun(made.fileno())
        return Written(made, self)


class Written:
    """A file whose writes are counted."""

    def __init__(self, file: Any, points: Points):
        self._file, self._points = file, points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "Written":
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._file.__exit__(*error)

    def write(self, data: Any) -> int:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._points.here(half)
        return self._file.write(data)

    def flush(self) -> None:
        self._points.here()
        self._file.flush()

    def truncate(self, size: int | None = None) -> int:
        self._points.here()
        return self._file.truncate(size)


def generate(folder: Path) -> int:
    """The clip, quietly; its exit code."""
    files = ("--take", folder / TAKE, "--out", folder / "clip.mp4", "--save-latents", folder / "clip.safetensors")
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        return main(["generate", *CLIP, *map(str, files)])


def forked(work: Callable[[], int]) -> int:
    """The exit code of `work` in a child."""
    child = os.fork()
    if child == 0:
        code = 99
        with contextlib.suppress(BaseException):
            code = work()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying(folder: Path, last: int | None, way: str) -> tuple[int, int]:
    """Makes the clip in a child that dies at this point: its exit code, and the chunks that it had added; of one that
    need not die, its points."""
    with tempfile.TemporaryFile() as told:

        def work() -> int:
            points = Points(last, way, Disk(folder / TAKE), told.fileno())
            points.install()
            code = generate(folder)
            os.write(told.fileno(), str(points.count).encode())
            return code

        code = forked(work)
        told.seek(0)
        return code, int(told.read() or 0)


def kept(take: Path, added: int) -> tuple[str, bytes]:
    """What is wrong with a take that was left so, "" if nothing is; and all that is whole of its latents."""
    if not (take / MANIFEST).exists() or not (take / LATENTS).exists():
        return ("" if added == 0 else f"{added} chunks are gone"), b""
    try:
        chunks = len(Take(take).entries)
    except OutputError as error:
        return str(error), b""
    whole = (take / LATENTS).read_bytes()[: scan(take / LATENTS).stop]
    return ("" if chunks >= added else f"{chunks} of {added} chunks"), whole


def finished(take: Path) -> str:
    """What is wrong with a take that was gone on with, "" if nothing is."""
    found, lines = Take(take), (take / EVENTS).read_bytes().splitlines()
    files = [path.relative_to(take).as_posix() for path in take.rglob("*") if path.is_file()]
    left = [name for name in files if not re.fullmatch(FILES, name)]
    wrong = [f"left behind: {left}"] if left else []
    events = [event["event"] for event in events_of(take)]
    if len(lines) - len(events) > 1 or "finished" not in events:
        wrong.append(f"{len(lines)} lines, of which are read {events}")
    if found.missing or not found.manifest.finished:
        wrong.append(f"not whole: {found.missing}")
    return "; ".join(wrong)


def tried(folder: Path, last: int, way: str, whole: Path) -> tuple[bool, str]:
    """Dies at this point in this way and goes on: whether it died, and what is wrong then, "" if nothing is."""
    code, added = dying(folder, last, way)
    wrong, before = kept(folder / TAKE, added)
    again = forked(lambda: generate(folder))
    if again:
        return code == DIED, f"{wrong} exit {again}"
    if not (folder / TAKE / LATENTS).read_bytes().startswith(before):
        wrong += " chunks that were there were made anew"
    ours, theirs = (load_file(one / "clip.safetensors")["latent"] for one in (folder, whole))
    if not torch.equal(ours, theirs) or (folder / "clip.mp4").read_bytes() != (whole / "clip.mp4").read_bytes():
        wrong += " another clip"
    return code == DIED, wrong + finished(folder / TAKE)


def run(folder: Path, stride: int, offset: int = 0) -> dict[str, Any]:
    """Dies at every `stride`-th point and goes on; with a stride in one way each, in turn, else in all of them."""
    whole = folder / "whole"
    whole.mkdir()
    assert forked(lambda: generate(whole)) == 0
    generate(folder / "warm")  # here: what it imports and compiles, every child has then
    (folder / "counted").mkdir()
    code, points = dying(folder / "counted", None, "")
    assert code == 0 and not finished(folder / "counted" / TAKE)
    count, died, wrong = 0, 0, list[str]()
    for number, last in enumerate(range(1 + offset, points + 1, stride)):
        for way in WAYS if stride == 1 else (WAYS[number % len(WAYS)],):
            there = folder / "cut"
            there.mkdir()
            dead, found = tried(there, last, way, whole)
            count, died = count + 1, died + dead
            wrong += [f"point {last}, {way}: {found}"] if found else []
            shutil.rmtree(there)
    return {"points": points, "tried": count, "died": died, "wrong": wrong}


def command(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="stands in for the bundled one")
    parser.add_argument("--stride", type=int, default=1)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    checkpoints.DEMO_PATH = args.model
    print(json.dumps(run(args.folder, args.stride)))
    return 0


if __name__ == "__main__":
    raise SystemExit(command(sys.argv[1:]))
