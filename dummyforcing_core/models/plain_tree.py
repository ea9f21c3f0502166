"""What unpickling a .pt may bring beyond named dense tensors, refused before anything works on it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, shown

MOST_DEPTH = 8  # of dictionaries in dictionaries; training states have four
MOST_ENTRIES = 200_000  # optimizer states of 14B models have some thousands


def plain_tree(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """The same dictionaries under text keys, every tensor detached and dense.

    Raises CheckpointError for dictionaries nested too deep or without end, and for tensors that are sparse, quantised,
    without data or larger than their data (a repeated row costs nothing on disk and everything once it is copied).
    """
    return _Walk().copy(tree, "", 0)


class _Walk:
    """One copy; counts entries, since dictionaries that share others multiply."""

    def __init__(self) -> None:
        self._entries = 0

    def copy(self, tree: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
        self._entries += len(tree)
        if depth > MOST_DEPTH or self._entries > MOST_ENTRIES:
            raise CheckpointError(
                f"nests dictionaries deeper than {MOST_DEPTH} or holds more than {MOST_ENTRIES:,} entries, a model's "
                "state_dict() was expected; save that alone"
            )
        return {str(key): self._value(value, f"{path}{key}", depth) for key, value in tree.items()}

    def _value(self, value: Any, name: str, depth: int) -> Any:
        if isinstance(value, Mapping):
            return self.copy(value, f"{name}.", depth + 1)
        if not isinstance(value, Tensor):
            return value
        if odd := _oddity(value):
            raise CheckpointError(
                f"holds {shown(name)} as {odd}, dense tensors were expected; save it anew with .to_dense(), "
                ".dequantize() or .clone()"
            )
        return value.detach()


def _oddity(tensor: Tensor) -> str:
    """What keeps a tensor from being plain numbers in memory; "" if nothing does."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"a tensor of layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_quantized:
        return f"a quantised tensor ({str(tensor.dtype).removeprefix('torch.')})"
    if tensor.is_meta:
        return "a tensor without data"
    if tensor.is_conj() or tensor.is_neg():
        return "a view of complex numbers"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"{tensor.numel():,} elements that repeat fewer"
    return ""
