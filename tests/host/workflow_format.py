"""The editor's workflow format: what is wrong with a file, and the prompt that the page would queue for it.

Judged against /object_info alone, and against nothing that writes the files.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

Info = dict[str, Any]
Workflow = dict[str, Any]

NOTES = {"MarkdownNote", "Note"}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
CONTROLS = {"fixed", "increment", "decrement", "randomize"}
TITLE = 30
"""Pixels of a node's title, above its position."""
MAX_ASPECT = 2
"""Width of a graph by its height: wider ones are not read in a window."""

_EXTRA_WIDGETS = {"PreviewAny": 3}
"""Widgets that the page adds to some stock nodes, and that only it reads."""
_MODEL_SUFFIXES = (".safetensors", ".pt", ".json")


def specs(info: Info) -> dict[str, tuple[Any, dict[str, Any]]]:
    """A node's inputs in the order of its definition: type (a list for an old combo) and options."""
    inputs = info["input"]
    order = [(kind, name) for kind in ("required", "optional") for name in inputs.get(kind, {})]
    return {name: (inputs[kind][name][0], dict([*inputs[kind][name], {}][1])) for kind, name in order}


def is_widget(kind: Any) -> bool:
    return isinstance(kind, list) or kind in WIDGET_TYPES


def widgets(node: Info, info: Info, older: bool = False) -> list[tuple[str, Any]]:
    """Saved widget values by name, in order; the page's own have names in angle brackets.

    older -- saved by an earlier version, which may have had fewer widgets: new ones are optional, and come last.

    Raises:
        ValueError: the node has saved more or fewer values than its definition has widgets.
    """
    names = []
    for name, (kind, options) in specs(info).items():
        if is_widget(kind):
            names.append(name)
            if options.get("control_after_generate"):
                names.append("<control>")
            if options.get("image_upload"):
                names.append("<upload>")
    names += ["<preview>"] * _EXTRA_WIDGETS.get(node["type"], 0)
    values = node.get("widgets_values") or []
    if older:
        missing = set(names[len(values) :])
        names = names if missing & set(info["input"].get("required", {})) else names[: len(values)]
    if len(values) != len(names):
        raise ValueError(f"{len(values)} widget values {values} for {names}")
    return list(zip(names, values, strict=True))


