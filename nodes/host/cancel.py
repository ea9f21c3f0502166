"""Cancel, between the layers of one long call."""

import contextlib
from collections.abc import Iterator
from typing import Any

import comfy.model_management
from torch import nn


@contextlib.contextmanager
def cancellable(network: Any) -> Iterator[None]:
    """While it lasts, every layer of `network` first asks whether the user has cancelled. What stands for a network and
    is no module has no layers to ask."""

    def check(*call: object) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    layers = network.modules() if isinstance(network, nn.Module) else ()
    hooks = [module.register_forward_pre_hook(check) for module in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
