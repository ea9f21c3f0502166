"""Builds a workflow in the form that ComfyUI's editor saves: nodes by name, links by name, columns instead of places.

    graph = Graph("demo")
    graph.column("1 Model")
    model = graph.add("DummyForcingLoadDemoModel")
    graph.add("CLIPTextEncode", clip=model["CLIP"], text="a red circle")
    graph.document()

The editor saves widgets by position and links by number; both follow from the names here.
"""

import math
import re
import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from workflow_nodes import EDITOR, WIDGET_TYPES, GraphError, Input, NodeType, known_nodes, pack_name, pack_version

COMFYUI_VERSION = "0.27.0"
NAMESPACE = uuid.UUID("6f3f2f0e-9a53-4d37-9a3b-3f2b8f6c1f10")

MARGIN, GAP, TITLE, GROUP_TITLE = 20, 24, 30, 34  # pixels
SOCKET_ROW, WIDGET_ROW, PADDING = 24, 32, 52  # as Nodes 2.0 draws them; the classic canvas needs less
NOTE_WIDTH = 680
GROUP_COLOURS = ("#3f789e", "#6a8f5a", "#a1663c", "#b58b2a", "#8a5aa8")


class Wire(NamedTuple):
    """An output to connect to an input."""

    node: "Node"
    slot: int
    type: str


@dataclass
class Node:
    """One node; `node["VAE"]` is its output of that name."""

    id: int
    type: str
    known: NodeType
    values: dict[str, Any]
    files: list[dict[str, str]]
    width: int
    height: int
    title: str | None
    pos: tuple[int, int] = (0, 0)
    links: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, output: str) -> Wire:
        names = [name for name, _ in self.known.outputs]
        if output not in names:
            raise GraphError(f"{self.type} has outputs {names}, not {output!r}")
        slot = names.index(output)
        return Wire(self, slot, self.known.outputs[slot][1])


