"""Dynamic head programming: against every possible assignment, and at its edges."""

from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dummyforcing_core.errors import PlanError
from dummyforcing_core.policies.head_programming import DUMMY, NEIGHBOUR, ROLES, SINK, assign_roles, dummy_cost

quick = settings(deadline=None, max_examples=40)


def table(*heads: tuple[float, float], layers: int = 1) -> Tensor:
    """Masses (layers, heads, 3) from (sink, neighbour) pairs, layer by layer."""
    mass = torch.tensor([[s, n, 1 - s - n] for s, n in heads], dtype=torch.float32)
    return mass.unflatten(0, (layers, -1))


def shares(mass: Tensor) -> tuple[list[float], list[float]]:
    """Sink and neighbour mass of every head as shares of the model's, in float64."""
    sink, neighbour = mass.double().flatten(0, 1)[:, :2].unbind(-1)
    return [(x / x.sum()).tolist() if x.sum() else [0.0] * len(x) for x in (sink, neighbour)]


def retained(roles, sink: list[float], neighbour: list[float]) -> float:
    """A dummy keeps nothing, a sink head its sink share, a neighbour head its neighbour share."""
    worth = {SINK: sink, NEIGHBOUR: neighbour}
    return sum(worth[role][i] for i, role in enumerate(roles) if role != DUMMY)


def best(mass: Tensor, num_dummy: int) -> float:
    """The most that any assignment with exactly `num_dummy` dummies retains, by trying all."""
    heads = range(mass.shape[0] * mass.shape[1])
    values = []
    for dummies in combinations(heads, num_dummy):
        for roles in product((SINK, NEIGHBOUR), repeat=len(heads) - num_dummy):
            rest = iter(roles)
            values.append(retained([DUMMY if h in dummies else next(rest) for h in heads], *shares(mass)))
    return max(values)


@st.composite
def masses(draw, most: int = 3) -> Tensor:
    """Tables of up to 2 x `most` heads, on a coarse grid so that ties and zeros are common."""
    layers, heads = draw(st.integers(1, 2)), draw(st.integers(1, most))
    pair = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda p: (p[0] / 16, p[1] / 16))
    return table(*draw(st.lists(pair, min_size=layers * heads, max_size=layers * heads)), layers=layers)


def flat(roles: list[list[int]]) -> list[int]:
    return [role for row in roles for role in row]


@quick
@given(masses(), st.data())
def test_no_assignment_with_as_many_dummies_retains_more(mass: Tensor, data) -> None:
    num_dummy = data.draw(st.integers(0, mass.shape[0] * mass.shape[1]))
    roles = flat(assign_roles(mass, num_dummy))
    assert roles.count(DUMMY) == num_dummy
    assert retained(roles, *shares(mass)) == pytest.approx(best(mass, num_dummy), abs=1e-6)


@quick
@given(masses(most=12), st.data())
def test_exactly_as_many_dummies_as_asked_for_and_never_a_dearer_one(mass: Tensor, data) -> None:
    total = mass.shape[0] * mass.shape[1]
    num_dummy = data.draw(st.integers(0, total))
    roles = torch.tensor(assign_roles(mass, num_dummy))
    assert roles.shape == mass.shape[:2]
    cost = dummy_cost(mass)[0]
    assert int((roles == DUMMY).sum()) == num_dummy
    if 0 < num_dummy < total:
        assert cost[roles == DUMMY].max() <= cost[roles != DUMMY].min()


@quick
@given(masses(most=6), st.integers(0, 3), st.integers(-6, 6), st.integers(-6, 6))
def test_scaling_all_sink_or_all_neighbour_mass_changes_nothing(mass: Tensor, num_dummy, sink, neighbour) -> None:
    num_dummy = min(num_dummy, mass.shape[0] * mass.shape[1])
    scaled = mass * torch.tensor([2.0**sink, 2.0**neighbour, 1.0])
    assert assign_roles(scaled, num_dummy) == assign_roles(mass, num_dummy)


def test_the_current_mass_decides_nothing_by_itself() -> None:
    mass = table((0.1, 0.3), (0.2, 0.1), (0.05, 0.1))
    other = mass.clone()
    other[..., 2] = torch.tensor([0.9, 0.0, 0.5])
    for num_dummy in range(4):
        assert assign_roles(other, num_dummy) == assign_roles(mass, num_dummy)


def test_a_hand_made_model() -> None:
    """Sink shares .5 .25 .25 0, neighbour shares .1 .2 .3 .4: costs .5 .25 .3 .4."""
    mass = table((0.4, 0.05), (0.2, 0.1), (0.2, 0.15), (0.0, 0.2), layers=2)
    cost, sink, neighbour = dummy_cost(mass)
    torch.testing.assert_close(sink.flatten(), torch.tensor([0.5, 0.25, 0.25, 0.0]))
    torch.testing.assert_close(neighbour.flatten(), torch.tensor([0.1, 0.2, 0.3, 0.4]))
    torch.testing.assert_close(cost.flatten(), torch.tensor([0.5, 0.25, 0.3, 0.4]))
    names = [[[ROLES[r][0] for r in row] for row in assign_roles(mass, n)] for n in range(5)]
    assert names == [
        [["s", "s"], ["n", "n"]],
        [["s", "d"], ["n", "n"]],
        [["s", "d"], ["d", "n"]],
        [["s", "d"], ["d", "d"]],
        [["d", "d"], ["d", "d"]],
    ]


def test_selection_is_global_a_layer_may_be_all_dummies_and_another_have_none() -> None:
    mass = table((0.01, 0.01), (0.02, 0.01), (0.01, 0.02), (0.4, 0.1), (0.1, 0.4), (0.3, 0.3), layers=2)
    roles = assign_roles(mass, 3)
    assert roles[0] == [DUMMY] * 3
    assert DUMMY not in roles[1]


@pytest.mark.parametrize("num_dummy", range(7))
def test_equal_costs_go_to_the_lower_layer_then_the_lower_head(num_dummy: int) -> None:
    mass = table(*[(0.25, 0.25)] * 6, layers=2)
    roles = flat(assign_roles(mass, num_dummy))
    assert roles == [DUMMY] * num_dummy + [SINK] * (6 - num_dummy)  # equal shares make a sink head
    assert roles == flat(assign_roles(mass.clone(), num_dummy))


def test_ties_are_in_order_also_on_a_real_models_size() -> None:
    roles = flat(assign_roles(torch.full((30, 12, 3), 1 / 3), 180))
    assert roles == [DUMMY] * 180 + [SINK] * 180


@pytest.mark.parametrize(("sink", "neighbour", "rest"), [(0.0, 0.0, SINK), (0.0, 0.3, NEIGHBOUR), (0.3, 0.0, SINK)])
def test_a_region_that_nobody_looks_at_divides_nothing_by_zero(sink: float, neighbour: float, rest: int) -> None:
    mass = table(*[(sink, neighbour)] * 4, layers=2)
    assert all(bool(x.isfinite().all()) for x in dummy_cost(mass))
    assert flat(assign_roles(mass, 1)) == [DUMMY, rest, rest, rest]


@pytest.mark.parametrize("num_dummy", [-1, 7, 1000])
def test_more_dummies_than_heads_or_less_than_none_are_refused(num_dummy: int) -> None:
    with pytest.raises(PlanError, match=f"expected 0 to 6 dummy heads, as many as there are, got {num_dummy}"):
        assign_roles(torch.full((2, 3, 3), 1 / 3), num_dummy)
