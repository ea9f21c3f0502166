"""Policies and step caching on the command line. The options of a policy are those of its dataclass' fields."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..clips.pipeline import Pipeline
from ..errors import DummyForcingError, shown
from ..models.stepcache import StepCache, TeaCache
from ..policies import POLICIES, Option, Policy, SlidingWindow, get_policy
from ..policies.options import default_of, either, options_of
from ..policies.profile import HeadProfile
from .names import named
from .numbers import whole, whole_numbers
from .preflight import Known


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """--policy and the options of every policy; one that was not given is None."""
    parser.add_argument(
        "--policy",
        default=SlidingWindow.name,
        help=f"{', '.join(POLICIES)} (default: window, at the family's own length; full is the dense baseline)",
    )
    add_policy_options(parser)


def add_policy_options(parser: argparse.ArgumentParser) -> None:
    """The options of every policy. One flag may belong to several, each with its own default."""
    group = parser.add_argument_group("policy options, in latent frames unless said otherwise")
    owners: dict[str, list[tuple[type[Policy], str, Option]]] = {}
    for policy in POLICIES.values():
        for name, option, flag in _flags(policy):
            owners.setdefault(flag, []).append((policy, name, option))
    for flag, owned in owners.items():
        words = [option.unset for *_, option in owned if option.unset]
        kinds = [_kind(*one, words) for one in owned]
        assert len({metavar for _, metavar in kinds}) == 1, f"--{flag} is read in two ways"
        about = [f"{policy.name}: {_about(policy, name, option)}" for policy, name, option in owned]
        group.add_argument(f"--{flag}", dest=_dest(flag), type=kinds[0][0], metavar=kinds[0][1], help="; ".join(about))


def _flags(policy: type[Policy]) -> Iterator[tuple[str, Option, str]]:
    """(field, option, flag without dashes) of a policy."""
    for name, option in options_of(policy).items():
        yield name, option, option.flag or name.replace("_", "-")


def _dest(flag: str) -> str:
    return flag.replace("-", "_")


def _about(policy: type[Policy], name: str, option: Option) -> str:
    """What the help says of an option: what it does, the words it knows, what it is when nothing is said."""
    default = default_of(policy, name)
    words = f": {either(option.choices)}" if option.choices else ""
    return f"{option.help}{words} (default: {option.unset if default is None else default})"


def _kind(policy: type[Policy], name: str, option: Option, words: Sequence[str]) -> tuple[Any, str]:
    """How an option's text is read, and what the help calls it; `words` stand for no number, in some policy."""
    if option.read is not None:
        return named, "FILE"
    if option.choices:  # checked once the policy is known: another one's flag of this name may know other words
        return str, "WORD"
    fraction = option.fraction or isinstance(default_of(policy, name), float)
    number: Callable[[str], Any] = float if fraction else whole
    return (_or_word(number, words) if words else number), "X" if fraction else "N"


def _or_word(number: Callable[[str], Any], words: Sequence[str]) -> Any:
    """Reads a number, or one of the words that stand for none."""

    def read(text: str) -> Any:
        if text in words:
            return text
        try:
            return number(text)
        except (ValueError, argparse.ArgumentTypeError):
            known = either(["a number", *dict.fromkeys(map(repr, words))])
            raise argparse.ArgumentTypeError(f"expected {known}, got '{shown(text)}'") from None

    return read


def pick_policy(args: argparse.Namespace, known: Known, name: str | None = None) -> Policy:
    """The policy called `name` (default: --policy) with the options it takes; a surplus option is an error."""
    policy = get_policy(name or args.policy)
    if name is None:
        refuse_surplus(args, [policy])
    flags = {field: flag for field, _, flag in _flags(policy)}
    given: dict[str, Any] = {}
    for field, option, flag in _flags(policy):
        value = getattr(args, _dest(flag))
        if value is None:
            continue
        refuse_together(args, f"--{flag} is given", [_dest(flags[other]) for other in option.overrides])
        if not option.unset or value != option.unset:
            option.check(f"--{flag}", value)
            given[field] = value if option.read is None else option.read(value)
    for value in given.values():
        if isinstance(value, HeadProfile):
            value.warn_unless_of(known.fingerprint)
    return policy(**given).resolved(known.family)


def pick_steps(args: argparse.Namespace, known: Known) -> StepCache | TeaCache:
    """The steps to skip, as a list, or the threshold that tells them once the model is loaded."""
    if args.teacache is not None:
        return TeaCache(args.teacache, args.teacache_signal or "e0", args.teacache_coefficients)
    refuse_together(args, "--teacache is not given", ("teacache_signal", "teacache_coefficients"))
    return StepCache.explicit(args.skip_steps or [], known.family.schedule)


def listed(steps: StepCache | TeaCache, pipeline: Pipeline) -> StepCache:
    """The same as a list."""
    return steps.pattern(pipeline.denoiser, pipeline.family.schedule) if isinstance(steps, TeaCache) else steps


def refuse_together(args: argparse.Namespace, reason: str, options: Sequence[str]) -> None:
    """Options that would have no effect, for this reason, are an error."""
    for option in options:
        if getattr(args, option) is not None:
            raise DummyForcingError(f"--{option.replace('_', '-')} has no effect here: {reason}; leave it out")


def refuse_surplus(args: argparse.Namespace, policies: list[type[Policy]]) -> None:
    """An option that no chosen policy takes would be ignored in silence."""
    owners: dict[str, list[str]] = {}
    for policy in POLICIES.values():
        for _, _, flag in _flags(policy):
            owners.setdefault(flag, []).append(policy.name)
    chosen = {policy.name for policy in policies}
    for flag, names in owners.items():
        if not chosen.intersection(names) and getattr(args, _dest(flag)) is not None:
            raise DummyForcingError(
                f"--{flag}: expected --policy {' or '.join(names)}, got {', '.join(sorted(chosen))}; leave it out, or "
                "choose that policy"
            )


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """Step caching: a threshold or an explicit list."""
    group = parser.add_argument_group("step caching")
    which = group.add_mutually_exclusive_group()
    which.add_argument("--teacache", type=float, metavar="T", help="TeaCache with this threshold, e.g. 0.2")
    which.add_argument("--skip-steps", type=whole_numbers, metavar="LIST", help="skip these steps, e.g. 2,3")
    group.add_argument("--teacache-signal", help="e0 or e: what TeaCache compares (default: e0)")
    group.add_argument("--teacache-coefficients", type=_numbers, metavar="LIST", help="its polynomial, highest first")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers, got '{shown(text)}'; write e.g. 12.5,-3,0.1") from error
