"""Bits flipped, bytes lost, zeroed or doubled anywhere in any file of a take: refused, or made whole to the bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dummyforcing_core.models import checkpoints
from tests.unit.take_damage import FILES

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no fork")


def damaged(folder: Path, each: int) -> dict:
    words = ("--model", str(checkpoints.DEMO_PATH), "--each", str(each))
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.take_damage", str(folder), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tried"] > 0.9 * each * len(FILES), found  # a cut may fall where it changes nothing
    return found


def test_damage_at_some_places(tiny_demo, tmp_path: Path) -> None:
    assert damaged(tmp_path, 3)["wrong"] == []


@pytest.mark.proof
def test_damage_at_many_places(tiny_demo, tmp_path: Path) -> None:
    found = damaged(tmp_path, 60)
    assert found["wrong"] == [], found
    assert {f"{name} made whole" for name in FILES} <= set(found["found"]), found
    print(f"\n{found['tried']} damages: {found['found']}")
