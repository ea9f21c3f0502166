"""Small takes of one version's format, kept under tests/unit/data/takes/: every later version opens them.

python -m tests.unit.take_format tests/unit/data/takes/v2     # writes those of today, once per format version
"""

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dummyforcing_core.loops.run import Run
from dummyforcing_core.loops.table import sample
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.takes.features import key_of
from dummyforcing_core.takes.prompts import prompts_of
from dummyforcing_core.takes.snapshot import Snapshots
from dummyforcing_core.takes.take import Manifest, Recording, Take
from tests.property.test_policy_matrix import FAMILIES, POLICY_CASES, VARIANTS, clip
from tests.property.test_resume import Stills

CASES = {  # take -> loop, policy, clip
    "story": ("chunks", "head_forcing again", "a prompt switch"),
    "rolling": ("rolling", "dummy scored again", "a prompt switch"),
    "stills": ("restarts", "window narrow", "a given start"),
}
MADE = 3  # chunks that are kept: there is something to go on with


def run_of(name: str) -> Run:
    loop, policy, kind = CASES[name.removesuffix("_branch")]
    run = replace(clip(POLICY_CASES[policy], FAMILIES[loop], VARIANTS[kind]), still=Stills())
    return replace(run, noise=SeededNoise(7, run.shape, 3)) if name.endswith("_branch") else run


def manifest_of(name: str, run: Run) -> Manifest:
    parent = ("story", 2) if name.endswith("_branch") else None
    made = {"family": run.family.name, "policy": str(run.policy), "seed": 0 if parent is None else 7, "fps": "16"}
    return Manifest(made, {"device": "cpu"}, run.shape, parent=parent, shown_frames=40, call={"options": ["--seed=0"]})


def record(folder: Path, name: str) -> Recording:
    """The first chunks of a take, with all that one may hold."""
    run = run_of(name)
    take = Recording.begin(folder / name, manifest_of(name, run))
    store = Snapshots(folder / name, 2) if name == "story" else run.on_commit
    for chunk in sample(replace(run, made=take.made(), on_commit=store)):
        take.add(chunk, prompts_of(run, chunk, lambda frame: f"prompt {frame // 6}"))
        take.add_picture(chunk.span.chunk, np.full((8, 8, 3), 40 * chunk.span.chunk, np.uint8))
        if len(take.entries) == MADE:
            break
    return take


def latent_key(take: Take) -> str:
    return key_of(torch.cat([take.latent(span) for span in take.spans], dim=2))


def write(folder: Path) -> None:
    warnings.simplefilter("ignore")
    names = [*CASES, "story_branch"]
    keys = [f"{name} {latent_key(record(folder, name))}\n" for name in names]
    (folder / "latents.txt").write_text("".join(keys), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
