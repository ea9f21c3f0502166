"""SIGKILL at random moments, over all families' loops: every take comes to the bits of one that nobody killed, and no
chunk that was there is made anew."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.property.test_policy_matrix import FAMILIES

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
    assert found["kills"] == 12 and found["wrong"] == [], found
    assert set(found["landed"]) == set(FAMILIES) and found["far"].get("midway"), found


@pytest.mark.proof
def test_two_hundred_kills(tmp_path: Path) -> None:
    found = killed(tmp_path, 200, 1)
    assert found["kills"] == 200 and found["wrong"] == [], found
    assert min(found["landed"].values()) >= 20 and set(found["landed"]) == set(FAMILIES), found
    assert found["far"]["midway"] >= 50, found
    print(f"\n{found}")
