"""A frame rate as it is typed in the page: every digit of it is queued."""

from __future__ import annotations

import pytest

from tests.web.browser import ComfyPage

WHERE = """(id) => {
    const node = app.graph.getNodeById(id), widget = node.widgets.find((one) => one.name === "fps");
    const middle = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.last_y + 10];
    const [x, y] = app.canvas.ds.convertOffsetToCanvas(middle);
    const box = app.canvas.canvas.getBoundingClientRect();
    return [box.left + x, box.top + y];
}"""


@pytest.mark.parametrize("typed", ["23.976", "29.97"])
@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes-2"])
def test_a_rate_with_digits_is_queued_as_typed(page: ComfyPage, nodes_2: bool, typed: str) -> None:
    page.use_nodes_2(nodes_2)
    node = page.add_node("DummyForcingStreamingDecode", 400, 200)
    page.frames()
    if nodes_2:
        control = page.node_element(node).locator("[aria-label=fps]").first
        control.click()
        field = control.locator("input")
    else:
        page.page.mouse.click(*page.page.evaluate(WHERE, node))
        field = page.page.locator(".graphdialog input")
    field.fill(typed)
    field.press("Enter")
    page.frames()
    assert page.prompt()[str(node)]["inputs"]["fps"] == float(typed)


@pytest.mark.parametrize(
    ("nodes_2", "name"),  # the sampler's stands under "advanced" in Nodes 2.0
    [(False, "DummyForcingStreamingSampler"), (False, "DummyForcingStreamingDecode"),
     (True, "DummyForcingStreamingDecode")],
)  # fmt: skip
def test_an_arrow_goes_by_whole_frames(page: ComfyPage, nodes_2: bool, name: str) -> None:
    page.use_nodes_2(nodes_2)
    node = page.add_node(name, 400, 200)
    page.frames()
    if nodes_2:
        page.node_element(node).locator("[aria-label=fps] button").last.click()
    else:
        page.page.evaluate(
            """(id) => {
                const node = app.graph.getNodeById(id), widget = node.widgets.find((one) => one.name === "fps");
                widget.incrementValue({ e: {}, node, canvas: app.canvas });
            }""",
            node,
        )
    page.frames()
    assert page.prompt()[str(node)]["inputs"]["fps"] == 17
