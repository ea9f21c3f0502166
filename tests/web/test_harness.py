"""The harness around the page: it opens, shows workflows, runs them with the real button, in both looks of a node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.web.browser import ComfyPage

BOTH_LOOKS = pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes 2.0"])
PROBE_STATE = """() => {
    const find = (graph) =>
        graph._nodes.flatMap((node) => (node.harnessProbe ? [node] : node.subgraph ? find(node.subgraph) : []));
    const {box, label} = find(app.rootGraph)[0]?.harnessProbe ?? {};
    if (!box) return {nodes: app.rootGraph._nodes.length};
    const media = box.querySelector("img, video");
    const area = box.getBoundingClientRect();
    return {label: label.textContent, tag: media?.tagName, width: media?.videoWidth ?? media?.naturalWidth,
            seen: box.isConnected && area.width > 50 && area.height > 50, bottom: area.bottom, height: area.height};
}"""


def colours(path: Path) -> int:
    with Image.open(path) as picture:
        return len(set(picture.convert("RGB").resize((160, 100)).get_flattened_data()))


def orange_pixels(path: Path) -> int:
    """Pixels of the probe's last picture, (255, 160, 40), give or take a video codec's rounding."""
    with Image.open(path) as picture:
        wanted = (255, 160, 40)
        flat = picture.convert("RGB").resize((400, 250)).get_flattened_data()
        return sum(all(abs(a - b) < 14 for a, b in zip(pixel, wanted, strict=True)) for pixel in flat)


def two_node_workflow() -> dict[str, Any]:
    """In the editor's format: an empty latent into a decode that has no VAE."""
    return {
        "id": "0a7c2c7e-53a1-4c6f-9f0e-1d2f8f9b6a11", "version": 0.4, "last_node_id": 2, "last_link_id": 1,
        "nodes": [
            {"id": 1, "type": "EmptyLatentImage", "pos": [100, 150], "size": [270, 110], "inputs": [],
             "outputs": [{"name": "LATENT", "type": "LATENT", "links": [1]}], "widgets_values": [72, 40, 2]},
            {"id": 2, "type": "VAEDecode", "pos": [500, 150], "size": [200, 60],
             "inputs": [{"name": "samples", "type": "LATENT", "link": 1}, {"name": "vae", "type": "VAE", "link": None}],
             "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": None}]},
        ],
        "links": [[1, 1, 0, 2, 0, "LATENT"]],
    }  # fmt: skip


def test_the_page_opens_on_an_empty_canvas_without_dialogs_or_errors(page: ComfyPage, tmp_path: Path) -> None:
    assert page.workflow()["nodes"] == []
    assert page.page.locator(".p-dialog, [role=dialog]").count() == 0
    assert page.errors == []
    assert colours(page.screenshot(tmp_path / "open.png")) > 10


def test_opening_anew_keeps_the_settings_that_are_given(page: ComfyPage) -> None:
    page.open(**{"Comfy.Locale": "en", "Comfy.Minimap.Visible": True})
    assert page.page.evaluate("() => app.extensionManager.setting.get('Comfy.Minimap.Visible')") is True
    page.open()
    assert page.page.evaluate("() => app.extensionManager.setting.get('Comfy.Minimap.Visible')") is False


def test_a_workflow_loads_as_data_and_comes_back_as_prompt(page: ComfyPage, tmp_path: Path) -> None:
    empty = colours(page.screenshot(tmp_path / "empty.png"))
    page.load(two_node_workflow())
    page.fit()
    assert colours(page.screenshot(tmp_path / "loaded.png")) > empty
    prompt = page.prompt()
    assert prompt["1"]["inputs"] == {"width": 72, "height": 40, "batch_size": 2}
    assert prompt["2"]["inputs"] == {"samples": ["1", 0]}
    page.set_widget(1, "width", 96)
    assert page.prompt()["1"]["inputs"]["width"] == 96
    assert page.workflow()["nodes"][0]["widgets_values"] == [96, 40, 2]


def test_a_file_dropped_on_the_canvas_is_opened(page: ComfyPage, tmp_path: Path) -> None:
    file = tmp_path / "two_nodes.json"
    file.write_text(json.dumps(two_node_workflow()), encoding="utf-8")
    page.drop(file)
    assert sorted(node["type"] for node in page.workflow()["nodes"]) == ["EmptyLatentImage", "VAEDecode"]
    assert page.errors == []


