"""The live view keeps its node in shape: sizes over runs and tabs, one video, no black between chunks, a slow link."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dummyforcing_core.clips.video import clip_bytes
from tests.host.install import REPOSITORY
from tests.web.browser import ComfyPage
from tests.web.test_demo_workflow import widget
from tests.web.test_live import BOTH_LOOKS, CLIP, FILE, LONG, PLACES, build, idle, live, tell, wait_live

__all__ = ["idle"]
CHINESE = json.loads((REPOSITORY / "locales/zh/main.json").read_text(encoding="utf-8"))["dummyforcing"]
LOOP = "DummyForcing.Live.Loop"
SIZE = """(id) => {
    const node = app.graph.getNodeById(id);
    const element = document.querySelector(`[data-node-id="${id}"]`);
    return LiteGraph.vueNodesMode ? [element.offsetWidth, element.offsetHeight] : [...node.size];
}"""
VIDEOS = """() => [...document.querySelectorAll("video")].filter(
    (video) => video.hasAttribute("src") && video.getBoundingClientRect().width > 10).length"""


def size(page: ComfyPage, node: int) -> list[float]:
    page.frames(20)
    return page.page.evaluate(SIZE, node)


def one_video(page: ComfyPage) -> None:
    """Of two layers the lower one is emptied a moment after the other has taken its place."""
    page.page.wait_for_function(f"() => ({VIDEOS})() === 1")


def run_anew(page: ComfyPage, node: int, seed: int) -> None:
    page.set_widget(node, "seed", seed)
    page.run()
    wait_live(page, CLIP)


@BOTH_LOOKS
@PLACES
def test_two_runs_and_another_tab_leave_a_node_its_size_and_one_video(
    page: ComfyPage, nodes_2: bool, subgraph: bool
) -> None:
    page.use_nodes_2(nodes_2)
    sampler = build(page, 1.0)
    node = page.to_subgraph(sampler) if subgraph else sampler
    page.fit()
    wide, _ = size(page, node)
    page.run()
    wait_live(page, CLIP)
    sizes = [size(page, node)]
    one_video(page)
    page.to_another_tab_and_back()
    wait_live(page, CLIP)
    sizes.append(size(page, node))
    if not subgraph:
        run_anew(page, node, 4_000 + nodes_2)
        sizes.append(size(page, node))
        page.to_another_tab_and_back()
        wait_live(page, CLIP)
        sizes.append(size(page, node))
    one_video(page)
    assert {width for width, _ in sizes} == {wide}
    assert len({height for _, height in sizes}) == 1, sizes
    assert page.errors == []


@BOTH_LOOKS
def test_what_was_made_taller_for_a_view_without_a_clip_is_given_back(page: ComfyPage, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    node = build(page, 1.0, vae=False)
    before = size(page, node)
    page.run()
    wait_live(page, "!s.open")
    assert size(page, node) == before


@BOTH_LOOKS
def test_one_video_stands_in_a_node_after_cancel_too(page: ComfyPage, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    node = build(page, 1.0)
    page.fit()
    page.run()
    wait_live(page, CLIP)
    before = size(page, node)
    length = page.page.evaluate("() => app.graph._nodes.find((n) => n.comfyClass.endsWith('ClipSize')).id")
    page.set_widget(length, "seconds", LONG)
    page.queue()
    wait_live(page, "s.button && s.line.startsWith('chunk') && s.source.includes('/preview')")
    page.server.interrupt()
    wait_live(page, "!s.button && s.line.startsWith('stopped')")
    one_video(page)
    assert size(page, node) == before


@contextmanager
def slow_link(page: ComfyPage) -> Iterator[None]:
    """Every request of the page takes a second."""
    session = page.page.context.new_cdp_session(page.page)
    link = {"offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", {**link, "latency": 1000})
    try:
        yield
    finally:
        session.send("Network.emulateNetworkConditions", {**link, "latency": 0})
        session.detach()


@BOTH_LOOKS
def test_a_run_over_a_slow_link_ends_with_its_clip(page: ComfyPage, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    build(page, 5.0)
    page.fit()
    page.page.evaluate(
        """() => {
            window.hostPreviews = 0;
            app.api.addEventListener("b_preview_with_metadata", () => window.hostPreviews++);
        }"""
    )
    with slow_link(page):
        page.run()
        wait_live(page, CLIP)
    assert page.page.evaluate("() => window.hostPreviews") == 0
    one_video(page)
    assert page.page.locator(".video-preview, [data-node-id] [role=alert], [data-node-id] img").count() == 0


@BOTH_LOOKS
def test_the_picture_never_goes_black_between_chunks(page: ComfyPage, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    build(page, LONG)
    page.fit()
    page.queue()
    first = wait_live(page, "s.width > 0 && s.line.startsWith('chunk')")
    stage = page.page.locator("video[data-shown]").first
    area = stage.bounding_box()
    assert area is not None
    middle = {"x": area["x"] + area["width"] / 2 - 20, "y": area["y"] + area["height"] / 2 - 20}
    dark = []
    for _ in range(40):
        picture = Image.open(BytesIO(page.page.screenshot(clip={**middle, "width": 40, "height": 40})))
        dark.append(np.asarray(picture.convert("L")).max() < 24)  # the stage itself is #111
    assert not any(dark)
    assert int(live(page)["line"].split()[1]) >= int(first["line"].split()[1]) + 3


@pytest.fixture
def chunk_file(page: ComfyPage) -> Iterator[None]:
    """The server's previews and files are a white clip of a quarter of a second."""
    white = clip_bytes(np.full((4, 64, 64, 3), 255, np.uint8), Fraction(16), 64)
    addresses = ("**/dummyforcing/preview*", "**/view?*.mp4*")
    for address in addresses:
        page.page.route(address, lambda route: route.fulfill(body=white, content_type="video/mp4"))
    yield
    for address in addresses:
        page.page.unroute(address)
    page.page.evaluate("async (id) => { await app.extensionManager.setting.set(id, false) }", LOOP)


