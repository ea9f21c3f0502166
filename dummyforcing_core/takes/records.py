"""An append-only file of records, of which what was written whole stays readable however writing ends.

    file    MAGIC, then records
    record  "TAKE", length of the payload (8 bytes), CRC-32 of the payload (4 bytes), payload        little endian

A record is there once `append` has returned: it is on the disk by then. What a process that died left behind the last
whole record is a torn tail: it is found, told of, and cut before the next record.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError, shown
from ..files import output_error
from ..reading import cause, unreadable

MAGIC = b"DFTAKE\x00\x01"
_HEAD = struct.Struct("<4sQI")
_MARK = b"TAKE"
_PIECE = 2**20  # bytes that are read at a time to check a payload


@dataclass(frozen=True)
class Record:
    """Where a record's payload lies."""

    start: int
    length: int


@dataclass(frozen=True)
class Scanned:
    """The whole records of a file, and its bytes behind them."""

    records: tuple[Record, ...]
    stop: int
    size: int

    @property
    def torn(self) -> int:
        """Bytes that belong to no whole record."""
        return self.size - self.stop


def scan(path: Path, check: bool = True) -> Scanned:
    """Reads and checks every record; nothing of a record's length is allocated. OutputError if this is no such file.

    check -- whether payloads are read: without it a record counts that lies in the file, damaged or not
    """
    if why := unreadable(path):
        raise OutputError(f"cannot read the take's latents {shown(path, 200)}: {why}")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC[:size]:  # a file that was torn in its first bytes is one too
                raise OutputError(
                    f"expected a take's latents, got {shown(path, 200)}, which is another file; give a take"
                )
            records = tuple(_whole(file, size, check))
    except OSError as error:
        raise OutputError(f"cannot read the take's latents {shown(path, 200)}: {cause(error)}") from error
    stop = records[-1].start + records[-1].length if records else min(len(MAGIC), size)
    return Scanned(records, stop if size >= len(MAGIC) else 0, size)


def _whole(file: BinaryIO, size: int, checked: bool) -> Iterator[Record]:
    """The records from here on, until one is not whole."""
    while True:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return
        mark, length, check = _HEAD.unpack(head)
        start = file.tell()
        if mark != _MARK or length > size - start or (checked and _check_of(file, length) != check):
            return
        yield Record(start, length)
        file.seek(start + length)


def _check_of(file: BinaryIO, length: int) -> int:
    check = 0
    while length:
        piece = file.read(min(length, _PIECE))
        if not piece:
            return -1
        check, length = zlib.crc32(piece, check), length - len(piece)
    return check


def payload(path: Path, record: Record, most: int | None = None) -> bytes:
    """One record's payload, or its first `most` bytes."""
    try:
        with path.open("rb") as file:
            file.seek(record.start)
            return file.read(record.length if most is None else min(record.length, most))
    except OSError as error:
        raise OutputError(f"cannot read the take's latents {shown(path, 200)}: {cause(error)}") from error


class RecordWriter:
    """Appends to a file that this process owns; what is torn at its end goes first."""

    def __init__(self, path: Path):
        self._path = path
        try:
            if not path.exists():
                with path.open("xb"):
                    pass
                _sync(path, 0, MAGIC)
                sync_folder(path.parent)
            found = scan(path)
            if found.torn or found.stop < len(MAGIC):
                _sync(path, found.stop, MAGIC[found.stop :] if found.stop < len(MAGIC) else b"")
            self._stop = max(found.stop, len(MAGIC))
        except OSError as error:
            raise output_error(path, error) from error

    def append(self, data: bytes) -> Record:
        """Writes one record; it is on the disk when this returns. OutputError, and the file as before, if it cannot."""
        head = _HEAD.pack(_MARK, len(data), zlib.crc32(data))
        try:
            _sync(self._path, self._stop, head + data)
        except OSError as error:
            with contextlib.suppress(OSError):  # else it is found torn, and cut then
                os.truncate(self._path, self._stop)
            raise output_error(self._path, error) from error
        record = Record(self._stop + _HEAD.size, len(data))
        self._stop = record.start + record.length
        return record

    def cut(self, stop: int) -> None:
        """Drops what lies behind this place, the end of a record or of the beginning."""
        try:
            _sync(self._path, stop, b"")
        except OSError as error:
            raise output_error(self._path, error) from error
        self._stop = stop


def _sync(path: Path, at: int, data: bytes) -> None:
    """Writes `data` at this place, which becomes the file's end, through to the disk."""
    with path.open("r+b") as file:
        file.truncate(at)
        file.seek(at)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes a new name in a folder last; Windows has no such call, and needs none."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
