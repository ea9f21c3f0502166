"""`vbench`: samples VBench's prompts under the names VBench looks for; resumable, and shared out by torchrun."""

import argparse
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..clips.pipeline import Pipeline
from ..clips.render import Clip, Outputs, device_name, made_by, render
from ..clips.report import RunReport
from ..clips.script import Script
from ..clips.take_of import TakeAt
from ..errors import MESSAGE, DummyForcingError, shown
from ..evaluation.vbench import SAMPLES, Sample, Shard, Suite, pair_up
from ..evaluation.vbench_folder import ClipFolder
from ..models.stepcache import NO_STEPS, StepCache
from ..policies import Policy, get_policy
from .clip_arguments import Asked, add_encoding_arguments, asked_video
from .common import add_run_arguments, files_of, load, pick_device, read_prompts, warn
from .finished import NO_FILES, check_frames
from .names import check_folder, named
from .numbers import whole
from .outputs import check_inputs
from .policy_arguments import add_policy_arguments, add_step_arguments, listed, pick_policy, pick_steps
from .preflight import Wanted, check_count, check_run, known_model
from .terminal import tell

MOST_CLIPS = 1_000_000
FAILURES = 3  # in a row: then it is not the clip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `vbench` takes."""
    parser.add_argument("--prompts", type=named, required=True, metavar="FILE", help="one prompt per line; names clips")
    parser.add_argument(
        "--extended", type=named, metavar="FILE", help="line k is sampled in place of prompt k (default: the prompts)"
    )
    parser.add_argument("--samples", type=whole, default=SAMPLES, help=f"clips per prompt (default: {SAMPLES})")
    add_run_arguments(parser)
    add_encoding_arguments(parser)
    add_policy_arguments(parser)
    add_step_arguments(parser)
    parser.add_argument("--out", type=named, required=True, metavar="DIR", help="folder; clips go into DIR/videos")
    parser.add_argument(
        "--keep-takes", action="store_true", help="also a take per clip, DIR/takes: an interrupted one is gone on with"
    )


def run(args: argparse.Namespace) -> int:
    """Samples what is missing of this rank's share, one line per clip."""
    if args.samples < 1:
        raise DummyForcingError(f"expected --samples of 1 or more, got {args.samples}; give at least 1")
    asked = asked_video(args)
    get_policy(args.policy)  # an unknown name must not cost a model load
    extended = read_prompts(args.extended) if args.extended else None
    suite = pair_up(read_prompts(args.prompts), extended, args.samples)
    check_count("clips, prompts times --samples", len(suite) * args.samples, MOST_CLIPS)
    shard = Shard.from_environment(os.environ)
    args.device = _device(args.device, shard)
    check_folder("--out", args.out)
    folder = ClipFolder(args.out)
    check_inputs(args, [folder.manifest])
    folder.make()
    if folder.ignores_case():
        suite = _one_per_case(suite)
    conditions = _asked(args, asked)
    folder.check(conditions, suite)
    with folder.share(shard):
        _sample_share(args, asked, conditions, folder, suite, shard)
    if shard.world == 1:  # another rank may be about to write there
        folder.tidy()
    share = "this rank's share" if shard.world > 1 else "all"
    _say(shard, f"done with {share}; to score: vbench evaluate --videos_path {folder.videos} --dimension ...")
    return 0


def _sample_share(
    args: argparse.Namespace, asked: Asked, conditions: dict[str, Any], folder: ClipFolder, suite: Suite, shard: Shard
) -> None:
    """Loads the model and makes what is missing of this rank's prompts."""
    mine = shard.part(suite)
    folder.clear_unfinished(mine)
    samples = [Sample(prompt, text, index) for prompt, text in mine.items() for index in range(args.samples)]
    jobs = folder.missing(samples, lambda video: check_frames(video, asked.frames))
    _say(
        shard, f"{len(samples)} clips of {len(mine)} prompts, {len(samples) - len(jobs)} are there, {len(jobs)} to make"
    )
    known = known_model(args)
    shape, policy, chosen = asked.shape(known.family), pick_policy(args, known), pick_steps(args, known)
    check_run(known, Wanted(shape, policy, chosen if isinstance(chosen, StepCache) else NO_STEPS))
    # With nothing to make as well: only the model tells whether the clips that are there are those asked for.
    pipeline = load(args, list(dict.fromkeys(job.text for job in jobs)))
    steps = listed(chosen, pipeline)
    conditions = conditions | _loaded(pipeline, policy, steps)
    folder.record(conditions, _made_with(pipeline), suite, lambda prompt: _seeds(prompt, args))

    def make(sample: Sample, video: Path) -> RunReport:
        script, seed = Script.constant(sample.text), sample.seed(args.seed)
        how = (policy, steps, None, asked.size, asked.frames, asked.fps)
        clip = Clip(script, shape, seed, *how, encoding=asked.encoding)
        take = TakeAt(folder.take_folder(sample)) if args.keep_takes else None
        return render(pipeline, clip, Outputs(video, keep_unfinished=False, take=take)).report

    _sample(jobs, folder, shard, make)


