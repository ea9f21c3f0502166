"""Checkpoints in GGUF as plain tensors, by the package gguf; read by `convert` only.

ComfyUI's GGUF files keep the official names; a tensor of more than four axes is stored flatter, its true shape in a
field "comfy.gguf.orig_shape.NAME" (city96/ComfyUI-GGUF, tools/convert.py).
"""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, shown
from ..reading import unreadable

SHAPE_FIELD = "comfy.gguf.orig_shape."


def read_gguf(path: Path) -> dict[str, Tensor]:
    """All tensors on the CPU: float32 where the file has it, bfloat16 for everything smaller.

    Raises CheckpointError for a file that cannot be read, and when the package is missing.
    """
    if why := unreadable(path):
        raise CheckpointError(why)
    try:
        library: Any = importlib.import_module("gguf")
    except ImportError as error:
        raise CheckpointError("GGUF needs the package gguf, which is not installed: pip install gguf") from error
    try:
        reader = library.GGUFReader(path)
        return {tensor.name: _plain(library, tensor, _shape(reader, tensor)) for tensor in reader.tensors}
    except Exception as error:  # a damaged file makes the parser raise almost anything
        reason = shown(str(error) or type(error).__name__, 120)
        raise CheckpointError(f"truncated, corrupt or not a .gguf file ({reason}); download it again") from error


def _shape(reader: Any, tensor: Any) -> list[int]:
    field = reader.get_field(f"{SHAPE_FIELD}{tensor.name}")
    if field is None:
        return [int(side) for side in reversed(tensor.shape)]
    return [int(field.parts[part][0]) for part in field.data]


def _plain(library: Any, tensor: Any, shape: list[int]) -> Tensor:
    values = torch.from_numpy(library.quants.dequantize(tensor.data, tensor.tensor_type).copy()).reshape(shape)
    return values if tensor.tensor_type == library.GGMLQuantizationType.F32 else values.bfloat16()