def test_errors_on_the_page_are_collected_and_reset_forgets_them(page: ComfyPage) -> None:
    page.page.evaluate("() => { console.error('one'); setTimeout(() => { throw new Error('two') }) }")
    page.frames()
    said = " ".join(one.text for one in page.errors)
    assert "one" in said and "two" in said
    page.reset()
    assert page.errors == []
    with pytest.raises(Exception, match="knows no node"):
        page.add_node("NoSuchNode")


@BOTH_LOOKS
@pytest.mark.parametrize("kind, tag", [("png", "IMG"), ("mp4", "VIDEO")])
@pytest.mark.parametrize("subgraph", [False, True], ids=["root", "subgraph"])
def test_a_server_event_reaches_a_dom_widget(
    page: ComfyPage, tmp_path: Path, nodes_2: bool, kind: str, tag: str, subgraph: bool
) -> None:
    page.use_nodes_2(nodes_2)
    shown = page.add_node("HarnessPreview", 200, 200)
    page.set_widget(shown, "format", kind)
    if subgraph:
        shown = page.to_subgraph(shown)
    page.fit()
    page.run()
    page.page.wait_for_function(f"() => {{ const state = ({PROBE_STATE})(); return state.width > 0 && state.seen }}")
    page.frames()
    state = page.page.evaluate(PROBE_STATE)
    assert (state["label"], state["tag"], state["width"]) == ("step 3 of 3", tag, 64)
    assert orange_pixels(page.screenshot(tmp_path / "shown.png")) > 500
    assert (page.node_element(shown).count() == 1) is nodes_2, "Nodes 2.0 draws nodes as elements"
    assert page.errors == []


@BOTH_LOOKS
def test_the_widget_stays_inside_its_node_and_out_of_what_is_saved(page: ComfyPage, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    node = page.add_node("HarnessPreview", 200, 200)
    page.fit()
    bottom = page.page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            return app.canvas.convertOffsetToCanvas([node.pos[0], node.pos[1] + node.size[1]])[1]
                + app.canvas.canvas.getBoundingClientRect().top;
        }""",
        node,
    )
    assert page.page.evaluate(PROBE_STATE)["bottom"] <= bottom
    assert page.workflow()["nodes"][0]["widgets_values"] == [3, 0, False, "png"]
    assert set(page.prompt()[str(node)]["inputs"]) == {"steps", "seconds_per_step", "fail", "format"}


@BOTH_LOOKS
def test_a_taller_node_gives_its_widget_the_room(page: ComfyPage, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    node = page.add_node("HarnessPreview", 200, 50)
    page.fit()
    before = page.page.evaluate(PROBE_STATE)["height"]
    page.page.evaluate("(id) => { const n = app.graph.getNodeById(id); n.setSize([n.size[0], n.size[1] + 200]) }", node)
    page.frames()
    assert page.page.evaluate(PROBE_STATE)["height"] > before + 100


@BOTH_LOOKS
@pytest.mark.parametrize("subgraph", [False, True], ids=["root", "subgraph"])
def test_another_tab_and_back_gives_a_new_node_its_outputs(page: ComfyPage, nodes_2: bool, subgraph: bool) -> None:
    page.use_nodes_2(nodes_2)
    node = page.add_node("HarnessPreview", 200, 200)
    if subgraph:
        page.to_subgraph(node)
    page.run()
    page.to_another_tab_and_back()
    page.page.wait_for_function(f"() => {{ const state = ({PROBE_STATE})(); return state.width > 0 && state.seen }}")
    assert page.page.evaluate(PROBE_STATE)["label"] == "done before"
    assert page.errors == []


@BOTH_LOOKS
def test_a_video_plays_on_after_its_node_was_collapsed(page: ComfyPage, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    node = page.add_node("HarnessPreview", 200, 200)
    page.set_widget(node, "format", "mp4")
    page.fit()
    page.run()
    for _ in range(2):  # closed, open
        page.page.evaluate("(id) => app.graph.getNodeById(id).collapse()", node)
        page.frames(20)
    page.page.wait_for_function(
        """() => {
            const video = document.querySelector(".harness-probe video");
            return video && !video.paused && video.readyState >= 2 && video.offsetHeight > 50;
        }"""
    )


def test_a_failing_prompt_fails_the_execution_helper(page: ComfyPage) -> None:
    node = page.add_node("HarnessPreview")
    page.set_widget(node, "fail", True)
    with pytest.raises(AssertionError, match="told to fail"):
        page.run()
