"""Shared test settings: reproducible examples, few threads, no GPU needed, what runs beside what."""

import os
from typing import Any

import pytest
import torch
from hypothesis import settings

TOGETHER = ("tests/host/inside/", "tests/web/")  # one process of the host for all; one page at a time

settings.register_profile("repo", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repo")
torch.set_num_threads(1)  # on tensors this small a second thread costs more than it brings
if "PYTEST_XDIST_WORKER" in os.environ:  # nor have processes that a worker starts a core more than it
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """--dist loadfile: a worker takes a file whole, or one of these folders."""
    from xdist.scheduler import LoadFileScheduling

    class ByFileOrFolder(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((folder for folder in TOGETHER if nodeid.startswith(folder)), super()._split_scope(nodeid))

    return ByFileOrFolder(config, log) if config.getoption("dist") == "loadfile" else None
