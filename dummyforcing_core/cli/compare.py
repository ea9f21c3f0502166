"""`compare`: the same clip under several policies, side by side, with what each costs and loses."""

import argparse
from pathlib import Path
from typing import Any

from ..comparison import Row, compare_row, side_by_side, table, write_rows
from ..contact_sheet import save_png
from ..head_map import head_map
from ..pipeline import Pipeline
from ..policies import Policy, get_policy
from ..render import Clip, Outputs
from .common import add_run_arguments, clip_shape, load, make_folder
from .generate import make_clip
from .policy_arguments import add_policy_options, pick_policy, refuse_surplus


def add_parser(subparsers: Any) -> None:
    """Adds the `compare` command."""
    parser = subparsers.add_parser("compare", help="one clip under several policies, side by side")
    parser.add_argument("--prompt", required=True, help="text of the clip")
    parser.add_argument("--policies", default="full,dummy", metavar="LIST", help="the first is the reference")
    add_run_arguments(parser)
    add_policy_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Renders, measures, and writes videos, head maps, compare.json."""
    names = [name.strip() for name in args.policies.split(",") if name.strip()]
    refuse_surplus(args, [get_policy(name) for name in names])
    shape = clip_shape(args)
    make_folder(args.out)
    pipeline = load(args)
    policies = [pick_policy(args, pipeline, name) for name in names]
    compare(pipeline, Clip([args.prompt], shape, args.seed, policies[0]), policies, args.out)
    return 0


def compare(pipeline: Pipeline, clip: Clip, policies: list[Policy], folder: Path) -> list[Row]:
    """Makes `clip` under every policy, into `folder`, and prints the table."""
    rows: list[Row] = []
    videos: list[Path] = []
    latents = folder / f"{policies[0].name}.safetensors"
    for number, policy in enumerate(policies):
        stem = policy.name if policy.name not in [row.name for row in rows] else f"{policy.name}_{number}"
        again = Clip(clip.prompts, clip.shape, clip.seed, policy, clip.steps)
        outputs = Outputs(
            folder / f"{stem}.mp4",
            folder / f"{stem}.png",
            latents if number == 0 else None,
            folder / f"{stem}.json",
        )
        result = make_clip(pipeline, again, outputs, verbose=False)
        rows.append(compare_row(pipeline, again, policies[0], latents, result.plan, result.report))
        videos.append(outputs.video)
        if len({role for row in result.plan.roles for role in row}) > 1:
            save_png(
                head_map(result.plan.roles, result.scores, f"{pipeline.name}, {stem}"), folder / f"{stem}_heads.png"
            )
    side_by_side(videos, folder / "side_by_side.mp4")
    write_rows(rows, folder / "compare.json")
    print(table(rows))
    print(f"wrote {folder / 'side_by_side.mp4'}, compare.json and the clips beside it")
    return rows
