"""`generate`: one clip from a prompt, or one clip per line of a file."""

import argparse
import re
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..geometry import LatentShape, chunk_spans
from ..pipeline import DEMO, Pipeline, load_pipeline
from ..policies import get_policy
from ..render import Clip, Outputs, render
from .common import (
    Progress,
    add_run_arguments,
    make_folder,
    pick_device,
    pick_dtype,
    pick_policy,
    warn,
)

DEMO_SIZE = (64, 64)
DEFAULT_SIZE = (832, 480)


def add_parser(subparsers: Any) -> None:
    """Adds the `generate` command."""
    parser = subparsers.add_parser("generate", help="make clips from prompts")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--prompt", help="text of one clip")
    text.add_argument("--prompts", type=Path, metavar="FILE", help="one clip per line, into folder --out; resumable")
    add_run_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="video to write (a folder with --prompts)")
    parser.add_argument("--save-latents", type=Path, metavar="FILE", help='also write tensor "latent" (.safetensors)')
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the timing report (.json)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Makes the clips and prints a report for each."""
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    width, height = args.size or (DEMO_SIZE if args.model == DEMO else DEFAULT_SIZE)
    shape = LatentShape.of_pixels(width, height, args.frames)
    get_policy(args.policy)  # an unknown name must not cost a model load
    jobs = _jobs(args)
    if not jobs:
        return 0
    pipeline = load_pipeline(args.model, args.family, device, dtype, args.attention, args.text_embedding, warn)
    policy = pick_policy(args, pipeline.family)
    for prompt, outputs in jobs:
        make_clip(pipeline, Clip([prompt], shape, args.seed, policy), outputs)
    return 0


def make_clip(pipeline: Pipeline, clip: Clip, outputs: Outputs) -> None:
    """Renders one clip under a progress bar and prints its report."""
    chunks = chunk_spans(clip.shape.frames, pipeline.family.chunk_frames)
    calls = len(pipeline.family.schedule) + 1
    try:
        with Progress(len(chunks), calls, outputs.video.name) as progress:
            report = render(pipeline, clip, outputs, progress.on_step)
    except KeyboardInterrupt:
        if outputs.part.exists():
            warn(f"interrupted; what was finished plays in {outputs.part}")
        raise
    print(report.table())
    print(f"wrote {outputs.video}")


def _jobs(args: argparse.Namespace) -> list[tuple[str, Outputs]]:
    """(prompt, files) of every clip still to be made; checks all outputs before any work is done."""
    if args.prompts is None:
        if args.out.suffix.lower() != ".mp4":
            raise OutputError(f"--out {args.out} must end in .mp4")
        paths = [path for path in (args.out, args.save_latents, args.report) if path is not None]
        if len({path.resolve() for path in paths}) < len(paths):
            raise OutputError("--out, --save-latents and --report name the same file; give each its own")
        for path in paths:
            if path.is_dir():
                raise OutputError(f"cannot write {path}: that is a folder; name a file in it")
            make_folder(path.parent)
        return [(args.prompt, Outputs(args.out, latents=args.save_latents, report=args.report))]
    if args.save_latents or args.report:
        raise OutputError("--save-latents and --report name one file; with --prompts they are not available")
    prompts = _lines(args.prompts)
    make_folder(args.out)
    jobs = []
    for number, prompt in enumerate(prompts):
        video = args.out / f"{number:03d}_{slug(prompt)}.mp4"
        if video.exists():
            print(f"{video} is there already, skipped")
        else:
            jobs.append((prompt, Outputs(video, report=video.with_suffix(".json"))))
    return jobs


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"cannot read the prompts in {path}: {error}; give a UTF-8 text file") from error
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise OutputError(f"{path} holds no prompt; write one per line")
    return prompts


def slug(text: str, longest: int = 48) -> str:
    """A file name that says what the prompt was, safe on every system."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:longest].strip("_") or "clip"
