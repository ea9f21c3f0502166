"""NaN and infinity in weights, found while they are loaded.

A clip need not show them: attention over few keys swallows a whole tensor of NaN. One pass over what is read anyway.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError

PIECE = 2**22  # numbers that are widened at a time, where a dtype cannot be searched as it is
DAMAGED = "the file is damaged: download it again and compare its size with the source's"


def is_finite(tensor: Tensor) -> bool:
    """Whether no number in it is NaN or infinite. Reads from the device; a tensor without data passes."""
    if tensor.is_meta or not tensor.numel() or not tensor.is_floating_point():
        return True
    flat = tensor.detach().reshape(-1)
    if tensor.dtype.itemsize == 1:  # float8: bfloat16 holds all of it
        return all(_is_finite(piece.to(torch.bfloat16)) for piece in flat.split(PIECE))
    return _is_finite(flat)


def beyond(tensor: Tensor, largest: float) -> str:
    """What numbers it holds that no sound file does, "NaN or infinity" or "numbers up to 1e+05"; "" if none."""
    if not is_finite(tensor):
        return "NaN or infinity"
    found = float(tensor.abs().max()) if tensor.numel() else 0.0
    return f"numbers up to {found:g}" if found > largest else ""


def _is_finite(flat: Tensor) -> bool:
    # The extremes are NaN if any number is. Thirty times faster than isfinite(), and without a mask as large as `flat`.
    return bool(torch.stack(torch.aminmax(flat)).isfinite().all())


def check_loaded(name: str, loaded: Tensor, stored: Tensor) -> None:
    """CheckpointError, which does not name the file, if `loaded`, made of a file's `stored`, is not finite."""
    if is_finite(loaded):
        return
    if is_finite(stored):
        raise CheckpointError(
            f"{name} holds numbers beyond {str(loaded.dtype).removeprefix('torch.')}; use another dtype (bf16 or fp32)"
        )
    raise CheckpointError(f"{name} holds NaN or infinity, finite weights were expected; {DAMAGED}")


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """CheckpointError, which does not name the file, for the first tensor that is not finite."""
    for name, tensor in tensors.items():
        check_loaded(name, tensor, tensor)
