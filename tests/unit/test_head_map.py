"""The picture of heads: one cell each, its role's colour, bars as long as the masses."""

import numpy as np
import pytest
import torch

from dummyforcing_core.clips.head_map import REGION_COLOURS, ROLE_COLOURS, head_map
from dummyforcing_core.kv.scoring import HeadScores

LEGEND = 12 * 12


def pixels(image, colour: tuple[int, int, int]) -> np.ndarray:
    """(n, 2) rows and columns of the pixels of one colour."""
    return np.argwhere((np.asarray(image) == colour).all(-1))


def table(layers: int, heads: int) -> list[list[str]]:
    names = ["sink", "neighbour", "dummy"]
    return [[names[(layer + head) % 3] for head in range(heads)] for layer in range(layers)]


@pytest.mark.parametrize(("layers", "heads"), [(1, 3), (2, 4), (6, 4), (30, 12), (40, 40)])
def test_every_role_has_an_area_of_as_many_cells_as_heads(layers: int, heads: int) -> None:
    roles = table(layers, heads)
    image = head_map(roles)
    cells = {role: len(pixels(image, ROLE_COLOURS[role])) - LEGEND for role in ("sink", "neighbour", "dummy")}
    counts = {role: sum(row.count(role) for row in roles) for role in cells}
    sizes = {cells[role] / counts[role] for role in cells}
    assert len(sizes) == 1
    assert sizes.pop() >= 11 * 11
    assert image.mode == "RGB"
    assert image.width < 1600


def test_layers_are_rows_and_heads_columns() -> None:
    roles = [["sink", "sink", "sink"], ["sink", "dummy", "sink"], ["sink", "sink", "sink"], ["sink"] * 3]
    image = head_map(roles)
    grid = pixels(image, ROLE_COLOURS["sink"])
    top, left = grid[grid[:, 1] > 60].min(0)
    bottom, right = grid.max(0)
    dummy = pixels(image, ROLE_COLOURS["dummy"])
    row, column = dummy[dummy[:, 0] >= top].mean(0)
    assert (row - top) / (bottom - top) == pytest.approx(1.5 / 4, abs=0.05)
    assert (column - left) / (right - left) == pytest.approx(0.5, abs=0.05)


def test_bars_are_as_long_as_the_masses() -> None:
    mass = torch.tensor([[[0.5, 0.25, 0.25]] * 3, [[0.0, 0.0, 1.0]] * 3])
    image = head_map([["sink"] * 3] * 2, HeadScores(mass))
    sink, neighbour, current = (len(pixels(image, colour)) for colour in REGION_COLOURS)
    assert sink / neighbour == pytest.approx(2, rel=0.1)
    assert current / sink == pytest.approx(2.5, rel=0.1)
    assert all(len(pixels(head_map([["sink"] * 3] * 2), colour)) == 0 for colour in REGION_COLOURS)


def test_a_title_makes_room_for_itself_and_only_present_roles_are_in_the_legend() -> None:
    roles = [["window"] * 4] * 2
    plain, titled = head_map(roles), head_map(roles, title="demo")
    assert titled.height > plain.height
    assert all(len(pixels(plain, ROLE_COLOURS[role])) == 0 for role in ("sink", "neighbour", "dummy"))


def test_the_same_heads_give_the_same_picture() -> None:
    scores = HeadScores(torch.full((2, 4, 3), 1 / 3))
    one, two = (head_map(table(2, 4), scores, "demo") for _ in range(2))
    assert np.array_equal(np.asarray(one), np.asarray(two))


def test_an_unknown_role_is_drawn_too() -> None:
    assert head_map([["memory"] * 4] * 2).size == head_map([["sink"] * 4] * 2).size
