"""The full 1.3B shape once, on a real ComfyUI in a process of its own: 2.8 GB on disk, 4 GB of memory, a minute."""

from __future__ import annotations

import pytest

from .in_process import run_inside
from .install import ComfyInstall

INNER = "full_size.py::test_the_full_shape_samples_in_the_memory_of_its_weights"


@pytest.mark.slow
def test_the_full_shape_samples_in_the_memory_of_its_weights(
    comfyui: ComfyInstall, request: pytest.FixtureRequest
) -> None:
    run_inside([INNER], request.config).report(INNER)
