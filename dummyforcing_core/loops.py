"""The loop that a family is sampled by; all have rollout's signature and yield its ChunkResult."""

from collections.abc import Callable, Iterator

from .models.families import Family
from .rollout import ChunkResult, rollout

Loop = Callable[..., Iterator[ChunkResult]]

LOOPS: dict[str, Loop] = {"chunks": rollout}


def loop_of(family: Family) -> Loop:
    """The family's loop."""
    return LOOPS[family.loop]
