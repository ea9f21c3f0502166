"""Tensors on their way from main memory to the device, without a wait for what the device still has to do."""

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str | None) -> Tensor:
    """`x` on `device`. To a GPU it goes from pinned memory: from any other the CPU waits for all work before it."""
    if device is None:
        return x
    device = torch.device(device)
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def wait_for(device: torch.device) -> None:
    """Returns when the device has done all that it was given, so that a clock read now is about that."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
