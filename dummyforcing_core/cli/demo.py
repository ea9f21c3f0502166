"""`demo`: a clip with the bundled model, nothing to download."""

import argparse
from pathlib import Path
from typing import Any

from ..geometry import LatentShape
from ..pipeline import DEMO, load_pipeline
from ..policies import Full
from ..render import Clip, Outputs
from .common import DEMO_SIZE, make_folder, pick_device, pick_dtype, warn
from .generate import make_clip

# One prompt per chunk. The colours are named while the light is on, then never again: what comes back when the
# light returns is what the cache remembers.
LIT = "a red circle on the left moving sideways and a blue square on the right moving up and down"
DARK = "a circle moving sideways and a square moving up and down, lights off"
AGAIN = "a circle moving sideways and a square moving up and down, lights on"
STORY = (LIT, LIT, DARK, DARK, DARK, AGAIN, AGAIN)
FRAMES = 81


def add_parser(subparsers: Any) -> None:
    """Adds the `demo` command."""
    parser = subparsers.add_parser("demo", help="make a clip with the bundled model")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder to write (default: out)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, xpu (default: auto)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes demo.mp4, demo.png (contact sheet) and demo.json (report) and prints the report."""
    make_folder(args.out)
    device = pick_device(args.device)
    pipeline = load_pipeline(DEMO, None, device, pick_dtype("fp32", device), warn=warn)
    shape = LatentShape.of_pixels(*DEMO_SIZE, FRAMES)
    outputs = Outputs(args.out / "demo.mp4", args.out / "demo.png", report=args.out / "demo.json")
    make_clip(pipeline, Clip(STORY, shape, args.seed, Full()), outputs)
    print(f"wrote {outputs.contact_sheet}: every column is one chunk; the light goes out in the third")
    return 0
