"""One option per head within a budget, against every choice there is."""

import time
from collections.abc import Sequence
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dummyforcing_core.errors import PlanError
from dummyforcing_core.policies.budget import allocate

Table = list[list[int]]
OPTION = st.tuples(st.integers(0, 12), st.integers(0, 20))  # small numbers: many ties, and sums without rounding
HEADS = st.lists(st.lists(OPTION, min_size=1, max_size=4), min_size=1, max_size=4)


def split(heads: list[list[tuple[int, int]]]) -> tuple[Table, Table]:
    return [[cost for cost, _ in head] for head in heads], [[loss for _, loss in head] for head in heads]


def total(table: Table, chosen: Sequence[int]) -> int:
    return sum(row[option] for row, option in zip(table, chosen, strict=True))


def every(costs: Table, losses: Table) -> list[tuple[int, int]]:
    """(cost, loss) of every choice of one option per head."""
    choices = product(*(range(len(row)) for row in costs))
    return [(total(costs, choice), total(losses, choice)) for choice in choices]


def relaxed(all_choices: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Corners of the lower convex hull of all choices up to the least loss: what the linear relaxation passes."""
    corners: list[tuple[int, int]] = []
    for cost, loss in sorted(all_choices):
        if corners and loss >= corners[-1][1]:
            continue
        while len(corners) > 1:
            (c0, l0), (c1, l1) = corners[-2:]
            if (l0 - l1) * (cost - c1) >= (l1 - loss) * (c1 - c0):  # the middle one is not above the line
                break
            corners.pop()
        corners.append((cost, loss))
    return corners


@given(HEADS)
def test_every_budget_against_brute_force(heads: list[list[tuple[int, int]]]) -> None:
    costs, losses = split(heads)
    choices = every(costs, losses)
    corners = relaxed(choices)
    least, before = corners[0][0], None
    for budget in range(least, max(cost for cost, _ in choices) + 2):
        chosen = allocate(costs, losses, budget)
        assert total(costs, chosen) <= budget
        loss = total(losses, chosen)
        optimum = min(loss for cost, loss in choices if cost <= budget)
        fits, beyond = [c for c in corners if c[0] <= budget], [c for c in corners if c[0] > budget]
        assert optimum <= loss <= fits[-1][1]
        if budget in {cost for cost, _ in corners} or not beyond:
            assert loss == optimum
        if before is not None:
            assert loss <= before  # more budget never makes it worse
        before = loss


@given(HEADS)
def test_it_misses_the_optimum_by_less_than_one_step(heads: list[list[tuple[int, int]]]) -> None:
    costs, losses = split(heads)
    choices = every(costs, losses)
    greatest_saving = max(max(row) - min(row) for row in losses)
    for budget in range(sum(map(min, costs)), max(cost for cost, _ in choices) + 1):
        optimum = min(loss for cost, loss in choices if cost <= budget)
        assert total(losses, allocate(costs, losses, budget)) - optimum <= greatest_saving


@given(HEADS, st.randoms())
def test_the_order_of_options_does_not_matter_to_the_sum(heads: list, random: Random) -> None:
    costs, losses = split(heads)
    budget = sum(map(min, costs)) + random.randint(0, 20)
    loss = total(losses, allocate(costs, losses, budget))
    shuffled = [random.sample(head, len(head)) for head in heads]
    turned_costs, turned_losses = split(shuffled)
    assert total(turned_losses, allocate(turned_costs, turned_losses, budget)) == loss


@given(HEADS)
def test_a_budget_below_the_least_says_what_the_least_is(heads: list[list[tuple[int, int]]]) -> None:
    costs, losses = split(heads)
    least = sum(map(min, costs))
    with pytest.raises(PlanError, match=f"expected a budget of at least {least}, .* got {least - 1}; give more"):
        allocate(costs, losses, least - 1)
    assert total(costs, allocate(costs, losses, least)) == least


def test_the_lower_head_first_where_two_are_worth_the_same() -> None:
    costs, losses = [[0, 4]] * 3, [[8.0, 0.0]] * 3
    assert [allocate(costs, losses, budget) for budget in (3, 4, 9, 12)] == [[0] * 3, [1, 0, 0], [1, 1, 0], [1] * 3]


def test_what_does_not_fit_is_left_out_and_later_steps_are_taken() -> None:
    costs, losses = [[0, 10], [0, 3], [0, 2, 4]], [[100.0, 0.0], [9.0, 0.0], [4.0, 2.0, 1.0]]
    assert allocate(costs, losses, 9) == [0, 1, 2]
    assert allocate(costs, losses, 6) == [0, 1, 1]
    assert allocate(costs, losses, 10) == [1, 0, 0]


def test_a_head_never_skips_a_step() -> None:
    """Its second step would fit alone; but it stands on the first."""
    assert allocate([[0, 5, 6]], [[10.0, 1.0, 0.9]], 4) == [0]


def test_of_equally_dear_options_the_better_and_of_equal_ones_the_first() -> None:
    assert allocate([[2, 2, 2, 3]], [[5.0, 1.0, 1.0, 1.0]], 99) == [1]


def test_no_head_at_all() -> None:
    assert allocate([], [], 0) == []


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -1.0])
def test_a_loss_that_is_none(loss: float) -> None:
    with pytest.raises(PlanError, match=r"expected losses of 0 or more, got (nan|inf|-1.0) of head 1; observe"):
        allocate([[0, 1], [0, 1]], [[1.0, 0.0], [1.0, loss]], 5)


def test_the_heads_of_a_14b_model_take_a_moment() -> None:
    draw = Random(0)
    costs = [[draw.randrange(10**9) for _ in range(8)] for _ in range(1600)]
    losses = [[draw.random() for _ in range(8)] for _ in range(1600)]
    times = []
    for _ in range(3):
        began = time.perf_counter()
        chosen = allocate(costs, losses, 1600 * 3 * 10**8)
        times.append(time.perf_counter() - began)
    assert sum(row[option] for row, option in zip(costs, chosen, strict=True)) <= 1600 * 3 * 10**8
    assert min(times) < 0.1
