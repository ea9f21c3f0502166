"""The policies that the study compares: Dummy Forcing, and what it must beat with the same number of bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, ClassVar, Literal

from dummyforcing_core.kv.bank import BankRule
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan
from dummyforcing_core.policies import DummyForcing, Full, HeadBudget, HeadForcing, Policy, Setting, SlidingWindow
from dummyforcing_core.policies.profile import HeadProfile

Roles = tuple[tuple[str, ...], ...]
LONG_CHUNKS = 6  # what neighbour heads remember in a long context: all 18 history frames of a 7-chunk clip
LONG_RATIOS = (0.25, 0.5)
SINKS = {"window": 0, "first + window": 1, "first 3 + window": 3}
BARE = HeadMemory(0, 0)


@dataclass(frozen=True)
class FixedRoles(Policy):
    """A given role for every layer and head, and what each role remembers."""

    roles: Roles
    memories: tuple[tuple[str, HeadMemory], ...]
    rule: BankRule | None = None

    name: ClassVar[str] = "fixed_roles"

    def plan(self, setting: Setting) -> HeadPlan:
        memory = dict(self.memories)
        rows = tuple(tuple(memory[role] for role in row) for row in self.roles)
        plan = HeadPlan(rows, self.roles, bank=self.rule)
        plan.check(setting.layers, setting.heads)
        return plan

    def shuffled(self, seed: int) -> "FixedRoles":
        """The same roles in random places: what a choice of heads is worth is judged against this."""
        flat = [role for row in self.roles for role in row]
        Random(seed).shuffle(flat)
        width = len(self.roles[0])
        return replace(self, roles=tuple(tuple(flat[i : i + width]) for i in range(0, len(flat), width)))


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
    """Mean scores: of the first scored chunk's clean pass, the paper's choice; of every pass of all later chunks; and
    the latter again under the window of a long context."""

    first: HeadProfile
    later: HeadProfile
    long: HeadProfile


@dataclass(frozen=True, eq=False)
class Entry:
    """One policy of the study.

    draw: None, or the number of a random choice of heads. alone: when its memory looks at the content, so that it must
    not see several clips in one batch.
    """

    name: str
    policy: Policy
    draw: int | None = None
    alone: Literal["never", "at switches", "always"] = "never"

    @property
    def key(self) -> str:
        return self.name if self.draw is None else f"{self.name}, draw {self.draw}"


def entries(setting: Setting, profiles: Profiles, ratios: Sequence[float], draws: int) -> list[Entry]:
    """Everything that is compared: uniform memories, Dummy Forcing, and what holds as many bytes as it."""
    chunk = setting.chunk_frames
    windows = [frames for frames in (1, 3, 6, 9, 12) if frames < setting.clip_frames - chunk]
    found = [Entry("full cache", Full())]
    found += [Entry(f"window {frames}", SlidingWindow(frames + chunk, 0)) for frames in windows]
    for ratio in ratios:
        name, ours = f"dummy {ratio:.0%}", DummyForcing(ratio, profile=profiles.later)
        first = DummyForcing(ratio, profile=profiles.first)
        bare = DummyForcing(ratio, packed_frames=0, profile=profiles.later)
        found += _with_rivals(name, ours, setting, draws)
        found.append(Entry(f"{name}, first-chunk profile", first))
        found.append(Entry(f"{name}, online", DummyForcing(ratio), alone="always"))
        found += _with_rivals(f"unpacked {name}", bare, setting, draws)
        found += _with_rivals(f"{name}, rest full", rest_full(ours, setting), setting, draws)
        found.append(Entry(f"{name}, rest full, first-chunk profile", rest_full(first, setting)))
        if ratio in LONG_RATIOS:
            long = DummyForcing(ratio, local_chunks=LONG_CHUNKS, profile=profiles.long)
            found += _with_rivals(f"long {name}", long, setting, draws=0)
    return found


def long_entries(setting: Setting, profiles: Profiles) -> list[Entry]:
    """Long memories, and what they are judged against; numbers are history frames, the current chunk not counted."""
    sinks = {"window 3": (0, 3), "window 4": (0, 4), "sink 3 + 1": (3, 1), "sink 3 + 6": (3, 6), "window 9": (0, 9)}
    windows: dict[str, Policy] = {
        name: SlidingWindow(sink + recent + setting.chunk_frames, sink) for name, (sink, recent) in sinks.items()
    }
    infinity = {"1 + 8, end-anchored, flushed": SlidingWindow(9 + setting.chunk_frames, 1, "end", 1)}
    dummies = {f"dummy {ratio:.0%}": DummyForcing(ratio, profile=profiles.later) for ratio in (0.5, 0.25)}
    return [
        *(Entry(name, policy) for name, policy in {"full cache": Full(), **windows, **infinity, **dummies}.items()),
        Entry("dummy 50%, by output change, online", DummyForcing(cost="output_change"), alone="always"),
        *(Entry(name, policy, alone="at switches") for name, policy in _head_forcing(profiles.later).items()),
        *(
            Entry(
                f"third, others 1, {name}", HeadForcing(1 / 3, local_frames=1, first_chunk=1, **change), alone="always"
            )
            for name, change in {"online": {}, "key novelty": {"bank_rule": "key_novelty"}}.items()
        ),
        *_random_memory_heads(setting, profiles.later),
        *(
            Entry(f"budget {n}", HeadBudget(budget_frames=n, profile=profiles.later), alone="at switches")
            for n in (2.5, 4)
        ),
    ]


def _head_forcing(profile: HeadProfile) -> dict[str, Policy]:
    """By share of memory heads and what the others keep, then one change at a time of a third and 1."""
    shares = {"sixth": 1 / 6, "third": 1 / 3, "half": 1 / 2}
    found: dict[str, Policy] = {
        f"head forcing, {name}, others {local}": HeadForcing(share, local_frames=local, first_chunk=1, profile=profile)
        for name, share in shares.items()
        for local in (1, 3)
    }
    found["head forcing"] = HeadForcing(profile=profile)
    found["head forcing, all heads"] = HeadForcing(1.0, first_chunk=1, profile=profile)
    base = HeadForcing(1 / 3, local_frames=1, first_chunk=1, profile=profile)
    changes: dict[str, dict[str, Any]] = {
        "by mass": {"roles_by": "mass"},
        "sink 3 in memory heads": {"memory_sink": 3},
        "half of the others anchors": {"anchor_ratio": 0.5},
        "first chunk not kept": {"first_chunk": 0},
        "no novelty": {"novelty": 0.0},
        "novelty .003": {"novelty": 0.003},
        "novelty .03": {"novelty": 0.03},
        "one chunk banked": {"bank_chunks": 1},
        "three chunks banked": {"bank_chunks": 3},
        "every 6th": {"bank_rule": "every"},
        "rank": {"positions": "rank"},
        "end-anchored": {"positions": "end"},
    }
    return found | {f"third, others 1, {name}": replace(base, **change) for name, change in changes.items()}


def _random_memory_heads(setting: Setting, profile: HeadProfile, draws: int = 2) -> list[Entry]:
    roles = as_roles(HeadForcing(1 / 3, local_frames=1, first_chunk=1, profile=profile), setting)
    return [Entry(f"third, others 1, random heads {n}", roles.shuffled(n), alone="at switches") for n in range(draws)]


def _with_rivals(name: str, ours: Policy, setting: Setting, draws: int) -> list[Entry]:
    """A policy, its roles in random places, windows of its bytes: all but "first + window" need room in every head."""
    held = held_frames(ours.plan(setting), setting.clip_frames - setting.chunk_frames)
    room, roles = sum(held) / len(held), as_roles(ours, setting)
    kinds = [kind for kind, sink in SINKS.items() if sink == 1 or room >= max(sink, 1)]
    return [
        Entry(f"{name}, profile", ours),
        *(Entry(f"{name}, random heads", roles.shuffled(seed), seed) for seed in range(draws)),
        *(Entry(f"{kind}, bytes of {name}", EqualBytes(ours, SINKS[kind])) for kind in kinds),
    ]


def as_roles(policy: Policy, setting: Setting) -> FixedRoles:
    """The same plan as a table of roles."""
    plan = policy.plan(setting)
    roles, memories = (sum(rows, ()) for rows in (plan.roles, plan.memories))
    return FixedRoles(plan.roles, tuple(dict(zip(roles, memories, strict=True)).items()), plan.bank)


def rest_full(dummies: Policy, setting: Setting) -> FixedRoles:
    """The dummy heads of a policy lose their history; every other head keeps everything."""
    memories = (("dummy", BARE), ("neighbour", HeadMemory()), ("sink", HeadMemory()))
    return FixedRoles(dummies.plan(setting).roles, memories)
