"""A thousand chunks: memory flat, the file as large as was said, gone on with in memory that is flat too."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.proof, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
CHUNKS, FIRST = 1000, 100

MAKE = """
import json, sys, warnings
from dataclasses import replace
from pathlib import Path
import torch
from dummyforcing_core.loops.table import sample
from dummyforcing_core.takes.need import latent_bytes, take_bytes
from dummyforcing_core.takes.prompts import prompts_of
from dummyforcing_core.takes.take import LATENTS, MANIFEST, Manifest, Recording
from tests.property.test_policy_matrix import FAMILIES, POLICY_CASES, VARIANTS, clip

torch.set_num_threads(1)
warnings.simplefilter("ignore")
folder, stop, first = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
run = clip(POLICY_CASES["head_forcing again"], FAMILIES["chunks"], VARIANTS["a prompt switch"], frames=3 * 1000)
take = Recording(folder) if (folder / MANIFEST).exists() else Recording.begin(folder, Manifest({}, {}, run.shape))

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

sizes = {}
for chunk in sample(replace(run, made=take.made())):
    take.add(chunk, prompts_of(run, chunk, lambda frame: "a red circle"))
    take.add_picture(chunk.span.chunk, __import__("numpy").zeros((16, 16, 3), "uint8"))
    if len(take.entries) in (first, stop):
        sizes[len(take.entries)] = resident()
    if len(take.entries) == stop:
        break
exact = latent_bytes(run.shape, 3 * len(take.entries), 4)
said = take_bytes(run.shape, run.spans[: len(take.entries)])
print(json.dumps({"sizes": sizes, "file": (folder / LATENTS).stat().st_size, "exact": exact, "said": said}))
"""


def made(folder: Path, stop: int, first: int) -> dict:
    import json

    words = [sys.executable, "-c", MAKE, str(folder), str(stop), str(first)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_memory_is_flat_and_the_file_as_large_as_was_said(tmp_path: Path) -> None:
    found = made(tmp_path / "take", CHUNKS, FIRST)
    first, last = found["sizes"][str(FIRST)], found["sizes"][str(CHUNKS)]
    assert abs(last - first) < 0.01 * first, (first, last)
    assert found["exact"] < found["file"] <= found["said"]
    print(f"\n{first / 2**20:.1f} MiB behind chunk {FIRST}, {last / 2**20:.1f} behind {CHUNKS}; {found}")


def test_a_long_take_is_gone_on_with_in_flat_memory(tmp_path: Path) -> None:
    made(tmp_path / "take", CHUNKS - 100, FIRST)
    found = made(tmp_path / "take", CHUNKS, CHUNKS - 90)
    first, last = found["sizes"].values()
    assert abs(last - first) < 0.01 * first, (first, last)
