"""Tests against a real ComfyUI: see README.md."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.in_process import INSIDE, InsideFile
from tests.host.install import ComfyInstall, make_base_directory
from tests.host.plugin import SERVER_KEY, register
from tests.host.server import ComfyServer
from tests.host.stand_ins import STAND_IN_PACKS, write_files


def pytest_configure(config: pytest.Config) -> None:
    register(config)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Files in inside/ import the host: they are read here and run there."""
    return InsideFile.from_parent(parent, path=module_path) if module_path.parent == INSIDE else None


@pytest.fixture(scope="session")
def _stand_in_server(comfyui: ComfyInstall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = make_base_directory(tmp_path_factory.mktemp("workflows") / "base", STAND_IN_PACKS)
    write_files(base)
    with ComfyServer(comfyui, base) as running:
        yield running


@pytest.fixture
def host(_stand_in_server: ComfyServer, request: pytest.FixtureRequest) -> ComfyServer:
    """A server with every file that the workflows name."""
    request.node.stash[SERVER_KEY] = _stand_in_server
    _stand_in_server.mark_log()
    return _stand_in_server
