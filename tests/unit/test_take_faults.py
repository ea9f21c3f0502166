"""A clip that dies at any write, flush, sync, rename or removal goes on to the bits of one that does not.

Killed, with half of a write done, by a power cut, or twice. What the take said was on the disk is there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dummyforcing_core.models import checkpoints
from tests.unit.take_faults import WAYS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, reads /proc")
LEAST = 100  # points of such a clip: fewer, and something is no longer counted


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
    assert found["points"] >= LEAST and found["died"] == found["tried"] > 0 and found["died again"] > 0, found
    return found


def test_dying_at_some_points(tiny_demo, tmp_path: Path) -> None:
    assert died_everywhere(tmp_path, 7)["differing"] == []


@pytest.mark.proof
def test_dying_at_every_point(tiny_demo, tmp_path: Path) -> None:
    found = died_everywhere(tmp_path, 1)
    assert found["differing"] == [], found
    assert found["tried"] == found["points"] * len(WAYS)
    print(f"\n{found['died']} deaths at {found['points']} points, {found['died again']} of them again")