def test_a_chunk_holds_its_last_frame_or_plays_again_as_the_user_likes(page: ComfyPage, chunk_file: None) -> None:
    node = build(page, 5.0)
    page.fit()
    numbers: dict[str, Any] = {"fps": 1, "seconds_left": 9, "kv_mib": 1, "device_mib": 0, "chunks": 9}
    tell(page, node, running=True, chunk=0, chunks=9)
    tell(page, node, running=True, chunk=1, **numbers)
    ended = "() => document.querySelector('video[data-shown]')?.ended"
    page.page.wait_for_function(ended)
    page.page.locator(".dummyforcing-live [aria-pressed=false]").click()
    page.page.wait_for_function("() => { const v = document.querySelector('video[data-shown]'); return !v.paused }")
    page.page.wait_for_selector(".dummyforcing-live [aria-pressed=true]")
    assert page.server.get("/settings")[LOOP] is True


def test_every_clip_of_a_batch_can_be_looked_at(page: ComfyPage, chunk_file: None) -> None:
    node = build(page, 5.0)
    page.fit()
    page.page.evaluate(
        """(id) => {
            const images = ["a.mp4", "b.mp4"].map((filename) => ({filename, subfolder: "", type: "output"}));
            app.graph.getNodeById(id).onExecuted({images});
        }""",
        node,
    )
    wait_live(page, f"{CLIP} && s.source.includes('a.mp4') && s.line === 'a.mp4'")
    page.page.locator(".dummyforcing-live button", has_text="2").click()
    wait_live(page, f"{CLIP} && s.source.includes('b.mp4') && s.line === 'b.mp4'")


def test_the_view_speaks_chinese_where_the_page_does(page: ComfyPage) -> None:
    page.open(**{"Comfy.Locale": "zh"})
    try:
        node = build(page, 5.0)
        numbers = {"fps": 7.5, "seconds_left": 75, "kv_mib": 2048, "device_mib": 512, "memory": "DummyForcing"}
        state = tell(page, node, running=True, chunk=2, chunks=9, prompt="a cat", **numbers)
        left, size = CHINESE["left"].format(time="1:15"), CHINESE["vram"].format(size="512 MiB")
        assert state["line"] == f"{CHINESE['chunk'].format(chunk=2, chunks=9)} · 7.5 FPS · {left}"
        assert state["memory"] == f"{CHINESE['memory'].format(memory='DummyForcing')} · K/V 2.0 GiB · {size}"
        assert state["prompt"] == CHINESE["prompt"].format(prompt="a cat")
        state = tell(page, node, running=True, chunk=3, chunks=9, remembers=[[0, 0.5625], [75, 75.75]], **numbers)
        assert CHINESE["remembers"].format(times="0:00.0-0:00.6, 1:15.0-1:15.8") == state["remembers"]
        assert page.page.locator(".dummyforcing-finish").inner_text() == CHINESE["finish"]
    finally:
        page.open(**{"Comfy.Locale": "en"})


@pytest.mark.parametrize("kind", ["DummyForcingStreamingSampler", "DummyForcingProfileHeads"])
def test_a_closed_view_takes_no_clicks_below_its_node(page: ComfyPage, kind: str) -> None:
    node = page.add_node(kind, 250, 100)
    under = """(id) => {
        const {pos, size} = app.graph.getNodeById(id), {scale, offset} = app.canvas.ds;
        const [x, y] = [pos[0] + 60 + offset[0], pos[1] + size[1] + 40 + offset[1]];
        return document.elementFromPoint(x * scale, y * scale).id;
    }"""
    assert page.page.evaluate(under, node) == "graph-canvas"


@BOTH_LOOKS
def test_what_the_user_should_know_stands_under_the_picture_and_so_does_the_file(
    page: ComfyPage, nodes_2: bool
) -> None:
    page.use_nodes_2(nodes_2)
    node = build(page, LONG)
    page.fit()
    widget(page, "CLIPTextEncode", "text", "a furry red circle on the left")
    note = "the demo world does not know: furry (ignored)"
    with page.execution():
        page.queue()
        wait_live(page, f"s.line.startsWith('chunk') && s.notes === {json.dumps(note)}")
        page.page.click(".dummyforcing-finish")
    state = wait_live(page, f"{CLIP} && s.notes.startsWith({json.dumps(note)})")
    assert "ended early after" in state["notes"]
    assert FILE.fullmatch(state["line"]), state
    widget(page, "CLIPTextEncode", "text", "a red circle on the left")
    page.set_widget(node, "seed", 12345 + nodes_2)
    page.queue()
    assert wait_live(page, "s.line.startsWith('chunk')")["notes"] == ""


def test_the_prompt_in_force_and_the_memory_are_told(page: ComfyPage) -> None:
    build(page, LONG)
    page.queue()
    state = wait_live(page, "s.line.startsWith('chunk') && s.prompt")
    assert state["prompt"] == "prompt: a red circle on the left moving sideways and a blue square"
    assert state["memory"].startswith("memory: ") and "K/V" in state["memory"]
