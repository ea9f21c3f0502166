"""A clip that dies at any write, flush, sync, rename or removal, or as the power goes, goes on to the bits of one that
does not: no chunk that was there is made anew, the log stays readable, nothing is left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dummyforcing_core.models import checkpoints

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no fork, no power cuts")
STRIDE = 9
LEAST = 60  # points of such a clip: fewer, and something is no longer counted


def died_everywhere(folder: Path, stride: int) -> dict:
    words = ("--model", str(checkpoints.DEMO_PATH), "--stride", str(stride))
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.take_faults", str(folder), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["points"] >= LEAST and found["died"] == found["tried"] > 0, found
    return found


def test_dying_at_some_points(tiny_demo, tmp_path: Path) -> None:
    assert died_everywhere(tmp_path, STRIDE)["wrong"] == []


@pytest.mark.proof
def test_dying_at_every_point(tiny_demo, tmp_path: Path) -> None:
    found = died_everywhere(tmp_path, 1)
    assert found["wrong"] == [], found
    print(f"\n{found['died']} deaths at {found['points']} points")
