"""`compare`: the same clip under several policies, side by side, with what each costs and loses."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..clips.contact_sheet import save_png
from ..clips.head_map import head_map
from ..clips.pipeline import Pipeline
from ..clips.render import Clip, Outputs
from ..clips.script import Script
from ..errors import DummyForcingError, shown
from ..evaluation.comparison import Row, compare_row, side_by_side, table, write_rows
from ..policies import POLICIES, Policy, get_policy
from .clip_arguments import Asked, asked_clip
from .common import add_run_arguments, claimed_folder, load
from .generate import make_clip
from .policy_arguments import add_policy_options, pick_policy, refuse_surplus
from .preflight import Wanted, check_run, known_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `compare` takes."""
    parser.add_argument("--prompt", required=True, help="text of the clip")
    parser.add_argument("--policies", default="window,dummy", metavar="LIST", help="the first is the reference")
    add_run_arguments(parser)
    add_policy_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")


def run(args: argparse.Namespace) -> int:
    """Renders, measures, and writes videos, head maps, compare.json."""
    names = [name.strip() for name in args.policies.split(",") if name.strip()]
    if not names:
        raise DummyForcingError(
            f"--policies '{shown(args.policies)}' names no policy; give some of {', '.join(POLICIES)}"
        )
    refuse_surplus(args, [get_policy(name) for name in names])
    asked = asked_clip(args)
    with claimed_folder(args.out):
        return _compare(args, names, asked)


def _compare(args: argparse.Namespace, names: Sequence[str], asked: Asked) -> int:
    known = known_model(args)
    shape, policies = asked.shape(known.family), [pick_policy(args, known, name) for name in names]
    for policy in policies:
        check_run(known, Wanted(shape, policy, keeps=True))
    pipeline = load(args, [args.prompt])
    clip = Clip(Script.constant(args.prompt), shape, args.seed, policies[0])
    clip = replace(clip, crop=asked.size, frames=asked.frames, fps=asked.fps)
    compare(pipeline, clip, policies, args.out)
    return 0


def compare(
    pipeline: Pipeline, clip: Clip, policies: Sequence[Policy], folder: Path, stems: Sequence[str] | None = None
) -> list[Row]:
    """Makes `clip` under every policy, into `folder` under `stems`, and prints the table."""
    stems = stems or _stems(policies)
    rows: list[Row] = []
    latents = folder / f"{stems[0]}.safetensors"
    for policy, stem in zip(policies, stems, strict=True):
        variant = replace(clip, policy=policy)
        files = {suffix: folder / f"{stem}.{suffix}" for suffix in ("mp4", "png", "json")}
        outputs = Outputs(files["mp4"], files["png"], None if rows else latents, files["json"])
        result = make_clip(pipeline, variant, outputs, verbose=not rows)
        rows.append(compare_row(pipeline, variant, policies[0], latents, result.plan, result.report))
        if len({role for row in result.plan.roles for role in row}) > 1:
            picture = head_map(result.plan.roles, result.scores, f"{pipeline.name}, {stem}")
            save_png(picture, folder / f"{stem}_heads.png")
    side_by_side([folder / f"{stem}.mp4" for stem in stems], folder / "side_by_side.mp4", clip.fps)
    write_rows(rows, folder / "compare.json")
    print(table(rows))
    print(f"wrote {folder / 'side_by_side.mp4'} ({' | '.join(stems)}), compare.json and head maps beside it")
    return rows


def _stems(policies: Sequence[Policy]) -> list[str]:
    """One file name per policy, numbered where a policy comes twice."""
    names = [policy.name for policy in policies]
    return [name if name not in names[:i] else f"{name}_{i}" for i, name in enumerate(names)]
