"""The host's tensors on their way to the device, without a wait for what the device still has to do."""

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str | None) -> Tensor:
    """`x` on `device`. To a GPU it goes from pinned memory: from any other the host waits for all work before it."""
    if device is None:
        return x
    device = torch.device(device)
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
