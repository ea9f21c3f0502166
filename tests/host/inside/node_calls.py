"""Calls one node the way the host's executor does, without a prompt."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Called:
    """A node's answer: its outputs in order, what it sends to the page, and the reason if it blocks what follows."""

    outputs: tuple[Any, ...]
    ui: dict[str, Any] | None = None
    blocked: str | None = None


def call_node(node: str | type, /, unique_id: str = "1", prompt: dict[str, Any] | None = None, **inputs: Any) -> Called:
    """Runs a node by id or class in inference mode, V3 nodes on a locked clone, defaults filled in.

    Raises:
        TypeError: an input that the node does not have, or a required one without a default is missing.
    """
    import nodes

    node_class: Any = nodes.NODE_CLASS_MAPPINGS[node] if isinstance(node, str) else node
    required, optional = _declared(node_class, "required"), _declared(node_class, "optional")
    if unknown := inputs.keys() - required.keys() - optional.keys():
        raise TypeError(f"{node_class.__name__} has no inputs {sorted(unknown)}; it has {[*required, *optional]}")
    filled = {name: value for name, spec in {**required, **optional}.items() if (value := _default(spec)) is not None}
    filled |= inputs
    if missing := required.keys() - filled.keys():
        raise TypeError(f"{node_class.__name__} needs {sorted(missing)}")
    function = _bound(node_class, unique_id, prompt or {})
    with torch.inference_mode():
        answer = function(**filled)
        if inspect.isawaitable(answer):
            answer = asyncio.run(_awaited(answer))
    return _called(answer)


async def _awaited(answer: Any) -> Any:
    return await answer


def _declared(node_class: Any, kind: str) -> dict[str, Any]:
    return node_class.INPUT_TYPES().get(kind, {})


def _default(spec: Any) -> Any:
    """What the page's widget shows at first: the default, or the first choice of a list; None for a socket."""
    options = spec[1] if len(spec) > 1 else {}
    if options.get("forceInput"):
        return None
    if "default" in options:
        return options["default"]
    choices = spec[0] if isinstance(spec[0], list) else options.get("options")
    return choices[0] if choices else None


def _bound(node_class: Any, unique_id: str, prompt: dict[str, Any]) -> Any:
    from comfy_api.internal import _ComfyNodeInternal, make_locked_method_func
    from comfy_api.latest import io

    if not issubclass(node_class, _ComfyNodeInternal):
        return getattr(node_class(), node_class.FUNCTION)
    node_class.VALIDATE_CLASS()
    hidden = {io.Hidden.unique_id: unique_id, io.Hidden.prompt: prompt, io.Hidden.extra_pnginfo: None}
    clone = node_class.PREPARE_CLASS_CLONE({"hidden_inputs": hidden})
    return make_locked_method_func(node_class, node_class.FUNCTION, clone)


def _called(answer: Any) -> Called:
    from comfy_api.latest import io

    if isinstance(answer, io.NodeOutput):
        ui = answer.ui.as_dict() if hasattr(answer.ui, "as_dict") else answer.ui
        return Called(tuple(answer.result or ()), ui, answer.block_execution)
    if isinstance(answer, dict):
        return Called(tuple(answer.get("result") or ()), answer.get("ui"))
    return Called(tuple(answer or ()))
