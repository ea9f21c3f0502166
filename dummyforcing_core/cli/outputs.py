"""What a command writes: named as it should be, no input of the same command, and owned by this run alone."""

import argparse
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import OutputError
from ..files import check_name, make_folder, real_path
from ..models.families import DEMO
from ..ownership import owned
from .names import FILES, check_ending, check_folder

INPUTS = (
    "model", "lora", "vae", "text_encoder", "tokenizer", "text_embedding", "prompts", "extended", "schedule",
    "start_image", "start_latents", "profile",
)  # fmt: skip


@contextlib.contextmanager
def claimed_outputs(
    args: argparse.Namespace, endings: Mapping[str, str], unfinished: Mapping[str, Path | None] | None = None
) -> Iterator[None]:
    """Makes the folders of the files that these options name, and owns the files while the block runs. OutputError if
    one is a folder, ends in something else, is an input, another run's or another option's file, or one of those called
    `unfinished` by what they are."""
    given = {name: getattr(args, name) for name in endings if getattr(args, name) is not None}
    options = {_option(name): path for name, path in given.items()}
    written = {name: path for name, path in {**(unfinished or {}), **options}.items() if path is not None}
    taken = _inputs(args)
    for name, path in written.items():
        other = taken.setdefault(real_path(path), name)
        if other != name:
            raise OutputError(f"{other} and {name} name the same file, {path}; give each its own")
    for name, path in given.items():
        if os.path.isdir(path):
            raise OutputError(f"cannot write {path}: that is a folder; name a file in it")
        check_ending(_option(name), path, endings[name])
        check_name(path)
    for path in given.values():
        make_folder(path.parent)
    with owned(*written.values()):
        yield


@contextlib.contextmanager
def claimed_folder(args: argparse.Namespace, written: Sequence[Path]) -> Iterator[None]:
    """Makes the folder --out and owns it while the block runs. OutputError if it has a file's name, or one of the files
    that will be `written` there is an input."""
    check_folder("--out", args.out)
    check_inputs(args, written)
    make_folder(args.out)
    with owned(args.out):
        yield


def check_inputs(args: argparse.Namespace, written: Sequence[Path]) -> None:
    """OutputError if one of the files that are `written` below --out is an input. Others may lie there."""
    inputs = _inputs(args)
    for path in written:
        if option := inputs.get(real_path(path)):
            raise OutputError(f"--out and {option} name the same file, {path}; give another folder")


def _inputs(args: argparse.Namespace) -> dict[Path, str]:
    """Every file that is read, and the option that names it or its folder."""
    given = {name: path for name in INPUTS if (path := getattr(args, name, None)) is not None}
    if given.get("model") == DEMO:
        del given["model"]
    return {real_path(file): _option(name) for name, path in given.items() for file in _files_of(Path(path))}


def _files_of(path: Path) -> list[Path]:
    """The file itself; of a folder (an encoder's, a tokenizer's) those that may be read."""
    if not os.path.isdir(path):
        return [path]
    return [file for file in path.iterdir() if file.suffix.lower() in (*FILES, ".model")]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
