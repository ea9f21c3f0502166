"""Snapshots of a take's keys and values: gone on from bit for bit, and left alone where they are not of this clip."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dummyforcing_core.loops.run import Run
from dummyforcing_core.loops.table import sample
from dummyforcing_core.takes.records import RecordWriter
from dummyforcing_core.takes.snapshot import PART, SNAPSHOT, Snapshots, snapshot_bytes, with_snapshots
from dummyforcing_core.takes.take import Manifest, Recording, Take
from tests.property.test_policy_matrix import FAMILIES, POLICY_CASES, VARIANTS, clip
from tests.property.test_resume import Counted

CHUNKS = 4  # behind which the takes of these tests are cut


@pytest.fixture
def run() -> Run:
    made = clip(POLICY_CASES["window narrow"], FAMILIES["chunks"], VARIANTS["plain"])
    assert len(made.spans) > CHUNKS
    return made


def kept(folder: Path, run: Run, every: int = 2, stop: int | None = CHUNKS) -> Recording:
    take = Recording.begin(folder, Manifest({}, {}, run.shape))
    for chunk in sample(replace(run, on_commit=Snapshots(folder, every))):
        take.add(chunk)
        if len(take.entries) == stop:
            break
    return take


def goes_on(folder: Path, run: Run) -> tuple[torch.Tensor, int]:
    """The latents of the whole clip, and how many clean passes that took."""
    take, counted = Take(folder), Counted(run.denoise)
    rest = list(sample(replace(run, denoise=counted, made=take.made())))
    parts = [take.latent(span) for span in take.spans] + [chunk.latent for chunk in rest]
    return torch.cat(parts, dim=2), len(counted.clean)


def whole(run: Run) -> torch.Tensor:
    return torch.cat([chunk.latent for chunk in sample(run)], dim=2)


def test_a_take_goes_on_from_its_newest_snapshot(run: Run, tmp_path: Path) -> None:
    kept(tmp_path / "plain", run, every=99)
    kept(tmp_path / "stored", run)
    assert not (tmp_path / "plain" / SNAPSHOT).exists() and not (tmp_path / "stored" / PART).exists()
    (one, passes), (other, fewer) = (goes_on(tmp_path / name, run) for name in ("plain", "stored"))
    assert torch.equal(one, whole(run)) and torch.equal(other, one)
    assert passes - fewer == CHUNKS


def test_it_takes_what_is_said_beforehand(run: Run, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"every 1 chunks takes up to .* MiB"):
        run = with_snapshots(run, tmp_path, 1)
    Recording.begin(tmp_path, Manifest({}, {}, run.shape))
    list(sample(run))
    size = (tmp_path / SNAPSHOT).stat().st_size
    layers = run.denoise.geometry.layers
    assert 0 < size - snapshot_bytes(run) < 1024 * (layers + 1)


@pytest.mark.parametrize("what", ["torn", "flipped", "gone", "of another clip", "of a dropped chunk", "a newer format"])
def test_a_snapshot_that_does_not_fit_is_not_used(run: Run, tmp_path: Path, what: str) -> None:
    take = kept(tmp_path, run)
    path, expected = tmp_path / SNAPSHOT, 1
    data = bytearray(path.read_bytes())
    if what == "torn":
        path.write_bytes(data[:-7])
    elif what == "flipped":
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    elif what == "gone":
        path.unlink()
        expected = 0
    elif what == "a newer format":
        path.unlink()
        RecordWriter(path).append(
            b'{"format": "dummyforcing.kv", "version": 2, "layers": 0, "chunk": 3, "latent": "x"}'
        )
    elif what == "of another clip":
        kept(tmp_path / "other", replace(run, noise=lambda step, span: run.noise(step, span) + 1))
        path.write_bytes((tmp_path / "other" / SNAPSHOT).read_bytes())
    else:
        take.lengthen(run.shape, CHUNKS - 1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made, _ = goes_on(tmp_path, run)
    assert torch.equal(made, whole(run))
    assert len([one for one in said if "is not used" in str(one.message)]) == expected


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_no_link_is_written_or_read_through(run: Run, tmp_path: Path) -> None:
    take, outside = kept(tmp_path / "take", run), tmp_path / "outside"
    outside.write_bytes(b"precious")
    for name in (SNAPSHOT, PART):
        (take.folder / name).unlink(missing_ok=True)
        (take.folder / name).symlink_to(outside)
        with pytest.warns(UserWarning, match="a link or no file"):
            made = Recording(take.folder).made()
            list(sample(replace(run, made=made, on_commit=Snapshots(take.folder, 1))))
        (take.folder / name).unlink()
    assert outside.read_bytes() == b"precious"


def test_a_write_that_fails_leaves_the_last_one(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dummyforcing_core.takes import snapshot

    take = kept(tmp_path, run, every=4)
    before = (tmp_path / SNAPSHOT).read_bytes()
    full, count = snapshot.RecordWriter.append, 0

    def append(self, data: bytes):
        nonlocal count
        count += 1
        if count == 2:
            raise OSError(28, "No space left on device")
        return full(self, data)

    monkeypatch.setattr(snapshot.RecordWriter, "append", append)
    with pytest.warns(UserWarning, match=r"no more snapshots .* the disk is full") as said:
        list(sample(replace(run, made=take.made(), on_commit=Snapshots(tmp_path, 1))))
    assert len(said) == 1 and count == 2
    assert (tmp_path / SNAPSHOT).read_bytes() == before and not (tmp_path / PART).exists()
    monkeypatch.undo()
    assert torch.equal(goes_on(tmp_path, run)[0], whole(run))


@pytest.mark.parametrize(
    ("policy", "loop", "words"),
    [
        ("window narrow", "rolling", "makes its memory anew"),
        ("window narrow", "recompute", "makes its memory anew"),
        ("window narrow", "restarts", "makes its memory anew"),
        ("head_forcing keys", "chunks", "looks at the keys"),
    ],
)
def test_where_there_are_none_a_line_says_so(tmp_path: Path, policy: str, loop: str, words: str) -> None:
    run = clip(POLICY_CASES[policy], FAMILIES[loop], VARIANTS["plain"])
    with pytest.warns(UserWarning, match=words):
        assert with_snapshots(run, tmp_path, 2) is run
    assert with_snapshots(run, tmp_path, 0) is run
