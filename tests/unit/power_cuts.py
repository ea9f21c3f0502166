"""What a disk holds when the power goes: only what was synced, in names that were.

Two disks stand for all. One keeps every name at once and bytes only when they are synced, so that a file may be there
and be empty; the other keeps a name, and that one is gone, only when its folder is synced.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("bytes are late", "names are late")


class Disk:
    """Watches os.fsync from here on; `cut` leaves of a folder, empty or not there now, what would be on the disk."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._bytes: dict[int, bytes] = {}  # by inode, as last synced
        self._names: dict[Path, dict[str, int]] = {}  # of folders, as last synced
        self._held: list[int] = []  # open, so that no other file gets an inode's number

    def watched(self, call: Callable[..., None]) -> Callable[..., None]:
        """os.fsync, told of here."""

        def sync(number: Any) -> None:
            call(number)
            self._synced(number if isinstance(number, int) else number.fileno())

        return sync

    def _synced(self, number: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{number}"))
        if path.is_dir():
            self._names[path] = {one.name: one.lstat().st_ino for one in path.iterdir()}
            return
        self._held.append(os.dup(number))
        self._bytes[os.fstat(number).st_ino] = path.read_bytes()

    def cut(self, kind: str) -> None:
        """The power goes."""
        late = kind == KINDS[1]
        if late and self._folder.name not in self._names.get(self._folder.parent, {}):
            shutil.rmtree(self._folder, ignore_errors=True)  # nobody made the folder's own name last
            return
        folders = [path for path in self._folder.rglob("*") if path.is_dir()]
        for path in (self._folder, *folders):
            if path.is_dir():
                self._put_back(path, late)

    def _put_back(self, folder: Path, late: bool) -> None:
        there = {one.name: one.lstat().st_ino for one in folder.iterdir() if one.is_file()}
        for name in there:
            (folder / name).unlink()
        for name, inode in (self._names.get(folder, {}) if late else there).items():
            if not (folder / name).is_dir():
                (folder / name).write_bytes(self._bytes.get(inode, b""))
