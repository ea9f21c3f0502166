"""`demo`: a clip with the bundled model, nothing to download."""

import argparse
from pathlib import Path

from ..clips.render import Clip
from ..clips.script import Script
from ..geometry import LatentShape
from ..policies import DummyForcing, Full, HeadForcing
from .clip_arguments import DEMO_SIZE
from .common import load_demo, pick_device
from .compare import claimed_clips, compare
from .names import named
from .numbers import whole
from .terminal import tell

# One prompt per chunk. The colours are named while the light is on, then never again: what comes back when the
# light returns is what the cache remembers.
LIT = "a red circle at the top left moving sideways and a blue square at the bottom right moving sideways"
DARK = "a circle moving sideways and a square moving sideways, lights off"
AGAIN = "a circle moving sideways and a square moving sideways, lights on"
STORY = (LIT, LIT, DARK, DARK, DARK, AGAIN, AGAIN)
FRAMES = 81
STEMS = ("demo", "dummy_forcing", "head_forcing")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `demo` takes."""
    parser.add_argument("--out", type=named, default=Path("out"), metavar="DIR", help="folder to write (default: out)")
    parser.add_argument("--seed", type=whole, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, xpu (default: auto)")


def run(args: argparse.Namespace) -> int:
    """Writes demo.mp4, its contact sheet and report, the same clip under two other policies, and all side by side."""
    with claimed_clips(args, STEMS):
        pipeline = load_demo(pick_device(args.device))
        script = Script.per_chunk(STORY, pipeline.family.chunk_frames)
        clip = Clip(script, LatentShape.of_pixels(*DEMO_SIZE, FRAMES), args.seed, Full())
        compare(pipeline, clip, [Full(), DummyForcing(), HeadForcing()], args.out, STEMS)
    tell(f"wrote {args.out / 'demo.png'}: every column is one chunk; the light goes out in the third")
    return 0
