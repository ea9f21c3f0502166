"""SIGKILL at random moments, over all families' loops: every take comes to the bits of one that nobody killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no fork, no SIGKILL")


def killed(folder: Path, kills: int, seed: int) -> dict:
    words = ("--kills", str(kills), "--seed", str(seed))
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.take_kills", str(folder), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_dozen_kills(tmp_path: Path) -> None:
    found = killed(tmp_path, 12, 0)
    assert found["landed"] == 12 and found["differing"] == [], found
    assert len(found["at"]) >= 3, found  # spread over the takes


@pytest.mark.proof
def test_two_hundred_kills(tmp_path: Path) -> None:
    found = killed(tmp_path, 200, 1)
    assert found["landed"] == 200 and found["differing"] == [], found
    assert {*"0123456"} <= set(found["at"]), found  # before the first chunk, behind each, and behind the last
    print(f"\n{found['landed']} kills in {found['takes']} takes, behind chunks {found['at']}")
