"""Which prompt speaks when: text features by latent frame."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .errors import DummyForcingError


@dataclass(frozen=True)
class PromptSchedule:
    """(first latent frame, text features (B or 1, S, text_dim)) entries, by rising frame, the first at 0.

    A switch takes effect at the first chunk that starts at or after its frame.
    """

    entries: tuple[tuple[int, Tensor], ...]

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.entries]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise DummyForcingError(f"prompt starts {starts} came; they must begin at frame 0 and rise strictly")

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
