"""The disks that tests of power cuts stand on lose what was not synced, and nothing else."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.power_cuts import KINDS, Disk

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc")
BYTES, NAMES = KINDS


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Of the folder "take", whose own name is on it."""
    made = Disk(tmp_path / "take")
    monkeypatch.setattr(os, "fsync", made.watched(os.fsync))
    (tmp_path / "take").mkdir()
    sync(tmp_path)
    yield made


def sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    os.fsync(number)
    os.close(number)


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("kind", "left"), [(BYTES, {"a": b"old"}), (NAMES, {"a": b"old"})])
def test_bytes_that_were_not_synced_are_gone(disk: Disk, tmp_path: Path, kind: str, left: dict) -> None:
    path = tmp_path / "take" / "a"
    path.write_bytes(b"old")
    sync(path)
    sync(path.parent)
    with path.open("ab") as file:
        file.write(b" and new")
    disk.cut(kind)
    assert held(tmp_path / "take") == left


@pytest.mark.parametrize(("kind", "left"), [(BYTES, {"b": b""}), (NAMES, {"b": b"old"})])
def test_a_rename_without_a_sync_is_empty_or_did_not_happen(disk: Disk, tmp_path: Path, kind: str, left: dict) -> None:
    folder = tmp_path / "take"
    (folder / "b").write_bytes(b"old")
    sync(folder / "b")
    sync(folder)
    (folder / "a").write_bytes(b"new")
    (folder / "a").replace(folder / "b")
    disk.cut(kind)
    assert held(folder) == left


@pytest.mark.parametrize(("kind", "left"), [(BYTES, {}), (NAMES, {"a": b"old"})])
def test_a_removal_without_a_sync_may_not_have_happened(disk: Disk, tmp_path: Path, kind: str, left: dict) -> None:
    path = tmp_path / "take" / "a"
    path.write_bytes(b"old")
    sync(path)
    sync(path.parent)
    path.unlink()
    disk.cut(kind)
    assert held(tmp_path / "take") == left


def test_a_folder_whose_own_name_was_not_synced_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path / "take")
    monkeypatch.setattr(os, "fsync", disk.watched(os.fsync))
    (tmp_path / "take").mkdir()
    sync(tmp_path / "take")
    disk.cut(BYTES)
    assert (tmp_path / "take").is_dir()
    disk.cut(NAMES)
    assert not (tmp_path / "take").exists()
