"""Policies and step caching on the command line: one table of options, and what they make."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..clips.pipeline import Pipeline
from ..errors import DummyForcingError
from ..models.families import Family
from ..models.stepcache import StepCache, TeaCache
from ..policies import POLICIES, DummyForcing, Full, Policy, SlidingWindow, get_policy
from ..policies.profile import HeadProfile
from ..schedule import Schedule
from .common import whole_numbers

WINDOW, SINK = 12, 3

# policy -> {option: field}
OPTIONS: dict[type[Policy], dict[str, str]] = {
    Full: {},
    SlidingWindow: {"window": "window_frames", "sink": "sink_frames"},
    DummyForcing: {
        "sink": "sink_frames",
        "dummy_ratio": "dummy_ratio",
        "num_dummy": "num_dummy",
        "local_chunks": "local_chunks",
        "packed_frames": "packed_frames",
        "observe_chunk": "observe_chunk",
        "reclassify": "reclassify_chunks",
        "score_stride": "score_stride",
        "profile": "profile",
    },
}


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """--policy and the options of every policy; one that was not given is None."""
    parser.add_argument("--policy", default=Full.name, help=f"{', '.join(POLICIES)} (default: full)")
    add_policy_options(parser)


def add_policy_options(parser: argparse.ArgumentParser) -> None:
    """The options of every policy."""
    group = parser.add_argument_group("policy options, in latent frames unless said otherwise")
    group.add_argument("--window", type=int, help="window: frames a head sees, current chunk included (default: 12)")
    group.add_argument("--sink", type=int, help="first frames kept: in the window (default: 3), by sink heads (1)")
    group.add_argument("--dummy-ratio", type=float, help="dummy: share of heads without history (default: 0.5)")
    group.add_argument("--num-dummy", type=int, help="dummy: number of such heads instead of a share")
    group.add_argument("--local-chunks", type=int, help="dummy: history of neighbour heads, in chunks (default: 1)")
    group.add_argument("--packed-frames", type=int, help="dummy: newest frames a dummy head keeps (default: 1)")
    group.add_argument("--observe-chunk", type=_chunk, help="dummy: chunk whose heads are scored (default: auto)")
    group.add_argument("--reclassify", type=int, metavar="N", help="dummy: score again every N chunks (default: never)")
    group.add_argument("--score-stride", type=int, metavar="N", help="dummy: score every N-th query (default: 1)")
    group.add_argument("--profile", type=Path, metavar="FILE", help="dummy: saved head profile instead of scoring")


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """Step caching: a threshold or an explicit list."""
    group = parser.add_argument_group("step caching")
    which = group.add_mutually_exclusive_group()
    which.add_argument("--teacache", type=float, metavar="T", help="TeaCache with this threshold, e.g. 0.2")
    which.add_argument("--skip-steps", type=whole_numbers, metavar="LIST", help="skip these steps, e.g. 2,3")
    group.add_argument("--teacache-signal", help="e0 or e: what TeaCache compares (default: e0)")
    group.add_argument("--teacache-coefficients", type=_numbers, metavar="LIST", help="its polynomial, highest first")


def pick_policy(args: argparse.Namespace, pipeline: Pipeline, name: str | None = None) -> Policy:
    """The policy called `name` (default: --policy) with the options it takes; a surplus option is an error."""
    policy = get_policy(name or args.policy)
    if name is None:
        refuse_surplus(args, [policy])
    if policy is DummyForcing:
        if args.profile is not None:
            refuse_together(args, "nothing is scored with --profile", ("observe_chunk", "reclassify", "score_stride"))
        if args.num_dummy is not None:
            refuse_together(args, "--num-dummy gives the number", ("dummy_ratio",))
    given = {field: getattr(args, option) for option, field in OPTIONS[policy].items()}
    given = {field: value for field, value in given.items() if value is not None}
    if policy is SlidingWindow:
        given = _own_window(pipeline.family) | given
    if "observe_chunk" in given and given["observe_chunk"] == "auto":
        del given["observe_chunk"]
    if isinstance(given.get("profile"), Path):
        given["profile"] = HeadProfile.read(given["profile"])
        given["profile"].warn_unless_of(pipeline.fingerprint)
    assert set(given) <= {f.name for f in fields(policy)}  # type: ignore[arg-type]
    return policy(**given)


def pick_steps(args: argparse.Namespace, pipeline: Pipeline) -> StepCache:
    """The steps to skip, by threshold or by list."""
    schedule: Schedule = pipeline.family.schedule
    if args.teacache is not None:
        tea = TeaCache(args.teacache, args.teacache_signal or "e0", args.teacache_coefficients)
        return tea.pattern(pipeline.denoiser, schedule)
    refuse_together(args, "--teacache is not given", ("teacache_signal", "teacache_coefficients"))
    return StepCache.explicit(args.skip_steps or [], schedule)


def refuse_together(args: argparse.Namespace, reason: str, options: Sequence[str]) -> None:
    """Options that would have no effect, for this reason, are an error."""
    for option in options:
        if getattr(args, option) is not None:
            raise DummyForcingError(f"--{option.replace('_', '-')} has no effect here: {reason}; leave it out")


def _own_window(family: Family) -> dict[str, Any]:
    if family.window_frames is None:
        return {"window_frames": WINDOW, "sink_frames": SINK}
    return {"window_frames": family.window_frames, "sink_frames": family.sink_frames}


def refuse_surplus(args: argparse.Namespace, policies: list[type[Policy]]) -> None:
    """An option that no chosen policy takes would be ignored in silence."""
    taken = {option for policy in policies for option in OPTIONS[policy]}
    for option in dict.fromkeys(option for table in OPTIONS.values() for option in table):
        if option not in taken and getattr(args, option) is not None:
            owners = ", ".join(policy.name for policy, table in OPTIONS.items() if option in table)
            chosen = ", ".join(policy.name for policy in policies)
            raise DummyForcingError(
                f"--{option.replace('_', '-')} belongs to --policy {owners}, but --policy {chosen} came"
            )


def _chunk(text: str) -> int | str:
    if text == "auto" or text.isdecimal():
        return text if text == "auto" else int(text)
    raise argparse.ArgumentTypeError(f"{text!r} came; write auto or the ordinal of a chunk")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} came; write numbers, e.g. 12.5,-3,0.1") from error
