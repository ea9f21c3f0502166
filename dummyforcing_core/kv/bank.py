"""What a bank is filled with: rules that mark frames while they are in the ring, to be banked when they leave it.

After Head Forcing's episodic memory (arXiv 2605.14487), by rules of our own. A rule is a value and belongs to a plan:
heads with a bank share one list of marked frames. The oldest banked frame makes room for the next.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import PlanError, shown


@dataclass(frozen=True, eq=False)
class Candidate:
    """Frames that may be marked together. feature (B, n): what tells them from others; None: nothing has to."""

    frames: tuple[int, ...]
    feature: Tensor | None = None
    worth: float = 0.0


@dataclass(frozen=True, kw_only=True)
class BankRule(ABC):
    """Which frames are marked, and when.

    room_frames -- the most that are marked at a time; 0: as many as the plan's largest bank holds. A plan that is to be
    narrowed may have no bank yet
    """

    room_frames: int = 0

    name: ClassVar[str]
    at_switch: ClassVar[bool] = False  # or as soon as a pass is committed
    reads_keys: ClassVar[bool] = False
    keeps_best: ClassVar[bool] = False  # where there is no more room, of what is least worth; else the oldest goes

    def worth(self, feature: Tensor, marked: Sequence[Tensor], before: Tensor | None) -> float | None:
        """Of a candidate with a feature, (B, n) as all are; None: it is not marked.

        marked -- the features of what is; before -- of the candidate before this one
        """
        return None

    @property
    def needs_switches(self) -> bool:
        """Whether nothing is ever marked in a clip of one prompt."""
        return self.at_switch

    @abstractmethod
    def candidates(self, frames: range, latent: Tensor, keys: Tensor | None) -> list[Candidate]:
        """Of a committed pass over these frames.

        latent -- (B, C, frames, h, w); keys -- (B, frames, n), means over a frame's tokens, if the rule reads them
        """

    def stands_in(self, frames: range) -> tuple[int, ...]:
        """Frames of a committed pass that are marked until something better comes."""
        return ()


@dataclass(frozen=True)
class EpisodeEnd(BankRule):
    """The last chunk of an episode, once a prompt switch ends it, if its latents look new: mean and std per channel.

    novelty     -- 1 - cosine to every marked chunk must be greater
    first_chunk -- the clip's first chunk is marked from the start, until newer ones need its place
    """

    novelty: float = 0.01
    first_chunk: bool = False

    name: ClassVar[str] = "episode_end"
    at_switch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if type(self.first_chunk) is not bool:
            raise PlanError(
                f"expected first_chunk of true or false, got {shown(repr(self.first_chunk))}; give one of them"
            )
        _check_frames(self.room_frames, 0)
        _check_share("novelty", self.novelty)

    @property
    def needs_switches(self) -> bool:
        return not self.first_chunk

    def worth(self, feature: Tensor, marked: Sequence[Tensor], before: Tensor | None) -> float | None:
        return _above(self.novelty, feature, marked)

    def candidates(self, frames: range, latent: Tensor, keys: Tensor | None) -> list[Candidate]:
        flat = latent.float().flatten(2)
        return [Candidate(tuple(frames), torch.cat((flat.mean(2), flat.std(2)), dim=1))]

    def stands_in(self, frames: range) -> tuple[int, ...]:
        return tuple(frames) if self.first_chunk and frames.start == 0 else ()


@dataclass(frozen=True)
class KeyNovelty(BankRule):
    """Every frame whose keys, averaged over its tokens in all heads, are unlike those of marked frames."""

    novelty: float = 0.05

    name: ClassVar[str] = "key_novelty"
    reads_keys: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_frames(self.room_frames, 0)
        _check_share("novelty", self.novelty)

    def worth(self, feature: Tensor, marked: Sequence[Tensor], before: Tensor | None) -> float | None:
        return _above(self.novelty, feature, marked)

    def candidates(self, frames: range, latent: Tensor, keys: Tensor | None) -> list[Candidate]:
        return _by_keys(frames, keys)


@dataclass(frozen=True)
class KeyChange(BankRule):
    """The frames whose keys differ most from those of the frame before: Forcing-KV's choice."""

    name: ClassVar[str] = "key_change"
    reads_keys: ClassVar[bool] = True
    keeps_best: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_frames(self.room_frames, 0)

    def worth(self, feature: Tensor, marked: Sequence[Tensor], before: Tensor | None) -> float | None:
        return _novelty(feature, [] if before is None else [before])

    def candidates(self, frames: range, latent: Tensor, keys: Tensor | None) -> list[Candidate]:
        return _by_keys(frames, keys)


