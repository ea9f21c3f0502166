"""Opens a umt5 text encoder on disk: a Hugging Face folder, ComfyUI's single file, or Wan's own file.

All end at transformers' names and stay in their file, mapped. Formats: transformers (UMT5EncoderModel); ComfyUI 0.27
(QUANTIZATION.md, comfy/utils.py: fp8 with `.scale_weight`, or later `.weight_scale` and a stated format); the official
Wan2.1 release (wan/modules/t5.py).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, shown
from ..models.names import listing
from ..models.scaled_fp8 import FP8, is_scale, scale_of, stated_formats
from ..models.tensor_check import READABLE, in_one_line
from ..models.weight_files import flat_names, open_container, read_as, read_weights
from ..reading import parse_json, read_text
from .umt5_names import BIAS, BLOCK, EMBEDDING, EXPECTED, FIX, NORM, NUMBERED, transformers_names

CONTAINERS = ("text_encoder", "state_dict", "model")
SHARDS = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin")
BYTES = (torch.uint8, torch.int8)
GATE = "gated-gelu"
FREE = {"relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6}  # what no tensor tells, as umt5 has it


@dataclass(frozen=True)
class Umt5Geometry:
    """Sizes of an encoder. The last two can only be read in a config.json; every umt5 has these."""

    words: int
    dim: int
    head_dim: int
    ffn_dim: int
    heads: int
    buckets: int
    layers: int
    max_distance: int = 128
    eps: float = 1e-6


@dataclass(frozen=True, eq=False)
class Umt5File:
    """A checked encoder as it is stored.

    tensors -- transformers' names, each weight perhaps with a scale beside it
    formats -- module -> the float8 that its stated format says (ComfyUI may store it as plain bytes)
    spiece  -- the tokenizer that ComfyUI's files carry
    """

    geometry: Umt5Geometry
    tensors: Mapping[str, Tensor]
    formats: Mapping[str, torch.dtype]
    spiece: bytes | None

    def stored(self, module: str) -> tuple[Tensor, Tensor | None]:
        """A module's weight as stored, and the scale to multiply it with, if any."""
        weight = self.tensors[f"{module}.weight"]
        if weight.dtype == torch.uint8:
            weight = weight.view(self.formats[module])
        return weight, scale_of(self.tensors, module)


def open_umt5(path: str | Path) -> Umt5File:
    """Opens and checks an encoder; nothing is converted, a decoder beside it is passed over.

    Raises CheckpointError, one line, for a file that is missing, damaged, incomplete or quantised otherwise than to
    float8, and for other networks (T5 and mT5 are not umt5).
    """
    path = Path(path)
    try:
        return _open(path)
    except CheckpointError as error:
        # One line whatever a tensor in the file is called.
        raise CheckpointError(f"{shown(path, 200)}: {' '.join(str(error).split())}") from error


def _open(path: Path) -> Umt5File:
    folder = os.path.isdir(path)
    config = _config(path / "config.json") if folder else {}
    raw: dict[str, Tensor] = {}
    stated: dict[str, Any] = {}
    for file in _shards(path) if folder else [path]:
        tree, texts = _read(file)
        tensors, _ = open_container(tree, CONTAINERS)
        raw |= tensors or dict.fromkeys(flat_names(tree), torch.empty(0))
        stated |= stated_formats(tensors, texts)
    names = transformers_names([*raw, *(f"{module}.weight" for module in stated)])
    tensors = {name: raw[given] for given, name in names.items() if given in raw}
    weights = {names[f"{module}.weight"]: kind for module, kind in stated.items() if f"{module}.weight" in names}
    formats = {weight.removesuffix(".weight"): kind for weight, kind in weights.items()}
    spiece = next((tensor for name, tensor in raw.items() if name.rpartition(".")[2] == "spiece_model"), None)
    if spiece is not None and spiece.dtype not in BYTES:
        raise CheckpointError(f"its tokenizer is a tensor of {spiece.dtype}, bytes were expected; {FIX}")
    geometry = _geometry(tensors, config)
    _check(tensors, formats, geometry)
    return Umt5File(
        geometry,
        tensors,
        {module: FP8[kind] for module, kind in formats.items()},
        spiece.numpy().tobytes() if spiece is not None else None,
    )


def _config(path: Path) -> dict[str, Any]:
    """A folder's config.json."""
    try:
        config = parse_json(read_text(path, "file", CheckpointError))
        kind, gate = config.get("model_type"), config.get("feed_forward_proj", GATE)
    except (CheckpointError, ValueError, AttributeError) as error:
        raise CheckpointError(f"this folder's config.json cannot be read ({error}), {EXPECTED}; {FIX}") from error
    if (kind, gate) != ("umt5", GATE):
        said = f"{shown(repr(kind))} with {shown(repr(gate))}"
        raise CheckpointError(f"config.json says {said}, {EXPECTED} ('umt5' with {GATE!r}); {FIX}")
    return config


