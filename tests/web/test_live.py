"""The Streaming Sampler and Profile Heads on the page: live chunks, Finish now, cancel, the head map."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.web.browser import ComfyPage

BOTH_LOOKS = pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes 2.0"])
PLACES = pytest.mark.parametrize("subgraph", [False, True], ids=["root", "subgraph"])
SAMPLER = "DummyForcingStreamingSampler"
LONG = 600.0  # seconds of a clip that no test waits for, 801 chunks

GRAPH = """([seconds, nodes]) => {
    const make = (type, x, y) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        return node;
    };
    const join = (from, output, to, input) =>
        from.connect(from.findOutputSlot(output), to, to.findInputSlot(input));
    const set = (node, values) => {
        for (const [name, value] of Object.entries(values)) node.widgets.find((w) => w.name === name).value = value;
    };
    const demo = make("DummyForcingLoadDemoModel", 50, 100);
    const text = make("CLIPTextEncode", 50, 250);
    const size = make("DummyForcingClipSize", 50, 500);
    const last = make(nodes.last, 550, 100);
    set(text, {text: "a red circle on the left moving sideways and a blue square"});
    set(size, {preset: "custom", width: 64, height: 64, seconds});
    join(demo, "CLIP", text, "clip");
    join(demo, "MODEL", last, "model");
    join(text, "CONDITIONING", last, "conditioning");
    join(size, "LATENT", last, "latent");
    if (nodes.vae) join(demo, "VAE", last, "vae");
    if (nodes.image) {
        const shown = make("PreviewImage", 950, 100);
        join(last, "IMAGE", shown, "images");
    }
    return last.id;
}"""
FIND = """const find = (graph) =>
    graph._nodes.flatMap((node) => (node.comfyClass === TYPE ? [node] : find(node.subgraph ?? {_nodes: []})));
const node = find(app.rootGraph)[0];"""
LIVE = (
    "() => {"
    + FIND.replace("TYPE", f"'{SAMPLER}'")
    + """
    const box = node?.widgets.find((w) => w.name === "dummyforcing_live")?.element;
    const video = box?.querySelector("video[data-shown]"), button = box?.querySelector(".dummyforcing-finish");
    const area = box?.getBoundingClientRect(), said = (what) => box?.querySelector(`[data-says=${what}]`).textContent;
    return {open: !!box && box.style.display !== "none", line: box?.querySelector("[aria-live]").textContent,
            seen: area?.width > 50 && area?.height > 50, width: video?.videoWidth ?? 0, time: video?.currentTime ?? 0,
            disabled: button?.disabled, button: !!button && !button.hidden, source: video?.src ?? "",
            memory: said("memory"), remembers: said("remembers"), prompt: said("prompt"), notes: said("notes")};
}"""
)


FILE = re.compile(r"video/streaming_\d+_\.mp4")
CLIP = "s.open && s.width > 0 && s.source.includes('/view?')"
"""That the view shows a whole clip."""


@pytest.fixture(autouse=True)
def idle(page: ComfyPage) -> Iterator[None]:
    """A failed test leaves no run behind."""
    yield
    page.server.interrupt()


SEEDS = count()


def build(page: ComfyPage, seconds: float, last: str = SAMPLER, vae: bool = True, image: bool = False) -> int:
    """The demo graph, with a seed that no test had before: an equal prompt would come from the cache."""
    node = page.page.evaluate(GRAPH, [seconds, {"last": last, "vae": vae, "image": image}])
    page.set_widget(node, "seed", next(SEEDS))
    page.set_widget(node, "control_after_generate", "fixed")
    page.frames()
    return node


def live(page: ComfyPage) -> dict[str, Any]:
    return page.page.evaluate(LIVE)


def wait_live(page: ComfyPage, condition: str) -> dict[str, Any]:
    """Until a JavaScript condition on the live view's state `s` holds."""
    page.page.wait_for_function(f"() => {{ const s = ({LIVE})(); return {condition}; }}", timeout=60_000)
    return live(page)


def report(page: ComfyPage, prompt_id: str) -> str:
    outputs = page.server.get(f"/history/{prompt_id}")[prompt_id]["outputs"]
    return next(out["text"][0] for out in outputs.values() if "text" in out)