def to_api(workflow: Workflow, object_info: dict[str, Info], older: bool = False) -> dict[str, Any]:
    """The prompt in the API format: ids as text, links as [node id, slot], no notes, none of the page's own widgets."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        if node["mode"] != 0:
            raise ValueError(f"node {node['id']} is muted or bypassed (mode {node['mode']})")
        saved = widgets(node, object_info[node["type"]], older)
        inputs = {name: value for name, value in saved if not name.startswith("<")}
        inputs |= {one["name"]: sources[one["link"]] for one in node["inputs"] if one.get("link") is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def problems(workflow: Workflow, object_info: dict[str, Info]) -> list[str]:
    """Everything that is wrong with the graph, one line each."""
    found = _table_problems(workflow)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for node in nodes.values():
        if node["type"] in NOTES:
            continue
        info = object_info.get(node["type"])
        where = f"node {node['id']} ({node['type']})"
        found += [f"{where}: unknown type"] if info is None else [f"{where}: {one}" for one in _node(node, info)]
    for number, source, slot, target, target_slot, kind in workflow["links"]:
        where = f"link {number}"
        ends = [object_info.get(nodes[end]["type"]) if end in nodes else None for end in (source, target)]
        if ends[0] is None or ends[1] is None:
            found.append(f"{where}: an end is no known node")
            continue
        inputs = nodes[target]["inputs"]
        if slot >= len(ends[0]["output"]) or target_slot >= len(inputs):
            found.append(f"{where}: no such slot")
            continue
        given = ends[0]["output"][slot]
        wanted = specs(ends[1]).get(inputs[target_slot]["name"], (None, {}))[0]
        if given != kind or not _agree(given, wanted):
            found.append(f"{where}: {given} goes as {kind} into {wanted}")
    return found


def _table_problems(workflow: Workflow) -> list[str]:
    """Ids and the three places where a link is written."""
    nodes, links = workflow["nodes"], workflow["links"]
    found = []
    for what, ids, last in (
        ("node", [node["id"] for node in nodes], workflow["last_node_id"]),
        ("link", [link[0] for link in links], workflow["last_link_id"]),
    ):
        found += [f"{what} id {one} is there {count} times" for one, count in Counter(ids).items() if count > 1]
        if ids and max(ids) > last:
            found.append(f"{what} id {max(ids)} is beyond last_{what}_id {last}")
    table = {tuple(link[:5]) for link in links}
    into = {
        (one["link"], node["id"], slot)
        for node in nodes
        for slot, one in enumerate(node["inputs"])
        if one.get("link") is not None
    }
    out = {
        (link, node["id"], slot)
        for node in nodes
        for slot, one in enumerate(node["outputs"])
        for link in one.get("links") or []
    }
    if into != {(link[0], link[3], link[4]) for link in table}:
        found.append(f"inputs say {sorted(into)}, the table of links says otherwise")
    if out != {(link[0], link[1], link[2]) for link in table}:
        found.append(f"outputs say {sorted(out)}, the table of links says otherwise")
    orders = {node["id"]: node["order"] for node in nodes}
    found += [
        f"link {link[0]} goes back in the order of execution"
        for link in links
        if orders.get(link[1], -1) >= orders.get(link[3], 0)
    ]
    return found


def _node(node: dict[str, Any], info: Info) -> list[str]:
    """Its inputs, outputs and widget values against its definition."""
    known = specs(info)
    found = []
    linked = {one["name"] for one in node["inputs"] if one.get("link") is not None}
    for one in node["inputs"]:
        if one["name"] not in known:
            found.append(f"unknown input {one['name']}")
        elif ("widget" in one) != is_widget(known[one["name"]][0]):
            found.append(f"input {one['name']} is a widget on one side only")
    for name in info["input"].get("required", {}):
        if not is_widget(known[name][0]) and name not in linked:
            found.append(f"required input {name} is not connected")
    outputs = [(one["name"], one["type"]) for one in node["outputs"]]
    if outputs != list(zip(info["output_name"], info["output"], strict=True)):
        found.append(f"outputs {outputs}")
    try:
        saved = widgets(node, info)
    except ValueError as error:
        return [*found, str(error)]
    for name, value in saved:
        if name == "<control>" and value not in CONTROLS:
            found.append(f"control after generate is {value!r}")
        elif name in known and name not in linked and (wrong := _value(value, *known[name])):
            found.append(f"{name} is {value!r}: {wrong}")
    return found


def _value(value: Any, kind: Any, options: dict[str, Any]) -> str:
    """What is wrong with a widget's value, '' if nothing."""
    if isinstance(kind, list) or kind == "COMBO":
        choices = kind if isinstance(kind, list) else options.get("options", [])
        return "" if value in choices else f"not one of {choices}"
    types: dict[str, Any] = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
    if not isinstance(value, types[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
        return f"no {kind}"
    if kind in ("INT", "FLOAT") and not options.get("min", value) <= value <= options.get("max", value):
        return f"outside {options.get('min')} to {options.get('max')}"
    return ""


def _agree(given: str, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return given == "COMBO"
    return wanted is not None and ("*" in (given, wanted) or bool({*given.split(",")} & {*wanted.split(",")}))


def layout_problems(workflow: Workflow) -> list[str]:
    """Nodes that overlap, stick out of their group or belong to none, groups that overlap, a graph that is too wide."""
    boxes = {
        node["id"]: (node["pos"][0], node["pos"][1] - TITLE, *_far(node["pos"], node["size"]))
        for node in workflow["nodes"]
    }
    areas = {
        one["title"]: (*one["bounding"][:2], *_far(one["bounding"], one["bounding"][2:])) for one in workflow["groups"]
    }
    found = [f"nodes {a} and {b} overlap" for a, b in combinations(boxes, 2) if _overlap(boxes[a], boxes[b])]
    found += [f"groups {a} and {b} overlap" for a, b in combinations(areas, 2) if _overlap(areas[a], areas[b])]
    for node in workflow["nodes"]:
        box = boxes[node["id"]]
        around = [title for title, area in areas.items() if _overlap(box, area)]
        inside = [title for title in around if _within(box, areas[title])]
        if len(inside) != 1 or around != inside:
            found.append(f"node {node['id']} ({node['type']}) touches the groups {around}, lies inside {inside}")
    left, top = (min(area[side] for area in areas.values()) for side in (0, 1))
    right, bottom = (max(area[side] for area in areas.values()) for side in (2, 3))
    if right - left >= MAX_ASPECT * (bottom - top):
        found.append(f"{right - left} by {bottom - top} is {MAX_ASPECT}:1 or wider")
    return found


Box = tuple[float, float, float, float]


def _far(corner: list[float], size: list[float]) -> tuple[float, float]:
    return corner[0] + size[0], corner[1] + size[1]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _within(a: Box, b: Box) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]


def our_nodes(object_info: dict[str, Info], prefix: str = "DummyForcing") -> dict[str, Info]:
    """Our nodes' part of /object_info without the names of files that lie on the machine."""
    ours = {}
    for name in sorted(name for name in object_info if name.startswith(prefix)):
        info = object_info[name]
        inputs = {
            kind: {key: _without_files(spec) for key, spec in specs_of.items()}
            for kind, specs_of in info["input"].items()
        }
        ours[name] = {**info, "input": inputs}
    return ours


def _without_files(spec: list[Any]) -> list[Any]:
    if len(spec) < 2 or "options" not in spec[1]:
        return spec
    kept = [one for one in spec[1]["options"] if not str(one).endswith(_MODEL_SUFFIXES)]
    return [spec[0], {**spec[1], "options": kept}, *spec[2:]]
