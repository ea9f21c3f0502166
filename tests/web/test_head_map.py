"""Profile Heads on the page: one cell per head, what the pointer and the keys tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.web.browser import ComfyPage
from tests.web.test_live import BOTH_LOOKS, PLACES, build, idle

__all__ = ["idle"]
NODE = "DummyForcingProfileHeads"
GRID, LEGEND, LINE = (f".dummyforcing-heads > div:nth-child({n})" for n in (1, 2, 3))


def profiled(page: ComfyPage, subgraph: bool = False) -> None:
    node = build(page, 5.0, NODE, vae=False, image=True)
    if subgraph:
        page.to_subgraph(node)
    page.fit()
    page.run()
    page.page.wait_for_selector(f"{GRID} > div")
    page.fit()


@BOTH_LOOKS
@PLACES
def test_the_pointer_tells_the_masses_behind_a_role_and_another_tab_leaves_it(
    page: ComfyPage, tmp_path: Path, nodes_2: bool, subgraph: bool
) -> None:
    page.use_nodes_2(nodes_2)
    profiled(page, subgraph)
    line = page.page.locator(LINE)
    resting = line.inner_text()
    cells = page.page.locator(f"{GRID} > div")
    assert cells.count() == 6 * 4
    cells.nth(5).hover()
    said = line.inner_text()
    assert said.startswith("layer 1, head 1:")
    *shares, change = [float(part.rsplit(" ", 1)[-1]) for part in said.split(" %")[:-1]]
    assert len(shares) == 3 and sum(shares) == pytest.approx(100, abs=0.2)
    assert "Output change without far frames: " in said and 0 < change <= 100
    page.screenshot(tmp_path / "heads.png")
    page.page.mouse.move(5, 300)
    assert line.inner_text() == resting != said
    legend = page.page.locator(LEGEND).inner_text()
    page.to_another_tab_and_back()
    page.page.wait_for_function(f"""() => document.querySelector("{GRID}")?.getBoundingClientRect().height > 20""")
    assert page.page.locator(LEGEND).inner_text() == legend
    assert page.errors == []


def test_what_a_head_tells_is_what_its_role_goes_by(page: ComfyPage) -> None:
    profiled(page)
    cells, line = page.page.locator(f"{GRID} > div"), page.page.locator(LINE)
    roles = set()
    for index in range(cells.count()):
        cells.nth(index).hover()
        said = line.inner_text()
        role = said.split(": ")[1].split(" ")[0]
        sink, neighbour, _ = (float(times) for times in re.findall(r"\(([\d.]+)x\)", said))
        assert role == "dummy" or sink == neighbour or role == ("sink" if sink > neighbour else "neighbour"), said
        roles.add(role)
    assert roles == {"sink", "neighbour", "dummy"}


def test_the_legend_counts_every_head_in_the_colour_of_its_role(page: ComfyPage) -> None:
    profiled(page)
    entries = page.page.evaluate(
        """([legend, grid]) => {
            const colour = (element) => getComputedStyle(element).backgroundColor;
            const cells = [...document.querySelectorAll(`${grid} > div`)].map(colour);
            return [...document.querySelector(legend).children].map((entry) => {
                const [role, count] = entry.textContent.split(" ");
                return [role, Number(count), cells.filter((one) => one === colour(entry.firstChild)).length];
            });
        }""",
        [LEGEND, GRID],
    )
    assert sum(count for _, count, _ in entries) == 24
    assert ["dummy", 12, 12] in entries
    assert all(said == drawn for _, said, drawn in entries)


def test_the_keys_walk_over_the_heads_and_stay_inside(page: ComfyPage) -> None:
    profiled(page)
    before = page.workflow()["nodes"]
    page.page.focus(GRID)
    line = page.page.locator(LINE)
    for key, place in [
        ("ArrowDown", "layer 0, head 0:"),
        ("ArrowUp", "layer 0, head 0:"),
        ("ArrowDown", "layer 1, head 0:"),
        ("ArrowRight", "layer 1, head 1:"),
        ("ArrowLeft", "layer 1, head 0:"),
        ("ArrowLeft", "layer 1, head 0:"),
    ]:
        page.page.keyboard.press(key)
        assert line.inner_text().startswith(place), key
    assert line.get_attribute("aria-live") == "polite"
    assert str(page.page.get_attribute(GRID, "aria-label")).startswith("6 layers of 4 heads: ")
    assert page.workflow()["nodes"] == before
