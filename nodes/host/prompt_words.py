"""The words of a clip's prompts, for people to read: CONDITIONING holds what a text encoder made of them."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ...dummyforcing_core.errors import shown
from ...dummyforcing_core.geometry import TEMPORAL
from ...dummyforcing_core.prompts import PromptSchedule
from ...dummyforcing_core.rates import clock
from .prompts import STARTS, TEXT

PROMPT_AT = "DummyForcingPromptAt"
LISTED, LONGEST = 6, 36


@dataclass(frozen=True)
class PromptWords:
    """One text per prompt in the order of their times in seconds, at least one, "" where nobody knows it."""

    texts: tuple[str, ...]
    times: tuple[float, ...]

    def __str__(self) -> str:
        """How many there are; of several also when each begins, and its first words."""
        if len(self.texts) < 2:
            return str(len(self.texts))
        said = [f"{clock(time)} {_begin(text)}".rstrip() for time, text in zip(self.times, self.texts, strict=True)]
        more = [f"and {len(said) - LISTED} more"] if len(said) > LISTED else []
        return f"{len(said)}: " + "; ".join([*said[:LISTED], *more])

    def at(self, prompts: PromptSchedule, chunk_start: int) -> str:
        """What a chunk that begins with this latent frame is made from."""
        active = sum(start <= chunk_start for start, _ in prompts.entries) - 1
        return self.texts[min(active, len(self.texts) - 1)]

    def at_frame(self, frame: int, fps: Fraction) -> str:
        """What the chunk that begins with this latent frame of a video of `fps` is made from."""
        starts = [round(time * fps / TEMPORAL) for time in self.times]
        return [text for start, text in zip(starts, self.texts, strict=True) if start <= frame][-1]


def words_of(conditioning: list, prompt: Any, node: Any) -> PromptWords:
    """Of the CONDITIONING that a node of a queued prompt was given."""
    known = [options.get(TEXT, "") for _, options in conditioning]
    read = _texts_into(prompt or {}, str(node), "conditioning", set())
    if len(read) == len(known):
        known = [own or other for own, other in zip(known, read, strict=True)]
    times = [options.get(STARTS, 0.0) for _, options in conditioning]
    in_time = sorted(range(len(known)), key=times.__getitem__)
    return PromptWords(tuple(known[index] for index in in_time) or ("",), tuple(sorted(times)) or (0.0,))


def _texts_into(prompt: dict, node: str, name: str, seen: set[str]) -> list[str]:
    """The texts typed into the nodes that an input comes from; one "" for every text that is not found."""
    link = prompt.get(node, {}).get("inputs", {}).get(name)
    source = str(link[0]) if isinstance(link, list) and link else ""
    if source in seen or source not in prompt:
        return [""]
    seen = seen | {source}
    inputs = prompt[source].get("inputs", {})
    if prompt[source].get("class_type") == PROMPT_AT:
        return [*_texts_into(prompt, source, "previous", seen), *_texts_into(prompt, source, "next", seen)]
    if isinstance(inputs.get("text"), str):
        return [inputs["text"]]
    through = [key for key, value in inputs.items() if "conditioning" in key and isinstance(value, list)]
    return _texts_into(prompt, source, through[0], seen) if len(through) == 1 else [""]


def _begin(text: str) -> str:
    words = " ".join(text.split())
    return shown(words if len(words) <= LONGEST else f"{words[: LONGEST - 3].rstrip()}...", LONGEST)
