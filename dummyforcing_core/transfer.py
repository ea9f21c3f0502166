"""Tensors on their way between main memory and the device, without a wait for what the device still has to do."""

from collections.abc import Callable

import torch
from torch import Tensor

Arrival = Callable[[], Tensor]


def to_device(x: Tensor, device: torch.device | str | None) -> Tensor:
    """`x` on `device`. To a GPU it goes from pinned memory: from any other the CPU waits for all work before it."""
    if device is None:
        return x
    device = torch.device(device)
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def to_host(x: Tensor) -> Arrival:
    """Sends `x` to main memory. What comes back waits until `x` is there, but for nothing that the device was given
    after it."""
    if x.device.type != "cuda":
        return lambda: x
    host = torch.empty_like(x, device="cpu", pin_memory=True).copy_(x, non_blocking=True)
    there = torch.cuda.Event()
    there.record(torch.cuda.current_stream(x.device))

    def arrived() -> Tensor:
        there.synchronize()
        return host

    return arrived


def wait_for(device: torch.device) -> None:
    """Returns when the device has done all that it was given, so that a clock read now is about that."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