def _sample(
    jobs: Sequence[Sample], folder: ClipFolder, shard: Shard, make: Callable[[Sample, Path], RunReport]
) -> None:
    """Makes the clips. One that fails is left out and told of; several in a row end the run."""
    began, made = time.perf_counter(), 0
    failed: list[str] = []
    in_a_row = 0
    for number, job in enumerate(jobs, start=1):
        written = folder.working_file(job)
        try:
            report = make(job, written)
            folder.finish(written, job)
        except DummyForcingError as error:
            failed.append(job.file_name)
            in_a_row += 1
            warn(f"{job.file_name}: {error}")
            if in_a_row == FAILURES:
                raise DummyForcingError(
                    f"{FAILURES} clips in a row failed, the last with: {error}; mend that and run again, what is "
                    "finished stays"
                ) from error
            continue
        in_a_row, made = 0, made + 1
        left = (time.perf_counter() - began) / made * (len(jobs) - number)
        _say(shard, f"{number}/{len(jobs)} {job.file_name}: {_speed(report)}, {_duration(left)} left")
    if failed:
        raise DummyForcingError(
            f"{len(failed)} of {len(jobs)} clips failed, the first is '{shown(failed[0])}'; run again to try them once "
            "more"
        )


def _seeds(prompt: str, args: argparse.Namespace) -> list[int]:
    return [Sample(prompt, prompt, index).seed(args.seed) for index in range(args.samples)]


def _asked(args: argparse.Namespace, asked: Asked) -> dict[str, Any]:
    """Conditions that the arguments alone settle, so that a wrong folder costs no model load. Names, no paths."""
    return {
        **asked.conditions,
        "seed": args.seed,
        **(NO_FILES | files_of(args)),
    }


def _loaded(pipeline: Pipeline, policy: Policy, steps: StepCache) -> dict[str, Any]:
    """Conditions that take the model to know."""
    dtype = pipeline.denoiser.geometry.dtype
    return made_by(pipeline.fingerprint, pipeline.family, policy, steps, dtype)


def _made_with(pipeline: Pipeline) -> dict[str, Any]:
    """For readers; may differ between the machines of one run."""
    return {
        "model": pipeline.name,
        "schedule": asdict(pipeline.family.schedule),
        "device": device_name(pipeline.denoiser.geometry.device),
        "attention": pipeline.backend.title,
        "versions": {"dummyforcing": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _device(name: str, shard: Shard) -> str:
    """This process's device; CUDA's current device follows, for kernels that ask no tensor."""
    device = pick_device(name)
    if device.type not in ("cuda", "xpu"):
        return name
    module = getattr(torch, device.type)
    index = shard.device_index(device.type, device.index, module.device_count())
    if index is None:
        return device.type
    module.set_device(index)
    return f"{device.type}:{index}"


def _one_per_case(suite: Suite) -> Suite:
    """Prompts that differ in case alone would be one file here: the first one stays."""
    kept: Suite = {}
    seen: dict[str, str] = {}
    for prompt, text in suite.items():
        other = seen.setdefault(prompt.casefold(), prompt)
        if other != prompt:
            warn(
                f"'{shown(prompt)}' is left out: this disk cannot tell it from '{shown(other)}'; VBench "
                "elsewhere will miss it"
            )
            continue
        kept[prompt] = text
    return kept


def _speed(report: RunReport) -> str:
    seconds = (report.total_ms - report.init_ms) / 1000
    return f"{report.pixel_frames} frames, {report.dit_fps:.2f} FPS DiT-only, {seconds:.1f} s with decode"


def _duration(seconds: float) -> str:
    minutes, whole = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole:02d}"


def _say(shard: Shard, text: str) -> None:
    tell(shown(f"[rank {shard.rank} of {shard.world}] {text}" if shard.world > 1 else text, MESSAGE), at_once=True)
