"""The panel at the right of the page: all that is set there has a name that people read."""

from __future__ import annotations

import pytest

from tests.web.browser import ComfyPage

TRIES = 5
SETTING = "Comfy.RightSidePanel.IsOpen"


def click(page: ComfyPage, node: int) -> None:
    """Clicks a node's title."""
    x, y = page.page.evaluate(
        """(id) => {
            const [x, y] = app.graph.getNodeById(id).pos, {scale, offset} = app.canvas.ds;
            const canvas = app.canvas.canvas.getBoundingClientRect();
            return [canvas.left + (x + offset[0] + 60) * scale, canvas.top + (y + offset[1] - 12) * scale];
        }""",
        node,
    )
    page.page.mouse.click(x, y)


def panel(page: ComfyPage, node: int, shown: str) -> str:
    """What the panel says of a node, once it says `shown`."""
    side = page.page.locator("[data-testid=properties-panel]")
    found = side.get_by_text(shown, exact=True).first
    for attempt in range(TRIES * 30):
        if attempt % 30 == 0:  # a click while the canvas is drawn anew may be lost
            click(page, node)
        if found.is_visible():
            return side.inner_text()
        page.page.wait_for_timeout(100)
    raise AssertionError(f"the panel never showed {shown}: {side.inner_text()}")


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes 2.0"])
def test_the_panel_shows_no_internal_names(page: ComfyPage, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    page.page.evaluate("(id) => app.extensionManager.setting.set(id, true)", SETTING)
    try:
        kinds = (("StreamingSampler", "seed"), ("ProfileHeads", "chunks"), ("ClipSize", "preset"))
        for place, (kind, shown) in enumerate(kinds):  # apart, or two clicks were a double one
            text = panel(page, page.add_node(f"DummyForcing{kind}", 250, 100 + 250 * place), shown)
            assert "dummyforcing" not in text.lower().split("\n", 1)[1], text
            if kind == "ClipSize":
                rows = text.lower().split("advanced inputs")[0]
                assert "width" in rows and "height" in rows
    finally:
        page.page.evaluate("(id) => app.extensionManager.setting.set(id, false)", SETTING)


def test_what_decides_the_size_is_seen(page: ComfyPage) -> None:
    page.use_nodes_2(True)
    node = page.node_element(page.add_node("DummyForcingClipSize", 500, 200))
    for name in ("preset", "orientation", "seconds", "width", "height"):
        assert node.get_by_text(name, exact=True).is_visible(), name


def test_choices_are_named_in_the_pages_language(page: ComfyPage) -> None:
    page.open(**{"Comfy.Locale": "zh"})
    try:
        for nodes_2 in (False, True):
            page.use_nodes_2(nodes_2)
            node = page.add_node("DummyForcingClipSize", 500, 200)
            label = """(id) => {
                const widget = app.graph.getNodeById(id).widgets.find(({name}) => name === "orientation");
                return [widget.value, widget.options.getOptionLabel(widget.value)];
            }"""
            assert page.page.evaluate(label, node) == ["landscape", "横屏"]
            if nodes_2:
                assert page.node_element(node).get_by_text("横屏").is_visible()
    finally:
        page.open(**{"Comfy.Locale": "en"})
