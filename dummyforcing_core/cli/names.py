"""Names on the command line: none is empty, and what is written ends in what it is, a folder in nothing."""

import argparse
import os
from pathlib import Path

from ..errors import OutputError
from ..files import is_device

FILES = (
    ".avi", ".bin", ".gif", ".jpg", ".json", ".jsonl", ".md", ".mkv", ".mov", ".mp4", ".png", ".pt", ".pth",
    ".safetensors", ".txt", ".webm",
)  # fmt: skip


def named(text: str) -> Path:
    """A name; an empty one, as a variable that is not set gives it, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got ''; give one (the current folder is .)")
    return Path(text)


def check_ending(option: str, path: Path, ending: str) -> None:
    """OutputError for a file to write whose name says that it is something else. A device or a pipe has any name."""
    if path.suffix.lower() == ending or is_device(path):
        return
    whole = path.name.strip(".") and not os.path.isdir(path)
    instead = path.with_name(f"{path.stem}{ending}") if whole else path / f"name{ending}"
    raise OutputError(f"expected {option} to end in {ending}, got {path}; write {instead}")


def check_folder(option: str, folder: Path) -> None:
    """OutputError for a folder to make whose name is a file's."""
    if folder.suffix.lower() in FILES and not os.path.isdir(folder):
        raise OutputError(
            f"expected {option} to name a folder, since several files are written, got {folder}, a file's name; write "
            f"{folder.with_suffix('')}"
        )
