"""Every family's loop, dense beside Dummy Forcing: CPU seconds per chunk in a steady state and K/V bytes, in one run.

    python benchmarks/bench_loops.py [--save FILE]

Random weights of a small Wan geometry on the CPU, one thread; roles come from a synthetic profile. What counts is the
ratio within a family; the last line is one JSON document.
"""

import argparse
import json
import platform
import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.loops.run import Run
from dummyforcing_core.loops.table import loop_of, sample
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import DEMO, FAMILIES, Family
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Policy, SlidingWindow
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.prompts import PromptSchedule

GEOMETRY = WanConfig(256, 512, num_heads=4, num_layers=2, text_dim=64, text_len=64)
SIDE = 32  # latent rows and columns: 256 tokens per frame
WARM, TIMED = 7, 2  # chunks: the window is full after the first of them, the others are timed
RESTART = 6  # chunks of a clip that begins with the end of the one before: all are timed, their history grows


def profile() -> HeadProfile:
    """Half the heads are dummies, the rest half sink and half neighbour heads."""
    generator = torch.Generator().manual_seed(0)
    mass = torch.rand(GEOMETRY.num_layers, GEOMETRY.num_heads, 3, generator=generator)
    return HeadProfile(HeadScores(mass / mass.sum(-1, keepdim=True)))


def measured(denoise: WanDenoiser, family: Family, policy: Policy) -> dict[str, float]:
    """CPU seconds per chunk and bytes of K/V."""
    beside = loop_of(family).pass_frames(family) // family.chunk_frames - 1  # chunks in a pass, the oldest left out
    scale = 3 // family.chunk_frames
    warm, timed = WARM * scale + beside, RESTART if family.overlap_frames else TIMED * scale
    shape = LatentShape(1, 16, (warm + timed + beside) * family.chunk_frames, SIDE, SIDE)
    prompts = PromptSchedule.constant(torch.zeros(1, GEOMETRY.text_len, GEOMETRY.text_dim))
    noise = SeededNoise(0, shape, family.chunk_frames)
    chunks = sample(Run(denoise, shape, family.schedule, prompts, policy, family, noise))
    for _ in range(warm):
        chunk = next(chunks)
    began = time.process_time()
    for _ in range(timed):
        chunk = next(chunks)
    seconds = (time.process_time() - began) / (timed / scale)
    chunks.close()
    return {"cpu_seconds_per_3_frames": seconds, "resident_bytes": chunk.resident_bytes}


def row(denoise: WanDenoiser, family: Family) -> dict:
    """One family: dense as it was trained, and Dummy Forcing at 50 % with a profile."""
    dense = SlidingWindow(family.default_window_frames, family.sink_frames)
    figures = {"dense": measured(denoise, family, dense)}
    figures["dummy_50"] = measured(denoise, family, DummyForcing(profile=profile()))
    speedup, share = (
        figures["dense"]["cpu_seconds_per_3_frames"] / figures["dummy_50"]["cpu_seconds_per_3_frames"],
        figures["dummy_50"]["resident_bytes"] / figures["dense"]["resident_bytes"],
    )
    print(f"{family.name:<26}{family.loop:<11}{speedup:>8.2f}x faster{share:>8.2f} of the bytes", flush=True)
    return {"family": family.name, "loop": family.loop, "speedup": speedup, "bytes_ratio": share, **figures}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the JSON document")
    args = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # clips beyond the trained length; no VAE for stills
    torch.set_num_threads(1)
    torch.manual_seed(0)
    denoise = WanDenoiser(CausalWan(GEOMETRY).requires_grad_(False).eval())
    document = {
        "conditions": {
            "geometry": f"dim {GEOMETRY.dim}, {GEOMETRY.num_layers} layers x {GEOMETRY.num_heads} heads",
            "tokens_per_frame": (SIDE // 2) ** 2,
            "device": "cpu, 1 thread",
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "weights": "random",
        },
        "rows": [row(denoise, family) for family in FAMILIES.values() if family.name != DEMO],
    }
    if args.save:
        args.save.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
