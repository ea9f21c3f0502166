"""Cancel, between the layers of one long call."""

import contextlib
from collections.abc import Iterator

import comfy.model_management
from torch import nn


@contextlib.contextmanager
def cancellable(network: nn.Module) -> Iterator[None]:
    """While it lasts, every layer of `network` first asks whether the user has cancelled."""

    def check(*call: object) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    hooks = [module.register_forward_pre_hook(check) for module in network.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
