"""The prompts of a take that is gone on with, and those that its chunks are recorded with."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import DummyForcingError, shown
from ..loops.run import ChunkResult, Run
from ..prompts import Prompts
from .features import Keys
from .take import Entry, Heard, Recording, Take

TextAt = Callable[[int], str]  # the prompt of the chunk that begins with this latent frame, "" where nobody knows it


def prompts_of(run: Run, chunk: ChunkResult, text_at: TextAt) -> list[tuple[int, str, Tensor]]:
    """What `Recording.add` is told of a finished chunk, and of the unfinished window behind it."""
    begun = [chunk.span.stop + run.family.chunk_frames * place for place in range(len(chunk.window))]
    starts = [chunk.span.start, *begun]
    return [(start, text_at(start), run.prompts.at(start)) for start in starts]


def check_texts(take: Take, chunks: int, text_at: TextAt) -> None:
    """DummyForcingError for the first of these chunks whose prompt is another than in the take."""
    heard = [*_heard(take, chunks)]
    for _, one in heard:
        asked = text_at(one.frame)
        if asked and one.text and one.text != asked:
            raise DummyForcingError(
                f"expected the prompt {shown(repr(one.text), 120)} for latent frame {one.frame}, as of the take "
                f"{shown(take.folder, 200)}, got {shown(repr(asked), 120)}; change prompts of chunks behind latent "
                f"frame {heard[-1][1].frame} only, or begin another take"
            )


@dataclass(frozen=True, eq=False)
class Recalled:
    """Prompts of which some are heard in other features, `own`, by the id() of theirs; `said` holds these."""

    said: Prompts
    own: Mapping[int, Tensor]

    @property
    def may_switch(self) -> bool:
        return self.said.may_switch

    def at(self, chunk_start: int) -> Tensor:
        """As of `Prompts`."""
        asked = self.said.at(chunk_start)
        return self.own.get(id(asked), asked)


def prompts_behind(take: Take, prompts: Prompts, text_at: TextAt) -> Prompts:
    """The prompts by which a take is gone on with; its chunks are there, and hear what they were made with.

    Where a text is the same and its features are not, as another machine's text encoder gives them, the take's own are
    used from there on, and a line says so. DummyForcingError if a chunk was made with another prompt.
    """
    keys, own = Keys(), dict[int, Tensor]()
    for entry, one in _heard(take, len(take.entries)):
        asked = prompts.at(one.frame)
        if not one.features or id(asked) in own:
            continue
        if keys(asked) == one.features:
            if isinstance(take, Recording) and entry.file.parent == take.folder:
                take.add_features(asked)  # which may have been lost
            continue
        there = take.features(entry, one) if one.text and text_at(one.frame) == one.text else None
        if there is None or there.shape[1:] != asked.shape[1:]:
            raise DummyForcingError(
                f"expected the prompt of latent frame {one.frame} as of the take {shown(take.folder, 200)}, got "
                "another, or one that another text encoder has read; change prompts behind its last chunk only, or "
                "choose another take"
            )
        own[id(asked)] = there.to(asked.device, asked.dtype)
    if not own:
        return prompts
    warnings.warn(
        "this text encoder gives other numbers for the prompts than the take was made with: the take's are used",
        stacklevel=2,
    )
    return Recalled(prompts, own)


def _heard(take: Take, chunks: int) -> Iterator[tuple[Entry, Heard]]:
    """Of each of the first chunks what it was made with, then what the window behind the last of them is."""
    for entry in take.entries[:chunks]:
        for one in entry.heard if entry is take.entries[chunks - 1] else entry.heard[:1]:
            yield entry, one
