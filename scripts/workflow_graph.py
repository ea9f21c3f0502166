"""Builds a workflow in the form that ComfyUI's editor saves: nodes by name, links by name, groups instead of places.

    graph = Graph("demo", note_width=400)
    graph.row()
    graph.group("Model", 280)
    model = graph.add("DummyForcingLoadDemoModel")
    graph.group("Prompt", 400)
    graph.add("CLIPTextEncode", room=160, clip=model["CLIP"], text="a red circle")
    graph.document()

The editor saves widgets by position and links by number; both follow from the names here.
"""

import uuid
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, NamedTuple

from workflow_layout import Column, Layout, Place, view
from workflow_nodes import EDITOR, WIDGET_TYPES, GraphError, Input, NodeType, known_nodes, pack_name, pack_version

COMFYUI_VERSION = "0.27.0"
NAMESPACE = uuid.UUID("6f3f2f0e-9a53-4d37-9a3b-3f2b8f6c1f10")

# Graph units that a node's parts need, on the classic canvas and in Nodes 2.0, which hides advanced widgets.
CLASSIC_SOCKET, CLASSIC_WIDGET, CLASSIC_REST = 20, 24, 14
SOCKET, WIDGET, REST = 24, 32, 24
BADGE, FOOTER = 28, 28  # the line with the pack's name; the buttons that show advanced widgets, or a missing file
# What web/takes.js hides of a sampler whose take is this.
HIDDEN = {
    "off": ("take_name", "from_chunk", "take_video", "snapshot_every"),
    "new": ("from_chunk", "take_video"),
}
NOTE_PROPERTIES = {"dummyforcing": "note"}  # by which web/notes.js knows it
NOTE_HEIGHT = 200  # at least; it is as high as the rows
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
    place: Place
    title: str | None
    links: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, output: str) -> Wire:
        names = [name for name, _ in self.known.outputs]
        if output not in names:
            raise GraphError(f"{self.type} has outputs {names}, not {output!r}")
        slot = names.index(output)
        return Wire(self, slot, self.known.outputs[slot][1])


class Graph:
    """A workflow being put together; nodes come after those that they are connected to."""

    def __init__(self, name: str, note_width: int):
        self.name = name
        self._known = known_nodes()
        self._nodes: list[Node] = []
        self._links: list[list[Any]] = []
        self._note = Place(NOTE_HEIGHT, grows=True)
        self._layout = Layout(self._note, note_width)
        self._column = Column(0)
        self._numbered = 0

    def row(self) -> None:
        """The next groups stand in a row of their own."""
        self._layout.row()

    def group(self, title: str, width: int) -> Column:
        """The next nodes stand below each other in a group of this title, numbered in reading order."""
        self._numbered += 1
        self._column = self._layout.group(f"{self._numbered} {title}", width)
        return self._column

    def column(self, width: int) -> Column:
        """The next nodes stand beside the last ones, in the same group."""
        self._column = self._layout.column(width)
        return self._column

    @property
    def files(self) -> list[str]:
        """Names of the model files of all nodes so far."""
        return [file["name"] for node in self._nodes for file in node.files]

    def add(
        self,
        node_type: str,
        *,
        room: int = 0,
        column: Column | None = None,
        title: str | None = None,
        files: list[dict[str, str]] | None = None,
        **inputs: Any,
    ) -> Node:
        """A node with these inputs: a Wire connects, anything else is a widget's value.

        room: pixels for what it shows besides sockets and widgets; it then grows with its row. column: where it
        stands, if not in the newest. files: model links.
        """
        known = self._known.get(node_type)
        if known is None:
            raise GraphError(f"unknown node {node_type}; known: {', '.join(sorted(self._known))}")
        names = {one.name: one for one in known.inputs}
        if unknown := inputs.keys() - names.keys():
            raise GraphError(f"{node_type} has no input {sorted(unknown)}; it has {list(names)}")
        values = {one.name: inputs.get(one.name, one.default) for one in known.inputs if one.widget}
        place = Place(_height(known, values, bool(files)) + room, grows=room > 0)
        node = Node(len(self._nodes) + 1, node_type, known, values, files or [], place, title)
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
        (column or self._column).places.append(place)
        return node

    def document(self, note_title: str, note: str) -> dict[str, Any]:
        """The workflow with its note (Markdown), ready for json.dump."""
        placed = self._layout.groups()
        groups = [
            {"id": number, "title": title, "bounding": list(box), "color": colour, "font_size": 24, "flags": {}}
            for number, ((title, box), colour) in enumerate(zip(placed, cycle(GROUP_COLOURS), strict=False), 1)
        ]
        nodes_out = [self._saved(node, order) for order, node in enumerate(self._nodes)]
        nodes_out.append(self._saved_note(len(nodes_out) + 1, note_title, note))
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
            "extra": {"ds": view([box for _, box in placed])},
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
            "id": node.id, "type": node.type, **_where(node.place), "flags": {},
            "order": order, "mode": 0, "inputs": inputs, "outputs": outputs, "properties": properties,
            "widgets_values": list(node.values.values()),
        }  # fmt: skip
        return {**saved, "title": node.title} if node.title else saved

    def _saved_note(self, note_id: int, title: str, text: str) -> dict[str, Any]:
        return {
            "id": note_id, "type": "MarkdownNote", **_where(self._note), "flags": {}, "order": note_id - 1, "mode": 0,
            "inputs": [], "outputs": [], "title": title, "properties": NOTE_PROPERTIES, "widgets_values": [text],
            "color": "#222", "bgcolor": "#000",
        }  # fmt: skip


def _where(place: Place) -> dict[str, list[int]]:
    return {"pos": [place.x, place.y], "size": [place.width, place.height]}


def _saved_inputs(known: NodeType) -> list[Input]:
    return [one for one in known.inputs if one.type != EDITOR]


def _height(known: NodeType, values: dict[str, Any], files: bool) -> int:
    """Pixels without the title, enough for both canvases; views of text, which have no default, take their `room`."""
    rows = max(sum(not one.widget for one in known.inputs), len(known.outputs))
    gone = HIDDEN.get(values.get("take"), ()) if "take_name" in values else ()
    widgets = [one for one in known.inputs if one.widget and (one.type != EDITOR or one.default is not None)]
    widgets = [one for one in widgets if one.name not in gone]
    shown = [one for one in widgets if not one.advanced and one.name != "control"]  # which is a button in a seed's row
    classic = rows * CLASSIC_SOCKET + len(widgets) * CLASSIC_WIDGET + CLASSIC_REST
    more = known.ours * BADGE + (files or len(shown) < len(widgets)) * FOOTER
    return max(classic, rows * SOCKET + len(shown) * WIDGET + REST + more)
