"""`compare`: the same clip under several policies, side by side, with what each costs and loses."""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..clips.contact_sheet import save_png
from ..clips.head_map import observed_map
from ..clips.pipeline import Pipeline
from ..clips.render import Clip, Outputs, clip_run, part_of, prompt_schedule
from ..clips.script import Script
from ..errors import DummyForcingError, OutputError, shown
from ..evaluation.comparison import Row, compare_row, finished_latents, side_by_side, table, write_rows
from ..evaluation.leave_one_out import check_fixed, far_heads, leave_one_out
from ..files import check_regular
from ..loops.run import setting_of
from ..loops.table import loop_of
from ..ownership import owned
from ..policies import POLICIES, Policy, get_policy
from .clip_arguments import add_encoding_arguments, asked_video
from .common import Progress, add_run_arguments, load
from .generate import make_clip
from .names import named
from .outputs import claimed_folder
from .policy_arguments import add_policy_options, pick_policy, refuse_surplus
from .preflight import Wanted, check_run, known_model
from .terminal import tell

BOTH, FIGURES = "side_by_side.mp4", "compare.json"
LISTED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `compare` takes."""
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--prompt", help="text of the clip")
    text.add_argument("--schedule", type=named, metavar="FILE", help='lines "0:15 | prompt"')
    parser.add_argument("--policies", default="window,dummy", metavar="LIST", help="the first is the reference")
    parser.add_argument(
        "--leave-one-out",
        action="store_true",
        help="also what every head of the first policy is worth: the error if it alone keeps nothing but its newest "
        "chunk; takes a pass along the clip per head",
    )
    add_run_arguments(parser)
    add_encoding_arguments(parser)
    add_policy_options(parser)
    parser.add_argument("--out", type=named, required=True, metavar="DIR", help="folder to write")


def run(args: argparse.Namespace) -> int:
    """Renders, measures, and writes videos, head maps, compare.json."""
    names = [name.strip() for name in args.policies.split(",") if name.strip()]
    if not names:
        raise DummyForcingError(
            f"--policies '{shown(args.policies)}' names no policy; give some of {', '.join(POLICIES)}"
        )
    refuse_surplus(args, [get_policy(name) for name in names])
    asked, known = asked_video(args), known_model(args)
    script = _script(args)
    shape, policies = asked.shape(known.family), [pick_policy(args, known, name) for name in names]
    for policy in policies:
        check_run(known, Wanted(shape, policy, switches=len(script.lines) - 1, keeps=True))
    if args.leave_one_out:
        check_fixed(policies[0], setting_of(known.geometry, shape, known.family))
    stems = _stems(policies)
    with claimed_clips(args, stems):
        pipeline = load(args, script.prompts)
        clip = Clip(script, shape, args.seed, policies[0])
        clip = replace(clip, crop=asked.size, frames=asked.frames, fps=asked.fps, encoding=asked.encoding)
        rows = compare(pipeline, clip, policies, args.out, stems)
        if args.leave_one_out:
            latents = args.out / f"{stems[0]}.safetensors"
            first = replace(rows[0], left_out=_left_out(pipeline, clip, latents))
            write_rows([first, *rows[1:]], args.out / FIGURES)
            tell(_worth_most(first))
    return 0


@contextlib.contextmanager
def claimed_clips(args: argparse.Namespace, stems: Sequence[str]) -> Iterator[None]:
    """Makes the folder --out, and owns it and all that `compare` writes into it, while the block runs."""
    folder = args.out
    both = folder / BOTH
    clips = [path for stem in stems for path in _outputs(folder, stem, latents=stem == stems[0]).all]
    written = [*clips, both, part_of(both), folder / FIGURES, *(folder / f"{stem}_heads.png" for stem in stems)]
    with claimed_folder(args, written):
        check_regular(*written)
        with owned(*written):
            yield


def compare(
    pipeline: Pipeline, clip: Clip, policies: Sequence[Policy], folder: Path, stems: Sequence[str] | None = None
) -> list[Row]:
    """Makes `clip` under every policy, into `folder` under `stems`, and prints the table."""
    stems = stems or _stems(policies)
    clips = [_outputs(folder, stem, latents=stem == stems[0]) for stem in stems]
    maps = [folder / f"{stem}_heads.png" for stem in stems]
    rows: list[Row] = []
    try:
        for row in _rows(pipeline, clip, policies, clips, maps):
            rows.append(row)
            write_rows(rows, folder / FIGURES)  # one by one: what is measured stays if a later step fails
        side_by_side([outputs.video for outputs in clips], folder / BOTH, clip.fps, clip.encoding)
    except DummyForcingError as error:
        if not rows:
            raise
        tell(table(rows))
        raise OutputError(f"{error}; {len(rows)} of {len(policies)} clips and their figures are in {folder}") from error
    tell(table(rows))
    tell(f"wrote {folder / BOTH} ({' | '.join(stems)}), {FIGURES} and head maps beside it", at_once=True)
    return rows


def _outputs(folder: Path, stem: str, latents: bool) -> Outputs:
    video, picture, tensors, report = (folder / f"{stem}.{suffix}" for suffix in ("mp4", "png", "safetensors", "json"))
    return Outputs(video, picture, tensors if latents else None, report)


def _rows(
    pipeline: Pipeline, clip: Clip, policies: Sequence[Policy], clips: Sequence[Outputs], maps: Sequence[Path]
) -> Iterator[Row]:
    """Makes the clips, with a map of the heads where they differ, and measures each against the first's latents."""
    latents = clips[0].latents
    assert latents is not None
    for policy, outputs, path in zip(policies, clips, maps, strict=True):
        variant = replace(clip, policy=policy)
        result = make_clip(pipeline, variant, outputs, verbose=outputs is clips[0])
        if len({role for row in result.plan.roles for role in row}) > 1:
            title = f"{shown(pipeline.name)}, {outputs.video.stem}"
            save_png(observed_map(result.plan.roles, result.scores, title), path)
        yield compare_row(pipeline, variant, policies[0], latents, result.plan, result.report)


