"""Takes on the page: the one that a killed server left, going on with it, and the list of names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.install import PACKS, ComfyInstall, make_base_directory
from tests.host.server import ComfyServer
from tests.web.browser import VIEWPORT, ComfyPage
from tests.web.test_live import BOTH_LOOKS, LONG, PLACES, SAMPLER, build, live, report, wait_live

STATE = """() => {
    const find = (graph) =>
        graph._nodes.flatMap((node) => (node.comfyClass === "TYPE" ? [node] : find(node.subgraph ?? {_nodes: []})));
    const node = find(app.rootGraph)[0];
    const box = node.widgets.find((w) => w.name === "dummyforcing_live")?.element;
    const button = box?.querySelector(".dummyforcing-go-on");
    const value = (name) => node.widgets.find((w) => w.name === name)?.value;
    return {button: !!button && !button.hidden, height: node.size[1], take: value("take"), name: value("take_name"),
            saved: node.serialize().widgets_values.length};
}""".replace("TYPE", SAMPLER)


@pytest.fixture(scope="module")
def mortal(comfyui: ComfyInstall, browser: ComfyPage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyPage]:
    """A page on a server of its own, which may be killed."""
    base = make_base_directory(tmp_path_factory.mktemp("mortal") / "base", PACKS)
    chromium = browser.page.context.browser
    assert chromium is not None
    with ComfyServer(comfyui, base) as server:
        page = ComfyPage(chromium.new_page(viewport={"width": VIEWPORT[0], "height": VIEWPORT[1]}), server)
        page.open()
        yield page
        page.page.close()


def state(page: ComfyPage) -> dict[str, Any]:
    return page.page.evaluate(STATE)


def folders(page: ComfyPage) -> list[Path]:
    return sorted((page.server.base / "output" / "takes").glob("*"), key=lambda path: path.stat().st_ctime)


@BOTH_LOOKS
@PLACES
def test_a_killed_servers_take_is_named_and_gone_on_with(
    mortal: ComfyPage, tmp_path: Path, nodes_2: bool, subgraph: bool
) -> None:
    page = mortal
    page.reset()
    page.use_nodes_2(nodes_2)
    node = build(page, LONG)
    page.set_widget(node, "take", "new")
    if subgraph:
        page.to_subgraph(node)
    page.fit()
    page.queue()
    wait_live(page, "s.line.startsWith('chunk') && Number(s.line.split(' ')[1]) > 4")
    assert "take streaming_" in live(page)["memory"]
    name = folders(page)[-1].name
    page.server.kill()
    time.sleep(1)  # the page sees that it is gone
    page.server.__enter__()
    said = wait_live(page, f"s.line.includes('{name}')")
    assert said["line"].startswith(f"Take {name} is unfinished: ") and state(page)["button"]
    page.fit()
    page.screenshot(tmp_path / "left.png")
    page.page.locator(".dummyforcing-go-on:visible").first.click()
    assert (state(page)["take"], state(page)["name"]) == ("go on", name)
    assert not state(page)["button"]
    with page.execution():
        prompt_id = page.queue()
        wait_live(page, "s.line.startsWith('chunk') && Number(s.line.split(' ')[1]) > 5")
        page.fit()
        page.screenshot(tmp_path / "goes_on.png")
        page.page.locator(".dummyforcing-finish:visible").first.click()
    wait_live(page, "s.open && s.source.includes('/view?')")
    assert f"take                {name}, gone on behind" in report(page, prompt_id)
    page.screenshot(tmp_path / "done.png")


@BOTH_LOOKS
def test_a_page_that_is_opened_after_a_crash_says_so(mortal: ComfyPage, tmp_path: Path, nodes_2: bool) -> None:
    page = mortal
    page.reset()
    page.use_nodes_2(nodes_2)
    node = build(page, LONG)
    page.set_widget(node, "take", "new")
    workflow = page.workflow()
    page.queue()
    wait_live(page, "s.line.startsWith('chunk') && Number(s.line.split(' ')[1]) > 2")
    page.server.kill()
    page.server.__enter__()
    page.open()
    page.use_nodes_2(nodes_2)
    page.load(workflow)
    page.fit()
    wait_live(page, "s.open && s.line.includes('is unfinished')")
    assert state(page)["saved"] == len(workflow["nodes"][-1]["widgets_values"])
    page.screenshot(tmp_path / "opened.png")
    # A node that keeps no takes is not bothered.
    (sampler,) = [one for one in workflow["nodes"] if one["type"] == SAMPLER]
    place = sampler["widgets_values"].index("new")
    sampler["widgets_values"][place] = "off"
    page.load(workflow)
    page.frames(20)
    assert not live(page)["open"]


@BOTH_LOOKS
def test_a_take_is_picked_from_a_list_that_is_always_fresh(page: ComfyPage, tmp_path: Path, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    node = build(page, 1.0)
    other = page.add_node("DummyForcingLoadTake", x=1000, y=100)
    page.set_widget(node, "take", "new")
    page.set_widget(node, "take_name", "picked")
    page.fit()
    page.run()
    newest = folders(page)[-1].name
    pick(page, other, newest, nodes_2, tmp_path)
    assert page.page.evaluate("(id) => app.graph.getNodeById(id).widgets[0].value", other) == newest
    assert len(page.page.evaluate("(id) => app.graph.getNodeById(id).serialize().widgets_values", other)) == 1
    assert page.errors == []


def pick(page: ComfyPage, node: int, name: str, nodes_2: bool, tmp_path: Path) -> None:
    """Presses the button as a hand would, and the name in the list."""
    if nodes_2:
        page.page.get_by_role("button", name="Choose a take").last.click()
    else:
        place = page.page.evaluate(
            """(id) => {
                const node = app.graph.getNodeById(id);
                const button = node.widgets.find((w) => w.name === "dummyforcing_takes");
                const canvas = app.canvas.canvas.getBoundingClientRect(), ds = app.canvas.ds;
                const x = (node.pos[0] + node.size[0] / 2 + ds.offset[0]) * ds.scale + canvas.left;
                return [x, (node.pos[1] + button.last_y + 10 + ds.offset[1]) * ds.scale + canvas.top];
            }""",
            node,
        )
        page.page.mouse.click(*place)
    entry = page.page.locator(".litecontextmenu .litemenu-entry", has_text=name).first
    entry.wait_for()
    page.screenshot(tmp_path / "list.png")
    entry.click()


SHOWN = """(id) => {
    const node = app.graph.getNodeById(id);
    const names = ["take", "take_name", "from_chunk", "take_video", "snapshot_every", "dummyforcing_takes"];
    const seen = node.widgets.filter((w) => names.includes(w.name) && node.isWidgetVisible(w)).map((w) => w.name);
    return {seen, height: node.size[1], needed: node.computeSize()[1], saved: node.serialize().widgets_values};
}"""
ASKED = {
    "off": {"take"},
    "new": {"take", "take_name", "snapshot_every"},
    "go on": {"take", "take_name", "take_video", "snapshot_every", "dummyforcing_takes"},
    "branch": {"take", "take_name", "from_chunk", "take_video", "snapshot_every", "dummyforcing_takes"},
}


@BOTH_LOOKS
def test_only_what_a_mode_asks_for_is_shown(page: ComfyPage, tmp_path: Path, nodes_2: bool) -> None:
    page.use_nodes_2(nodes_2)
    node = build(page, 1.0)
    first = page.page.evaluate(SHOWN, node)
    for mode in ("off", "new", "go on", "branch", "new", "off"):
        set_mode(page, node, mode)
        now = page.page.evaluate(SHOWN, node)
        assert set(now["seen"]) == ASKED[mode]
        assert len(now["saved"]) == len(first["saved"])
        if not nodes_2:
            assert now["height"] >= now["needed"]
        else:
            page.frames(20)
            labels = page.node_element(node).inner_text()
            assert ("take_name" in labels) == (mode != "off"), labels
        page.fit()
        page.screenshot(tmp_path / f"{mode.replace(' ', '_')}.png")
    assert abs(page.page.evaluate(SHOWN, node)["height"] - first["height"]) < 8
    assert page.errors == []


def set_mode(page: ComfyPage, node: int, mode: str) -> None:
    """As the page's own combo does."""
    page.page.evaluate(
        """([id, mode]) => {
            const node = app.graph.getNodeById(id), take = node.widgets.find((w) => w.name === "take");
            take.value = mode;
            take.callback?.(mode);
        }""",
        [node, mode],
    )
    page.frames(20)
