"""Small files that are there whole or not at all, folders, and what a user is told when the disk will not."""

import contextlib
import errno
import os
from pathlib import Path

from .errors import OutputError

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.ENOENT: "the folder does not exist; create it or choose another one",
    errno.ENOTDIR: "a part of that path is a file, not a folder; choose another one",
    errno.EISDIR: "that is a folder; name a file in it",
}


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a small file (a picture, a report) whole or not at all; OutputError if it cannot be written."""
    target = Path(path)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise output_error(target, error) from error


def output_error(path: str | os.PathLike[str], error: OSError, frames_written: int = 0) -> OutputError:
    """The one line a user gets for a failure of the file system, with what to do about it."""
    advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
    kept = f" (the {frames_written} frames written before it are kept and play)" if frames_written else ""
    return OutputError(f"cannot write {path}: {advice}{kept}")


def make_folder(folder: Path) -> None:
    """Makes an output folder and its parents; OutputError if that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}; choose another one") from error