def _shards(folder: Path) -> list[Path]:
    found = next((files for pattern in SHARDS if (files := sorted(folder.glob(pattern)))), None)
    if found is None:
        raise CheckpointError(f"this folder holds no weights, one of {', '.join(SHARDS)} was expected; {FIX}")
    return found


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    if path.suffix.lower() != ".bin":
        return read_weights(path)
    try:
        return read_as(".pt", path)  # the same format under another name
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from error


def _geometry(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Umt5Geometry:
    layers = 1 + max((int(m[1]) for name in tensors if (m := NUMBERED.match(name))), default=-1)
    biased = sum(name.endswith(f"{BIAS}.weight") for name in tensors)
    if biased < layers:
        raise CheckpointError(
            f"{biased} of {layers} layers have a position bias: this is T5 or mT5 or incomplete, {EXPECTED}; {FIX}"
        )
    block = "encoder.block.0."
    modules = (EMBEDDING, block + BLOCK["attn.q"], block + BLOCK["ffn.fc1"], block + BIAS)
    sources = [f"{module}.weight" for module in modules]
    absent = [name for name in sources if name not in tensors]
    shapes = [tuple(tensors[name].shape) for name in sources if name not in absent]
    if absent or any(len(shape) != 2 or 0 in shape for shape in shapes):
        raise CheckpointError(f"misses {listing(absent or sources)} as a matrix, {EXPECTED}; {FIX}")
    (words, dim), (inner, _), (ffn_dim, _), (buckets, heads) = shapes
    found = {"d_model": dim, "d_kv": inner // heads, "d_ff": ffn_dim, "num_heads": heads, "num_layers": layers,
             "relative_attention_num_buckets": buckets}  # fmt: skip
    odd = [f"{key} {shown(config[key])} and {value}" for key, value in found.items() if config.get(key, value) != value]
    if odd:
        raise CheckpointError(f"config.json and tensors disagree on {', '.join(odd)}: download the folder again")
    distance, eps = (config.get(key, usual) for key, usual in FREE.items())
    if type(distance) is not int or not buckets // 4 < distance < 2**31 or type(eps) is not float or not 0 < eps < 1:
        raise CheckpointError(
            f"config.json says {shown(f'{distance!r} and {eps!r}')} for {' and '.join(FREE)}, {EXPECTED} (128 and "
            f"1e-06); {FIX}"
        )
    return Umt5Geometry(words, dim, inner // heads, ffn_dim, heads, buckets, layers, distance, eps)


def _shapes(g: Umt5Geometry) -> dict[str, tuple[int, ...]]:
    """Shape of every module's weight."""
    inner, norm = g.heads * g.head_dim, (g.dim,)
    sizes = dict(zip(BLOCK.values(), (
        norm, (inner, g.dim), (inner, g.dim), (inner, g.dim), (g.dim, inner), (g.buckets, g.heads),
        norm, (g.ffn_dim, g.dim), (g.ffn_dim, g.dim), (g.dim, g.ffn_dim),
    ), strict=True))  # fmt: skip
    blocks = {f"encoder.block.{i}.{module}": size for i in range(g.layers) for module, size in sizes.items()}
    return {EMBEDDING: (g.words, g.dim), **blocks, NORM: norm}


def _check(tensors: Mapping[str, Tensor], formats: Mapping[str, Any], geometry: Umt5Geometry) -> None:
    shapes = _shapes(geometry)
    there = {module: tensors[f"{module}.weight"] for module in shapes if f"{module}.weight" in tensors}
    scales = {module: scale_of(tensors, module) for module in shapes}
    findings = {
        "missing": [f"{module}.weight" for module in shapes if module not in there],
        "surplus": [name for name in tensors if name.rpartition(".")[0] not in shapes],
        "of a wrong shape": [
            f"{module}.weight {list(weight.shape)} instead of {list(shapes[module])}"
            for module, weight in there.items()
            if weight.shape != shapes[module]
        ],
        "in a format other than float8": [f"{module} ({kind})" for module, kind in formats.items() if kind not in FP8],
        "of an unusable dtype": [
            f"{module}.weight {weight.dtype}"
            for module, weight in there.items()
            if weight.dtype not in READABLE and not (weight.dtype == torch.uint8 and module in formats)
        ],
        "without one scale for all": [
            module
            for module, scale in scales.items()
            if (scale is None and module in formats) or (scale is not None and not is_scale(scale))
        ],
    }
    if found := in_one_line(findings):
        raise CheckpointError(f"tensors {found}; {EXPECTED}, whole, plain or scaled float8; {FIX}")
