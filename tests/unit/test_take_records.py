"""The append-only file of a take: a prefix is always whole, wherever writing ended."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dummyforcing_core.errors import OutputError
from dummyforcing_core.takes import records
from dummyforcing_core.takes.records import MAGIC, RecordWriter, payload, scan

PAYLOADS = [b"", b"one", b"TAKE" * 40, bytes(range(256))]


def written(path: Path, payloads=PAYLOADS) -> Path:
    writer = RecordWriter(path)
    for data in payloads:
        writer.append(data)
    return path


def read(path: Path) -> list[bytes]:
    return [payload(path, record) for record in scan(path).records]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "x")
    assert read(path) == PAYLOADS and scan(path).torn == 0
    RecordWriter(path).append(b"more")
    assert read(path) == [*PAYLOADS, b"more"]


def test_every_prefix_holds_the_records_that_are_whole_in_it_and_can_be_gone_on_with(tmp_path: Path) -> None:
    whole = written(tmp_path / "x").read_bytes()
    ends = [record.start + record.length for record in scan(tmp_path / "x").records]
    for size in range(len(whole) + 1):
        path = tmp_path / "y"
        path.write_bytes(whole[:size])
        there = [data for data, end in zip(PAYLOADS, ends, strict=True) if end <= size]
        assert read(path) == there
        RecordWriter(path).append(b"next")
        assert read(path) == [*there, b"next"] and scan(path).torn == 0


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_flipped_bit_is_found_and_never_hands_out_other_bytes(tmp_path_factory, data) -> None:
    path = written(tmp_path_factory.mktemp("flip") / "x")
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    found = read(path)
    assert len(found) < len(PAYLOADS) and found == PAYLOADS[: len(found)]
    assert scan(path).torn > 0


def test_a_record_as_long_as_it_likes_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(MAGIC + records._HEAD.pack(b"TAKE", 2**63, 0))
    assert scan(path).records == ()


@pytest.mark.parametrize("text", [b"RIFF" * 9, b"PK\x03\x04", b"DFTAKE\x00\x02"])
def test_another_file_is_one_line_and_stays_as_it_is(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(text)
    with pytest.raises(OutputError, match="expected a take's latents"):
        RecordWriter(path)
    assert path.read_bytes() == text


class Died(BaseException):
    """What a process does at its n-th call of the system."""


def calls(monkeypatch: pytest.MonkeyPatch, die_at: int) -> list[str]:
    """Counts fsync, write and truncate of files, and dies at one of them; a write dies half way."""
    seen: list[str] = []
    opened = Path.open

    class Dying:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def _count(self, name: str) -> None:
            seen.append(name)
            if len(seen) == die_at:
                raise Died

        def truncate(self, size):
            self._count("truncate")
            return self.file.truncate(size)

        def write(self, data):
            try:
                self._count("write")
            except Died:
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                raise
            return self.file.write(data)

        def flush(self):
            self._count("flush")
            return self.file.flush()

    def dying_open(path, mode="r", *args, **more):
        file = opened(path, mode, *args, **more)
        return Dying(file) if "b" in mode and mode != "rb" else file

    def dying_sync(number):
        seen.append("fsync")
        if len(seen) == die_at:
            raise Died

    monkeypatch.setattr(Path, "open", dying_open)
    monkeypatch.setattr(os, "fsync", dying_sync)
    return seen


def test_dying_at_any_call_leaves_whole_records_and_goes_on(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        total = len(calls(patch, -1)) or len(_counted(patch, tmp_path / "count"))
    assert total > 20
    for die_at in range(1, total + 1):
        path, there = tmp_path / f"x{die_at}", 0
        with pytest.MonkeyPatch.context() as patch:
            calls(patch, die_at)
            with pytest.raises(Died):
                writer = RecordWriter(path)
                for data in PAYLOADS:
                    writer.append(data)
                    there += 1
        found = read(path) if path.exists() else []
        assert found in (PAYLOADS[:there], PAYLOADS[: there + 1])  # on the disk, and `append` had not returned yet
        written(path, PAYLOADS[len(found) :])
        assert read(path) == PAYLOADS


def _counted(patch: pytest.MonkeyPatch, path: Path) -> list[str]:
    seen = calls(patch, -1)
    written(path)
    return seen


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x")
    writer = RecordWriter(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OutputError, match="the disk is full"):
            writer.append(b"more")
    writer.append(b"later")
    assert read(path) == [*PAYLOADS, b"later"]
