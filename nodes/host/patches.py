"""What other nodes put on a MODEL: what would spoil a stream is refused, what a stream reads past gets a line."""

from collections.abc import Iterator
from typing import Any

import comfy.model_sampling

from ...dummyforcing_core.errors import DummyForcingError


def check_patches(model: Any) -> None:
    """DummyForcingError for what other nodes have put on a MODEL and a stream cannot follow."""
    options = model.model_options
    inner = options.get("transformer_options", {})
    surplus = {
        "EasyCache or LazyCache, which take a step of one chunk for that of the next: take it out, and use TeaCache "
        "(AR) instead": "easycache" in inner,
        "context windows (Context Windows): a stream has its own, use Apply Cache Window": (
            options.get("context_handler") is not None
        ),
        "an image for ComfyUI's own AR sampler (AR Video I2V): encode it with VAE Encode and connect it to the "
        "Streaming Sampler's start_latent": "ar_config" in inner,
        "guidance between two predictions a step (APG, Rescale CFG and the like), of which a stream makes one: take "
        "it out": bool(options.get("sampler_pre_cfg_function") or options.get("sampler_cfg_function")),
        "copies for several GPUs (MultiGPU CFG Split) that share two predictions a step, of which a stream makes one: "
        "take it out": bool(model.get_additional_models_with_key("multigpu")),
        "noise levels of another kind of model (ModelSampling): take it out": not isinstance(
            model.object_patches.get("model_sampling", comfy.model_sampling.CONST()), comfy.model_sampling.CONST
        ),
    }
    for what, there in surplus.items():
        if there:
            raise DummyForcingError(f"the MODEL carries {what}")


def patch_notes(model: Any, own_levels: bool) -> tuple[str, ...]:
    """A line for each kind of thing on a MODEL that changes nothing; own_levels: no SIGMAS were given."""
    return tuple(f"the MODEL carries {what}, which has no effect on a stream" for what in _unread(model, own_levels))


def _unread(model: Any, own_levels: bool) -> Iterator[str]:
    inner = model.model_options.get("transformer_options", {})
    if inside := [*inner.get("patches", {}), *inner.get("patches_replace", {})]:
        yield f"patches of its layers ({', '.join(dict.fromkeys(inside))})"
    if "rope_options" in inner:
        yield "other positions (ScaleROPE)"
    if own_levels and "model_sampling" in model.object_patches:
        yield "a shift of its noise levels (ModelSampling; give SIGMAS instead)"
