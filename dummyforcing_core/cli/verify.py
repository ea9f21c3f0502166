"""`verify`: one PASS / FAIL page on a checkpoint, to be shared."""

import argparse
import platform
import tempfile
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from .. import __version__
from ..clips.pipeline import Pipeline, is_demo
from ..clips.render import Clip, Outputs, device_name
from ..clips.script import Script
from ..errors import CheckpointError, OutputError
from ..evaluation.comparison import Row, compare_row
from ..evaluation.profiling import ProfilePlan, take_samples
from ..evaluation.verify import Page, check_costs, check_heads, check_tensors
from ..files import write_atomic
from ..geometry import chunk_spans, pixel_frames
from ..loops.table import loop_of
from ..models import checkpoints
from ..models.checkpoints import Weights, read_checkpoint
from ..models.families import DEMO, get_family
from ..models.metadata import parse_metadata, unknown_family
from ..models.wan_geometry import size_mismatch
from ..models.weight_files import read_header
from ..policies import DummyForcing, Policy, own_policy
from ..prompts import PromptSchedule
from ..reading import unreadable
from .clip_arguments import Asked, asked_clip
from .common import add_run_arguments, load, pick_device, read_prompts
from .generate import make_clip
from .names import named
from .outputs import claimed_outputs
from .preflight import Wanted, check_run, known_model
from .terminal import tell

