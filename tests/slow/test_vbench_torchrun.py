"""`vbench` under torchrun, in processes of its own: no clash, no gap, killed in the middle, the same bytes at last."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMPTS = ROOT / "prompts" / "demo_world.txt"
SAMPLES = 3
ENV = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD", "LOCAL_", "MASTER_"))}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc"),
]


def start(out: Path, ranks: int) -> "subprocess.Popen[str]":
    words = ["-m", "dummyforcing_core", "vbench", "--prompts", str(PROMPTS), "--samples", str(SAMPLES)]
    words += ["--size", "48x48", "--frames", "21", "--device", "cpu", "--policy", "dummy", "--out", str(out)]
    if ranks:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *words]
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=ENV | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out


def kill(process: "subprocess.Popen[str]") -> None:
    """The launcher and its workers at once, which are no group of one process."""
    tasks = Path(f"/proc/{process.pid}/task")
    workers = {int(pid) for path in tasks.glob("*/children") for pid in path.read_text(encoding="ascii").split()}
    for pid in (process.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=30)


def clips(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "videos").glob("*")}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def test_killed_in_the_middle_it_resumes_to_the_same_files(tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    finish(start(alone, ranks=0))
    whole = clips(alone)
    lines = [line for line in PROMPTS.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert sorted(whole) == sorted(f"{line}-{i}.mp4" for line in lines for i in range(SAMPLES))

    first = start(shared, ranks=2)
    try:
        until = time.monotonic() + 60
        while not (names(shared / "videos") and names(shared / "unfinished")):
            assert time.monotonic() < until and first.poll() is None, first.communicate()[0]
            time.sleep(0.005)
    finally:
        kill(first)
    left = clips(shared)
    assert 0 < len(left) < len(whole)
    assert left.items() <= whole.items()  # what has a clip's name is that clip, whole
    assert names(shared / "unfinished")

    said = finish(start(shared, ranks=3))
    assert clips(shared) == whole
    assert not names(shared / "unfinished")
    assert names(shared) == ["manifest.json", "unfinished", "videos"]
    made = [line for line in said.splitlines() if "FPS" in line]
    assert len(made) == len(whole) - len(left)
    assert not any(name in line for line in made for name in left)
    assert {line.split("]")[0] for line in made} <= {f"[rank {rank} of 3" for rank in range(3)}
