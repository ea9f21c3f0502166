"""Where ComfyUI is: COMFYUI_DIR, else ~/comfy/ComfyUI, and the interpreter that it runs with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
"""The node pack is the repository itself."""

_INTERPRETERS = (".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe", "venv/Scripts/python.exe")


class ComfyMissing(Exception):
    """No usable ComfyUI; the message says what was looked for."""


@dataclass(frozen=True)
class ComfyInstall:
    """A ComfyUI checkout and the interpreter of its virtual environment."""

    directory: Path
    python: Path


def find_comfy(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> ComfyInstall:
    """The install that COMFYUI_DIR and COMFYUI_PYTHON name, or ~/comfy/ComfyUI and its ``.venv`` or ``venv``.

    Raises:
        ComfyMissing: no checkout there, or no interpreter in it.
    """
    named = environment.get("COMFYUI_DIR")
    directory = Path(named).expanduser() if named else (home or Path.home()) / "comfy" / "ComfyUI"
    if not (directory / "main.py").is_file() or not (directory / "comfy").is_dir():
        raise ComfyMissing(f"{directory} holds no main.py and comfy/")
    if chosen := environment.get("COMFYUI_PYTHON"):
        if not os.access(chosen, os.X_OK):
            raise ComfyMissing(f"COMFYUI_PYTHON={chosen} is no program")
        return ComfyInstall(directory, Path(chosen))
    for candidate in _INTERPRETERS:
        if os.access(directory / candidate, os.X_OK):
            return ComfyInstall(directory, directory / candidate)
    raise ComfyMissing(f"{directory} has no .venv: run .ci/setup-host or set COMFYUI_PYTHON")


def make_base_directory(base: Path, packs: Mapping[str, Path]) -> Path:
    """A fresh ``--base-directory`` with ``packs`` (folder name -> source) linked into custom_nodes."""
    for folder in ("custom_nodes", "models", "input", "output", "temp", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, source in packs.items():
        if (source / "__init__.py").is_file():
            (base / "custom_nodes" / name).symlink_to(source, target_is_directory=True)
    return base


PACK_FOLDER, PROBE_FOLDER = "ComfyUI-DummyForcing", "ComfyUI-Harness-Probe"
PACKS = {PACK_FOLDER: REPOSITORY, PROBE_FOLDER: Path(__file__).resolve().parent / "probe_pack"}
"""What every test host loads: the pack as a user would clone it, and the harness's own small pack."""
