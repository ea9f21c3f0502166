"""`profile`: score a model's heads over many clips, save the profile and a picture of it."""

import argparse

from ..clips.contact_sheet import save_png
from ..clips.head_map import profile_map
from ..clips.pipeline import Pipeline
from ..errors import DummyForcingError, shown
from ..evaluation.profiling import (
    CURRENT_MASS,
    PAPER_CURRENT_SHARE,
    PAPER_OVERLAP,
    ProfilePlan,
    Sample,
    current_share,
    overlaps,
    take_changes,
    take_samples,
)
from ..geometry import pixel_frames
from ..kv.output_change import OutputChange
from ..kv.scoring import HeadScores
from ..policies import own_policy
from ..policies.head_programming import ROLES, assign_roles
from ..policies.profile import HeadProfile
from ..prompts import PromptSchedule
from .clip_arguments import Asked, asked_clip
from .common import add_run_arguments, load, read_prompts, warn
from .names import named
from .numbers import whole
from .outputs import claimed_outputs
from .preflight import Wanted, check_count, check_run, known_model
from .terminal import tell
from .time_left import LongRun

RATIO = 0.5
LISTED = 5
MOST_CLIPS = 10_000  # the scores of all are kept


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `profile` takes."""
    add_run_arguments(parser)
    parser.add_argument("--prompts", type=named, required=True, metavar="FILE", help="one prompt per line")
    parser.add_argument("--seeds", type=whole, default=1, help="clips per prompt (default: 1)")
    parser.add_argument("--local-chunks", type=whole, default=1, help="neighbour window while scoring, in chunks")
    parser.add_argument(
        "--change-step", type=whole, default=0, metavar="N", help="denoising step of the output change (default: 0)"
    )
    parser.add_argument("--out", type=named, required=True, metavar="FILE", help="profile to write (.json)")
    parser.add_argument("--picture", type=named, metavar="FILE", help="also draw the head map (.png)")


def run(args: argparse.Namespace) -> int:
    """Scores, prints what the paper prints, writes the profile."""
    for option in ("seeds", "local_chunks"):
        if getattr(args, option) < 1:
            raise DummyForcingError(
                f"expected --{option.replace('_', '-')} of 1 or more, got {getattr(args, option)}; give at least 1"
            )
    lines = read_prompts(args.prompts)
    check_count("clips, prompts times --seeds", len(lines) * args.seeds, MOST_CLIPS)
    asked = asked_clip(args)
    with claimed_outputs(args, {"out": ".json", "picture": ".png"}):
        return _profile(args, lines, asked)


def _profile(args: argparse.Namespace, lines: list[str], asked: Asked) -> int:
    known = known_model(args)
    shape = asked.shape(known.family)
    check_run(known, Wanted(shape, own_policy(known.family)))
    steps = len(known.family.schedule.sigmas)
    if not 0 <= args.change_step < steps:
        raise DummyForcingError(
            f"expected --change-step from 0 to {steps - 1}, got {args.change_step}; {known.family.name} has {steps} "
            "denoising steps; 0 is the first"
        )
    pipeline = load(args, lines)
    prompts = [PromptSchedule.constant(pipeline.encode(line)) for line in lines]
    clips = ProfilePlan(prompts, range(args.seed, args.seed + args.seeds), shape, args.local_chunks)
    samples: list[Sample] = []
    long = LongRun(2 * len(lines) * args.seeds, warn, "scoring takes", "clips")  # masses, then changes
    model = pipeline.denoiser, pipeline.family, clips
    for sample in take_samples(*model, pipeline.backend.run, pipeline.new_stills):
        if not samples or sample.clip != samples[-1].clip:
            long.call(sample.clip)
        samples.append(sample)
    if not samples:
        raise DummyForcingError("the clips are too short: no chunk had neighbour frames to score; use more --frames")
    changes = list(take_changes(*model, args.change_step, pipeline.backend.run, pipeline.new_stills))
    profile = HeadProfile(
        HeadScores.mean([sample.scores for sample in samples]),
        pipeline.family.name,
        pipeline.fingerprint,
        {"prompts": len(lines), "seeds": args.seeds, "frames": pixel_frames(shape.frames), "samples": len(samples)},
        OutputChange.mean(changes) if changes else None,
    )
    roles = [[ROLES[role] for role in row] for row in assign_roles(profile.scores.mass, _dummies(pipeline))]
    profile.write(args.out, roles)  # before it is printed: nobody may be able to read it there
    tell(summary(profile.scores, samples, _dummies(pipeline)))
    tell(change_summary(profile.changes))
    tell(f"wrote {args.out}")
    if args.picture:
        title = f"{shown(pipeline.name)}: roles at {RATIO:.0%} dummy heads"
        save_png(profile_map(profile, roles, title), args.picture)
        tell(f"wrote {args.picture}")
    return 0


def _dummies(pipeline: Pipeline) -> int:
    model = pipeline.denoiser.geometry
    return round(RATIO * model.layers * model.heads)


def summary(scores: HeadScores, samples: list[Sample], dummies: int) -> str:
    """Shares of heads that look at the current chunk, and overlaps of dummy sets, beside the paper's."""
    shares = current_share(scores)
    lines = [f"heads with more than {CURRENT_MASS:.0%} of their mass on the current chunk, by layer:"]
    lines += [f"  layer {layer:<3} {share:6.1%}" for layer, share in enumerate(shares.tolist())]
    lines.append(f"  overall   {float(shares.mean()):6.1%}   (paper: about {PAPER_CURRENT_SHARE:.0%})")
    lines.append(f"overlap of the {dummies} dummy heads, mean over pairs:")
    for name, value in overlaps(samples, dummies).items():
        found = "no pair" if value is None else f"{value:.2f}"
        lines.append(f"  across {name:<10} {found:>7}   (paper: {PAPER_OVERLAP[name]:.2f})")
    return "\n".join(lines)


def change_summary(changes: OutputChange | None) -> str:
    """The heads that far frames matter most to."""
    if changes is None:
        return "no output change: no chunk had far frames; use more --frames"
    far = changes.far
    lines = [f"heads whose output changes most without far frames (mean over all {float(far.mean()):.4f}):"]
    for place in far.flatten().argsort(descending=True)[:LISTED].tolist():
        layer, head = divmod(place, far.shape[1])
        lines.append(f"  layer {layer:<3} head {head:<3} {float(far[layer, head]):.4f}")
    return "\n".join(lines)