def _left_out(pipeline: Pipeline, clip: Clip, latents: Path) -> torch.Tensor:
    """The velocity error without each head of the clip's policy, (layers, heads), under a progress bar."""
    run = clip_run(pipeline, clip, prompt_schedule(pipeline, clip))
    plan, family, spans = run.policy.plan(run.setting), run.family, run.spans
    heads = far_heads(plan, family.chunk_frames)
    worth = torch.zeros(plan.layers, plan.heads)
    calls = (1 + len(heads)) * loop_of(family).model_calls(family, run.schedule, clip.shape.frames, 0)
    with Progress(len(spans), calls, "leaving heads out", "leaving heads out takes") as progress:
        run = replace(run, on_step=progress.on_step)
        finished = finished_latents(latents, run.denoise.geometry.device)
        for one in leave_one_out(run, finished, clip.policy, heads, pipeline.new_stills):
            worth[one.layer, one.head] = one.velocity
    return worth


def _worth_most(row: Row) -> str:
    """The heads whose absence costs most."""
    worth = row.left_out
    assert worth is not None
    if not worth.any():
        return f"no head of {row.name} keeps more than its newest chunk; give it a longer memory, or more --frames"
    lines = [f"heads of {row.name} whose absence costs most (velocity error, mean over all {float(worth.mean()):.4f}):"]
    for place in worth.flatten().argsort(descending=True)[:LISTED].tolist():
        layer, head = divmod(place, worth.shape[1])
        lines.append(f"  layer {layer:<3} head {head:<3} {float(worth[layer, head]):.4f}")
    return "\n".join(lines)


def _script(args: argparse.Namespace) -> Script:
    if args.schedule is None:
        return Script.constant(args.prompt)
    if args.schedule.suffix.lower() == ".jsonl":
        raise DummyForcingError("--schedule: expected a text file here, got a .jsonl one; `generate` makes its clips")
    return Script.read(args.schedule, fps=args.fps)[0]


def _stems(policies: Sequence[Policy]) -> list[str]:
    """One file name per policy, numbered where a policy comes twice."""
    names = [policy.name for policy in policies]
    return [name if name not in names[:i] else f"{name}_{i}" for i, name in enumerate(names)]
