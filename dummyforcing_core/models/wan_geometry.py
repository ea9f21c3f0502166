"""Reads the geometry of a Wan2.1 transformer off its tensors and checks them against it."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError
from .families import Family
from .metadata import Stated
from .names import listing
from .tensor_check import mismatch
from .wan import WanConfig

HEAD_DIM = 128
CHANNELS, PATCH = 16, (1, 2, 2)
FIX = "get the complete file of one Wan2.1 autoregressive text-to-video checkpoint"
SIZES = {(1536, 8960, 12, 30): "1.3B", (5120, 13824, 40, 40): "14B"}  # dim, ffn_dim, heads, layers
_LAYER = re.compile(r"blocks\.(\d{1,6})\.")

# The tensors that carry the geometry: name -> their axes.
AXES = {
    "patch_embedding.weight": 5,
    "text_embedding.0.weight": 2,
    "time_embedding.0.weight": 2,
    "blocks.0.ffn.0.weight": 2,
    "head.head.weight": 2,
}


def geometry(tensors: Mapping[str, Tensor], stated: Stated | None = None) -> WanConfig:
    """Reads a WanConfig off official tensors; heads are dim // 128 unless the metadata states them.

    Raises CheckpointError for missing tensors or layers, other architectures of the same names (Wan2.2 5B, extra
    conditioning channels) and metadata that the tensors contradict.
    """
    absent = [name for name in AXES if name not in tensors]
    if absent:
        raise CheckpointError(f"misses {listing(absent)}, which every Wan2.1 checkpoint has; {FIX}")
    shapes = {name: tuple(tensors[name].shape) for name in AXES}
    odd = [
        f"{name} of shape {list(shapes[name])} instead of {axes} axes"
        for name, axes in AXES.items()
        if len(shapes[name]) != axes or 0 in shapes[name]
    ]
    if odd:
        raise CheckpointError(f"holds {listing(odd)}; {FIX}")
    dim, in_dim, *patch = shapes["patch_embedding.weight"]
    (_, text_dim), (_, freq_dim) = shapes["text_embedding.0.weight"], shapes["time_embedding.0.weight"]
    out_dim = shapes["head.head.weight"][0] // math.prod(patch)
    read = {
        "dim": dim,
        "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
        "num_layers": _layers(tensors),
        "text_dim": text_dim,
        "freq_dim": freq_dim,
        "in_dim": in_dim,
        "out_dim": out_dim,
        "patch_size": tuple(patch),
    }
    said = dict(stated.geometry) if stated else {}
    wrong = [
        f"{name} {said[name]} (tensors: {read[name]})" for name in read if said.get(name, read[name]) != read[name]
    ]
    if wrong:
        raise CheckpointError(f"metadata states {listing(wrong)}; write the file anew with the convert command")
    _refuse_channels(in_dim, out_dim, dim)
    _refuse_other_sizes(in_dim, tuple(patch), freq_dim)
    heads = said.get("num_heads", dim // HEAD_DIM)
    if not heads or dim % heads or dim // heads % 2 or ("num_heads" not in said and dim % HEAD_DIM):
        raise CheckpointError(
            f"dim {dim} does not split into {heads or 'any'} heads of an even size, Wan2.1 has heads of {HEAD_DIM}; "
            "a model of other heads needs num_heads in its metadata (save_model writes it)"
        )
    return WanConfig(**{**said, **read, "num_heads": heads})


def size_of(config: WanConfig) -> str | None:
    """Which Wan2.1 has this geometry, "1.3B" or "14B"; None: neither."""
    return SIZES.get((config.dim, config.ffn_dim, config.num_heads, config.num_layers))


def size_mismatch(config: WanConfig, family: Family) -> str:
    """A line about a file that is of another size than its family's checkpoints are; "" if it is not."""
    size = size_of(config)
    if size in (None, family.size):
        return ""
    return f"the file is a Wan2.1 {size}, which {family.title} is not: unless it was trained so, pick its own family"


def _layers(tensors: Mapping[str, Tensor]) -> int:
    layers = {int(match[1]) for match in map(_LAYER.match, tensors) if match}
    count = max(layers) + 1
    if len(layers) != count:
        gap = next(layer for layer in range(count) if layer not in layers)
        raise CheckpointError(f"misses {count - len(layers)} of {count} layers, the first is blocks.{gap}; {FIX}")
    return count


def _refuse_channels(in_dim: int, out_dim: int, dim: int) -> None:
    if 48 in (in_dim, out_dim):
        raise CheckpointError(
            f"has Wan2.2 5B's latents (48 channels, dim {dim}), as LongLive 2.0 does; 16 channels of Wan2.1 were "
            "expected, another VAE and another compression; use a Wan2.1 checkpoint such as Self-Forcing or LongLive 1"
        )
    if in_dim != out_dim:
        raise CheckpointError(
            f"takes {in_dim} channels and gives {out_dim}: an image-to-video or control model; as many in as out were "
            "expected of an autoregressive text-to-video checkpoint; give one such as Self-Forcing's"
        )


def _refuse_other_sizes(channels: int, patch: tuple[int, ...], freq_dim: int) -> None:
    """What this engine, its codecs and loops, cannot run."""
    if channels != CHANNELS or patch != PATCH or freq_dim % 2:
        raise CheckpointError(
            f"takes latents of {channels} channels in patches of {patch}, with times of {freq_dim} frequencies; "
            f"{CHANNELS} channels in patches of {PATCH} and an even number were expected of Wan2.1; {FIX}"
        )


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    """Raises CheckpointError unless every expected tensor is there, no other, in its shape and a readable dtype."""
    if found := mismatch(tensors, expected):
        raise CheckpointError(f"tensors {found}; {len(expected)} were expected by its geometry; {FIX}")
