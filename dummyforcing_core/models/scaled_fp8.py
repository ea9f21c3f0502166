"""Scaled float8, as ComfyUI stores it: weights in float8 and beside each one number to multiply it with.

Two forms (ComfyUI 0.27, QUANTIZATION.md and comfy/utils.py): `.scale_weight` and a tensor "scaled_fp8" in the file, or
`.weight_scale` and a stated format, in the header or in a tensor `.comfy_quant`; the latter may store plain bytes.
Scales of activations beside them only serve float8 arithmetic.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError, shown
from ..reading import parse_json
from .names import QUANTISED, listing, official_name

FP8 = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
SCALES = ("scale_weight", "weight_scale")
LARGEST_SCALE = 1e30  # times float8's largest number it still is one
FIX = "use the file inside ComfyUI, or give one in bf16, fp16, fp32 or float8 with one scale per weight"


def stated_formats(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> dict[str, str]:
    """Module, as named in the file -> format that ComfyUI's metadata states for it, in the header or in tensors."""
    try:
        layers = parse_json(texts.get("_quantization_metadata", "{}")).get("layers", {})
        stated = {module: entry["format"] for module, entry in layers.items()}
        for name, tensor in tensors.items():
            module, _, leaf = name.rpartition(".")
            if leaf == "comfy_quant":
                stated[module] = parse_json(tensor.numpy().tobytes().decode("utf-8"))["format"]
        if odd := [kind for kind in stated.values() if not isinstance(kind, str)]:
            raise TypeError(f"a format is {shown(odd[0])}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"its quantisation metadata is malformed ({shown(error)}); get the complete file again"
        ) from error
    return stated


def scale_of(tensors: Mapping[str, Tensor], module: str) -> Tensor | None:
    """The scale of a module's weight, if it has one."""
    return next((tensors[name] for leaf in SCALES if (name := f"{module}.{leaf}") in tensors), None)


def is_scale(scale: Tensor) -> bool:
    """Whether it is one number that float8 can be multiplied with: NaN, 0 and what leaves float32 are not."""
    return scale.numel() == 1 and scale.is_floating_point() and 0 < float(scale) < LARGEST_SCALE


def dequantised(weight: Tensor, scale: Tensor | None) -> Tensor:
    """The weight times its scale, in float32; as it is without one."""
    return weight if scale is None else weight.float() * scale.to(weight.device).float().reshape(())


def split_scales(
    tensors: Mapping[str, Tensor], formats: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights, and by weight name the scale of those that have one; tensors under official names.

    formats -- what `stated_formats` found. Raises CheckpointError for other formats, and for scales that are no single
    number above 0 or missing.
    """
    kinds = {official_name(module): kind for module, kind in formats.items()}
    if foreign := [f"{shown(module)} ({shown(kind)})" for module, kind in kinds.items() if kind not in FP8]:
        raise CheckpointError(f"holds weights in a format other than float8: {listing(foreign)}; {FIX}")
    weights = {name: tensor for name, tensor in tensors.items() if not QUANTISED.search(name)}
    scales: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        module = name.removesuffix(".weight")
        scale = scale_of(tensors, module) if module != name else None
        if scale is None and module not in kinds:
            continue
        if scale is None or not is_scale(scale):
            got = "none" if scale is None else f"{str(scale.dtype)[6:]} {list(scale.shape)}"
            value = f", {float(scale):g}" if scale is not None and scale.numel() == 1 else ""
            raise CheckpointError(f"expected one scale above 0 for {shown(name)}, got {got}{value}; {FIX}")
        scales[name] = scale
        if tensor.dtype == torch.uint8 and module in kinds:
            weights[name] = tensor.view(FP8[kinds[module]])
    return weights, scales
