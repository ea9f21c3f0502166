"""Shared test settings: reproducible examples, few threads, no GPU needed, what runs beside what."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

TESTS = Path(__file__).parent
TOGETHER = ("host/inside", "web")  # one process of the host for all; one page at a time

settings.register_profile("repo", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repo")
torch.set_num_threads(1)  # on tensors this small a second thread costs more than it brings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With --dist loadgroup a worker takes a file whole, or a whole folder."""
    for item in items:
        file = item.path.relative_to(TESTS).as_posix()
        folder = next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)
        item.add_marker(pytest.mark.xdist_group(folder))
