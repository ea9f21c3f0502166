"""Takes on disks that run full, are read-only, or lose files; two runs at once. Found, one line, and gone on with."""

import contextlib
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dummyforcing_core.takes.features import FEATURES
from dummyforcing_core.takes.snapshot import SNAPSHOT
from dummyforcing_core.takes.take import EVENTS, LATENTS, MANIFEST, Take

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tmpfs and resource limits are Linux'")
CLIP = ("--prompt", "a red circle", "--frames", "165", "--policy", "window")  # 42 latent frames of 4 KiB
KIB = 1024


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A small disk; a skip where nobody may mount one."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def generate(run, take: Path, out: Path, *more: str):
    return run("generate", *CLIP, "--take", take, "--out", out, *more)


def latents(take: Path) -> torch.Tensor:
    found = Take(take)
    return torch.cat([found.latent(span) for span in found.spans], dim=2)


@pytest.fixture
def whole(run, tiny_demo, tmp_path: Path) -> torch.Tensor:
    assert generate(run, tmp_path / "whole", tmp_path / "whole.mp4").code == 0
    return latents(tmp_path / "whole")


def test_a_full_disk_stops_cleanly_and_goes_on_once_there_is_room(
    run, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dummyforcing_core.takes.need._free", lambda folder: None)  # else it is not begun at all
    with tmpfs(tmp_path / "disk", "140k") as disk:
        result = generate(run, disk / "take", tmp_path / "clip.mp4")
        assert result.code == 2 and "the disk is full" in result.err and result.err.count("error:") == 1
        assert "the same command goes on with them" in result.err
        there = Take(disk / "take")
        assert 0 < there.frames < whole.shape[2] and not there.torn
        assert torch.equal(latents(disk / "take"), whole[:, :, : there.frames])
        again = generate(run, disk / "take", tmp_path / "clip.mp4")
        assert again.code == 2 and "the disk is full" in again.err
        remount(disk, "size=9m")
        assert generate(run, disk / "take", tmp_path / "clip.mp4").code == 0
        assert torch.equal(latents(disk / "take"), whole)
    assert (tmp_path / "clip.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_disk_that_is_too_small_is_refused_beforehand(run, tiny_demo, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "400k") as disk:
        result = generate(run, disk / "take", tmp_path / "clip.mp4", "--size", "256x256")
        assert result.code == 2 and "of room for the take" in result.err
        assert not (disk / "take" / MANIFEST).exists()


def test_a_read_only_disk_is_one_line_and_is_still_decoded(run, whole, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "20m") as disk:
        shutil.copytree(tmp_path / "whole", disk / "take")
        remount(disk, "ro")
        result = generate(run, disk / "take", tmp_path / "clip.mp4")
        assert result.code == 2 and "read-only" in result.err and result.err.count("error:") == 1
        assert run("take", "check", disk / "take").code == 0
        assert run("take", "decode", disk / "take", "--out", tmp_path / "decoded.mp4").code == 0
        assert (tmp_path / "decoded.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
        remount(disk, "rw")


def test_files_may_not_grow_beyond_a_limit(run, whole, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 * KIB, before[1]))
    try:
        result = generate(run, tmp_path / "take", tmp_path / "clip.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.code == 2 and "ulimit -f" in result.err
    assert 0 < Take(tmp_path / "take").frames < whole.shape[2] and not Take(tmp_path / "take").torn
    assert generate(run, tmp_path / "take", tmp_path / "clip.mp4").code == 0
    assert torch.equal(latents(tmp_path / "take"), whole)


@pytest.mark.parametrize("name", [MANIFEST, LATENTS, FEATURES, EVENTS, SNAPSHOT, "pictures"])
def test_a_file_that_is_lost_is_told_of_or_made_again(run, whole, tmp_path: Path, name: str) -> None:
    path = tmp_path / "whole" / name
    if name == SNAPSHOT:
        assert generate(run, tmp_path / "whole", tmp_path / "x.mp4", "--snapshot-every", "5").code == 0
        path.unlink(missing_ok=True)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    result = generate(run, tmp_path / "whole", tmp_path / "again.mp4")
    if name == MANIFEST:
        assert result.code == 2 and "no take.json" in result.err
        return
    assert result.code == 0 and torch.equal(latents(tmp_path / "whole"), whole)
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_record_that_is_missing_in_the_middle_is_found(run, whole, tmp_path: Path) -> None:
    """Whoever cuts one out leaves latents whose frames no longer follow one another, or no prompt that fits."""
    take = Take(tmp_path / "whole")
    gone = take.entries[3].record
    data = (tmp_path / "whole" / LATENTS).read_bytes()
    (tmp_path / "whole" / LATENTS).write_bytes(data[: gone.start - 16] + data[gone.start + gone.length :])
    result = run("take", "check", tmp_path / "whole")
    assert result.code != 0 and ("damaged" in result.out or "damaged" in result.err)
    assert generate(run, tmp_path / "whole", tmp_path / "again.mp4").code == 2


def test_two_runs_of_one_take(run, tiny_demo, tmp_path: Path) -> None:
    """The second is told that another has it; the first is not disturbed."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "take")], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        result = generate(run, tmp_path / "take", tmp_path / "clip.mp4")
        assert result.code == 2 and "got another run that is writing it, process 7 on box, since now;" in result.err
        assert result.err.count("error:") == 1 and not (tmp_path / "take" / MANIFEST).exists()
        assert run("take", "prune", tmp_path / "take", "--all", "--yes").code == 2
    finally:
        holder.communicate("done\n")
    assert generate(run, tmp_path / "take", tmp_path / "clip.mp4").code == 0


HOLD = r"""
import sys
from pathlib import Path
from dummyforcing_core.ownership import owned
folder = Path(sys.argv[1])
folder.mkdir()
(folder / "events.jsonl").write_text('{"time": "now", "by": {"process": 7, "on": "box"}}\n[\n{"event": "decided"}\n')
with owned(folder):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_take_is_looked_at_while_it_grows(run, whole, tmp_path: Path) -> None:
    """A reader sees a prefix, whatever has been written of the next record."""
    data = (tmp_path / "whole" / LATENTS).read_bytes()
    manifest = json.loads((tmp_path / "whole" / MANIFEST).read_text())
    (tmp_path / "whole" / MANIFEST).write_text(json.dumps({**manifest, "finished": False}))
    counts = []
    for size in range(len(data) // 5, len(data), len(data) // 9):
        (tmp_path / "whole" / LATENTS).write_bytes(data[:size])
        assert run("take", "show", tmp_path / "whole").code == 0
        counts.append(len(Take(tmp_path / "whole").entries))
    assert counts == sorted(counts) and counts[-1] > counts[0]
