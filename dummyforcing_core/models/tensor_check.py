"""Tensors of a file against those that a module has, before any is loaded."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .names import listing

READABLE = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)


def mismatch(tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> str:
    """What is missing, too much, of another shape or of a dtype that cannot be read, in one line; "" if all fits."""
    return in_one_line(
        {
            "missing": [name for name in expected if name not in tensors],
            "surplus": [name for name in tensors if name not in expected],
            "of a wrong shape": [
                f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
                for name, shape in expected.items()
                if name in tensors and tensors[name].shape != shape
            ],
            "of an unusable dtype (quantised?)": [
                f"{name} {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype not in READABLE
            ],
        }
    )


def in_one_line(findings: Mapping[str, list[str]]) -> str:
    """Kinds of findings and the names they hold for, in one line; kinds without a name are left out."""
    return "; ".join(f"{len(names)} {kind}: {listing(names)}" for kind, names in findings.items() if names)
