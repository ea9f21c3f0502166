"""Small files that are there whole or not at all, folders, and what a user is told when the disk will not."""

import contextlib
import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from .errors import OutputError, is_threat

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your quota on this disk is used up; free some space or choose another folder",
    errno.EFBIG: "files may not grow larger here; raise the limit (ulimit -f) or choose another folder",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.ENOENT: "the folder does not exist; create it or choose another one",
    errno.ENOTDIR: "a part of that path is a file, not a folder; choose another one",
    errno.EISDIR: "that is a folder; name a file in it",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "the links there lead round in a circle; choose another name",
}
_BESIDE = len("..part.dummyforcing.lock")  # what the longest name that is made on the way to a file's adds to it


def json_text(document: Any, indent: int | None = None) -> str:
    """A JSON document and its line end, in which letters stand as they are, and escaped what a terminal would obey or
    UTF-8 does not have (half a character, as names of other bytes come)."""
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    return re.sub(r"[^\n -~]", lambda found: _letter(found[0]), text) + "\n"


def _letter(letter: str) -> str:
    return json.dumps(letter)[1:-1] if is_threat(letter) else letter


def write_atomic(path: str | os.PathLike[str], data: bytes, sync: bool = False) -> None:
    """Writes a small file (a picture, a report) whole or not at all; OutputError if it cannot be written.

    Links are followed; a device or a pipe is written to.
    sync -- its bytes are on the disk before it has its name, or a power cut could leave the name with nothing behind it
    """
    try:
        if is_device(path):
            Path(path).write_bytes(data)
            return
        target = real_path(path)
        unfinished = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        try:
            with unfinished.open("wb") as file:
                file.write(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(unfinished, target)
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def rename_whole(part: Path, path: Path) -> None:
    """Gives a finished file its name, a link's to the file that it points to; OutputError if that cannot be done."""
    try:
        part.replace(real_path(path))
    except OSError as error:
        raise output_error(path, error) from error


def is_device(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a device, a pipe or an open file (/dev/stdout): to be written to, never replaced."""
    folder = Path(os.path.abspath(path)).parent
    if folder in (Path("/dev"), Path("/dev/fd")) or Path("/proc") in folder.parents:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check_regular(*paths: Path) -> None:
    """OutputError for a name that a file could only take the place of: a device's, a pipe's."""
    for path in paths:
        if is_device(path):
            raise OutputError(f"expected a file to write, got {path}, which is a device or a pipe; name a file")


def check_name(path: Path) -> None:
    """OutputError for a name that is too long, or leaves no room for those that are made beside it on the way."""
    try:
        os.lstat(path.with_name(f"{path.name}{'x' * _BESIDE}"))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise output_error(path, error) from error


def real_path(path: str | os.PathLike[str]) -> Path:
    """The file or folder that a name stands for: absolute, links followed. OutputError for links in a circle."""
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a circle, before Python 3.13
        circle = error if isinstance(error, OSError) else OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        raise output_error(path, circle) from error


def output_error(path: str | os.PathLike[str], error: OSError, frames_written: int = 0) -> OutputError:
    """The one line a user gets for a failure of the file system, with what to do about it."""
    after = f" (after {frames_written} frames)" if frames_written else ""
    return OutputError(f"cannot write {path}: {advice_on(error)}{after}")


def advice_on(error: Any) -> str:
    """What an error with an errno, the system's or FFmpeg's, means for a file that is written, and what to do."""
    return _ADVICE.get(error.errno or 0, error.strerror or str(error))


def make_folder(folder: Path) -> None:
    """Makes an output folder and its parents; OutputError if that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, f"{error.strerror}; choose another one")
        raise OutputError(f"cannot make the folder {folder}: {advice}") from error
