"""Children that record takes over all families' loops and are killed at random moments until each take is finished.

python -m tests.unit.take_kills FOLDER --kills 200 --seed 0     # prints one JSON line: landed, by loop and by how far
the take was, takes, wrong
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dummyforcing_core.loops.run import Run
from dummyforcing_core.loops.table import sample
from dummyforcing_core.takes.prompts import prompts_of
from dummyforcing_core.takes.records import scan
from dummyforcing_core.takes.snapshot import with_snapshots
from dummyforcing_core.takes.take import LATENTS, MANIFEST, Manifest, Recording, Take
from tests.property.test_policy_matrix import FAMILIES, POLICY_CASES, VARIANTS, clip
from tests.property.test_resume import Stills

CASES = [  # each a loop, a policy that decides something on the way, a clip with something in it
    ("chunks", "head_forcing again", "a prompt switch"),
    ("chunks", "dummy online", "plain"),
    ("re-caching", "head_forcing keys", "two clips, a switch"),
    ("rolling", "dummy scored again", "a prompt switch"),
    ("recompute", "dummy online", "a given start"),
    ("restarts", "window narrow", "a given start"),
]
KILLS_EACH = 6  # of one take, at most: then it may finish


def record(folder: Path, run: Run) -> None:
    """Makes the take, or goes on with it, as whoever writes clips does."""
    take = Recording(folder) if (folder / MANIFEST).exists() else Recording.begin(folder, Manifest({}, {}, run.shape))
    for chunk in sample(with_snapshots(replace(run, still=Stills(), made=take.made()), folder, 2)):
        take.add(chunk, prompts_of(run, chunk, lambda frame: f"prompt {frame}"))
    take.finish()


def child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def latents(folder: Path) -> torch.Tensor:
    take = Take(folder)
    return torch.cat([take.latent(span) for span in take.spans], dim=2)


def whole_bytes(folder: Path) -> bytes:
    """What is whole of a take's latents."""
    path = folder / LATENTS
    return path.read_bytes()[: scan(path).stop] if path.exists() else b""


def far(folder: Path, chunks: int) -> str:
    """How far a take is that has just been killed."""
    if not (folder / MANIFEST).exists() or not (there := len(Take(folder).entries)):
        return "before its first chunk"
    return "midway" if there < chunks else "behind its last chunk"


@dataclass
class Killed:
    """What kills did to takes: where they landed, and what went wrong."""

    landed: Counter[str] = field(default_factory=Counter)  # by loop
    far: Counter[str] = field(default_factory=Counter)
    torn: int = 0
    wrong: list[str] = field(default_factory=list)

    def once(self, folder: Path, loop: str, run: Run, seconds: float) -> None:
        """Goes on with a take in a child, and kills it after so long."""
        before, pid = whole_bytes(folder), child(lambda: record(folder, run))
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)  # one that has ended by itself is not waited for yet, and stays as it is
        status = os.waitpid(pid, 0)[1]
        if not whole_bytes(folder).startswith(before):
            self.wrong.append(f"{loop}: chunks that were there were made anew")
        if os.WIFSIGNALED(status):
            self.landed[loop] += 1
            self.far[far(folder, len(run.spans))] += 1
            self.torn += (folder / MANIFEST).exists() and bool(Take(folder).torn)
        elif status:
            self.wrong.append(f"{loop}: exit {os.waitstatus_to_exitcode(status)}")

    def take(self, folder: Path, made: "Made", moments: random.Random, most: int) -> None:
        """One take to its end, with so many kills on the way at most."""
        stop = self.landed.total() + most
        while not (folder / MANIFEST).exists() or not Manifest.read(folder).finished:
            if self.landed.total() < stop:
                self.once(folder, made.loop, made.run, moments.uniform(0, 1.2 * made.seconds))
            else:
                assert os.waitpid(child(lambda: record(folder, made.run)), 0)[1] == 0
        if not torch.equal(latents(folder), made.latents) or Take(folder).missing:
            self.wrong.append(f"{made.loop}: another clip")


@dataclass(frozen=True, eq=False)
class Made:
    """A take that nobody killed."""

    loop: str
    run: Run
    latents: torch.Tensor
    seconds: float


def made_at_once(folder: Path, loop: str, policy: str, kind: str) -> Made:
    run, began = clip(POLICY_CASES[policy], FAMILIES[loop], VARIANTS[kind]), time.monotonic()
    record(folder, run)
    return Made(loop, run, latents(folder), time.monotonic() - began)


def run_all(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    moments, killed, takes = random.Random(seed), Killed(), 0
    each = min(KILLS_EACH, -(-kills // len(CASES)))  # of a few kills every loop gets some
    whole = [made_at_once(folder / f"whole {number}", *case) for number, case in enumerate(CASES)]
    while killed.landed.total() < kills:
        there = folder / "killed"
        killed.take(there, whole[takes % len(CASES)], moments, min(each, kills - killed.landed.total()))
        shutil.rmtree(there)
        takes += 1
    return {**vars(killed), "kills": killed.landed.total(), "takes": takes}


def command(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(json.dumps(run_all(args.folder, args.kills, args.seed)))
    return 0


if __name__ == "__main__":
    raise SystemExit(command(sys.argv[1:]))
