"""Random weight files in the layouts that ComfyUI recognises: a small Wan2.1 T2V transformer, Wan2.1 VAE, an upscaler
and RIFE.

Written from tensor names and shapes alone, so they are an oracle for our own modules as well as the host's.  Runs in
the test interpreter and in the host's: torch and safetensors are all it imports.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = Iterator[tuple[str, tuple[int, ...]]]

HEAD_DIM = 128
"""The host infers the number of heads as dim // 128."""
TEXT_DIM = 4096
"""Width of umT5-XXL's output; WanModel's first text layer."""
WAN_FILE, CAUSAL_WAN_FILE, VAE_FILE = "tiny_wan.safetensors", "tiny_causal_wan.safetensors", "tiny_wan_vae.safetensors"
UPSCALER, INTERPOLATOR = "tiny_2x.safetensors", "tiny_rife.safetensors"

_VAE_MULTIPLIERS, _VAE_TEMPORAL_DOWN, _LATENT_CHANNELS = (1, 2, 4, 4), (False, True, True), 16
_RESIDUALS_PER_LEVEL = 2
_PICTURE_CHANNELS, _RIFE_HEAD = 4, 4


def wan_shapes(heads: int = 2, layers: int = 2, ffn_dim: int = 512, text_dim: int = TEXT_DIM) -> Shapes:
    """Names and shapes of a Wan2.1 T2V transformer of ``heads`` heads of 128 channels."""
    dim = heads * HEAD_DIM
    yield "patch_embedding.weight", (dim, _LATENT_CHANNELS, 1, 2, 2)
    yield "patch_embedding.bias", (dim,)
    yield from _linear("text_embedding.0", text_dim, dim)
    yield from _linear("text_embedding.2", dim, dim)
    yield from _linear("time_embedding.0", 256, dim)
    yield from _linear("time_embedding.2", dim, dim)
    yield from _linear("time_projection.1", dim, 6 * dim)
    for index in range(layers):
        block = f"blocks.{index}"
        yield f"{block}.modulation", (1, 6, dim)
        for attention in ("self_attn", "cross_attn"):
            for projection in "qkvo":
                yield from _linear(f"{block}.{attention}.{projection}", dim, dim)
            yield f"{block}.{attention}.norm_q.weight", (dim,)
            yield f"{block}.{attention}.norm_k.weight", (dim,)
        yield f"{block}.norm3.weight", (dim,)
        yield f"{block}.norm3.bias", (dim,)
        yield from _linear(f"{block}.ffn.0", dim, ffn_dim)
        yield from _linear(f"{block}.ffn.2", ffn_dim, dim)
    yield "head.modulation", (1, 2, dim)
    yield from _linear("head.head", dim, 4 * _LATENT_CHANNELS)


