"""A clip that dies at the n-th write, flush, sync, rename or removal of a file, in a child of this process.

python -m tests.unit.take_faults FOLDER --stride 7      # prints one JSON line: points, died, differing
"""

import argparse
import builtins
import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dummyforcing_core.__main__ import main
from dummyforcing_core.models import checkpoints

DIED = 77
CLIP = ("--prompt", "a red circle", "--frames", "33", "--policy", "window", "--crf", "40", "--snapshot-every", "2")
CALLS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "link", "truncate", "ftruncate")


class Points:
    """Counts what changes files; at point `last` the process ends at once, before it, or with half of a write done."""

    def __init__(self, last: int | None, torn: bool):
        self.count, self._last, self._torn = 0, last, torn

    def here(self, half: Callable[[], object] = lambda: None) -> None:
        self.count += 1
        if self.count == self._last:
            if self._torn:
                half()
            os._exit(DIED)

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, self._counted(getattr(os, name)))
        opened = io.open
        builtins.open = io.open = lambda file, mode="r", *args, **more: self._file(opened, file, mode, *args, **more)

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


def dying(folder: Path, last: int | None, torn: bool, told: Path | None = None) -> int:
    """Makes the clip in a child that dies at this point; its exit code."""

    def work() -> int:
        points = Points(last, torn)
        points.install()
        code = generate(folder)
        if told is not None:
            told.write_text(str(points.count), encoding="utf-8")
        return code

    return forked(work)


def run(folder: Path, stride: int) -> dict[str, Any]:
    """Dies at every `stride`-th point, each time in another way, and goes on; what of it came out otherwise."""
    whole, count = folder / "whole", folder / "count"
    whole.mkdir()
    assert forked(lambda: generate(whole)) == 0  # nothing of the shim, and all is imported and compiled by now
    (folder / "counted").mkdir()
    assert dying(folder / "counted", None, False, count) == 0
    points, died, differing = int(count.read_text()), 0, list[str]()
    latents, video = load_file(whole / "clip.safetensors")["latent"], (whole / "clip.mp4").read_bytes()
    for last in range(1, points, stride):
        for torn in (False, True):
            there = folder / "cut"
            there.mkdir()
            died += dying(there, last, torn) == DIED
            code = forked(lambda there=there: generate(there))
            ours = load_file(there / "clip.safetensors")["latent"] if code == 0 else torch.empty(0)
            if not torch.equal(ours, latents) or (there / "clip.mp4").read_bytes() != video:
                differing.append(f"point {last}{', torn' if torn else ''}: exit {code}")
            shutil.rmtree(there)
    return {"points": points, "tried": len(range(1, points, stride)) * 2, "died": died, "differing": differing}


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
