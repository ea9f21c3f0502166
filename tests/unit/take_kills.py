"""Children that record takes over all families' loops and are killed at random moments until each take is finished.

python -m tests.unit.take_kills FOLDER --kills 200 --seed 0     # prints one JSON line: landed, takes, at, differing

at -- how many kills landed behind so many chunks
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dummyforcing_core.loops.run import Run
from dummyforcing_core.loops.table import sample
from dummyforcing_core.takes.prompts import prompts_of
from dummyforcing_core.takes.snapshot import with_snapshots
from dummyforcing_core.takes.take import MANIFEST, Manifest, Recording, Take
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
KILLS_EACH = 6  # of one take: then it may finish


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


def chunks_at(folder: Path) -> int:
    return len(Take(folder).entries) if (folder / MANIFEST).exists() else 0


def killed(folder: Path, run: Run, seconds: float, moments: random.Random, most: int) -> list[int]:
    """Goes on with a take and is killed, again and again, until it is finished; how many chunks were there each time.

    A kill lands if the child is still at work: one that has ended by itself must have ended well.
    """
    landed: list[int] = []
    while not (folder / MANIFEST).exists() or not Manifest.read(folder).finished:
        pid = child(lambda: record(folder, run))
        if len(landed) < most:
            time.sleep(moments.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)  # of a child that was not waited for: its number is nobody else's
        status = os.waitpid(pid, 0)[1]
        assert status in (0, signal.SIGKILL), f"exit {os.waitstatus_to_exitcode(status)}"
        if status:
            landed.append(chunks_at(folder))
    return landed


def run_all(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    moments, landed, takes, differing = random.Random(seed), list[int](), 0, list[str]()
    whole: dict[int, tuple[Run, torch.Tensor, float]] = {}
    while len(landed) < kills:
        number = takes % len(CASES)
        loop, policy, kind = CASES[number]
        if number not in whole:
            run, began = clip(POLICY_CASES[policy], FAMILIES[loop], VARIANTS[kind]), time.monotonic()
            record(folder / f"whole {number}", run)
            whole[number] = run, latents(folder / f"whole {number}"), time.monotonic() - began
        run, expected, seconds = whole[number]
        there = folder / "killed"
        landed += killed(there, run, 1.2 * seconds, moments, min(KILLS_EACH, kills - len(landed)))
        if not torch.equal(latents(there), expected) or Take(there).missing:
            differing.append(f"take {takes}: {CASES[number]}")
        shutil.rmtree(there)
        takes += 1
    at = dict(sorted(Counter(landed).items()))
    return {"landed": len(landed), "takes": takes, "at": at, "differing": differing}


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
