"""Files that are given: the true cause when one cannot be read, and text and JSON within bounds."""

import errno
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

from .errors import DummyForcingError, shown

MOST_TEXT_BYTES = 64 * 2**20
_NO_RIGHTS = "this account may not read it or enter its folder; change the permissions or copy it"
_CAUSES = {
    errno.ENOENT: "no such file; check the path",
    errno.ENOTDIR: "no such file: a part of that path is a file, not a folder; check the path",
    errno.EACCES: _NO_RIGHTS,
    errno.EPERM: _NO_RIGHTS,
    errno.ENAMETOOLONG: "a name in that path is longer than the file system allows; check the path",
    errno.ELOOP: "its links lead in a circle; give the file itself",
    errno.EISDIR: "this is a folder; give a file",
}
_SPECIAL = "this is a pipe, a socket or a device; give a regular file"
_LOST_LINK = "a link that leads to no file; give the file itself"


def unreadable(path: str | os.PathLike[str]) -> str:
    """Why no regular file can be read at `path`, and what to do; "" if one can be. Pipes and devices are not opened."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return _CAUSES[errno.EISDIR]
        if not stat.S_ISREG(mode):
            return _SPECIAL
        with open(path, "rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        lost = getattr(error, "errno", None) == errno.ENOENT and os.path.islink(path)
        return _LOST_LINK if lost else cause(error)
    return ""


def cause(error: Exception) -> str:
    """What a failure of the file system means to who named the file, and what to do."""
    known = _CAUSES.get(getattr(error, "errno", None) or 0)
    return known or f"it cannot be read ({getattr(error, 'strerror', None) or shown(error)}); check the path"


def read_text(path: Path, what: str, kind: type[DummyForcingError]) -> str:
    """The UTF-8 text of a file, `what` it is called in the error of type `kind` that is raised when there is none.

    A byte order mark in front, as Windows editors write it, is left out.
    """
    if why := unreadable(path):
        raise kind(f"cannot read the {what} {shown(path, 200)}: {why}")
    try:
        size = path.stat().st_size
        if size > MOST_TEXT_BYTES:
            raise kind(
                f"cannot read the {what} {shown(path, 200)}: it has {size:,} bytes, at most {MOST_TEXT_BYTES:,} were "
                "expected; give another file"
            )
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise kind(f"cannot read the {what} {shown(path, 200)}: {cause(error)}") from error
    except UnicodeDecodeError as error:
        raise kind(
            f"cannot read the {what} {shown(path, 200)}: byte {error.start:,} is no UTF-8 text; give a UTF-8 text file"
        ) from error


def lines_of(text: str) -> list[str]:
    """The lines that an editor shows: str.splitlines also ends one at characters that nobody sees."""
    return re.split(r"\r\n|\n|\r", text)


def parse_json(text: str) -> Any:
    """JSON whose numbers are finite; ValueError, in one short line that begins with "not JSON", for all else."""
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("not JSON of a depth that can be read") from error
    except ValueError as error:  # a number of thousands of digits is one too
        where = shown(error)
        if isinstance(error, json.JSONDecodeError):
            where = f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
        raise ValueError(f"not JSON: {where}") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is no finite number")
    return number
