"""The policies that the study compares: Dummy Forcing, and what it must beat with the same number of bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from dummyforcing_core.kv.plan import HeadMemory, HeadPlan
from dummyforcing_core.policies import DummyForcing, Full, Policy, Setting, SlidingWindow
from dummyforcing_core.policies.profile import HeadProfile

Roles = tuple[tuple[str, ...], ...]
LONG_CHUNKS = 6  # neighbour window of the long-context setting: all 18 history frames of a 7-chunk clip
LONG_RATIOS = (0.25, 0.5)
BARE = HeadMemory(0, 0)


@dataclass(frozen=True)
class FixedRoles(Policy):
    """A given role for every layer and head, and what each role remembers."""

    roles: Roles
    memories: tuple[tuple[str, HeadMemory], ...]

    name: ClassVar[str] = "fixed_roles"

    def plan(self, setting: Setting) -> HeadPlan:
        memory = dict(self.memories)
        plan = HeadPlan(tuple(tuple(memory[role] for role in row) for row in self.roles), self.roles)
        plan.check(setting.layers, setting.heads)
        return plan

    def shuffled(self, seed: int) -> "FixedRoles":
        """The same roles in random places: what a choice of heads is worth is judged against this."""
        flat = [role for row in self.roles for role in row]
        Random(seed).shuffle(flat)
        width = len(self.roles[0])
        return FixedRoles(tuple(tuple(flat[i : i + width]) for i in range(0, len(flat), width)), self.memories)


@dataclass(frozen=True)
class EqualBytes(Policy):
    """First frames + recent window in every head, as many frames in all as `target` holds at the end of a clip.

    What does not divide evenly goes to heads spread over the model, one frame each; first frames come first.
    """

    target: Policy
    sink_frames: int

    name: ClassVar[str] = "equal_bytes"

    def plan(self, setting: Setting) -> HeadPlan:
        heads = setting.layers * setting.heads
        total = sum(held_frames(self.target.plan(setting), setting.clip_frames - setting.chunk_frames))
        memories = []
        for head in range(heads):
            frames = (head + 1) * total // heads - head * total // heads
            sink = min(self.sink_frames, frames)
            memories.append(HeadMemory(sink, frames - sink))
        rows = [tuple(memories[i : i + setting.heads]) for i in range(0, heads, setting.heads)]
        return HeadPlan(tuple(rows), (("window",) * setting.heads,) * setting.layers, setting.family.name)


def held_frames(plan: HeadPlan, history_frames: int) -> list[int]:
    """Frames every head holds once `history_frames` have been committed."""
    return [min(memory.capacity_frames(10**9), history_frames) for row in plan.memories for memory in row]


@dataclass(frozen=True, eq=False)
class Profiles:
    """Scores taken on clips of their own: of the first scored chunk's clean pass, of all later chunks and steps,
    and the latter again under the long-context window."""

    first: HeadProfile
    later: HeadProfile
    later_long: HeadProfile


@dataclass(frozen=True, eq=False)
class Entry:
    """One policy of the study. table: where its row stands; kind: its place there; draw: None, or the number of a
    random draw. batch_one: its heads are scored online, so that every clip is run alone."""

    table: str
    kind: str
    ratio: float | None
    policy: Policy
    draw: int | None = None
    batch_one: bool = False

    @property
    def key(self) -> str:
        parts = (self.table, "" if self.ratio is None else f"{self.ratio:.0%}", self.kind)
        return " | ".join(part for part in parts if part) + ("" if self.draw is None else f" | draw {self.draw}")

    def scenes(self, names: Sequence[str], main: str) -> list[str]:
        """Where it is asked what the clips remember: most rows in the main scene, those that carry the study in more.

        Random draws beyond LONG_RATIOS, and those without packing, are judged by their velocity error alone.
        """
        if self.draw is not None:
            return [main] if self.table != "bare" and self.ratio in LONG_RATIOS else []
        if self.table == "uniform":
            return list(names)
        rival = self.kind.startswith("first") and self.table in ("packed", "long")
        ours = self.kind == "profile, later chunks" and self.table != "bare"
        return [name for name in names if name == main or (name == names[-1] and (rival or ours))]


def entries(setting: Setting, profiles: Profiles, ratios: Sequence[float], draws: int) -> list[Entry]:
    """Everything that is compared, the policies with a name of their own first."""
    chunk = setting.chunk_frames
    found = [Entry("uniform", "full cache", None, Full())]
    for frames in (1, 3, 6, 9, 12):
        if frames < setting.clip_frames - chunk:
            found.append(Entry("uniform", f"window {frames}", None, SlidingWindow(frames + chunk, 0)))
    for ratio in ratios:
        packed = DummyForcing(ratio, profile=profiles.later)
        bare = DummyForcing(ratio, packed_frames=0, profile=profiles.later)
        found += [
            Entry("packed", "profile, later chunks", ratio, packed),
            Entry("packed", "profile, first chunk", ratio, DummyForcing(ratio, profile=profiles.first)),
            Entry("packed", "online", ratio, DummyForcing(ratio), batch_one=True),
            *_rivals("packed", ratio, packed, setting),
            Entry("bare", "profile, later chunks", ratio, bare),
            *_rivals("bare", ratio, bare, setting),
        ]
        full = {name: _rest_full(DummyForcing(ratio, profile=p), setting) for name, p in _sources(profiles)}
        found += [Entry("rest full", name, ratio, policy) for name, policy in full.items()]
        found += _rivals("rest full", ratio, full["profile, later chunks"], setting)
    for ratio in LONG_RATIOS:
        if ratio in ratios:
            long = DummyForcing(ratio, local_chunks=LONG_CHUNKS, profile=profiles.later_long)
            found += [Entry("long", "profile, later chunks", ratio, long), *_rivals("long", ratio, long, setting)]
    shuffled = [entry for entry in found if entry.kind == "profile, later chunks" and entry.table != "long"]
    shuffled.sort(key=lambda entry: (entry.table == "bare", entry.ratio not in LONG_RATIOS))
    return found + [_draw(entry, number, setting) for entry in shuffled for number in range(draws)]


def _sources(profiles: Profiles) -> list[tuple[str, HeadProfile]]:
    return [("profile, later chunks", profiles.later), ("profile, first chunk", profiles.first)]


def _draw(entry: Entry, number: int, setting: Setting) -> Entry:
    policy = as_roles(entry.policy, setting).shuffled(seed=number)
    return Entry(entry.table, "random heads", entry.ratio, policy, number)


def as_roles(policy: Policy, setting: Setting) -> FixedRoles:
    """The same plan as a table of roles."""
    plan = policy.plan(setting)
    roles, memories = (sum(rows, ()) for rows in (plan.roles, plan.memories))
    return FixedRoles(plan.roles, tuple(dict(zip(roles, memories, strict=True)).items()))


def _rest_full(dummies: Policy, setting: Setting) -> FixedRoles:
    """The dummy heads of a policy lose their history; every other head keeps everything."""
    memories = (("dummy", BARE), ("neighbour", HeadMemory()), ("sink", HeadMemory()))
    return FixedRoles(dummies.plan(setting).roles, memories)


def _rivals(table: str, ratio: float, target: Policy, setting: Setting) -> list[Entry]:
    """Windows of equal bytes, without first frames and with one or three of them where there is room."""
    held = held_frames(target.plan(setting), setting.clip_frames - setting.chunk_frames)
    room = sum(held) / len(held)
    sinks = {"window": 0, "first + window": 1, "first 3 + window": 3}
    chosen = {name: sink for name, sink in sinks.items() if sink == 1 or (sink <= room and room >= 1)}
    return [Entry(table, name, ratio, EqualBytes(target, sink)) for name, sink in chosen.items()]
