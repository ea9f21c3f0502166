"""Every node of the host that takes a kind of input, and a small value for each of its others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from unittest.mock import MagicMock

import pytest

SMALL = {"width": 64, "height": 64, "length": 5, "video_length": 5, "batch_size": 1}
"""Sizes of stock nodes are a film's by default."""

WIDGETS = {"INT", "FLOAT", "BOOLEAN", "COMBO", "STRING", "COLOR", "COMFY_DYNAMICCOMBO_V3"}
"""Kinds with a value of their own."""


def stock_nodes(kind: str, made: str = "") -> Iterator[str]:
    """Ids of the host's own nodes with an input of this kind, and an output of the other if one is named."""
    import nodes

    for name, node in sorted(nodes.NODE_CLASS_MAPPINGS.items()):
        own = not getattr(node, "RELATIVE_PYTHON_MODULE", "").startswith("custom_nodes.")
        if own and kind in _kinds(node).values() and made in ("", *_outputs(node)):
            yield name


def small_inputs(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs for the node `name`: `values` by kind, small sizes, and for kinds that nothing is known of a mock.

    Defaults are left to the call.
    """
    import nodes

    kinds = _kinds(nodes.NODE_CLASS_MAPPINGS[name])
    sizes = {key: size for key, size in SMALL.items() if kinds.get(key) == "INT"}
    others = {key: kind for key, kind in kinds.items() if kind not in WIDGETS}
    return sizes | {key: values.get(key, values.get(kind, MagicMock())) for key, kind in others.items()}


def _kinds(node: Any) -> dict[str, str]:
    """Its inputs, each with the kind that it takes; a list of choices is a COMBO."""
    declared = node.INPUT_TYPES()
    inputs = {**declared.get("required", {}), **declared.get("optional", {})}
    return {key: spec[0] if isinstance(spec[0], str) else "COMBO" for key, spec in inputs.items()}


def _outputs(node: Any) -> tuple[str, ...]:
    return tuple(getattr(node, "RETURN_TYPES", ()))


def known(name: str) -> None:
    """Skips the test unless the host has this node, and says so."""
    from comfyui_version import __version__

    import nodes

    if name not in nodes.NODE_CLASS_MAPPINGS:
        pytest.skip(f"ComfyUI {__version__} has no {name}")
