"""`take list`: the takes in a folder, a line each."""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from ..clips.take_view import state_of_take
from ..errors import OutputError, shown
from ..takes.take import MANIFEST, Take
from .terminal import tell


def tell_takes(folder: Path) -> None:
    """Prints one line per take, the oldest first; OutputError if there is no such folder."""
    if not folder.is_dir():
        raise OutputError(f"expected a folder of takes, got {shown(folder, 200)}; name one that is there")
    for line in _lines(folder):
        tell(line)


def _lines(folder: Path) -> Iterator[str]:
    try:
        found = sorted((path.parent for path in folder.glob(f"*/{MANIFEST}")), key=_written)
    except OSError as error:
        raise OutputError(f"cannot look into {shown(folder, 200)}: {error.strerror}; name a folder of takes") from error
    for take in found:
        when = datetime.fromtimestamp(_written(take)).strftime("%Y-%m-%d %H:%M")
        try:
            yield f"{shown(take, 500)}  {when}  {state_of_take(Take(take, check=False))}"
        except OutputError as error:
            yield f"{shown(take, 500)}  {error}"
    if (folder / MANIFEST).exists():
        yield f"{shown(folder, 500)} is a take itself: see `take show`"
    elif not found:
        yield f"no takes in {shown(folder, 500)}"


def _written(folder: Path) -> float:
    """When a file of it was last written; 0 where nobody may look."""
    times = [0.0]
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):  # gone by now: half a manifest is, once it is whole
                times += [path.stat().st_mtime] if path.is_file() else []
    return max(times)
