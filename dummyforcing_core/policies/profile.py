"""Head profiles: scores averaged over prompts, seeds, chunks and timesteps, as files that people share."""

import hashlib
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import PlanError, shown
from ..files import write_atomic
from ..kv.output_change import NEAR, OutputChange
from ..kv.plan import HeadMemory
from ..kv.scoring import HeadScores
from ..reading import parse_json, read_text

FORMAT = "dummyforcing.head_profile"
VERSION = 2  # 1 has no output change
READ = (1, VERSION)


@dataclass(frozen=True, eq=False, repr=False)
class HeadProfile:
    """Mean scores of one model. Fits every checkpoint of equal layers x heads, at every resolution.

    fingerprint -- of the checkpoint it was taken from; "" if unknown
    conditions  -- how it was taken, for readers
    changes     -- what heads lose with less history; None in files of version 1
    """

    scores: HeadScores
    family: str = ""
    fingerprint: str = ""
    conditions: dict[str, Any] = field(default_factory=dict)
    changes: OutputChange | None = None

    @classmethod
    def assumed(cls, layers: int, heads: int) -> "HeadProfile":
        """To estimate by, before there is a profile: of the heads that keep a memory, at any dummy ratio, half look at
        the first frames and half at their neighbours."""
        head = torch.arange(layers * heads)
        far = 0.2 + 0.6 * (head // 2) / len(head)
        near = far / 4
        sink, neighbour = torch.where(head % 2 == 1, far, near), torch.where(head % 2 == 1, near, far)
        mass = torch.stack((sink, neighbour, 1 - sink - neighbour), dim=-1)
        return cls(HeadScores(mass.view(layers, heads, 3)))

    def __repr__(self) -> str:
        layers, heads = self.scores.mass.shape[:2]
        known = f"{self.family or 'no family'}, {self.fingerprint or 'no fingerprint'}"
        lacks = "" if self.changes else ", no output change"
        return f"HeadProfile({layers}x{heads}, {known}, scores {self.digest}{lacks})"

    @property
    def digest(self) -> str:
        """Eight digits that tell profiles of one model apart."""
        parts = [self.scores.mass, *([self.changes.change] if self.changes else [])]
        numbers = b"".join(part.float().cpu().contiguous().numpy().tobytes() for part in parts)
        return hashlib.sha256(numbers).hexdigest()[:8]

    def check(self, layers: int, heads: int) -> None:
        """PlanError unless the model has this profile's layers and heads."""
        own = tuple(self.scores.mass.shape[:2])
        if own != (layers, heads):
            raise PlanError(
                f"the head profile is of a model with {own[0]} layers x {own[1]} heads, this model has {layers} x "
                f"{heads}; take a profile of this model with `profile`"
            )

    def warn_unless_of(self, fingerprint: str) -> None:
        """Warns when the checkpoint is another one, or it is not known which."""
        if not self.fingerprint or self.fingerprint != fingerprint:
            known = f"checkpoint {self.fingerprint}" if self.fingerprint else "an unknown checkpoint"
            warnings.warn(
                f"the head profile was taken from {known}, this is {fingerprint}; used all the same", stacklevel=2
            )

    def write(self, path: Path, roles: list[list[str]]) -> None:
        """Writes JSON: format, version, family, geometry, fingerprint, scores and the roles they give by default."""
        layers, heads = self.scores.mass.shape[:2]
        document = {
            "format": FORMAT,
            "version": VERSION,
            "family": self.family,
            "layers": layers,
            "heads": heads,
            "fingerprint": self.fingerprint,
            "conditions": self.conditions,
            "regions": ["sink", "neighbour", "current"],
            "scores": _rounded(self.scores.mass),
            "roles": roles,
            "output_change": None if self.changes is None else _changes_document(self.changes),
        }
        write_atomic(path, (json.dumps(document) + "\n").encode("utf-8"))

    @classmethod
    def read(cls, path: Path) -> "HeadProfile":
        """Reads `write`'s form; PlanError names what is wrong."""
        try:
            document = parse_json(read_text(path, "head profile", PlanError))
            found = document["format"], document["version"]
        except (ValueError, TypeError, KeyError) as error:
            raise PlanError(
                f"{shown(path, 200)} is not a head profile ({shown(repr(error))}); make one with `profile`"
            ) from error
        if found not in [(FORMAT, version) for version in READ] or type(found[1]) is not int:
            said = f"format {shown(repr(found[0]))}, version {shown(repr(found[1]))}"
            raise PlanError(f"{shown(path, 200)} has {said}; known: {FORMAT!r}, {' and '.join(map(str, READ))}")
        try:
            return cls._of(document)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, PlanError) as error:
            reason = shown(repr(error), 200)
            raise PlanError(
                f"{shown(path, 200)} is a damaged head profile ({reason}); make it again with `profile`"
            ) from error

    @classmethod
    def _of(cls, document: dict[str, Any]) -> "HeadProfile":
        """The profile in a document of `write`'s form; any of several errors if it is damaged."""
        scores = HeadScores(torch.tensor(document["scores"], dtype=torch.float32))
        told = document["family"], document["fingerprint"], document.get("conditions", {})
        profile = cls(scores, *told, _changes_of(document.get("output_change")))
        texts = isinstance(profile.family, str) and isinstance(profile.fingerprint, str)
        if not texts or not isinstance(profile.conditions, dict):
            raise TypeError("family and fingerprint are texts, conditions an object")
        mass = scores.mass
        shares = mass.numel() > 0 and bool((mass >= 0).all())
        if not shares or not torch.allclose(mass.sum(-1), torch.ones(()), atol=1e-3):
            raise ValueError("masses of a head are shares, 0 or more, and sum to 1")
        if profile.changes and profile.changes.change.shape[:2] != mass.shape[:2]:
            raise ValueError("output changes are of as many layers and heads as the masses")
        profile.check(int(document["layers"]), int(document["heads"]))
        return profile


def changes_of(profile: HeadProfile) -> OutputChange:
    """A profile's output change; PlanError if it has none."""
    if profile.changes is None:
        raise PlanError(
            "expected a head profile with output change, got one of version 1, which holds masses only; take it again "
            "with `profile` (Profile Heads in ComfyUI), or go by mass where the policy can"
        )
    return profile.changes


def _rounded(values: torch.Tensor) -> list[list[list[float]]]:
    return [[[round(x, 7) for x in head] for head in row] for row in values.tolist()]


def _changes_document(changes: OutputChange) -> dict[str, Any]:
    options = {name: [memory.sink_frames, memory.recent_frames] for name, memory in changes.options.items()}
    return {"options": options, "change": _rounded(changes.change)}


def _changes_of(document: dict[str, Any] | None) -> OutputChange | None:
    """What `_changes_document` made; any of several errors if it is damaged."""
    if document is None:
        return None
    options = {name: HeadMemory(sink, recent) for name, (sink, recent) in dict(document["options"]).items()}
    if NEAR not in options:
        raise ValueError(f"output changes are of several memories, {NEAR} among them")
    change = torch.tensor(document["change"], dtype=torch.float32)
    if not change.isfinite().all() or (change < 0).any():
        raise ValueError("output changes are numbers from 0 up")
    return OutputChange(options, change)