@BOTH_LOOKS
@PLACES
def test_chunks_play_while_the_queue_runs_and_finish_now_ends_it(
    page: ComfyPage, tmp_path: Path, nodes_2: bool, subgraph: bool
) -> None:
    page.use_nodes_2(nodes_2)
    node = build(page, LONG)
    if subgraph:
        page.to_subgraph(node)
    page.fit()
    assert not live(page)["open"]
    with page.execution():
        prompt_id = page.queue()
        first = wait_live(page, "s.open && s.width > 0 && s.seen && s.line.startsWith('chunk')")
        later = wait_live(page, f"s.line.startsWith('chunk') && s.line !== {json.dumps(first['line'])} && s.time > 0")
        assert int(later["line"].split()[1]) > int(first["line"].split()[1])
        page.fit()
        page.screenshot(tmp_path / "live.png")
        page.page.locator(".dummyforcing-finish").first.click()
    done = wait_live(page, f"s.seen && {CLIP}")
    assert FILE.fullmatch(done["line"]) and not done["button"]
    page.screenshot(tmp_path / "done.png")
    assert "ended early after" in report(page, prompt_id)
    assert page.errors == []
    # A clip that was ended early is not what the same prompt gives when it is queued again.
    page.queue()
    wait_live(page, "s.open && s.button && s.line.startsWith('chunk')")


