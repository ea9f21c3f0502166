"""How much memory there is."""

import os
from pathlib import Path

import torch

_CONTAINER = Path("/sys/fs/cgroup/memory.max")


def device_memory_bytes(device: torch.device) -> int | None:
    """All memory of a device, free or not; None where nobody says."""
    if device.type == "cpu":
        return main_memory_bytes()
    if device.type in ("cuda", "xpu"):
        return int(getattr(torch, device.type).get_device_properties(device).total_memory)
    return int(torch.mps.recommended_max_memory()) if device.type == "mps" else None


def main_memory_bytes() -> int | None:
    """All main memory that this process may have; None where the system does not say (Windows)."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(total, int(_CONTAINER.read_text(encoding="ascii")))
    except (OSError, ValueError):  # no container, or one without a limit
        return total
