"""`generate`: one clip from a prompt, or one clip per line of a file."""

import argparse
import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..clips.bank_history import held_text
from ..clips.pipeline import Pipeline
from ..clips.render import Clip, Outputs, Rendered, made_by, render, script_conditions
from ..clips.script import Script
from ..clips.start import image_pixels, start_from_image, start_from_latents
from ..clips.take_of import TakeAt
from ..errors import OutputError
from ..files import real_path
from ..geometry import LatentShape, chunk_spans
from ..loops.table import loop_of
from ..models.families import DEMO
from ..models.stepcache import NO_STEPS, StepCache
from ..policies import get_policy
from ..takes.features import FEATURES
from ..takes.snapshot import SNAPSHOT
from ..takes.take import EVENTS, LATENTS, MANIFEST
from .clip_arguments import Asked, add_encoding_arguments, asked_video
from .common import (
    Progress,
    add_run_arguments,
    files_of,
    holds_tiny_decoder,
    load,
    read_prompts,
    warn,
)
from .finished import LEFT_OUT, NO_FILES, check_finished
from .names import check_ending, check_folder, named
from .numbers import whole, whole_numbers
from .outputs import claimed_folder, claimed_outputs
from .parser import Parser
from .policy_arguments import add_policy_arguments, add_step_arguments, listed, pick_policy, pick_steps, refuse_together
from .preflight import Known, Wanted, check_count, check_run, check_start, known_model
from .take_call import call_of
from .terminal import tell
from .time_left import LongRun