@dataclass(frozen=True)
class Every(BankRule):
    """Every n-th frame of the clip."""

    frames: int = 6

    name: ClassVar[str] = "every"

    def __post_init__(self) -> None:
        _check_frames(self.room_frames, 0)
        _check_frames(self.frames, 1)

    def candidates(self, frames: range, latent: Tensor, keys: Tensor | None) -> list[Candidate]:
        return [Candidate((frame,)) for frame in frames if frame % self.frames == 0]


RULES: dict[str, type[BankRule]] = {rule.name: rule for rule in (EpisodeEnd, KeyNovelty, KeyChange, Every)}


def rule_document(rule: BankRule) -> dict[str, Any]:
    """A rule as JSON holds it."""
    return {"rule": rule.name, **asdict(rule)}


def rule_of(document: dict[str, Any]) -> BankRule:
    """The rule that `rule_document` wrote; KeyError, TypeError or PlanError if there is none such."""
    values = dict(document)
    return RULES[values.pop("rule")](**values)


class Marks:
    """One clip's list of marked frames, oldest first; no more than fit into the bank.

    A rule that looks at content is answered with one read from the device, all candidates together.
    """

    def __init__(self, rule: BankRule, bank_frames: int):
        self.rule, self._room = rule, rule.room_frames or bank_frames
        self._marked: list[Candidate] = []
        self._before: Tensor | None = None  # the last feature that was looked at
        self._waiting: list[Candidate] = []  # of the newest pass: at a switch its end is an episode's

    @property
    def frames(self) -> frozenset[int]:
        return frozenset(frame for one in self._marked for frame in one.frames)

    def committed(self, frames: range, latent: Tensor, keys: Tensor | None = None) -> None:
        """A pass over these frames is history now; arguments as of `BankRule.candidates`."""
        found = self.rule.candidates(frames, latent, keys)
        if stand_in := self.rule.stands_in(frames):
            self._mark(Candidate(stand_in))
        if self.rule.at_switch:
            self._waiting = found
        else:
            self._offer(found)

    def switched(self) -> None:
        """The prompt changes with the next chunk."""
        waiting, self._waiting = self._waiting, []
        self._offer(waiting)

    def _offer(self, candidates: Sequence[Candidate]) -> None:
        features = [one.feature for one in candidates if one.feature is not None]
        if not features:
            for one in candidates:
                self._mark(one)
            return
        for one, feature in zip(candidates, _to_host(features), strict=True):
            known = [other.feature for other in self._marked if other.feature is not None]
            worth = self.rule.worth(feature, known, self._before)
            self._before = feature
            if worth is not None:
                self._mark(Candidate(one.frames, feature, worth))

    def _mark(self, new: Candidate) -> None:
        """Marks it, in place of what stood in for the same frames; others go where there is no more room."""
        self._marked = [one for one in self._marked if set(one.frames).isdisjoint(new.frames)] + [new]
        while sum(len(one.frames) for one in self._marked) > self._room:
            gone = min(self._marked, key=lambda one: one.worth) if self.rule.keeps_best else self._marked[0]
            self._marked.remove(gone)


def _by_keys(frames: range, keys: Tensor | None) -> list[Candidate]:
    """One candidate a frame."""
    assert keys is not None  # reads_keys says so
    return [Candidate((frame,), feature) for frame, feature in zip(frames, keys.unbind(1), strict=True)]


def _above(threshold: float, feature: Tensor, marked: Sequence[Tensor]) -> float | None:
    novelty = _novelty(feature, marked)
    return novelty if novelty > threshold else None


def _novelty(feature: Tensor, others: Sequence[Tensor]) -> float:
    """1 - cosine to the nearest of the others, the mean over the batch; infinite where there are none."""
    if not others:
        return float("inf")
    return 1 - float(torch.cosine_similarity(torch.stack(list(others)), feature, dim=-1).amax(0).mean())


def _to_host(features: Sequence[Tensor]) -> Tensor:
    """(candidates, B, n): the one read from the device."""
    return torch.stack(list(features)).cpu()


def _check_frames(value: object, least: int) -> None:
    if type(value) is not int or value < least:
        raise PlanError(f"expected {least} or more frames, got {shown(repr(value))}; give a whole number")


def _check_share(name: str, value: object) -> None:
    if type(value) not in (int, float) or not 0 <= value <= 2:  # type: ignore[operator]
        raise PlanError(f"expected {name} of 0 to 2, got {shown(repr(value))}; it is 1 - cosine")
