"""One option for every head within a budget: where bytes cost the least quality.

The multiple-choice knapsack problem by its linear relaxation (Sinha & Zoltners, "The multiple-choice knapsack
problem", Operations Research 27(3), 1979): of every head only the options on the lower convex hull of loss over cost
count, and the steps along all hulls are taken in the order of loss saved per cost. Plain numbers in, indices out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import PlanError


@dataclass(frozen=True)
class _Step:
    """From one option on a head's hull to the next, dearer one: what it costs more, and saves per cost."""

    head: int
    option: int
    cost: int
    rate: float


def allocate(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], budget: int) -> list[int]:
    """The option of every head, by index, so that the costs' sum is within `budget` and the losses' sum is small.

    costs, losses -- of every option of every head, 0 or more, in any order; costs and budget in one unit, e.g. bytes

    It begins with the cheapest options and takes the hulls' steps, best rate first, of equal ones the lower head's;
    behind the first that does not fit, later ones that do. The sum of losses is the least there is if all steps before
    one fit exactly, and otherwise above it by less than the first step that did not fit would save. More budget never
    makes it worse: what a smaller one spends instead of a step that a larger one takes costs less and saves no more per
    cost. PlanError if the cheapest options are above the budget, and for a loss that is no number from 0 up.
    """
    steps: list[_Step] = []
    chosen: list[int] = []
    for head, (cost, loss) in enumerate(zip(costs, losses, strict=True)):
        hull = _hull(head, cost, loss)
        chosen.append(hull[0].option)
        steps += hull[1:]
    left = budget - sum(cost[option] for cost, option in zip(costs, chosen, strict=True))
    if left < 0:
        raise PlanError(
            f"expected a budget of at least {budget - left}, the cost of every head's cheapest option, got {budget}; "
            "give more, or cheaper options"
        )
    stopped: set[int] = set()
    for step in sorted(steps, key=lambda step: (-step.rate, step.head)):  # stable: a head's own stay in their order
        if step.cost > left:
            stopped.add(step.head)
        elif step.head not in stopped:
            chosen[step.head] = step.option
            left -= step.cost
    return chosen


def _hull(head: int, costs: Sequence[int], losses: Sequence[float]) -> list[_Step]:
    """A head's options on the lower convex hull, cheapest first; none saves more per cost than the one before."""
    for loss in losses:
        if not 0 <= loss < math.inf:
            raise PlanError(f"expected losses of 0 or more, got {loss} of head {head}; observe the heads again")
    hull: list[_Step] = []
    for option in sorted(range(len(costs)), key=lambda option: (costs[option], losses[option])):
        if not hull:
            hull.append(_Step(head, option, 0, math.inf))
        elif losses[option] < losses[hull[-1].option]:  # else dominated: as dear or dearer, and no better
            while (step := _step(head, costs, losses, hull[-1].option, option)).rate > hull[-1].rate:
                hull.pop()  # it lies above the line to this one
            hull.append(step)
    return hull


def _step(head: int, costs: Sequence[int], losses: Sequence[float], last: int, option: int) -> _Step:
    more = costs[option] - costs[last]
    return _Step(head, option, more, (losses[last] - losses[option]) / more)