@BOTH_LOOKS
def test_a_whole_clip_takes_the_place_of_its_chunks(page: ComfyPage, tmp_path: Path, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    build(page, 5.0)
    page.fit()
    prompt_id = page.run()
    assert FILE.fullmatch(wait_live(page, CLIP)["line"])
    page.screenshot(tmp_path / "done.png")
    assert "81 (21 latent)" in report(page, prompt_id)
    assert page.errors == []


SEEK = """async (moment) => {
    const video = document.querySelector("video[data-shown]");
    video.pause();
    await new Promise((done) => { video.onseeked = done; video.currentTime = moment; });
    return [video.currentTime, video.duration, video.error?.message ?? ""];
}"""


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_a_clip_of_either_codec_plays_and_seeks(page: ComfyPage, codec: str) -> None:
    page.set_widget(build(page, 5.0), "codec", codec)
    prompt_id = page.run()
    wait_live(page, f"{CLIP} && s.time > 0")
    assert f"{codec}, crf 16" in report(page, prompt_id)
    for moment in (4.5, 0.5):
        assert page.page.evaluate(SEEK, moment) == [moment, 5, ""]
    assert page.errors == []


@pytest.mark.parametrize("vae", [True, False])
def test_cancel_tells_how_far_it_came_and_keeps_the_page_usable(page: ComfyPage, tmp_path: Path, vae: bool) -> None:
    build(page, LONG, vae=vae)
    page.fit()
    page.queue()
    wait_live(page, "s.open && s.width > 0")
    page.server.send("/interrupt", {})
    stopped = wait_live(page, "s.line.startsWith('stopped after')")
    assert re.match(r"stopped after [1-9]\d* of 801 chunks", stopped["line"])
    assert ("stays in the output folder" in stopped["line"]) is vae
    assert not stopped["button"] and stopped["seen"]
    page.screenshot(tmp_path / "stopped.png")
    size = page.page.evaluate("() => app.graph._nodes.find((n) => n.comfyClass.endsWith('ClipSize')).id")
    page.set_widget(size, "seconds", 2)
    page.run()
    wait_live(page, CLIP if vae else "!s.open")
    assert page.errors == []


def test_the_view_comes_back_with_its_tab(page: ComfyPage) -> None:
    node = build(page, LONG)
    page.to_subgraph(node)
    page.fit()
    with page.execution():
        page.queue()
        wait_live(page, "s.open && s.width > 0")
        page.to_another_tab_and_back()
        back = wait_live(page, "s.open && s.width > 0 && s.line.startsWith('chunk')")
        assert back["button"]
        page.fit()
        page.page.locator(".dummyforcing-finish").first.click()
    wait_live(page, CLIP)
    page.to_another_tab_and_back()
    wait_live(page, CLIP)
    assert page.errors == []


def test_without_a_vae_the_latents_are_shown_roughly(page: ComfyPage) -> None:
    build(page, 60.0, vae=False)
    page.fit()
    with page.execution():
        page.queue()
        state = wait_live(page, "s.open && s.width > 0")
        assert state["width"] == 64
    assert page.errors == []


def tell(page: ComfyPage, node: int, **detail: Any) -> dict[str, Any]:
    """What the view shows after an event as the server would send it."""
    said = {"node": str(node), "graph": "", **detail}
    page.page.evaluate("(detail) => app.api.dispatchEvent(new CustomEvent('dummyforcing.chunk', {detail}))", said)
    page.frames()
    return live(page)


def test_the_line_tells_of_late_decoding_and_of_a_failure(page: ComfyPage) -> None:
    node = build(page, 5.0)
    numbers = {"fps": 7.5, "seconds_left": 75, "kv_mib": 2048, "device_mib": 512, "memory": "DummyForcing"}
    assert tell(page, node, running=True, chunk=0, chunks=9)["line"] == "starting, 9 chunks"
    state = tell(page, node, running=True, chunk=2, chunks=9, prompt="a cat", **numbers)
    assert state["line"] == "chunk 2 of 9 · 7.5 FPS · 1:15 left"
    assert state["memory"] == "memory: DummyForcing · K/V 2.0 GiB · 512 MiB of VRAM in use"
    assert state["prompt"] == "prompt: a cat"
    assert state["open"] and state["button"] and not state["disabled"]
    state = tell(page, node, running=True, chunk=9, chunks=9, decoding=4)
    assert state["line"] == "decoding chunk 4 of 9" and state["disabled"]
    state = tell(page, node, running=False, outcome="failed", kept=True, part="a.part.mp4")
    assert state["line"] == "failed after 9 of 9 chunks; what is done stays in the output folder as a.part.mp4"
    assert state["open"] and not state["button"]
    assert tell(page, node, running=True, chunk=0, chunks=1)["line"] == "starting, 1 chunk"
    state = tell(page, node, running=False, outcome="stopped", kept=False)
    assert state["line"] == "stopped after 0 of 1 chunks"


INSIDE = """() => {
    const box = document.querySelector(".dummyforcing-live").getBoundingClientRect();
    const finish = document.querySelector(".dummyforcing-finish").getBoundingClientRect();
    return finish.height > 0 && finish.bottom <= box.bottom + 1;
}"""


@BOTH_LOOKS
def test_the_line_tells_what_is_remembered(page: ComfyPage, tmp_path: Path, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    node = build(page, 5.0)
    page.fit()
    numbers = {"fps": 7.5, "seconds_left": 75, "kv_mib": 2048, "device_mib": 0, "memory": "HeadForcing, num memory 4"}
    tell(page, node, running=True, chunk=0, chunks=99, memory=numbers["memory"], prompt="a cat")
    state = tell(page, node, running=True, chunk=1, chunks=99, prompt="a cat", remembers=[], **numbers)
    assert state["memory"] == "memory: HeadForcing, num memory 4 · K/V 2.0 GiB" and state["remembers"] == ""
    row = page.page.locator("[data-says=remembers]").first
    assert not row.is_visible()
    held = [[1.3125, 2.0625], [8, 8.75], [59.97, 61.25]]
    state = tell(page, node, running=True, chunk=40, chunks=99, prompt="a cat", remembers=held, **numbers)
    assert state["remembers"] == "remembers 0:01.3-0:02.1, 0:08.0-0:08.8, 1:00.0-1:01.3"
    assert state["memory"] == "memory: HeadForcing, num memory 4 · K/V 2.0 GiB" and state["prompt"] == "prompt: a cat"
    assert row.is_visible() and row.get_attribute("title") == state["remembers"], "what one line does not hold"
    page.screenshot(tmp_path / "remembered.png")
    long = {"notes": ["a note of so many words " * 9], "prompt": "a cat on a sofa " * 30, "memory": "options " * 30}
    tell(page, node, running=True, chunk=41, chunks=99, remembers=held * 5, **{**numbers, **long})
    page.screenshot(tmp_path / "crowded.png")
    assert page.page.evaluate(INSIDE), "all of it within the view"
    assert tell(page, node, running=False, outcome="done")["remembers"] == ""
