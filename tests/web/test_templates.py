"""The templates as the page opens them: what the browser lists, and whether a graph is read without zooming."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.host.clips import FILES, TITLES
from tests.host.install import PACK_FOLDER
from tests.web.browser import VIEWPORT, ComfyPage
from tests.web.test_demo_workflow import widget
from tests.web.test_live import BOTH_LOOKS, CLIP, LONG, idle, wait_live

WINDOW = (1600, 900)
LEGIBLE_PX = 8
"""Letters on the screen: below it the classic canvas draws none (LiteGraph.Canvas.MinFontSizeForLOD)."""
TITLE_PX = {False: LEGIBLE_PX, True: 7}
"""Titles of nodes; those of Nodes 2.0 are set smaller, and never left out."""
MAX_ASPECT = 2
ROUNDING = 1
__all__ = ["idle"]

MEASURE = """() => {
    const {scale, offset} = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
    const drawn = (rect) => [
        (rect.left - canvas.left) / scale - offset[0], (rect.top - canvas.top) / scale - offset[1],
        (rect.right - canvas.left) / scale - offset[0], (rect.bottom - canvas.top) / scale - offset[1]];
    const corners = ([x, y, width, height]) => [x, y, x + width, y + height];
    const element = (node) => document.querySelector(`[data-node-id="${node.id}"]`);
    const named = (things, box) => Object.fromEntries(things.map((one) => [one.title + " " + one.id, box(one)]));
    const note = app.graph._nodes.find((node) => node.type === "MarkdownNote");
    const text = LiteGraph.vueNodesMode ? element(note) : note.widgets[0].element;
    const letters = [...text.querySelectorAll("p, li, h2")].map((one) => parseFloat(getComputedStyle(one).fontSize));
    const title = LiteGraph.vueNodesMode ? element(note).querySelector("[data-testid=node-title]") : null;
    return {
        scale, left: -offset[0], top: -offset[1], letters: Math.min(...letters),
        title: title ? parseFloat(getComputedStyle(title).fontSize) : LiteGraph.NODE_TEXT_SIZE,
        nodes: named(app.graph._nodes, (node) =>
            LiteGraph.vueNodesMode ? drawn(element(node).getBoundingClientRect()) : corners(node.boundingRect)),
        groups: named(app.graph._groups, (group) => corners([...group.pos, ...group.size])),
        header: Math.max(...app.graph._groups.map((group) => group.titleHeight)),
    };
}"""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Layout:
    """Boxes (left, top, right, bottom) in graph units by title and id, and how they lie in the window."""

    scale: float
    left: float
    top: float
    letters: float
    title: float
    header: float
    nodes: dict[str, Box]
    groups: dict[str, Box]

    @property
    def problems(self) -> list[str]:
        """Nodes that overlap, and that do not lie in exactly one group, below its title."""
        pairs = [*combinations(self.nodes.items(), 2), *combinations(self.groups.items(), 2)]
        found = [f"{one} and {other} overlap" for (one, a), (other, b) in pairs if _overlap(a, b)]
        for node, box in self.nodes.items():
            touched = [group for group, area in self.groups.items() if _overlap(box, area)]
            inside = [group for group in touched if self._within(box, self.groups[group])]
            if len(touched) != 1 or inside != touched:
                found.append(f"{node} at {box} touches {touched}, lies in {inside}")
        return found

    def _within(self, box: Box, area: Box) -> bool:
        left, top, right, bottom = area[0], area[1] + self.header, area[2], area[3]
        return box[0] >= left and box[1] >= top - ROUNDING and box[2] <= right and box[3] <= bottom + ROUNDING

    @property
    def around(self) -> Box:
        """Of all groups."""
        boxes = list(self.groups.values())
        low, high = ([choose(box[side] for box in boxes) for side in range(4)] for choose in (min, max))
        return low[0], low[1], high[2], high[3]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] - ROUNDING and b[0] < a[2] - ROUNDING and a[1] < b[3] - ROUNDING and b[1] < a[3] - ROUNDING


def measured(page: ComfyPage) -> Layout:
    page.frames()
    return Layout(**page.page.evaluate(MEASURE))


@pytest.fixture
def window(page: ComfyPage) -> Iterator[ComfyPage]:
    """The page in a window of 1600x900."""
    page.page.set_viewport_size({"width": WINDOW[0], "height": WINDOW[1]})
    page.frames()
    yield page
    page.page.set_viewport_size({"width": VIEWPORT[0], "height": VIEWPORT[1]})


@BOTH_LOOKS
@pytest.mark.parametrize("name", FILES)
def test_it_is_read_at_the_zoom_at_which_it_opens(window: ComfyPage, tmp_path: Path, name: str, nodes_2: bool) -> None:
    window.use_nodes_2(nodes_2)
    window.open_template(FILES[name])
    window.screenshot(tmp_path / f"{name}.png")
    layout = measured(window)
    assert layout.problems == []
    left, top, right, bottom = layout.around
    assert (right - left) / (bottom - top) < MAX_ASPECT
    assert layout.title * layout.scale >= TITLE_PX[nodes_2]
    assert layout.letters * layout.scale >= LEGIBLE_PX
    assert left >= layout.left and (right - layout.left) * layout.scale <= WINDOW[0]
    assert top >= layout.top and (bottom - layout.top) * layout.scale <= WINDOW[1]


@pytest.mark.parametrize("name", FILES)
def test_a_dropped_file_opens_where_it_is_seen_whole(window: ComfyPage, name: str) -> None:
    """Then the page takes zoom and place from the file."""
    window.drop(FILES[name])
    layout = measured(window)
    left, top, right, bottom = ((edge - start) * layout.scale for edge, start in zip(
        layout.around, (layout.left, layout.top) * 2, strict=True
    ))  # fmt: skip
    assert 0 <= left < right <= WINDOW[0] and 0 <= top < bottom <= WINDOW[1]
    assert layout.title * layout.scale >= LEGIBLE_PX


def test_what_is_wrong_with_a_layout_is_found() -> None:
    groups = {"G": (0.0, 0.0, 100.0, 100.0), "H": (200.0, 0.0, 300.0, 100.0)}
    nodes = {"a": (10.0, 40.0, 60.0, 80.0), "b": (50.0, 50.0, 90.0, 90.0), "c": (210.0, 10.0, 250.0, 50.0)}
    layout = Layout(1, 0, 0, 14, 14, 34, {**nodes, "d": (90.0, 95.0, 120.0, 110.0), "e": (0, 200, 1, 201)}, groups)
    said = "; ".join(layout.problems)
    assert said.count("overlap") == 1 and "a and b overlap" in said
    assert [f"{one} at" in said for one in "abcde"] == [False, False, True, True, True]


@BOTH_LOOKS
def test_the_demo_keeps_its_layout_during_and_after_a_run(window: ComfyPage, tmp_path: Path, nodes_2: bool) -> None:
    window.use_nodes_2(nodes_2)
    window.open_template(FILES["demo"])
    widget(window, "DummyForcingStreamingSampler", "seed", 400 + nodes_2)
    widget(window, "DummyForcingClipSize", "seconds", LONG)
    with window.execution():
        window.queue()
        wait_live(window, "s.open && s.width > 0 && Number(s.line.split(' ')[1]) > 3")
        window.screenshot(tmp_path / "during.png")
        assert measured(window).problems == []
        window.page.locator(".dummyforcing-finish").first.click()
    wait_live(window, CLIP)
    window.screenshot(tmp_path / "after.png")
    assert measured(window).problems == []
    assert window.errors == []


CARDS = "[data-testid^='template-workflow-']"
PICTURES = f"""() => [...document.querySelectorAll("{CARDS}")].map((card) => {{
    const picture = card.querySelector("img");
    return picture?.complete ? [picture.naturalWidth, picture.naturalHeight] : null;
}})"""


@pytest.fixture
def only_ours(window: ComfyPage) -> Iterator[ComfyPage]:
    """A fresh page that knows no templates but those of packs: ComfyUI's own are hundreds of moving pictures."""
    window.page.route("**/templates/index*.json", lambda route: route.fulfill(json=[]))
    window.open()
    yield window
    window.page.unroute("**/templates/index*.json")
    window.open()


