"""The promise to a newcomer: drag the demo workflow in, press Run, watch it, finish or cancel it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.host.clips import FILES
from tests.web.browser import ComfyPage
from tests.web.test_live import BOTH_LOOKS, CLIP, LONG, idle, report, wait_live

DEMO = FILES["demo"]
__all__ = ["idle"]


def widget(page: ComfyPage, kind: str, name: str, value: object) -> None:
    node = page.page.evaluate("(kind) => app.graph._nodes.find((n) => n.comfyClass === kind).id", kind)
    page.set_widget(node, name, value)


ROOM = """() => {
    const node = app.graph._nodes.find((n) => n.comfyClass === "DummyForcingStreamingSampler");
    const group = app.graph._groups.find((g) => g.title.includes("Sample"));
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const height = LiteGraph.vueNodesMode ? element.offsetHeight - LiteGraph.NODE_TITLE_HEIGHT : node.size[1];
    return group.pos[1] + group.size[1] - node.pos[1] - height;
}"""


REPORT_FITS = """() => {
    const node = app.graph._nodes.find((n) => n.comfyClass === "PreviewAny");
    const area = document.querySelector(`[data-node-id="${node.id}"] textarea`);
    return area?.value.includes("-- run --") && getComputedStyle(area).whiteSpace === "pre"
        && area.scrollWidth <= area.clientWidth;
}"""
"""No line of the report is wrapped, and none is cut."""


def room(page: ComfyPage) -> float:
    """Graph units between the sampler's lower edge and its group's."""
    page.frames()
    return page.page.evaluate(ROOM)


@BOTH_LOOKS
def test_dragged_in_it_runs_and_shows_its_clip(page: ComfyPage, tmp_path: Path, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    page.drop(DEMO)
    widget(page, "DummyForcingStreamingSampler", "seed", 100 + nodes_2)
    page.fit()
    prompt_id = page.run()
    wait_live(page, CLIP)
    page.screenshot(tmp_path / "done.png")
    assert room(page) >= 0
    if nodes_2:
        page.page.wait_for_function(REPORT_FITS)
    assert "81 (21 latent)" in report(page, prompt_id)
    assert page.errors == []


@BOTH_LOOKS
def test_it_is_watched_finished_and_cancelled(page: ComfyPage, tmp_path: Path, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    page.drop(DEMO)
    widget(page, "DummyForcingClipSize", "seconds", LONG)
    widget(page, "DummyForcingStreamingSampler", "seed", 200 + nodes_2)
    page.fit()
    with page.execution():
        prompt_id = page.queue()
        wait_live(page, "s.open && s.width > 0 && Number(s.line.split(' ')[1]) > 3")
        page.fit()
        page.screenshot(tmp_path / "live.png")
        assert room(page) >= 0
        page.page.locator(".dummyforcing-finish").first.click()
    assert "ended early after" in report(page, prompt_id)
    wait_live(page, CLIP)
    assert room(page) >= 0
    widget(page, "DummyForcingStreamingSampler", "seed", 300 + nodes_2)
    page.queue()
    wait_live(page, "s.open && s.line.startsWith('chunk')")
    page.server.interrupt()
    wait_live(page, "s.line.startsWith('stopped after') && !s.button")
    assert page.errors == []


def test_titles_come_translated(page: ComfyPage) -> None:
    page.open(**{"Comfy.Locale": "zh"})
    try:
        node = page.add_node("DummyForcingStreamingSampler")
        title = page.page.evaluate("(id) => app.graph.getNodeById(id).title", node)
        assert title != "Streaming Sampler"
        assert any("\u4e00" <= letter <= "\u9fff" for letter in title)
    finally:
        page.open(**{"Comfy.Locale": "en"})


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_the_page_reads_every_template_without_complaint(page: ComfyPage, path: Path) -> None:
    page.load(path)
    kinds = {node["class_type"] for node in page.prompt().values()}
    assert "DummyForcingStreamingSampler" in kinds
    # The host's own example picture is not in the empty input folder of this server.
    assert [one for one in page.errors if "filename=example.png" not in one.address] == []
