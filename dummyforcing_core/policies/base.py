"""What a policy is: a frozen value that turns a run's setting, and maybe what was observed, into a head plan."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

from ..errors import PlanError
from ..geometry import Span, chunk_spans
from ..kv.bank import BankRule
from ..kv.cache import Observer
from ..kv.output_change import OutputChange, Project
from ..kv.plan import HeadMemory, HeadPlan, KVShape
from ..kv.scoring import HeadScores, Observation
from ..models.families import Family
from .options import options_of

Seen = HeadScores | OutputChange


class Observing(Observer, Protocol):
    """Watches one pass and says what it saw: `Observation` the masses, `ChangeObservation` the output change."""

    def result(self) -> Seen: ...


@dataclass(frozen=True)
class Setting:
    """What a policy may look at: the model's layers x heads, its family, and the clip in latent frames.

    kv -- what turns its plans into bytes; None where that is not known
    """

    layers: int
    heads: int
    family: Family
    chunk_frames: int
    clip_frames: int
    given_frames: int = 0
    kv: KVShape | None = None

    @property
    def spans(self) -> list[Span]:
        """The clip's chunks."""
        return chunk_spans(self.clip_frames, self.chunk_frames, self.given_frames)

    @property
    def last_chunk(self) -> int:
        """Ordinal of the clip's last chunk; where a video is made of overlapping clips, of the last in a whole clip."""
        whole = self.family.trained_frames // self.chunk_frames if self.family.overlap_frames else 0
        return max(self.spans[-1].chunk, whole - 1)


def head_count(setting: Setting, ratio: float, number: int | None, what: str) -> int:
    """That number of a model's heads, or that share of them; PlanError if there are not so many."""
    total = setting.layers * setting.heads
    count = round(ratio * total) if number is None else number
    if count > total:
        raise PlanError(
            f"expected at most {total} {what} heads ({setting.layers} layers x {setting.heads} heads), got {count}; "
            "use fewer, or a ratio"
        )
    return count


def check_observed(setting: Setting, chunk: int | None) -> None:
    """PlanError for a chunk to observe that the clip has not."""
    last = setting.last_chunk
    if chunk is not None and chunk > last:
        raise PlanError(
            f"expected observe_chunk of at most {last}, the clip's last chunk, got {chunk}; use a smaller one, none (0 "
            "in ComfyUI), or a longer clip"
        )


@dataclass(frozen=True)
class Policy(ABC):
    """Decides what every head remembers. Most decide at once; some observe a clean pass and decide again.

    A policy is a frozen dataclass, with repr=False if it has later options. Fields that users may set are `option`s
    (options.py); PlanError for one out of its bounds.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for name, option in options_of(self).items():
            option.check(name, getattr(self, name))

    def __repr__(self) -> str:
        options = options_of(self)
        shown = [
            f"{one.name}={getattr(self, one.name)!r}"
            for one in fields(self)
            if not (one.name in options and options[one.name].later and getattr(self, one.name) == one.default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

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

    def later(self, setting: Setting) -> HeadPlan:
        """A plan as large as any that may follow the first: what has to be made room for."""
        return self.plan(setting)

    def observes(self, span: Span, setting: Setting, observed: Sequence[int], switched: bool) -> bool:
        """Whether to observe heads in this chunk.

        observed -- ordinals of the chunks observed before; switched -- the prompt changed with this chunk
        """
        return False

    @property
    def observed_step(self) -> int | None:
        """The denoising step that is observed, 0 the first; None: the clean pass, or where a loop has none that sees
        all of a head's history, the last step."""
        return None

    def observation(self, setting: Setting, project: Project) -> Observing:
        """An empty observation of the kind this policy wants; `project` calls a layer's output projection."""
        return Observation(setting.layers, setting.heads)

    def replan(self, seen: Seen, setting: Setting) -> HeadPlan:
        """The plan from here on, given what was observed; it may only narrow what heads hold."""
        raise PlanError(f"policy {self.name!r} never observes, it cannot plan again")

    def uniform(self, setting: Setting, memory: HeadMemory, role: str, bank: BankRule | None = None) -> HeadPlan:
        """The same memory for every head."""
        return HeadPlan.uniform(setting.layers, setting.heads, memory, role, setting.family.name, bank)
