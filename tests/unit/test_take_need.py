"""The disk that a take needs: said beforehand, exact but for heads, watched while it grows."""

import shutil
import warnings
from collections import namedtuple
from pathlib import Path

import pytest

from dummyforcing_core.errors import OutputError
from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.loops.table import loop_of, sample
from dummyforcing_core.takes.need import CHUNK_BYTES, PLAN_BYTES, Room, latent_bytes, take_bytes
from dummyforcing_core.takes.take import LATENTS, Manifest, Recording
from tests.property.test_policy_matrix import FAMILIES, POLICY_CASES, VARIANTS, clip

Usage = namedtuple("Usage", "total used free")
MIB = 2**20


def free(monkeypatch: pytest.MonkeyPatch, *sizes: int) -> None:
    left = list(sizes)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, left.pop(0) if len(left) > 1 else left[0]))


@pytest.mark.parametrize("loop", FAMILIES)
def test_a_take_is_as_large_as_was_said(tmp_path: Path, loop: str) -> None:
    family = FAMILIES[loop]
    run = clip(POLICY_CASES["window narrow"], family, VARIANTS["plain"])
    take = Recording.begin(tmp_path, Manifest({}, {}, run.shape))
    windows = [chunk.window for chunk in sample(run) if take.add(chunk) is None]
    size = (tmp_path / LATENTS).stat().st_size
    begun = loop_of(family).pass_frames(family) - family.chunk_frames
    said = take_bytes(run.shape, run.spans, begun)
    exact = latent_bytes(run.shape, run.shape.frames + sum(x.shape[2] for window in windows for x in window), 4)
    assert exact < size < exact + CHUNK_BYTES * len(run.spans) + PLAN_BYTES
    assert size <= said


def test_a_disk_that_cannot_hold_it_is_refused_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 100 * MIB)
    with pytest.raises(OutputError, match=r"expected 300 MiB of room for the take .* got 100 MiB"):
        Room(tmp_path, 300 * MIB, 3).state()
    with pytest.warns(UserWarning, match=r"will need about 50\.1 MiB, 100 are free"):
        Room(tmp_path, 50 * MIB, 10).state()


def test_a_disk_that_runs_full_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 100 * MIB, 90 * MIB, 30 * MIB)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        room = Room(tmp_path, 60 * MIB, 0)
        room.state()
        for _ in range(4):
            room.took(10 * MIB)
    assert [str(one.message).partition(":")[0] for one in said] == [
        "the take will need about 60.0 MiB, 100 are free",
        "the disk runs full",
    ]
    assert "still needs 40 MiB, 30 are free" in str(said[1].message)


def test_a_system_that_does_not_say_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Path) -> Usage:
        raise OSError("no such call")

    monkeypatch.setattr(shutil, "disk_usage", fails)
    room = Room(tmp_path, 2**60, 3)
    room.state()
    room.took(5)


def test_1080p_for_a_minute() -> None:
    """What the help says: about 2 MiB a latent frame in float32."""
    shape = LatentShape(1, 16, 240, 136, 240)
    spans = [Span(i, 3 * i, 3 * i + 3) for i in range(80)]
    assert 470 * MIB < take_bytes(shape, spans) < 490 * MIB


def test_generate_refuses_before_it_samples(run, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 0)
    monkeypatch.setattr("dummyforcing_core.takes.need.PLAN_BYTES", 10)
    result = run("generate", "--prompt", "a red circle", "--take", tmp_path / "t", "--out", tmp_path / "x.mp4")
    assert result.code == 2 and "of room for the take" in result.err
    assert not (tmp_path / "x.mp4").exists() and not (tmp_path / "t" / "take.json").exists()
