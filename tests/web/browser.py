"""ComfyUI's page in headless Chromium: load a workflow, run it, look at what it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.host.server import ComfyServer

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
VIEWPORT = (1600, 1000)
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else the template browser opens over the canvas
    "Comfy.Workflow.Persist": False,  # each page starts from the settings, not from the last one's graph
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
}
NODES_2 = "Comfy.VueNodes.Enabled"
START_TIMEOUT_MS, WAIT_MS, RUN_TIMEOUT_MS = 120_000, 45_000, 300_000

_STOCK_NOISE = re.compile(
    r"userdata|user\.css|favicon\.ico|graph accessed before initialization|Content Security Policy"
)
"""Errors that the page of a fresh ComfyUI logs without any pack."""


@dataclass(frozen=True)
class Complaint:
    """An error on the page: its text and the address of the file or request it is about."""

    text: str
    address: str


class ComfyPage:
    """One open page of a server, and everything that tests do with it.

    ``page`` is Playwright's own, for what is not wrapped here.  Node ids are those of the root graph.
    """

    def __init__(self, page: Page, server: ComfyServer) -> None:
        self.page, self.server = page, server
        self.complaints: list[Complaint] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(Complaint(str(error), page.url)))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(Complaint(message.text, str(message.location.get("url", ""))))

    @property
    def errors(self) -> list[Complaint]:
        """What the console and uncaught exceptions said since ``reset``, without a fresh ComfyUI's own noise."""
        return [one for one in self.complaints if not _STOCK_NOISE.search(f"{one.text} {one.address}")]

    def open(self, **settings: Any) -> None:
        """Loads the page anew with these user settings (an id such as Comfy.X.Y as key) and an empty graph."""
        self.server.send("/settings", {**SETTINGS, **settings})
        self.page.goto(self.server.url, wait_until="commit")
        self.page.wait_for_function("() => window.app?.isGraphReady && app.extensionManager", timeout=START_TIMEOUT_MS)
        self.page.wait_for_selector("[data-testid=queue-button]", timeout=START_TIMEOUT_MS)
        self.page.wait_for_function("() => app.graph._nodes.length > 0", timeout=START_TIMEOUT_MS)  # the first graph
        self.reset()

    def reset(self) -> None:
        """One tab with an empty graph in the classic look, and no complaints."""
        self.page.keyboard.press("Escape")
        self.use_nodes_2(False)
        self._close_other_tabs()
        self.page.evaluate(
            """async () => {
                const tab = app.extensionManager.workflow.activeWorkflow;
                await app.loadGraphData({nodes: [], links: [], version: 0.4}, true, true, tab);
            }"""
        )
        self.page.wait_for_function("() => app.graph._nodes.length === 0")
        self._settle()
        self.complaints.clear()

    def _settle(self) -> None:
        """Waits until the address names the graph shown: a late change of it would open the graph that it names."""
        self.page.wait_for_function("() => location.hash === '#' + app.rootGraph.id")
        self.frames()

    def _close_other_tabs(self) -> None:
        self.page.evaluate(
            """async () => {
                const workflows = app.extensionManager.workflow;
                for (const one of [...workflows.openWorkflows])
                    if (one !== workflows.activeWorkflow) await workflows.closeWorkflow(one);
            }"""
        )

    # ---- the graph

    def load(self, workflow: dict[str, Any] | Path) -> None:
        """A workflow in the editor's format, through app.loadGraphData."""
        data = json.loads(workflow.read_text(encoding="utf-8")) if isinstance(workflow, Path) else workflow
        self.page.evaluate("async (data) => { await app.loadGraphData(data) }", data)
        self._settle()

    def open_template(self, file: Path) -> None:
        """A workflow file as the template browser opens it: zoomed so that all nodes are seen."""
        self.page.evaluate(
            "async ([data, name]) => { await app.loadGraphData(data, true, true, name, {openSource: 'template'}) }",
            [json.loads(file.read_text(encoding="utf-8")), file.stem],
        )
        self._settle()

    def browse_templates(self, pack: str) -> None:
        """Opens the template browser at the templates of a pack."""
        self.page.evaluate("() => void app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self.page.get_by_text(pack, exact=True).first.click()
        self.page.wait_for_selector("[data-testid^='template-workflow-']")

    def drop(self, file: Path, mime: str = "application/json") -> None:
        """Drops a file on the middle of the canvas, as from a file manager."""
        before = self.page.evaluate("() => app.graph.id")
        transfer = self.page.evaluate_handle(
            """([name, mime, bytes]) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([new Uint8Array(bytes)], name, {type: mime}));
                return transfer;
            }""",
            [file.name, mime, list(file.read_bytes())],
        )
        where = {"clientX": VIEWPORT[0] // 2, "clientY": VIEWPORT[1] // 2}
        for event in ("dragenter", "dragover", "drop"):
            self.page.dispatch_event("#graph-canvas", event, {"dataTransfer": transfer, **where})
        self.page.wait_for_function("(before) => app.graph.id !== before || app.graph._nodes.length > 0", arg=before)
        self._settle()

    def add_node(self, node_id: str, x: float = 100, y: float = 100) -> int:
        """A new node by its class id, drawn; its id in the graph."""
        added = self.page.evaluate(
            """([type, x, y]) => {
                const node = LiteGraph.createNode(type);
                if (!node) throw new Error(`the page knows no node ${type}`);
                node.pos = [x, y];
                app.graph.add(node);
                return node.id;
            }""",
            [node_id, x, y],
        )
        self.frames()
        return added

    def set_widget(self, node: int, name: str, value: Any) -> None:
        """Sets a widget as its control does: value, then callback."""
        self.page.evaluate(
            """([id, name, value]) => {
                const widget = app.graph.getNodeById(id).widgets.find((one) => one.name === name);
                widget.value = value;
                widget.callback?.(value);
            }""",
            [node, name, value],
        )

    def workflow(self) -> dict[str, Any]:
        """The graph as it would be saved."""
        return self.page.evaluate("() => app.graph.serialize()")

    def prompt(self) -> dict[str, Any]:
        """The graph as it would be queued, in the API format."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def to_subgraph(self, *nodes: int) -> int:
        """Selects nodes and turns them into a subgraph with the editor's own command; the subgraph node's id."""
        return self.page.evaluate(
            """async (ids) => {
                app.canvas.deselectAll();
                app.canvas.selectItems(ids.map((id) => app.graph.getNodeById(id)));
                const before = new Set(app.graph._nodes.map((node) => node.id));
                await app.extensionManager.command.execute("Comfy.Graph.ConvertToSubgraph");
                return app.graph._nodes.find((node) => !before.has(node.id)).id;
            }""",
            list(nodes),
        )

    def to_another_tab_and_back(self) -> None:
        """A new empty workflow, then the old one's tab again: its nodes are made anew from what was saved of them."""
        self.page.evaluate(
            """async () => {
                const workflows = app.extensionManager.workflow, old = workflows.activeWorkflow;
                const until = async (test) => { while (!test()) await new Promise(requestAnimationFrame) };
                // The address names the graph, and opening a graph late by its address would undo the next step.
                const settled = () => until(() => location.hash === "#" + app.rootGraph.id);
                old.changeTracker.captureCanvasState(); // the page does this on every click and key
                await app.extensionManager.command.execute("Comfy.NewBlankWorkflow");
                await settled();
                await app.extensionManager.command.execute("Workspace.PreviousOpenedWorkflow");
                await settled();
                if (workflows.activeWorkflow !== old) throw new Error("the old tab did not come back");
            }"""
        )
        self._close_other_tabs()  # the next call's way back leads over the tab before
        self.frames()

    # ---- what it looks like

    def use_nodes_2(self, enabled: bool) -> None:
        """Switches between the classic canvas and Nodes 2.0 (nodes as HTML elements)."""
        self.page.evaluate("async ([id, on]) => { await app.extensionManager.setting.set(id, on) }", [NODES_2, enabled])
        self.page.wait_for_function("(on) => LiteGraph.vueNodesMode === on", arg=enabled)
        self.frames()

    def fit(self) -> None:
        """Scrolls and zooms so that the whole graph is seen."""
        self.frames()
        self.page.evaluate("async () => { await app.extensionManager.command.execute('Comfy.Canvas.FitView') }")
        self.page.wait_for_timeout(600)  # the view glides there
        self.frames()

    def frames(self, count: int = 5) -> None:
        """Draws the page a few times: nodes find their size while they are drawn."""
        self.page.evaluate(
            """async (count) => {
                for (let i = 0; i < count; i++) {
                    app.canvas.setDirty(true, true);
                    await new Promise((done) => requestAnimationFrame(done));
                }
            }""",
            count,
        )

    def node_element(self, node: int) -> Any:
        """In Nodes 2.0 the node's element, as a Playwright locator."""
        return self.page.locator(f"[data-node-id='{node}']")

    def screenshot(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path))
        return path

    # ---- running

    def queue(self) -> str:
        """Presses Run; the prompt's id."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/prompt")) as waiting:
            self.page.click("[data-testid=queue-button]")
        answer = waiting.value.json()
        assert "prompt_id" in answer, f"refused: {answer}"
        return answer["prompt_id"]

    @contextmanager
    def execution(self, timeout_ms: int = RUN_TIMEOUT_MS) -> Iterator[None]:
        """Waits at its end for the page to hear that a prompt has ended well."""
        self.page.evaluate(
            """() => {
                window.harnessEnd = null;
                for (const type of ["execution_success", "execution_error", "execution_interrupted"])
                    app.api.addEventListener(type, ({detail}) => (window.harnessEnd ??= {type, detail}), {once: true});
            }"""
        )
        yield
        self.page.wait_for_function("() => window.harnessEnd", timeout=timeout_ms)
        end = self.page.evaluate("() => window.harnessEnd")
        assert end["type"] == "execution_success", end

    def run(self) -> str:
        """Presses Run and waits for a good end; the prompt's id."""
        with self.execution():
            prompt_id = self.queue()
        self.frames()
        return prompt_id