LATENTS = 12  # four chunks of three, two of them after the heads are sorted
CPU_SIZE = (128, 128)
RATIO = 0.5
DEMO_PROMPTS = (
    "a red circle on the left moving sideways and a blue square on the right moving up and down",
    "a yellow triangle at the top moving diagonally and a green circle at the bottom standing still",
    "a blue square in the middle moving sideways fast",
)
PROMPTS = (
    "A red kite climbs over a windy beach while waves roll in, seen from the dunes.",
    "A cook tosses noodles in a smoking wok in a narrow kitchen, close-up, warm light.",
    "A night train crosses a stone bridge in the snow, its windows lit, slow aerial shot.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `verify` takes."""
    add_run_arguments(parser, frames="45, in rolling windows more")
    parser.add_argument("--prompts", type=named, metavar="FILE", help="one prompt per line (default: three of its own)")
    parser.add_argument("--out", type=named, metavar="FILE", help="also write the page as Markdown (.md)")
    parser.add_argument("--json", type=named, metavar="FILE", help="also write it as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the page. 0: nothing failed; 1: something did."""
    with claimed_outputs(args, {"out": ".md", "json": ".json"}):
        page = verify(args)
        written = [(path, text) for path, text in ((args.out, page.markdown()), (args.json, page.json())) if path]
        for path, text in written:  # before the page is printed: nobody may be able to read it there
            write_atomic(path, text.encode("utf-8"))
        tell("\n".join([page.text(), *(f"wrote {path}" for path, _ in written)]))
    return 1 if page.verdict == "FAIL" else 0


def verify(args: argparse.Namespace) -> Page:
    """All checks of the model that the run arguments name. What it holds may fail; a wrong argument is an error."""
    path = checkpoints.DEMO_PATH if args.model == DEMO else Path(args.model)
    if args.family is not None:
        get_family(args.family)
    if unreadable(path):
        read_checkpoint(path)  # says why: the path is an argument, no finding
    _asked(args, LATENTS)  # before the file is opened
    page = Page(f"Verification of {DEMO if args.model == DEMO else path.name}")
    try:
        weights = read_checkpoint(path, DEMO if args.model == DEMO else args.family)
    except CheckpointError as error:
        if str(unknown_family()) in str(error):  # nothing is wrong with the file
            raise
        page.add("file", str(error).removeprefix(f"{path}: "), "a checkpoint that can be read", False)
        return page
    info = weights.info
    page.add("file", f"{path.stat().st_size:,} bytes, {_name(info.dtype)}, {info.container or 'bare tensors'}")
    page.add("fingerprint", info.fingerprint)
    check_tensors(page, weights.tensors, info.geometry, weights.scales)
    page.add("family", *_family(args, path, weights))
    if page.verdict == "FAIL":
        page.add("clips", "not made: the weights are damaged")
        return page
    # A family that denoises a whole window together gets two chunks more, as the others do.
    family = weights.family
    asked = _asked(args, max(LATENTS, loop_of(family).pass_frames(family) + 2 * family.chunk_frames))
    page.conditions["clip"] = _clip_line(args, asked)
    del weights
    with tempfile.TemporaryDirectory() as folder:
        _check_clips(page, args, asked, Path(folder))
    return page


def _check_clips(page: Page, args: argparse.Namespace, asked: Asked, folder: Path) -> None:
    """What takes a loaded model: text, heads, a clip without and with Dummy Forcing."""
    texts = read_prompts(args.prompts) if args.prompts else list(DEMO_PROMPTS if is_demo(args.model) else PROMPTS)
    if zero_text(args, folder):
        page.add("text", "none given: all rows zero; clips follow no prompt", "give --text-encoder or --text-embedding")
    elif args.text_embedding is not None:
        page.add("text", "one saved embedding: prompts cannot be compared")
    if args.text_embedding is not None:
        texts = texts[:1]
    known = known_model(args)
    shape = asked.shape(known.family)
    check_run(known, Wanted(shape, own_policy(known.family), keeps=True))
    pipeline = load(args, texts)
    page.conditions |= run_conditions(args, pipeline)
    features = [pipeline.encode(text) for text in texts]
    finite = all(bool(f.isfinite().all()) for f in features)
    alike = sum(torch.equal(a, b) for i, a in enumerate(features) for b in features[:i])
    page.add(
        "text features", f"{len(texts)} prompts, {alike} pairs alike", "finite, no pair alike", finite and not alike
    )
    plan = ProfilePlan([PromptSchedule.constant(f) for f in features], [args.seed], shape)
    samples = list(take_samples(pipeline.denoiser, pipeline.family, plan, pipeline.backend.run, pipeline.new_stills))
    model = pipeline.denoiser.geometry
    check_heads(page, samples, round(RATIO * model.layers * model.heads))
    try:
        dense, dummy = _rows(pipeline, args, asked, texts[0], folder)
    except OutputError as error:
        if isinstance(error.__cause__, OSError):  # of the disk: nothing is wrong with the model
            raise
        page.add("clips", str(error), "finite", False)
        return
    page.add("clips", f"dense and Dummy Forcing, {pixel_frames(shape.frames)} frames each, finite", "finite", True)
    later = [s.chunk for s in chunk_spans(shape.frames, pipeline.family.chunk_frames) if s.start > dummy_sink()]
    check_costs(page, dense, dummy, later[0] + 1 if later else 0, model.device.type == "cuda")


def dummy_sink() -> int:
    """Frames a chunk must lie behind to be scored."""
    return DummyForcing().sink_frames


def _rows(pipeline: Pipeline, args: argparse.Namespace, asked: Asked, text: str, folder: Path) -> list[Row]:
    """The clip under the family's own memory and under Dummy Forcing, with errors against the first."""
    policies: list[Policy] = [own_policy(pipeline.family), DummyForcing(RATIO)]
    clip = Clip(Script.constant(text), asked.shape(pipeline.family), args.seed, policies[0], crop=asked.size)
    latents, rows = folder / "dense.safetensors", []
    for number, policy in enumerate(policies):
        variant = replace(clip, policy=policy)
        video = folder / f"{policy.name}.mp4"  # in a folder that goes
        outputs = Outputs(video, latents=None if number else latents, keep_unfinished=False)
        made = make_clip(pipeline, variant, outputs, verbose=False)
        rows.append(compare_row(pipeline, variant, policies[0], latents, made.plan, made.report))
    return rows


def _family(args: argparse.Namespace, path: Path, weights: Weights) -> tuple[str, str, bool | None]:
    """(measured, expected, verdict) of where the family comes from; only a file that says so itself is a PASS."""
    title = f"{weights.family.name} ({weights.family.title})"
    if mismatch := size_mismatch(weights.info.geometry, weights.family):
        return title, mismatch, None
    if parse_metadata(read_header(path)).family:
        return f"{title}, stated by the file", "stated by the file", True
    if args.family:
        return f"{title}, as --family says", "tensors cannot tell", None
    return f"{title}, guessed from the file's name", "tensors cannot tell; --family settles it", None


def _asked(args: argparse.Namespace, latents: int) -> Asked:
    """The clip, of `latents` frames unless the arguments say otherwise; a checkpoint on a CPU gets a small size."""
    if args.size is None and not is_demo(args.model) and pick_device(args.device).type == "cpu":
        args.size = CPU_SIZE
    return asked_clip(args, pixel_frames(latents))


def _clip_line(args: argparse.Namespace, asked: Asked) -> str:
    return "{}x{}, {} frames, seed {}".format(*asked.size, asked.frames, args.seed)


def run_conditions(args: argparse.Namespace, pipeline: Pipeline) -> dict[str, Any]:
    """What was run where. Names, no paths: it is for others to read."""
    parts = {"LoRA": args.lora, "VAE": args.vae, "text encoder": args.text_encoder}
    model = pipeline.denoiser.geometry
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "model": f"{pipeline.name} ({pipeline.fingerprint}), {pipeline.family.title}",
        "device": f"{device_name(model.device)}, {_name(model.dtype)}, {pipeline.backend.title}",
        **{name: part.name for name, part in parts.items() if part is not None},
        "versions": f"dummyforcing {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }


def zero_text(args: argparse.Namespace, folder: Path) -> bool:
    """Where a checkpoint got no text: writes an embedding of zeros, the rows behind every prompt, and names it."""
    if is_demo(args.model) or args.text_encoder is not None or args.text_embedding is not None:
        return False
    text_dim = read_checkpoint(args.model, args.family).info.geometry.text_dim
    args.text_embedding = folder / "text.safetensors"
    write_atomic(args.text_embedding, save({"text": torch.zeros(1, text_dim)}))
    return True


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
