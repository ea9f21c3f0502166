"""What a policy is: a frozen value that turns a run's setting into a head plan."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..models.families import Family
from ..plan import HeadPlan


@dataclass(frozen=True)
class Setting:
    """What a policy may look at: the model's layers x heads, its family, and the clip in latent frames."""

    layers: int
    heads: int
    family: Family
    chunk_frames: int
    clip_frames: int


class Policy(Protocol):
    """Decides what every head remembers."""

    name: ClassVar[str]

    def plan(self, setting: Setting) -> HeadPlan:
        """The head plan a clip starts with. PlanError if the policy cannot serve this setting."""
        ...
