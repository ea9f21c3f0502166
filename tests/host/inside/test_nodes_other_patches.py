"""Patches of other packs stay in force: attention overrides, model wrappers, torch.compile, hooks on LoRAs."""

from __future__ import annotations

from typing import Any

import torch

CLOSE = {"rtol": 0.0, "atol": 5e-5}


def test_the_users_attention_is_the_one_that_runs(ar_model: Any, clip: Any) -> None:
    """As SageAttention nodes choose theirs for one MODEL."""
    seen = []

    def override(function: Any, q: Any, k: Any, v: Any, heads: int, *args: Any, **kwargs: Any) -> Any:
        seen.append((q.shape[1], k.shape[1], heads))
        return function(q, k, v, heads, *args, **kwargs)

    plain = ar_model()
    patched = plain.clone()
    patched.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = override
    torch.testing.assert_close(clip(patched), clip(plain), **CLOSE)
    tokens = 16
    self_attention = {(q, k) for q, k, heads in seen if k % tokens == 0 and k <= 7 * tokens}
    assert {(48, 48), (48, 96), (16, 112)} <= self_attention
    assert all(heads == 2 for _, _, heads in seen)


def test_wrappers_of_others_see_every_call(ar_model: Any, clip: Any, model_calls: list) -> None:
    import comfy.patcher_extension

    seen = {"model": 0, "apply": 0, "sampler": 0}

    def counting(name: str) -> Any:
        def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
            seen[name] += 1
            return executor(*args, **kwargs)

        return wrapper

    kinds = comfy.patcher_extension.WrappersMP
    plain = ar_model()
    patched = plain.clone()
    patched.add_wrapper(kinds.DIFFUSION_MODEL, counting("model"))
    patched.add_wrapper(kinds.APPLY_MODEL, counting("apply"))
    patched.add_wrapper(kinds.SAMPLER_SAMPLE, counting("sampler"))
    made = clip(patched)
    assert seen == {"model": len(model_calls), "apply": len(model_calls), "sampler": 1} and seen["model"] == 15
    torch.testing.assert_close(made, clip(plain), rtol=0, atol=0)
    assert seen["model"] == 15


def test_a_compiled_model_makes_the_same_clip(ar_model: Any, clip: Any, call: Any) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = call("DummyForcingApplyDummyForcing", model=ar_model()).outputs[0]
    wanted = clip(model)
    compiled = model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model=compiled, backend="eager")
    torch.testing.assert_close(clip(compiled), wanted, **CLOSE)
    torch.testing.assert_close(clip(model), wanted, rtol=0, atol=0)


def test_a_shift_of_the_users_does_not_change_the_families_levels(ar_model: Any, clip: Any, call: Any) -> None:
    model = ar_model()
    shifted = call("ModelSamplingSD3", model=model, shift=12.0).outputs[0]
    torch.testing.assert_close(clip(shifted), clip(model), **CLOSE)