class Graph:
    """A workflow being put together; nodes come after those that they are connected to."""

    def __init__(self, name: str):
        self.name = name
        self._known = known_nodes()
        self._nodes: list[Node] = []
        self._links: list[list[Any]] = []
        self._groups: list[tuple[str, list[Node]]] = []
        self._note = ""
        self._width = 0

    def column(self, title: str, width: int = 340) -> None:
        """The next nodes stand below each other in a group of this title."""
        self._groups.append((title, []))
        self._width = width

    def note(self, text: str) -> None:
        """The text beside the graph, Markdown."""
        self._note = text

    @property
    def files(self) -> list[str]:
        """Names of the model files of all nodes so far."""
        return [file["name"] for node in self._nodes for file in node.files]

    def add(
        self,
        node_type: str,
        *,
        tall: int | None = None,
        title: str | None = None,
        files: list[dict[str, str]] | None = None,
        **inputs: Any,
    ) -> Node:
        """A node with these inputs: a Wire connects, anything else is a widget's value.

        tall: pixels, for nodes that show something. files: model links.
        """
        known = self._known.get(node_type)
        if known is None:
            raise GraphError(f"unknown node {node_type}; known: {', '.join(sorted(self._known))}")
        names = {one.name: one for one in known.inputs}
        if unknown := inputs.keys() - names.keys():
            raise GraphError(f"{node_type} has no input {sorted(unknown)}; it has {list(names)}")
        values = {one.name: inputs.get(one.name, one.default) for one in known.inputs if one.widget}
        node = Node(
            len(self._nodes) + 1, node_type, known, values, files or [], self._width, tall or _height(known), title
        )
        for name, value in inputs.items():
            if not isinstance(value, Wire):
                if not names[name].widget:
                    raise GraphError(f"{node_type}.{name} is a socket; connect it")
                continue
            self._links.append([len(self._links) + 1, value.node.id, value.slot, node.id, name, value.type])
            node.links[name] = len(self._links)
            if names[name].widget:  # a widget that a link overrules keeps its default
                node.values[name] = names[name].default
        if empty := [one.name for one in known.inputs if one.type in WIDGET_TYPES and values[one.name] is None]:
            raise GraphError(f"{node_type} needs values for {empty}")
        self._nodes.append(node)
        self._groups[-1][1].append(node)
        return node

    def document(self) -> dict[str, Any]:
        """The workflow, ready for json.dump."""
        groups: list[dict[str, Any]] = []
        right = 0
        for number, (title, nodes) in enumerate(self._groups, 1):
            width = max(node.width for node in nodes)
            below = GROUP_TITLE + MARGIN // 2
            for node in nodes:
                node.pos = (right + MARGIN, below + TITLE)
                below = node.pos[1] + node.height + GAP
            bounding = [right, 0, width + 2 * MARGIN, below - GAP + MARGIN]
            look = {"color": GROUP_COLOURS[(number - 1) % len(GROUP_COLOURS)], "font_size": 24, "flags": {}}
            groups.append({"id": number, "title": f"{number} {title}", "bounding": bounding, **look})
            right += bounding[2] + 2 * MARGIN
        nodes_out = [self._saved(node, order) for order, node in enumerate(self._nodes)]
        if self._note:
            nodes_out.append(self._saved_note(len(self._nodes) + 1))
        return {
            "id": str(uuid.uuid5(NAMESPACE, self.name)),
            "revision": 0,
            "last_node_id": len(nodes_out),
            "last_link_id": len(self._links),
            "nodes": nodes_out,
            "links": [
                [*link[:4], [one.name for one in _saved_inputs(self._nodes[link[3] - 1].known)].index(link[4]), link[5]]
                for link in self._links
            ],
            "groups": groups,
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [NOTE_WIDTH + 120, 120]}},
            "version": 0.4,
        }

    def _saved(self, node: Node, order: int) -> dict[str, Any]:
        inputs: list[dict[str, Any]] = []
        for one in _saved_inputs(node.known):
            widget = {"widget": {"name": one.name}} if one.widget else {}
            inputs.append({"name": one.name, "type": one.type, **widget, "link": node.links.get(one.name)})
        outputs = []
        for slot, (name, kind) in enumerate(node.known.outputs):
            out = [link[0] for link in self._links if link[1:3] == [node.id, slot]]
            outputs.append({"name": name, "type": kind, "slot_index": slot, "links": out or None})
        pack, version = (pack_name(), pack_version()) if node.known.ours else ("comfy-core", COMFYUI_VERSION)
        properties: dict[str, Any] = {"cnr_id": pack, "ver": version, "Node name for S&R": node.type}
        if node.files:
            properties["models"] = node.files
        saved = {
            "id": node.id, "type": node.type, "pos": list(node.pos), "size": [node.width, node.height], "flags": {},
            "order": order, "mode": 0, "inputs": inputs, "outputs": outputs, "properties": properties,
            "widgets_values": list(node.values.values()),
        }  # fmt: skip
        return {**saved, "title": node.title} if node.title else saved

    def _saved_note(self, note_id: int) -> dict[str, Any]:
        return {
            "id": note_id, "type": "MarkdownNote", "pos": [-NOTE_WIDTH - 2 * MARGIN, TITLE],
            "size": [NOTE_WIDTH, _note_height(self._note)], "flags": {}, "order": note_id - 1, "mode": 0,
            "inputs": [], "outputs": [], "title": "Read me", "properties": {}, "widgets_values": [self._note],
            "color": "#222", "bgcolor": "#000",
        }  # fmt: skip


def _saved_inputs(known: NodeType) -> list[Input]:
    return [one for one in known.inputs if one.type != EDITOR]


def _height(known: NodeType) -> int:
    sockets = max(sum(not one.widget for one in known.inputs), len(known.outputs))
    return sockets * SOCKET_ROW + sum(one.widget for one in known.inputs) * WIDGET_ROW + PADDING


def _note_height(text: str) -> int:
    """Pixels, with room to spare: a line holds about 90 characters, code does not wrap, link targets do not show."""
    prose, *code = re.sub(r"\]\([^)]*\)", "]", text).split("```")
    if code:
        prose += code[1]
    rows = sum(math.ceil(len(line) / 90) for line in prose.splitlines())
    code_rows = code[0].count("\n") if code else 0
    return 60 + 24 * rows + 20 * code_rows + 22 * prose.count("\n\n") + 20 * prose.count("# ")