MOST_CLIPS = 100_000
Job = tuple[Script, Outputs]
ENDINGS = {"out": ".mp4", "save_latents": ".safetensors", "report": ".json"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `generate` takes."""
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--prompt", help="text of one clip")
    text.add_argument("--prompts", type=named, metavar="FILE", help="one clip per line, into folder --out; resumable")
    text.add_argument(
        "--schedule", type=named, metavar="FILE", help='lines "0:15 | prompt"; or .jsonl, {"prompts": [...]} per clip'
    )
    parser.add_argument("--switch-frames", type=whole_numbers, metavar="LIST", help="latent frames, for .jsonl")
    parser.add_argument(
        "--blend-chunks",
        type=whole,
        metavar="N",
        help="with --schedule: chunks that a switch takes (default: 0, at once)",
    )
    add_run_arguments(parser)
    add_encoding_arguments(parser)
    add_policy_arguments(parser)
    add_step_arguments(parser)
    parser.add_argument("--out", type=named, required=True, help="video to write (a folder with --prompts)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--start-image", type=named, metavar="FILE", help="first frame of the clip")
    start.add_argument("--start-latents", type=named, metavar="FILE", help="go on from a clip's saved latents")
    parser.add_argument("--save-latents", type=named, metavar="FILE", help='also write tensor "latent" (.safetensors)')
    _add_takes(parser)
    parser.add_argument("--report", type=named, metavar="FILE", help="also write the timing report (.json)")


def _add_takes(parser: argparse.ArgumentParser) -> None:
    """What says how a clip is kept."""
    parser.add_argument(
        "--take", type=named, metavar="DIR", help="keep all that is needed to go on in this folder, or go on with it"
    )
    parser.add_argument(
        "--branch",
        type=named,
        metavar="DIR",
        help="with --take: begin with chunks of this take, which lies beside it",
    )
    parser.add_argument("--from-chunk", type=whole, metavar="N", help="with --branch: with its first N chunks")
    parser.add_argument(
        "--keep-takes",
        action="store_true",
        default=None,
        help="with --prompts: a take of every clip beside it, as --take for one",
    )
    parser.add_argument(
        "--snapshot-every",
        type=whole,
        metavar="N",
        help="with --take: also keep keys and values every N chunks, so that a long take is gone on with sooner",
    )


def new_parser() -> argparse.ArgumentParser:
    """A parser of its words alone."""
    parser = Parser(prog="dummyforcing_core generate")
    add_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Makes the clips and prints a report for each."""
    asked = asked_video(args)
    get_policy(args.policy)  # an unknown name must not cost a look at the model
    scripts, into_folder = _scripts(args)
    with _claimed(args, scripts if into_folder else []):
        jobs, there = _folder_jobs(args, asked, scripts) if into_folder else ([(scripts[0], _outputs(args))], [])
        jobs = [(script, _with_call(args, script, outputs)) for script, outputs in jobs]
        if jobs or there:
            _make(args, asked, jobs, there)
    return 0


def _make(args: argparse.Namespace, asked: Asked, jobs: list[Job], there: list[Path]) -> None:
    known = known_model(args)
    shape, policy, chosen = asked.shape(known.family), pick_policy(args, known), pick_steps(args, known)
    if isinstance(chosen, StepCache):  # else the model tells which
        _check_there(there, made_by(known.fingerprint, known.family, policy, chosen, known.geometry.dtype))
        if not jobs:
            return
    if args.start_image or args.start_latents:
        check_start(known, shape, policy)
    start = _start(args, known, shape, asked.size)
    skipped = chosen if isinstance(chosen, StepCache) else NO_STEPS
    given = 0 if start is None else start.shape[2]
    switches = max((len(script.lines) for script, _ in jobs), default=1) - 1
    check_run(known, Wanted(shape, policy, skipped, given, switches, args.save_latents is not None))
    pipeline = load(args, [prompt for script, _ in jobs for prompt in script.prompts])
    steps = listed(chosen, pipeline)
    dtype = pipeline.denoiser.geometry.dtype
    _check_there(there, made_by(pipeline.fingerprint, pipeline.family, policy, steps, dtype))
    latents = None if start is None else _started(args, start, pipeline)
    how = (policy, steps, latents, asked.size, asked.frames, asked.fps, files_of(args), asked.encoding)
    long = LongRun(len(jobs), warn, "these clips take", "clips")
    for number, (script, outputs) in enumerate(jobs):
        long.call(number)
        make_clip(pipeline, Clip(script, shape, args.seed, *how), outputs)


def _check_there(there: Sequence[Path], now: Mapping[str, Any]) -> None:
    for video in there:
        check_finished(video, now)


def _start(args: argparse.Namespace, known: Known, shape: LatentShape, shown: tuple[int, int]) -> Tensor | None:
    """The given start as it is read before the model is there: latents, or pixels of an image that becomes one."""
    if args.start_latents is not None:
        return start_from_latents(args.start_latents, shape)
    if args.start_image is None:
        return None
    if known.family.name != DEMO and (args.vae is None or holds_tiny_decoder(args.vae)):
        raise OutputError("a start image needs an encoder, which this model has not; give --vae a whole Wan2.1 VAE")
    return image_pixels(args.start_image, shape, warn, shown)


def _started(args: argparse.Namespace, start: Tensor, pipeline: Pipeline) -> Tensor:
    """Latents (1, 16, n, h, w) of the start, on the model's device."""
    if args.start_image is not None:
        return start_from_image(start, pipeline)
    return start.to(pipeline.denoiser.geometry.device)


def make_clip(pipeline: Pipeline, clip: Clip, outputs: Outputs, verbose: bool = True) -> Rendered:
    """Renders one clip under a progress bar and prints its report if `verbose`."""
    family, frames = pipeline.family, clip.shape.frames
    given = 0 if clip.start is None else clip.start.shape[2]
    chunks = chunk_spans(frames, family.chunk_frames, given)
    calls = loop_of(family).model_calls(family, family.schedule, frames, given)
    with Progress(len(chunks), calls, outputs.video.name) as progress:
        result = render(pipeline, clip, outputs, progress.on_step)
    if verbose:
        tell(result.report.table())
        if result.report.bank:
            tell(f"remembers {held_text(result.report.bank[-1].held)}")
        tell(f"wrote {outputs.video}")
    return result


def _scripts(args: argparse.Namespace) -> tuple[list[Script], bool]:
    """What the clips say, and whether they go into a folder."""
    if (script := getattr(args, "script", None)) is not None:  # a take's own
        return [script], False
    if args.schedule is None:
        refuse_together(args, "--schedule is not given", ("blend_chunks", "switch_frames"))
    if args.prompt is not None:
        return [Script.constant(args.prompt)], False
    if args.prompts is not None:
        prompts = read_prompts(args.prompts)
        check_count("prompts", len(prompts), MOST_CLIPS)
        return [Script.constant(prompt) for prompt in prompts], True
    scripts = Script.read(args.schedule, args.switch_frames or (), args.fps)
    scripts = [replace(script, blend_chunks=args.blend_chunks or 0) for script in scripts]
    return scripts, args.schedule.suffix.lower() == ".jsonl"


def _claimed(args: argparse.Namespace, in_folder: Sequence[Script]) -> AbstractContextManager[None]:
    """Owns what the run writes, all of which is checked before any work is done; `in_folder`: what goes into one."""
    if in_folder:
        if args.save_latents or args.report or args.take:
            raise OutputError(
                "--save-latents, --report and --take name what is of one clip; with --prompts they are not available"
            )
        clips = [_in_folder(args.out, number, script, bool(args.keep_takes)) for number, script in enumerate(in_folder)]
        return claimed_folder(args, [path for clip in clips for path in clip.all])
    refuse_together(args, "--prompts is not given", ("keep_takes",))
    outputs = _outputs(args)
    unfinished = {"the unfinished video": outputs.part, "the unfinished latents": outputs.latents_part}
    return claimed_outputs(args, ENDINGS, unfinished)


def _outputs(args: argparse.Namespace) -> Outputs:
    """Files of the one clip that --out names."""
    check_ending("--out", args.out, ENDINGS["out"])
    outputs = Outputs(args.out, latents=args.save_latents, report=args.report, take=_take_of(args))
    outputs.check()
    return outputs


def _with_call(args: argparse.Namespace, script: Script, outputs: Outputs) -> Outputs:
    """The same, and how the clip is asked for into its take."""
    if outputs.take is None:
        return outputs
    return replace(outputs, take=replace(outputs.take, call=call_of(new_parser(), args.words, script)))


def _take_of(args: argparse.Namespace) -> TakeAt | None:
    if args.take is None:
        refuse_together(args, "--take is not given", ("branch", "snapshot_every"))
    if args.branch is None:
        refuse_together(args, "--branch is not given", ("from_chunk",))
    elif args.from_chunk is None:
        raise OutputError("--branch: expected --from-chunk N beside it, got none; say how many chunks are shared")
    if args.take is None:
        return None
    check_folder("--take", args.take)
    for option, path in (("--out", args.out), ("--report", args.report), ("--save-latents", args.save_latents)):
        if path is not None and real_path(path) in [
            real_path(args.take / name) for name in (MANIFEST, LATENTS, FEATURES, SNAPSHOT, EVENTS)
        ]:
            raise OutputError(f"{option} and --take name the same file, {path}; give another name")
    return TakeAt(args.take, args.branch, args.from_chunk or 0, args.snapshot_every or 0)


def _folder_jobs(args: argparse.Namespace, asked: Asked, scripts: list[Script]) -> tuple[list[Job], list[Path]]:
    """One clip per script into the folder --out, those that are there apart; OutputError if one is another clip."""
    model = args.model if args.model == DEMO else Path(args.model).name
    alike = LEFT_OUT | NO_FILES | asked.conditions | files_of(args) | {"seed": args.seed, "model": model}
    jobs, there = [], []
    for number, script in enumerate(scripts):
        outputs = _in_folder(args.out, number, script, bool(args.keep_takes))
        video = outputs.video
        if video.exists():
            check_finished(video, alike | script_conditions(script))
            there.append(video)
            tell(f"{video} is there already, skipped")
        else:
            jobs.append((script, outputs))
    return jobs, there


def _in_folder(folder: Path, number: int, script: Script, keep_take: bool = False) -> Outputs:
    video = folder / f"{number:03d}_{slug(script.prompts[0])}.mp4"
    take = TakeAt(video.with_suffix(".take")) if keep_take else None
    return Outputs(video, report=video.with_suffix(".json"), take=take)


def slug(text: str, longest: int = 48) -> str:
    """A file name that says what the prompt was, in letters and digits of any script, safe on every system."""
    text = unicodedata.normalize("NFC", text.lower())  # an accent of its own would be no letter
    return re.sub(r"[\W_]+", "_", text).strip("_")[:longest].strip("_") or "clip"
