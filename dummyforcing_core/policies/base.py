"""What a policy is: a frozen value that turns a run's setting, and maybe what was observed, into a head plan."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..errors import PlanError
from ..geometry import Span, chunk_spans
from ..kv.plan import HeadMemory, HeadPlan
from ..kv.scoring import HeadScores, Observation
from ..models.families import Family
from .options import options_of


@dataclass(frozen=True)
class Setting:
    """What a policy may look at: the model's layers x heads, its family, and the clip in latent frames."""

    layers: int
    heads: int
    family: Family
    chunk_frames: int
    clip_frames: int
    given_frames: int = 0

    @property
    def spans(self) -> list[Span]:
        """The clip's chunks."""
        return chunk_spans(self.clip_frames, self.chunk_frames, self.given_frames)

    @property
    def last_chunk(self) -> int:
        """Ordinal of the clip's last chunk; where a video is made of overlapping clips, of the last in a whole clip."""
        whole = self.family.trained_frames // self.chunk_frames if self.family.overlap_frames else 0
        return max(self.spans[-1].chunk, whole - 1)


@dataclass(frozen=True)
class Policy(ABC):
    """Decides what every head remembers. Most decide at once; some observe a clean pass and decide again.

    A policy is a frozen dataclass; fields that users may set are `option`s (options.py). PlanError for one out of its
    bounds.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for name, option in options_of(self).items():
            option.check(name, getattr(self, name))

    def resolved(self, family: Family) -> "Policy":
        """The same policy with everything filled in that it takes from the family when nothing is said."""
        return self

    @property
    def may_observe_again(self) -> bool:
        """Whether the clip memory must keep the latents that scoring heads again needs."""
        return False

    @abstractmethod
    def plan(self, setting: Setting) -> HeadPlan:
        """The head plan a clip starts with. PlanError if the policy cannot serve this setting."""

    def observes(self, span: Span, setting: Setting, observed: Sequence[int], switched: bool) -> bool:
        """Whether to score heads in the clean pass of this chunk.

        observed -- ordinals of the chunks scored before; switched -- the prompt changed with this chunk
        """
        return False

    def observation(self, setting: Setting) -> Observation:
        """An empty observation of the kind this policy wants."""
        return Observation(setting.layers, setting.heads)

    def replan(self, scores: HeadScores, setting: Setting) -> HeadPlan:
        """The plan from here on, given what was observed; it may only narrow what heads hold."""
        raise PlanError(f"policy {self.name!r} never observes, it cannot plan again")

    def uniform(self, setting: Setting, memory: HeadMemory, role: str) -> HeadPlan:
        """The same memory for every head."""
        return HeadPlan.uniform(setting.layers, setting.heads, memory, role, setting.family.name)
