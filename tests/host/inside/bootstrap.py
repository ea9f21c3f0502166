"""Starts ComfyUI inside this interpreter as main.py would on the CPU, without its server."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

FAILED_WITHOUT_SERVER = {"nodes_replacements.py"}
"""Stock files that need a running PromptServer; every other one has to load."""


@dataclass(frozen=True)
class Pack:
    """A custom node pack as the host loaded it: its module and its node classes by node id."""

    module: ModuleType
    nodes: dict[str, Any]
    directory: Path


def start_comfy(directory: Path, base: Path) -> None:
    """Imports ComfyUI from ``directory`` and loads the stock nodes and the packs in ``base``/custom_nodes.

    Raises:
        RuntimeError: stock nodes did not load: the host is broken, not the pack.
    """
    sys.argv = ["main.py", "--cpu", "--base-directory", str(base), "--disable-api-nodes"]
    sys.path.insert(0, str(directory))
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes

    logging.getLogger().setLevel(logging.INFO)
    failed = set(asyncio.run(nodes.init_extra_nodes(init_custom_nodes=True, init_api_nodes=False)))
    if failed - FAILED_WITHOUT_SERVER:
        raise RuntimeError(f"ComfyUI in {directory} is broken: {sorted(failed - FAILED_WITHOUT_SERVER)} did not load")


def loaded_pack(base: Path, folder: str) -> Pack:
    """The pack that the host loaded from custom_nodes/``folder``.

    Raises:
        LookupError: the host did not load it; its log, above, says why.
    """
    import nodes

    directory = base / "custom_nodes" / folder
    module = sys.modules.get(str(directory).replace(".", "_x_"))
    mine = {
        name: node
        for name, node in nodes.NODE_CLASS_MAPPINGS.items()
        if getattr(node, "RELATIVE_PYTHON_MODULE", "") == f"custom_nodes.{folder}"
    }
    if module is None or not mine:
        raise LookupError(f"ComfyUI did not load {directory}: see its log")
    return Pack(module, mine, directory)
