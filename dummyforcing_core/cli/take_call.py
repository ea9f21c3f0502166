"""How `generate` was called, as a take keeps it: what describes the clip, never where anything is written."""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..clips.script import Script
from ..errors import DummyForcingError, OutputError, shown
from ..models.families import DEMO
from .outputs import INPUTS

# Of this run alone, or kept as the take's own prompts.
LEFT_OUT = {
    "help", "out", "save_latents", "report", "take", "branch", "from_chunk", "snapshot_every", "keep_takes",
    "prompt", "prompts", "schedule", "switch_frames", "blend_chunks",
}  # fmt: skip
INSTEAD = {"frames": "seconds", "seconds": "frames", "start_image": "start_latents", "start_latents": "start_image"}


def call_of(parser: argparse.ArgumentParser, words: Sequence[str], script: Script) -> dict[str, Any]:
    """What a take keeps of a call: options as "--name=value", files by their whole paths, and the prompts."""
    options = []
    for dest, (flag, value) in _given(parser, words).items():
        if dest in INPUTS and isinstance(value, str) and value != DEMO:
            value = os.path.abspath(value)
        if dest not in LEFT_OUT:
            options.append(flag if value is None else f"{flag}={value}")
    return {"options": options, "lines": [list(line) for line in script.lines], "blend chunks": script.blend_chunks}


def options_of(parser: argparse.ArgumentParser, call: Mapping[str, Any] | None, over: Sequence[str]) -> list[str]:
    """A take's options but for those that the words `over` give another value. OutputError for what is no call of
    `generate`, as a take that somebody else has written may hold."""
    known = {flag: action.dest for action in parser._actions for flag in action.option_strings}
    changed = set(_given(parser, over))
    changed |= {INSTEAD[dest] for dest in changed if dest in INSTEAD}
    options = call.get("options") if call else None
    if not isinstance(options, list):
        raise OutputError(
            "expected a take that says how it was made, got one that does not (of an older version, or of ComfyUI); go "
            "on with the command that made it: generate --take"
        )
    kept = []
    for option in options:
        flag = re.match(r"--[a-z-]+(?==|$)", option) if isinstance(option, str) else None
        dest = known.get(flag[0]) if flag else None
        if dest is None or dest in LEFT_OUT:
            raise OutputError(
                f"expected options of a clip in the take, got {shown(repr(option))}; go on with generate --take"
            )
        if dest not in changed:
            kept.append(option)
    return kept


def script_of(call: Mapping[str, Any]) -> Script:
    """The prompts of a call. OutputError for what is none."""
    try:
        lines = tuple((frame, text) for frame, text in call["lines"])
        if not all(type(frame) is int and isinstance(text, str) for frame, text in lines):
            raise ValueError("no prompts")
        return Script(lines, call["blend chunks"])
    except (KeyError, TypeError, ValueError, DummyForcingError) as error:
        raise OutputError(
            f"expected prompts in the take, got {shown(repr(error), 120)}; give --prompt or --schedule"
        ) from error


def changed_at(script: Script, frame: int, prompt: str) -> Script:
    """The same prompts up to a latent frame, and from it on another."""
    before = tuple(line for line in script.lines if line[0] < frame)
    return Script((*before, (frame, prompt)), script.blend_chunks)


def given(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, str | None]:
    """The texts of the options that words give, by name; None for one that takes none."""
    return {dest: value for dest, (_, value) in _given(parser, words).items()}


def _given(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Flag and text by name."""
    plain = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    for action in parser._actions:
        if action.dest == "help":
            continue
        if action.nargs == 0:
            plain.add_argument(*action.option_strings, dest=action.dest, action="store_true")
        else:
            plain.add_argument(*action.option_strings, dest=action.dest, nargs=action.nargs)
    flags = {action.dest: action.option_strings[-1] for action in plain._actions}
    found, _ = plain.parse_known_args([*words])
    return {dest: (flags[dest], None if value in (None, True) else value) for dest, value in vars(found).items()}