def test_the_template_browser_shows_them_in_order_with_moving_square_pictures(
    only_ours: ComfyPage, tmp_path: Path
) -> None:
    page = only_ours.page
    only_ours.browse_templates(PACK_FOLDER)
    cards, titles = page.locator(CARDS), page.locator(f"{CARDS} h3")

    def picture(number: int) -> Any:
        """Width and height of a card's; the page drops those that are out of sight."""
        cards.nth(number).scroll_into_view_if_needed()
        return page.wait_for_function(
            f"(number) => {{ const size = ({PICTURES})()[number]; return size?.[0] > 0 && size; }}", arg=number
        ).json_value()

    sizes = [picture(number) for number in range(cards.count())]
    assert len(sizes) == len(TITLES) and all(width == height >= 256 for width, height in sizes)
    only_ours.screenshot(tmp_path / "last templates.png")
    picture(0)
    only_ours.screenshot(tmp_path / "templates.png")
    assert titles.all_inner_texts() == [*TITLES.values()]
    assert titles.evaluate_all("(all) => all.every((one) => one.scrollHeight <= one.clientHeight)"), "a title is cut"
    demo = cards.first.locator("img")
    before = demo.screenshot()
    assert any(demo.screenshot() != before for _ in range(40)), "the demo's picture does not move"
    cards.first.click()
    page.wait_for_function(
        "(name) => app.extensionManager.workflow.activeWorkflow.filename === name", arg=TITLES["demo"]
    )
    page.wait_for_function("() => app.graph._nodes.some((node) => node.comfyClass === 'DummyForcingLoadDemoModel')")
