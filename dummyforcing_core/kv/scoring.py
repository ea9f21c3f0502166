"""Frame attention score: how much of a head's softmax mass lies on sink, neighbour and current frames.

Dummy Forcing (arXiv 2601.20499, section 3.1). Unlike the paper's code, which samples query rows at random, every row
counts by default, so a score is exact and the same on every run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PlanError
from .cache import Region
from .lse import fused

REGIONS = ("sink", "recent", "current")
SCORE_ELEMENTS = 2**24  # logits held at once, in numbers

Bounds = Sequence[tuple[int, int]]
MassFn = Callable[[Tensor, Tensor, Bounds], Tensor]


@dataclass(frozen=True, eq=False)
class HeadScores:
    """mass (layers, heads, 3) float32 on the CPU: shares on sink, neighbour (recent) and current frames, sum 1."""

    mass: Tensor

    def __post_init__(self) -> None:
        if self.mass.ndim != 3 or self.mass.shape[2] != len(REGIONS):
            raise PlanError(
                f"expected scores (layers, heads, {len(REGIONS)}), got shape {tuple(self.mass.shape)}; score the "
                "heads again"
            )

    @classmethod
    def mean(cls, scores: Sequence["HeadScores"]) -> "HeadScores":
        """The average of scores of one model."""
        return cls(torch.stack([s.mass for s in scores]).mean(0))


def region_mass(q: Tensor, k: Tensor, bounds: Bounds) -> Tensor:
    """Mean softmax mass (H, regions) of q (B, Lq, H, D) on token ranges of k (B, Lk, H, D), in float32, in slices."""
    q, k = (x.float().transpose(1, 2) for x in (q, k))
    rows = max(1, SCORE_ELEMENTS // (q.shape[0] * q.shape[1] * k.shape[2]))
    total = torch.zeros(q.shape[1], len(bounds), device=q.device)
    for part in (q * q.shape[-1] ** -0.5).split(rows, dim=2):
        weights = (part @ k.transpose(-1, -2)).softmax(-1)
        masses = [weights[..., start:stop].sum(-1) for start, stop in bounds]
        total += torch.stack(masses, dim=-1).sum(dim=(0, 2))
    return total / (q.shape[0] * q.shape[2])


def region_mass_lse(q: Tensor, k: Tensor, bounds: Bounds) -> Tensor:
    """The same from the log-sum-exp of one fused attention call per region: mass_r = mean exp(lse_r - lse_all).

    No scores are materialised. Arguments and result as in `region_mass`, but the ranges must cover all of k.
    """
    if sum(stop - start for start, stop in bounds) != k.shape[1]:
        raise PlanError(
            f"expected token ranges that tile all {k.shape[1]} keys, got {list(bounds)}; use region_mass for others"
        )
    q, k = (x.transpose(1, 2) for x in (q, k))
    lse = [
        fused(q, k[:, :, start:stop], k[:, :, start:stop])[1]
        if stop > start
        else q.new_full(q.shape[:3], float("-inf"), dtype=torch.float32)
        for start, stop in bounds
    ]
    return torch.stack(lse, dim=-1).softmax(-1).mean(dim=(0, 2))


class Observation:
    """Collects the score of every head during one pass; an `Observer` of the cache.

    stride -- score every stride-th query row
    rows   -- or these rows: (layers, n) indices, as a reference implementation drew them
    """

    def __init__(
        self, layers: int, heads: int, stride: int = 1, rows: Tensor | None = None, mass: MassFn = region_mass
    ):
        if stride < 1:
            raise PlanError(
                f"expected a score stride of 1 or more, got {stride}; 1 scores every query row, n every n-th"
            )
        self._mass_of, self._stride, self._rows = mass, stride, rows
        self._mass: list[list[Tensor | None]] = [[None] * heads for _ in range(layers)]

    def __call__(self, layer: int, heads: list[int], q: Tensor, k: Tensor, v: Tensor, regions: list[Region]) -> None:
        q = q[:, :: self._stride] if self._rows is None else q[:, self._rows[layer].to(q.device)]
        # What is banked counts as sink: both are held beyond the newest frames.
        named = sorted((REGIONS.index("sink" if r.name == "bank" else r.name), i) for i, r in enumerate(regions))
        parts = self._mass_of(q, k, [(regions[i].start_token, regions[i].stop_token) for _, i in named])
        mass = parts.new_zeros(len(heads), len(REGIONS))
        for part, (name, _) in enumerate(named):
            mass[:, name] += parts[:, part]
        for i, head in enumerate(heads):
            self._mass[layer][head] = mass[i]

    def result(self) -> HeadScores:
        """What was seen; PlanError if a head was not."""
        return HeadScores(whole_pass(self._mass))


def whole_pass(seen: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """What was kept of every layer's heads, (layers, heads, n) float32 on the CPU; PlanError if a head was not seen."""
    rows = []
    for layer, heads in enumerate(seen):
        found = [one for one in heads if one is not None]
        if len(found) < len(heads):
            raise PlanError(f"layer {layer} was not observed; run a whole pass under this observation first")
        rows.append(torch.stack(found))
    return torch.stack(rows).float().cpu()
