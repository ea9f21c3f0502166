"""What a take costs: time per chunk with one over time without, and going on with it over making it. One JSON line.

python benchmarks/bench_take.py                          # a tiny model on the CPU, about a minute
python benchmarks/bench_take.py --chunks 40 --save
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bench_rollout import GEOMETRIES, RESULTS
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.loops.run import Run
from dummyforcing_core.loops.table import sample
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import get_family
from dummyforcing_core.models.wan import CausalWan
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import SlidingWindow
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.takes.prompts import prompts_of
from dummyforcing_core.takes.snapshot import Snapshots
from dummyforcing_core.takes.take import Manifest, Recording

FAMILY = get_family("self_forcing")
WARMUP = 4  # chunks until the window is full


def tiny_run(chunks: int, side: int) -> Run:
    """A clip of a random model on the CPU."""
    torch.manual_seed(0)
    config = GEOMETRIES["tiny"]
    denoiser = WanDenoiser(CausalWan(config).eval().requires_grad_(False))
    shape = replace(LatentShape.of_pixels(side, side, 1, channels=config.in_dim), frames=3 * chunks)
    text = PromptSchedule.constant(torch.randn(1, config.text_len, config.text_dim))
    noise = SeededNoise(0, shape, FAMILY.chunk_frames, torch.device("cpu"))
    return Run(denoiser, shape, FAMILY.schedule, text, SlidingWindow(12, 3), FAMILY, noise)


def interleaved(run: Run, folder: Path, every: int) -> dict[str, list[float]]:
    """Milliseconds per chunk of three runs that take turns: without a take, with one, with one and its snapshots."""
    takes = {name: Recording.begin(folder / name, Manifest({}, {}, run.shape)) for name in ("take", "snapshots")}
    runs = {"none": run, "take": run, "snapshots": replace(run, on_commit=Snapshots(folder / "snapshots", every))}
    chunks, ms = {name: sample(one) for name, one in runs.items()}, {name: list[float]() for name in runs}
    for _ in run.spans:
        for name, made in chunks.items():
            began = time.perf_counter()
            chunk = next(made)
            if name in takes:
                takes[name].add(chunk, prompts_of(run, chunk, lambda frame: "a red circle"))
            ms[name].append(1000 * (time.perf_counter() - began))
    return ms


def gone_on(run: Run, folder: Path, name: str) -> float:
    """Milliseconds until the first chunk behind a whole take is there, less those that it takes itself."""
    chunks = len(run.spans)
    longer = replace(run, shape=replace(run.shape, frames=run.shape.frames + 3))
    take = Recording(folder / name)
    take.lengthen(longer.shape, chunks)
    began = time.perf_counter()
    next(sample(replace(longer, made=take.made())))
    return 1000 * (time.perf_counter() - began)


def measure(chunks: int, side: int, every: int) -> dict[str, Any]:
    run = tiny_run(chunks, side)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        ms = interleaved(run, folder, every)
        steady = {name: statistics.median(times[WARMUP:]) for name, times in ms.items()}
        total = {name: sum(times) for name, times in ms.items()}
        again = {name: gone_on(run, folder, name) - steady["none"] for name in ("take", "snapshots")}
        sizes = {path.name: path.stat().st_size for path in (folder / "snapshots").iterdir() if path.is_file()}
    return {
        "steady_ms": steady,
        "take_over_none": steady["take"] / steady["none"],
        "snapshots_over_none": total["snapshots"] / total["none"],
        "going_on_over_making": {name: spent / (chunks * steady["none"]) for name, spent in again.items()},
        "bytes": sizes,
    }


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chunks", type=int, default=30)
    parser.add_argument("--side", type=int, default=256, help="pixels")
    parser.add_argument("--snapshot-every", type=int, default=10)
    parser.add_argument("--save", action="store_true", help="also into results/")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    about = {"geometry": "tiny", "side": args.side, "chunks": args.chunks, "snapshot_every": args.snapshot_every}
    versions = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    found = {"benchmark": "take", **about, **versions, **measure(args.chunks, args.side, args.snapshot_every)}
    print(f"a chunk with a take takes {found['take_over_none']:.3f} times one without")
    print(f"a clip with a snapshot every {args.snapshot_every} chunks {found['snapshots_over_none']:.3f} times")
    for name, share in found["going_on_over_making"].items():
        print(f"going on behind {args.chunks} chunks ({name}) takes {share:.3f} of making them")
    line = json.dumps(found)
    if args.save:
        name = f"{datetime.now(timezone.utc).date()}_take_cpu.json"
        (RESULTS / name).write_text(line + "\n", encoding="utf-8")
    print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
