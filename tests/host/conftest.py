"""Tests against a real ComfyUI: see README.md."""

from pathlib import Path

import pytest

from tests.host.in_process import INSIDE, InsideFile
from tests.host.plugin import register


def pytest_configure(config: pytest.Config) -> None:
    register(config)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Files in inside/ import the host: they are read here and run there."""
    return InsideFile.from_parent(parent, path=module_path) if module_path.parent == INSIDE else None
