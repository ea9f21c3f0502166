"""What the editor knows of every node that a workflow uses: inputs in its order, outputs, and the pack they come from.

Our nodes are read from tests/host/object_info.json, so a changed node changes the workflows; stock nodes are in the
table below, which the host tests compare with a running host.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
OBJECT_INFO = ROOT / "tests" / "host" / "object_info.json"

# Node -> inputs in the editor's order (name:TYPE a socket, name=TYPE a widget, name~TYPE an advanced one) and outputs
# (TYPE, or TYPE:name).
STOCK: dict[str, tuple[str, str]] = {
    "CLIPLoader": ("clip_name=COMBO type=COMBO device~COMBO", "CLIP"),
    "CLIPTextEncode": ("clip:CLIP text=STRING", "CONDITIONING"),
    "ImageScale": ("image:IMAGE upscale_method=COMBO width=INT height=INT crop=COMBO", "IMAGE"),
    "LoadImage": ("image=COMBO upload=EDITOR", "IMAGE MASK"),
    "PreviewAny": ("source:* markdown=EDITOR text=EDITOR as_markdown=EDITOR", "STRING"),
    "PreviewImage": ("images:IMAGE", "IMAGE:images"),
    "PrimitiveInt": ("value=INT control=EDITOR", "INT"),
    "VAEEncode": ("pixels:IMAGE vae:VAE", "LATENT"),
    "VAELoader": ("vae_name=COMBO", "VAE"),
}
# Widgets that only the editor has; the server never hears of them.
EDITOR = "EDITOR"
EDITOR_DEFAULTS = {"upload": "image", "control": "fixed", "as_markdown": False}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


class GraphError(Exception):
    """A description that cannot become a workflow; one line."""


class Input(NamedTuple):
    """One input of a node: a socket, or a widget with its default."""

    name: str
    type: str
    widget: bool
    default: Any = None
    advanced: bool = False


@dataclass(frozen=True)
class NodeType:
    """What the editor has to know of a node."""

    inputs: tuple[Input, ...]
    outputs: tuple[tuple[str, str], ...]  # (name, type)
    ours: bool


def pack_name() -> str:
    """The name under which the registry knows this pack."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^\[project\]\s*?$.*?^name = "([^"]+)"', text, re.M | re.S)
    if not found:
        raise GraphError("pyproject.toml has no name in [project]")
    return found[1]


def pack_version() -> str:
    """This pack's version."""
    text = (ROOT / "dummyforcing_core" / "__init__.py").read_text(encoding="utf-8")
    return re.findall(r'^__version__ = "([^"]+)"', text, re.M)[0]


def known_nodes() -> dict[str, NodeType]:
    """Our nodes from the committed object_info, the stock ones from the table."""
    known = {}
    for name, (inputs, outputs) in STOCK.items():
        parts = [re.split("([:=~])", part) for part in inputs.split()]
        all_inputs = tuple(
            Input(key, kind, mark != ":", EDITOR_DEFAULTS.get(key), mark == "~") for key, mark, kind in parts
        )
        pairs = [part.partition(":") for part in outputs.split()]
        known[name] = NodeType(all_inputs, tuple((pair[2] or pair[0], pair[0]) for pair in pairs), ours=False)
    for name, info in json.loads(OBJECT_INFO.read_text(encoding="utf-8")).items():
        found: list[Input] = []
        for kind in ("required", "optional"):
            for key in info["input_order"].get(kind, []):
                value_type, options = [*info["input"][kind][key], {}][:2]
                advanced = bool(options.get("advanced"))
                found.append(Input(key, value_type, value_type in WIDGET_TYPES, options.get("default"), advanced))
                if options.get("control_after_generate"):
                    found.append(Input("control", EDITOR, True, EDITOR_DEFAULTS["control"]))
        found.sort(key=lambda one: one.widget)  # the editor lists sockets first
        pairs_of = tuple(zip(info["output_name"], info["output"], strict=True))
        known[name] = NodeType(tuple(found), pairs_of, ours=True)
    return known
