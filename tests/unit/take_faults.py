"""A clip that dies at the n-th write, flush, sync, rename or removal of a file, in a child of this process.

python -m tests.unit.take_faults FOLDER --model FILE               # at every point, in every way; one JSON line
python -m tests.unit.take_faults FOLDER --model FILE --stride 7    # at some, each in one of the ways

It is killed there, or half of a write is done, or the power goes (power_cuts.py), or it is killed and so is the next.
"""

import argparse
import builtins
import contextlib
import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dummyforcing_core.__main__ import main
from dummyforcing_core.models import checkpoints
from dummyforcing_core.takes.take import Recording, Take
from tests.unit.power_cuts import KINDS, Disk

DIED = 77
WAYS = ("killed", "torn", *KINDS, "twice")
CLIP = ("--prompt", "a red circle", "--frames", "33", "--policy", "window", "--crf", "40", "--snapshot-every", "2")
CALLS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "link", "truncate", "ftruncate")


class Points:
    """Counts what changes files; at point `last` the process ends at once, before it, in one of the ways.

    added -- chunks of which the take said that they are on the disk
    """

    def __init__(self, folder: Path, last: int | None, way: str):
        self.count, self.added, self._last, self._way = 0, 0, last, way
        self._disk, self._told = Disk(folder / "take"), folder / "added"

    def here(self, half: Callable[[], object] = lambda: None) -> None:
        self.count += 1
        if self.count != self._last:
            return
        if self._way == "torn":
            half()
        if self._way in KINDS:
            self._disk.cut(self._way)
        self._told.write_text(str(self.added), encoding="utf-8")
        os._exit(DIED)

    def install(self) -> None:
        os.fsync = self._disk.watched(os.fsync)
        for name in CALLS:
            setattr(os, name, self._counted(getattr(os, name)))
        opened, add = io.open, Recording.add
        builtins.open = io.open = lambda file, mode="r", *args, **more: self._file(opened, file, mode, *args, **more)

        def added(take: Recording, *args: Any) -> None:
            add(take, *args)
            self.added = len(take.entries)

        Recording.add = added

    def _counted(self, call: Callable) -> Callable:
        def counted(*args: Any, **more: Any) -> Any:
            self.here()
            return call(*args, **more)

        return counted

    def _file(self, opened: Callable, file: Any, mode: str, *args: Any, **more: Any) -> Any:
        made = opened(file, mode, *args, **more)
        return Written(made, self) if set(mode) & set("wax+") else made


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
    files = ("--take", folder / "take", "--out", folder / "clip.mp4", "--save-latents", folder / "clip.safetensors")
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


def dying(folder: Path, last: int | None, way: str, told: Path | None = None) -> int:
    """Makes the clip in a child that dies at this point; its exit code."""

    def work() -> int:
        points = Points(folder, last, way)
        points.install()
        code = generate(folder)
        if told is not None:
            told.write_text(str(points.count), encoding="utf-8")
        return code

    return forked(work)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def wrong(there: Path, whole: Path) -> str:
    """Goes on with a clip that died; what of it came out otherwise than that of one that did not."""
    added, take = int((there / "added").read_text()), there / "take"
    try:
        chunks = len(Take(take).entries) if (take / "take.json").exists() else 0
    except Exception as error:
        return f"cannot be opened: {error}"
    if chunks < added:
        return f"{added} chunks were on the disk, {chunks} are there"
    code = forked(lambda: generate(there))
    if code:
        return f"exit {code}"
    ours, theirs = (load_file(folder / "clip.safetensors")["latent"] for folder in (there, whole))
    if not torch.equal(ours, theirs) or (there / "clip.mp4").read_bytes() != (whole / "clip.mp4").read_bytes():
        return "other latents or another video"
    if Take(take).missing or not Take(take).manifest.finished:
        return "a take that is not whole"
    more = names(take) ^ names(whole / "take")
    return f"files {sorted(more)}" if more else ""


def run(folder: Path, stride: int) -> dict[str, Any]:
    """Dies at every `stride`-th point and goes on; what of it came out otherwise."""
    whole, count = folder / "whole", folder / "count"
    whole.mkdir()
    assert forked(lambda: generate(whole)) == 0  # nothing of the shim, and all is imported and compiled by now
    (folder / "counted").mkdir()
    assert dying(folder / "counted", None, "", count) == 0
    points, died, again, differing = int(count.read_text()), 0, 0, list[str]()
    tried = [
        (last, way)
        for number, last in enumerate(range(1, points + 1, stride))
        for way in (WAYS if stride == 1 else WAYS[number % len(WAYS) :][:1])
    ]
    for last, way in tried:
        there = folder / "cut"
        there.mkdir()
        died += dying(there, last, way) == DIED
        if way == "twice":  # where it dies again depends on the point alone
            again += dying(there, random.Random(last).randint(1, points // 4), way) == DIED
        if found := wrong(there, whole):
            differing.append(f"point {last}, {way}: {found}")
        shutil.rmtree(there)
    return {"points": points, "tried": len(tried), "died": died, "died again": again, "differing": differing}


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
