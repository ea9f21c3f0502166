"""One run owns a name: two that wrote the same file would mix their frames in it.

Who owns a folder owns the files in it. A file's owner takes the file's lock first and then looks at its folder's; a
folder's owner takes the folder's first and then looks at those of its files: of two, one at least sees the other. A
lock is looked at by taking it for a moment, which also removes what a killed run left.
"""

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import OutputError
from .files import is_device, output_error, real_path

_LOCK = ".dummyforcing.lock"
_SHARE = "rank-"  # begins the name of one of several that own a folder together
PATIENCE = 0.5  # seconds that a folder's lock is waited for: others may only look at it


class NameTaken(OutputError):
    """Another run is writing there."""


@contextlib.contextmanager
def owned(*paths: Path) -> Iterator[None]:
    """Owns files or folders, which need not exist, until the block ends or the process dies, however it does.

    NameTaken if another process owns one of them, the folder of a file or a file of a folder, OutputError if nothing
    can be written there. Within a process a name may be owned several times.
    """
    files = [path for path in paths if not is_device(path)]
    for device in set(paths) - set(files):
        if device.is_file():  # writing there anew would overwrite what is printed
            raise OutputError(f"expected a file or a device, got {device}, which is redirected; name the file itself")
    with contextlib.ExitStack() as stack:
        for path in dict.fromkeys(map(real_path, files)):
            stack.enter_context(_locked(path))
            if os.path.isdir(path):
                _check_free([*_locks_in(path), *_shares_of(path.parent)])
            else:
                _check_free(_locks_above(path))
        yield


@contextlib.contextmanager
def shared(folder: Path, name: str, inside: Sequence[Path]) -> Iterator[None]:
    """Owns a folder and those `inside` it together with others that do so under another `name`, until the block ends.

    NameTaken if another process has this name, owns the folder alone, or owns a file in one of them.
    """
    with owned(folder / f"{_SHARE}{name}"):
        folders = [real_path(path) for path in (folder, *inside)]
        _check_free(path for path in folders if os.path.exists(path / _LOCK))
        _check_free(path for folder in folders for path in _locks_in(folder) if not _is_share(path))
        yield


def shares(folder: Path) -> list[Path]:
    """What has been shared of a folder, also by runs that were killed since."""
    return [path for path in map(behind_lock, folder.iterdir()) if path.name.startswith(_SHARE)]


def behind_lock(path: Path) -> Path:
    """The file that a lock was left beside by a run that was killed; other files as they are."""
    return path.with_name(path.name[1:].removesuffix(_LOCK)) if path.name.endswith(_LOCK) else path


def free_of_owners(paths: Iterable[Path]) -> Iterator[Path]:
    """Those of these names that no run owns, each owned while it is handed out."""
    for path in paths:
        with contextlib.suppress(NameTaken), owned(path):
            yield path


def _check_free(paths: Iterable[Path]) -> None:
    """NameTaken if another process holds the lock of one of these."""
    for path in paths:
        with _locked(path):
            pass


def _locks_in(folder: Path) -> list[Path]:
    """The files of a folder that have a lock."""
    try:
        names = os.listdir(folder)
    except OSError:  # of one above, that may be entered and not listed: nothing is known of it
        return []
    return [behind_lock(folder / name) for name in names if name.endswith(_LOCK) and name != _LOCK]


def _locks_above(path: Path) -> list[Path]:
    """The folder that a file is in if it has a lock, and what is shared of that or of the one above it."""
    folder = path.parent
    taken = [folder] if os.path.exists(folder / _LOCK) else []
    return taken if _is_share(path) else [*taken, *_shares_of(folder), *_shares_of(folder.parent)]


def _shares_of(folder: Path) -> list[Path]:
    """What is shared of a folder, unless this process is one of those that share it."""
    found = [*filter(_is_share, _locks_in(folder))]
    return [] if any(_lock_of(share).is_locked for share in found) else found


def _is_share(path: Path) -> bool:
    return path.name.startswith(_SHARE)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _lock_of(path)
    try:
        os.stat(f"{path.parent}{os.sep}.")  # a lock would make the folder
        lock.acquire(timeout=PATIENCE if os.path.isdir(path) else 0, poll_interval=0.02)
    except Timeout:
        raise NameTaken(
            f"expected {path} to be free, got another run that is writing it; wait for it, or choose another name"
        ) from None
    except NotImplementedError:
        warnings.warn(f"the disk of {path} cannot lock files: start no second run that writes there", stacklevel=2)
        yield
        return
    except OSError as error:
        raise output_error(path, error) from error
    try:
        yield
    finally:
        # Removed while it is held, so that nobody holds a file that is about to go; Windows' locks remove themselves.
        if lock.lock_counter == 1 and os.name != "nt":
            with contextlib.suppress(OSError):
                os.unlink(lock.lock_file)
        lock.release()


def _lock_of(path: Path) -> FileLock:
    """Beside a file, in a folder. Longer than any name that is derived from it, so that a long one is refused here."""
    inside = path / _LOCK if os.path.isdir(path) else path.with_name(f".{path.name}{_LOCK}")
    return FileLock(inside, blocking=False, is_singleton=True)
