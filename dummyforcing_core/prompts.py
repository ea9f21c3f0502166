"""Which prompt is active when: text features by latent frame."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .errors import DummyForcingError
from .rates import clock


class Prompts(Protocol):
    """What a loop asks of a clip's prompts, once per chunk. The same tensor again means the same prompt."""

    @property
    def may_switch(self) -> bool:
        """Whether a later chunk may get another prompt than the first; memory is laid out by the answer."""
        ...

    def at(self, chunk_start: int) -> Tensor:
        """Text features (B or 1, S, text_dim) of a chunk that begins with this latent frame."""
        ...


@dataclass(frozen=True)
class PromptSchedule:
    """(first latent frame, text features (B or 1, S, text_dim)) entries, by rising frame, the first at 0.

    A switch takes effect at the first chunk that starts at or after its frame.
    """

    entries: tuple[tuple[int, Tensor], ...]

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.entries]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise DummyForcingError(f"expected prompt starts that begin at frame 0 and rise, got {starts}; sort them")

    @property
    def may_switch(self) -> bool:
        """Whether there is more than one prompt."""
        return len(self.entries) > 1

    @classmethod
    def constant(cls, context: Tensor) -> "PromptSchedule":
        """One prompt for the whole clip."""
        return cls(((0, context),))

    @classmethod
    def per_chunk(cls, contexts: Sequence[Tensor], chunk_frames: int) -> "PromptSchedule":
        """One prompt per chunk; the same tensor again is no switch."""
        chunks = enumerate(contexts)
        return cls(tuple((i * chunk_frames, c) for i, c in chunks if i == 0 or c is not contexts[i - 1]))

    def at(self, chunk_start: int) -> Tensor:
        """The features that a chunk starting at this latent frame is made with."""
        return [context for start, context in self.entries if start <= chunk_start][-1]

    def warn_unused(self, chunk_starts: Sequence[int], seconds_per_frame: float) -> None:
        """One line for prompts that no chunk is made with, given the first latent frame of every chunk of the clip."""
        active = {max(start for start, _ in self.entries if start <= chunk) for chunk in chunk_starts}
        unused = [clock(start * seconds_per_frame) for start, _ in self.entries if start not in active]
        if unused:
            warnings.warn(
                f"the prompt of {', '.join(unused)} is never used: the clip's last chunk begins at "
                f"{clock(chunk_starts[-1] * seconds_per_frame)}, and prompts change between chunks; make the clip "
                "longer, or let the prompt start sooner",
                stacklevel=2,
            )

    def blended(self, chunks: int, chunk_starts: Sequence[int]) -> "PromptSchedule":
        """The same schedule with soft switches: over the `chunks` chunks that begin at a switch, then the prompt whole.

        The k-th of n chunks is made with features at k / (n + 1) of the straight line from the ones before to the new
        prompt. A switch that comes before a blend has ended starts from where that one has come.
        chunk_starts -- first latent frame of every chunk of the clip, a given start included

        To all that acts on a switch every step of a blend is one: a family that re-caches reads its window n times
        more, and a policy that scores heads after a switch scores them at every step.
        """
        if chunks < 0:
            raise DummyForcingError(f"expected a blend over 0 chunks or more, got {chunks}; 0 is a hard switch")
        if chunks == 0:
            return self
        entries: list[tuple[int, Tensor]] = []
        active = origin = target = self.entries[0][1]
        step = chunks  # the first prompt is whole from the start
        for start in chunk_starts:
            wanted = self.at(start)
            if wanted is not target:
                origin, target, step = active, wanted, 0
            step += 1
            active = target if step > chunks else _between(origin, target, step / (chunks + 1))
            if not entries or active is not entries[-1][1]:
                entries.append((start, active))
        return PromptSchedule(tuple(entries))


def _between(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Features at `share` of the way from first to second, both (B or 1, S, text_dim)."""
    if first.shape[1:] != second.shape[1:]:
        raise DummyForcingError(
            f"expected text features of one size to blend, got {tuple(first.shape)} and {tuple(second.shape)}; pad "
            "them "
            "alike, or switch hard (blend over 0 chunks)"
        )
    return torch.lerp(first, second, share)
