"""What the prompts of a clip say, for its report: CONDITIONING holds features, the queued graph the words."""

from collections.abc import Iterator, Sequence
from typing import Any

from ...dummyforcing_core.errors import shown
from ...dummyforcing_core.rates import clock
from .prompts import STARTS, TEXT

LISTED, LONGEST = 6, 36


def prompts_text(conditioning: list, texts: Sequence[str]) -> str:
    """How many prompts there are; of several also when each begins, and its first words.

    texts -- of the entries that carry none, in order; left out if there are not so many
    """
    if len(conditioning) < 2:
        return str(len(conditioning))
    silent = sum(TEXT not in options for _, options in conditioning)
    others = iter(texts if len(texts) == silent else [""] * silent)
    said = [
        f"{clock(options.get(STARTS, 0.0))} {_begin(options[TEXT] if TEXT in options else next(others))}".rstrip()
        for _, options in conditioning
    ]
    more = [f"and {len(said) - LISTED} more"] if len(said) > LISTED else []
    return f"{len(said)}: " + "; ".join([*said[:LISTED], *more])


def encoded_texts(prompt: Any, node: Any) -> list[str]:
    """The texts of the stock text encoders before a node's conditioning, in the order of their prompts."""
    return [*_before(prompt or {}, str(node), set())]


def _before(prompt: dict, node: str, seen: set[str]) -> Iterator[str]:
    inputs = prompt.get(node, {}).get("inputs", {})
    if node in seen:
        return
    here = {*seen, node}
    if isinstance(inputs.get("text"), str):
        if not prompt[node].get("class_type", "").startswith("DummyForcing"):  # Prompt Schedule's say it themselves
            yield inputs["text"]
        return
    for name, link in inputs.items():
        if isinstance(link, list) and (name in ("previous", "next") or name.startswith("conditioning")):
            yield from _before(prompt, str(link[0]), here)


def _begin(text: str) -> str:
    words = " ".join(text.split())
    return shown(words if len(words) <= LONGEST else f"{words[: LONGEST - 3].rstrip()}...", LONGEST)
