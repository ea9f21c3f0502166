"""Forcing-KV: static heads keep the first and the newest frame, dynamic ones a choice of what lies between as well.

After the public code (zju-jiyicheng/Forcing-KV), whose files of head labels it reads. There a dynamic head keeps 1
first frame, 6 of 18 that leave its window, by the lowest cosine of adjacent keys, and 1 recent frame. Here frames are
chosen one by one as they leave, by the mean of their keys, from behind the newest chunk, which a bank needs.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..errors import PlanError, shown
from ..kv.bank import KeyChange
from ..kv.plan import HeadMemory, HeadPlan
from ..reading import parse_json, read_text
from .base import Policy, Setting
from .options import Option, option


@dataclass(frozen=True, repr=False)
class HeadLabels:
    """Which heads are static, per layer; all others are dynamic."""

    static: tuple[frozenset[int], ...]
    heads: int

    @classmethod
    def read(cls, path: Path) -> "HeadLabels":
        """A list of {"layer_idx", "static_head", "dynamic_head"}, or it as "layers" of an object; PlanError if not."""
        try:
            document = parse_json(read_text(path, "file of head labels", PlanError))
            entries = document["layers"] if isinstance(document, dict) else document
            return cls._of(sorted(entries, key=lambda entry: _index(entry["layer_idx"])))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(
                f"{shown(path, 200)}: expected Forcing-KV's head labels, got {shown(repr(error), 200)}; give one of "
                "its configs_head files"
            ) from error

    @classmethod
    def _of(cls, entries: list[dict[str, Any]]) -> "HeadLabels":
        static = []
        heads = len(entries[0]["static_head"]) + len(entries[0]["dynamic_head"]) if entries else 0
        for layer, entry in enumerate(entries):
            kinds = [[_index(head) for head in entry[kind]] for kind in ("static_head", "dynamic_head")]
            if entry["layer_idx"] != layer or sorted(kinds[0] + kinds[1]) != list(range(heads)):
                raise ValueError(f"layer {layer} does not name every head once")
            static.append(frozenset(kinds[0]))
        if not heads:
            raise ValueError("no layers")
        return cls(tuple(static), heads)

    def __repr__(self) -> str:
        told = json.dumps([sorted(row) for row in self.static])
        digest = hashlib.sha256(told.encode()).hexdigest()[:8]
        return f"HeadLabels({len(self.static)}x{self.heads}, {sum(map(len, self.static))} static, {digest})"


def _index(number: object) -> int:
    if type(number) is not int or number < 0:
        raise TypeError(f"{shown(repr(number))} is no index")
    return number


@dataclass(frozen=True)
class ForcingKV(Policy):
    """Roles by a file of labels; nothing is observed."""

    labels: HeadLabels | None = option(  # noqa: RUF009
        None, Option("file of head labels, one of Forcing-KV's configs_head", unset="none", read=HeadLabels.read)
    )
    sink_frames: int = option(1, Option("first frames that all heads keep", 0, flag="sink"))
    static_frames: int = option(1, Option("newest frames that static heads keep", 0))
    kept_frames: int = option(6, Option("frames that dynamic heads choose of those behind the newest chunk", 0))

    name: ClassVar[str] = "forcing_kv"

    def plan(self, setting: Setting) -> HeadPlan:
        if self.labels is None:
            raise PlanError(
                "expected a file of head labels, got none; give one of Forcing-KV's configs_head files for this model "
                "(--labels)"
            )
        own = len(self.labels.static), self.labels.heads
        if own != (setting.layers, setting.heads):
            raise PlanError(
                f"expected head labels of {setting.layers} layers x {setting.heads} heads, got {own[0]} x {own[1]}; "
                "give those of this model"
            )
        static = HeadMemory(self.sink_frames, self.static_frames)
        dynamic = HeadMemory(self.sink_frames, setting.chunk_frames, bank_frames=self.kept_frames)
        roles = tuple(
            tuple("static" if head in row else "dynamic" for head in range(setting.heads)) for row in self.labels.static
        )
        rows = tuple(tuple(static if role == "static" else dynamic for role in row) for row in roles)
        rule = KeyChange(room_frames=self.kept_frames) if self.kept_frames else None
        return HeadPlan(rows, roles, setting.family.name, rule)
