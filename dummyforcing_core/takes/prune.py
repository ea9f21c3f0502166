"""What of a take may go: what only makes going on faster, or all that no branch needs."""

import contextlib
from dataclasses import replace
from pathlib import Path

from ..errors import OutputError, shown
from ..files import output_error
from ..ownership import owned
from .features import FEATURES
from .pictures import PICTURES, name_of
from .snapshot import PART, SNAPSHOT
from .take import EVENTS, LATENTS, MANIFEST, Manifest, Recording, Take


def prune(folder: Path, everything: bool, do: bool) -> str:
    """Takes away snapshots and what is torn; with `everything`, all that no branch beside it needs. Says what goes.

    do -- else nothing is changed. OutputError if it is being written, or a take beside it cannot be read.
    """
    with owned(folder):
        take, needed = Take(folder), branched_chunks(folder)
        spare = [path for path in (folder / SNAPSHOT, folder / PART) if path.is_file() and not path.is_symlink()]
        size = sum(path.stat().st_size for path in spare) + take.torn
        own = [entry for entry in take.entries[needed:] if entry.file == folder / LATENTS]
        size += sum(entry.record.length for entry in own) if everything else 0
        if do:
            for path in spare:
                path.unlink()
            if take.torn:
                Recording(folder)  # cuts it
            if everything:
                _cut(folder, needed)
    if do and everything and not needed:
        with contextlib.suppress(OSError):  # behind its lock; somebody keeps files of their own there
            folder.rmdir()
    freed = f"{size / 2**20:,.1f} MiB"
    if not everything:
        return f"{freed} of snapshots and torn ends in {folder}"
    kept = f"; its first {needed} chunks stay, a branch needs them" if needed else ""
    return f"{freed}: {len(own)} chunks of {folder}{kept}"


def branched_chunks(folder: Path) -> int:
    """How many of a take's chunks the takes beside it share."""
    shared = 0
    for path in sorted(folder.resolve().parent.glob(f"*/{MANIFEST}")):
        try:
            parent = Manifest.read(path.parent).parent
        except OutputError as error:
            raise OutputError(
                f"cannot tell whether {shown(path.parent, 200)} is a branch of this take: {error}; mend it, or move it "
                "away"
            ) from error
        if parent is not None and parent[0] == folder.resolve().name:
            shared = max(shared, parent[1])
    return shared


def _cut(folder: Path, needed: int) -> None:
    """Drops the chunks behind those that are needed; all of the take's files if none is."""
    take = Recording(folder)
    chunks = len(take.entries)
    if needed:
        take.manifest = replace(take.manifest, finished=False)
        take.lengthen(take.manifest.shape, min(needed, chunks))
    else:  # the manifest first: without it there is no take
        for name in (MANIFEST, LATENTS, FEATURES, EVENTS):
            _drop(folder / name)
    if (folder / PICTURES).is_symlink():
        return
    for chunk in range(needed, chunks):
        _drop(folder / PICTURES / name_of(chunk))
    if not needed:
        with contextlib.suppress(OSError):
            (folder / PICTURES).rmdir()


def _drop(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
