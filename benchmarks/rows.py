"""The rows of the rollout benchmark: which policies, with which skipped steps, compared with which dense windows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from dummyforcing_core.kv.output_change import OutputChange, memory_options
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.models.families import Family
from dummyforcing_core.models.wan import WanConfig
from dummyforcing_core.policies import DummyForcing, HeadForcing, Policy, SlidingWindow
from dummyforcing_core.policies.profile import HeadProfile

FAMILY = Family("benchmark", "Random weights", "none")
F = FAMILY.chunk_frames
OPTIONS = memory_options(F)
LONG_FRAMES = 60  # history of long context, in latent frames: the paper's 237 pixel frames
REFERENCES = {"base": ("dense 21", "window 12"), "long": ("dense 60+3", "window 9+3")}


@dataclass(frozen=True)
class Row:
    """One line of the benchmark: a policy, and the denoising steps that reuse the last residual."""

    name: str
    policy: Policy
    group: str = "base"
    skip: tuple[int, ...] = ()


def synthetic_profile(layers: int, heads: int, seed: int) -> HeadProfile:
    """Scores whose plan has exact counts at any ratio: of the heads that are no dummies half are sink, half neighbour.

    Heads are ranked by chance; by rank, two at a time, they lean to the sink and to the neighbours by equal amounts.
    Output changes go by the same rank.
    """
    n = layers * heads
    rank = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    high = (rank // 2 + 1) / n
    low, even = high / 4, rank % 2 == 0
    sink, neighbour = torch.where(even, high, low) / 2, torch.where(even, low, high) / 2
    mass = torch.stack((sink, neighbour, 1 - sink - neighbour), dim=-1)
    change = high.view(layers, heads, 1).expand(-1, -1, len(OPTIONS)).contiguous()
    return HeadProfile(HeadScores(mass.view(layers, heads, 3)), FAMILY.name, changes=OutputChange(OPTIONS, change))


def all_rows(config: WanConfig, skip: tuple[int, ...], seed: int) -> Iterator[Row]:
    """Every row, in the order of the table; without steps to skip none has TeaCache."""
    profile = synthetic_profile(config.num_layers, config.num_heads, seed)
    for row in (
        Row("dense 21", SlidingWindow(21, 0)),
        Row("window 12", SlidingWindow(12, 3)),
        Row("dummy 25", DummyForcing(0.25, profile=profile)),
        Row("dummy 50", DummyForcing(0.5, profile=profile)),
        Row("head forcing", HeadForcing(1 / 3, bank_rule="every", every_frames=3, profile=profile)),
    ):
        yield row
        if skip:
            yield replace(row, name=f"{row.name} + TeaCache", skip=skip)
    yield Row("dummy 50 online", DummyForcing(0.5))
    yield Row("dense 60+3", SlidingWindow(LONG_FRAMES + F, 0), "long")
    yield Row("window 9+3", SlidingWindow(9 + F, 0), "long")
    yield Row("dummy 50 lc 20", DummyForcing(0.5, local_chunks=LONG_FRAMES // F, profile=profile), "long")


def add_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their speed-up, what FLOPs say of it, and history, against the dense rows of their group."""
    by_name = {row["row"]: row for row in rows}
    result = []
    for row in rows:
        references = REFERENCES[row["group"]]
        others = [by_name[name] for name in references if name in by_name and name != row["row"]]
        result.append({**row, "references": references, "against": {o["row"]: _ratios(row, o) for o in others}})
    return result


def _ratios(row: dict[str, Any], other: dict[str, Any]) -> dict[str, float | None]:
    """By the clock; and in CPU time, which other work on the machine disturbs less."""
    speedup = other["steady_ms"] / row["steady_ms"]
    cpu = other["steady_cpu_ms"] / row["steady_cpu_ms"] if row["steady_cpu_ms"] else None
    expected = other["flops"]["total"] / row["flops"]["total"]
    history, others = (r["bytes"]["history"]["actual"] for r in (row, other))
    return {
        "speedup": speedup,
        "expected": expected,
        "of_expected": speedup / expected,
        "cpu_of_expected": cpu / expected if cpu else None,
        "history": history / others,
    }
