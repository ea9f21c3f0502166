"""One run owns a name: two that wrote the same file would mix their frames in it."""

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import OutputError
from .files import is_device, output_error, real_path

_LOCK = ".dummyforcing.lock"


class NameTaken(OutputError):
    """Another run is writing there."""


@contextlib.contextmanager
def owned(*paths: Path) -> Iterator[None]:
    """Owns files or folders, which need not exist, until the block ends or the process dies, however it does.

    NameTaken if another process owns one of them, OutputError if nothing can be written there. Within a process a name
    may be owned several times.
    """
    files = [path for path in paths if not is_device(path)]
    for device in set(paths) - set(files):
        if device.is_file():  # writing there anew would overwrite what is printed
            raise OutputError(f"expected a file or a device, got {device}, which is redirected; name the file itself")
    with contextlib.ExitStack() as stack:
        for path in dict.fromkeys(map(real_path, files)):
            stack.enter_context(_locked(path))
        yield


def behind_lock(path: Path) -> Path:
    """The file that a lock was left beside by a run that was killed; other files as they are."""
    return path.with_name(path.name[1:].removesuffix(_LOCK)) if path.name.endswith(_LOCK) else path


def free_of_owners(paths: Iterable[Path]) -> Iterator[Path]:
    """Those of these names that no run owns, each owned while it is handed out."""
    for path in paths:
        with contextlib.suppress(NameTaken), owned(path):
            yield path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(_lock_file(path), blocking=False, is_singleton=True)
    try:
        os.stat(f"{path.parent}{os.sep}.")  # a lock would make the folder
        lock.acquire()
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


def _lock_file(path: Path) -> Path:
    """Beside a file, in a folder. Longer than any name that is derived from it, so that a long one is refused here."""
    if os.path.isdir(path):
        return path / _LOCK
    return path.with_name(f".{path.name}{_LOCK}")