def vae_shapes(dim: int = 8) -> Shapes:
    """Names and shapes of a Wan2.1 VAE whose widest level has 4 * ``dim`` channels."""
    widths = [dim, *(dim * multiplier for multiplier in _VAE_MULTIPLIERS)]
    latent, deepest = _LATENT_CHANNELS, widths[-1]
    yield from _conv("encoder.conv1", 3, dim, (3, 3, 3))
    slot = 0
    for level, (inside, outside) in enumerate(pairwise(widths)):
        for residual in range(_RESIDUALS_PER_LEVEL):
            yield from _residual(f"encoder.downsamples.{slot}", inside if residual == 0 else outside, outside)
            slot += 1
        if level < len(_VAE_TEMPORAL_DOWN):
            yield from _conv(f"encoder.downsamples.{slot}.resample.1", outside, outside, (3, 3))
            if _VAE_TEMPORAL_DOWN[level]:
                yield from _conv(f"encoder.downsamples.{slot}.time_conv", outside, outside, (3, 1, 1))
            slot += 1
    yield from _middle("encoder.middle", deepest)
    yield from _head("encoder.head", deepest, 2 * latent)
    yield from _conv("conv1", 2 * latent, 2 * latent, (1, 1, 1))
    yield from _conv("conv2", latent, latent, (1, 1, 1))
    yield from _conv("decoder.conv1", latent, deepest, (3, 3, 3))
    yield from _middle("decoder.middle", deepest)
    widths_up = [deepest, *(dim * multiplier for multiplier in reversed(_VAE_MULTIPLIERS))]
    slot = 0
    for level, (inside, outside) in enumerate(pairwise(widths_up)):
        first = inside if level == 0 else inside // 2  # the upsampling conv before it halved the channels
        for residual in range(_RESIDUALS_PER_LEVEL + 1):
            yield from _residual(f"decoder.upsamples.{slot}", first if residual == 0 else outside, outside)
            slot += 1
        if level < len(_VAE_TEMPORAL_DOWN):
            yield from _conv(f"decoder.upsamples.{slot}.resample.1", outside, outside // 2, (3, 3))
            if tuple(reversed(_VAE_TEMPORAL_DOWN))[level]:
                yield from _conv(f"decoder.upsamples.{slot}.time_conv", outside, 2 * outside, (3, 1, 1))
            slot += 1
    yield from _head("decoder.head", dim, 3)


def upscaler_shapes(scale: int) -> Shapes:
    """Of a Real-ESRGAN Compact network: it adds a correction to the nearest pixels."""
    yield from _flat_conv("body.0", 3, _PICTURE_CHANNELS)
    yield "body.1.weight", (_PICTURE_CHANNELS,)
    yield from _flat_conv("body.2", _PICTURE_CHANNELS, _PICTURE_CHANNELS)
    yield "body.3.weight", (_PICTURE_CHANNELS,)
    yield from _flat_conv("body.4", _PICTURE_CHANNELS, 3 * scale**2)


def interpolator_shapes() -> Shapes:
    """Of RIFE 4, five blocks."""
    yield from _flat_conv("encode.cnn0", 3, 16)
    yield from _flat_conv("encode.cnn1", 16, 16)
    yield from _flat_conv("encode.cnn2", 16, 16)
    yield from _turned("encode.cnn3", 16, _RIFE_HEAD)
    for block in range(5):
        name, given = f"blocks.{block}", 2 * _RIFE_HEAD + (20 if block else 7)
        yield from _flat_conv(f"{name}.conv0.0.0", given, _PICTURE_CHANNELS)
        yield from _flat_conv(f"{name}.conv0.1.0", _PICTURE_CHANNELS, 2 * _PICTURE_CHANNELS)
        for layer in range(8):
            yield from _flat_conv(f"{name}.convblock.{layer}.conv", 2 * _PICTURE_CHANNELS, 2 * _PICTURE_CHANNELS)
            yield f"{name}.convblock.{layer}.beta", (1, 2 * _PICTURE_CHANNELS, 1, 1)
        yield from _turned(f"{name}.lastconv.0", 2 * _PICTURE_CHANNELS, 4 * 13)


def random_weights(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Seeded float32 weights that keep activations near unit size: norms at 1, the rest scaled by fan-in."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes:
        if ("norm" in name and name.endswith("weight")) or name.endswith("gamma"):
            weights[name] = torch.ones(shape)
        elif len(shape) == 1 or "modulation" in name:
            weights[name] = torch.randn(shape, generator=generator) * 0.1
        else:
            weights[name] = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
    return weights


def write_wan(path: Path, causal: bool, seed: int = 0, heads: int = 2, layers: int = 2) -> Path:
    """A transformer file; ``causal`` adds the metadata by which the host picks its CausalWanModel."""
    metadata = {"config": json.dumps({"transformer": {"causal_ar": True}})} if causal else None
    return _write(path, random_weights(wan_shapes(heads, layers), seed), metadata)


def write_vae(path: Path, seed: int = 1, dim: int = 8) -> Path:
    """A VAE file; ``dim`` 96 is the real size."""
    return _write(path, random_weights(vae_shapes(dim), seed), None)


def write_upscaler(path: Path, scale: int = 2) -> Path:
    """Its picture differs from nearest pixels by a few levels."""
    weights = random_weights(upscaler_shapes(scale), seed=5)
    weights["body.4.weight"] *= 0.05
    weights["body.4.bias"] *= 0
    return _write(path, weights, None)


def write_interpolator(path: Path) -> Path:
    """RIFE's file."""
    return _write(path, random_weights(interpolator_shapes(), seed=6), None)


def write_all(models: Path) -> None:
    """The three files under a ComfyUI ``models`` folder, by the names at the top of this file."""
    write_wan(models / "diffusion_models" / WAN_FILE, causal=False)
    write_wan(models / "diffusion_models" / CAUSAL_WAN_FILE, causal=True)
    write_vae(models / "vae" / VAE_FILE)


def _write(path: Path, weights: dict[str, Tensor], metadata: dict[str, str] | None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, metadata)
    return path


def _linear(name: str, inside: int, outside: int) -> Shapes:
    yield f"{name}.weight", (outside, inside)
    yield f"{name}.bias", (outside,)


def _conv(name: str, inside: int, outside: int, kernel: tuple[int, ...]) -> Shapes:
    yield f"{name}.weight", (outside, inside, *kernel)
    yield f"{name}.bias", (outside,)


def _flat_conv(name: str, inside: int, outside: int) -> Shapes:
    yield from _conv(name, inside, outside, (3, 3))


def _turned(name: str, inside: int, outside: int) -> Shapes:
    yield f"{name}.weight", (inside, outside, 4, 4)
    yield f"{name}.bias", (outside,)


def _residual(name: str, inside: int, outside: int) -> Shapes:
    yield f"{name}.residual.0.gamma", (inside, 1, 1, 1)
    yield from _conv(f"{name}.residual.2", inside, outside, (3, 3, 3))
    yield f"{name}.residual.3.gamma", (outside, 1, 1, 1)
    yield from _conv(f"{name}.residual.6", outside, outside, (3, 3, 3))
    if inside != outside:
        yield from _conv(f"{name}.shortcut", inside, outside, (1, 1, 1))


def _middle(name: str, dim: int) -> Shapes:
    yield from _residual(f"{name}.0", dim, dim)
    yield f"{name}.1.norm.gamma", (dim, 1, 1)
    yield from _conv(f"{name}.1.to_qkv", dim, 3 * dim, (1, 1))
    yield from _conv(f"{name}.1.proj", dim, dim, (1, 1))
    yield from _residual(f"{name}.2", dim, dim)


def _head(name: str, inside: int, outside: int) -> Shapes:
    yield f"{name}.0.gamma", (inside, 1, 1, 1)
    yield from _conv(f"{name}.2", inside, outside, (3, 3, 3))
