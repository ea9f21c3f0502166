"""Cancel acts between the layers of one call, of the model and of the VAE, not only between calls."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import pytest

Interrupted = comfy.model_management.InterruptProcessingException


class Presses:
    """Cancels when the first of these modules is called, and counts the calls that come after."""

    def __init__(self, first: Any, later: list[Any]):
        self.pressed = self.after = 0
        self._hooks = [first.register_forward_hook(self._press)]
        self._hooks += [module.register_forward_hook(self._count) for module in later]

    def _press(self, *call: Any) -> None:
        if not self.pressed:
            comfy.model_management.interrupt_current_processing()
        self.pressed += 1

    def _count(self, *call: Any) -> None:
        self.after += bool(self.pressed)

    def release(self) -> None:
        for hook in self._hooks:
            hook.remove()


def test_in_the_middle_of_a_model_call(stream: Any, ar_model: Any) -> None:
    model = ar_model()
    first, second = model.model.diffusion_model.blocks
    presses = Presses(first.ffn[0], [second.self_attn.o])
    try:
        with pytest.raises(Interrupted):
            stream(model)
    finally:
        presses.release()
    assert (presses.pressed, presses.after) == (1, 0)
    assert stream(model).outputs[0]["samples"].isfinite().all()


def test_in_the_middle_of_a_decode(stream: Any, ar_model: Any, call: Any) -> None:
    model, vae = ar_model(), call("VAELoader", vae_name="tiny_wan_vae.safetensors").outputs[0]
    decoder = vae.first_stage_model.decoder
    presses = Presses(decoder.conv1, list(decoder.upsamples))
    try:
        with pytest.raises(Interrupted):
            stream(model, vae=vae)
    finally:
        presses.release()
    assert (presses.pressed, presses.after) == (1, 0)
    assert not any(module._forward_pre_hooks for module in vae.first_stage_model.modules())
    assert stream(model, vae=vae).outputs[1]
