"""Weights that ComfyUI holds, whoever loaded them: searched for NaN once for every model and set of patches on it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ...dummyforcing_core.errors import CheckpointError
from ...dummyforcing_core.models.finite import check_loaded, is_finite

_searched: "WeakKeyDictionary[Any, Any]" = WeakKeyDictionary()  # a model's modules -> the patches they were seen with


def check_weights(patcher: Any, network: Any, title: str) -> None:
    """CheckpointError if the modules `network` of a patcher, or a patch on them, hold NaN or infinity.

    What stands for a network and is no module is left alone.
    """
    if not isinstance(network, nn.Module):
        return
    if _searched.get(network) == patcher.patches_uuid:
        return
    for key, patches in getattr(patcher, "patches", {}).items():
        if not all(map(is_finite, _tensors(patches))):
            raise CheckpointError(
                f"a LoRA on {title} holds NaN or infinity for {key.removeprefix('diffusion_model.')}; get that file "
                "again, or take it out"
            )
    try:
        for name, tensor in network.named_parameters():
            check_loaded(name, tensor, tensor)
    except CheckpointError as error:
        raise CheckpointError(f"{title}: {error}") from error
    _searched[network] = patcher.patches_uuid


def title_of(model: Any) -> str:
    """The file of a MODEL, where its loader has noted it."""
    arguments = (getattr(model, "cached_patcher_init", None) or (None, ()))[1]
    return Path(arguments[0]).name if arguments and isinstance(arguments[0], str) else "this MODEL"


def _tensors(tree: Any) -> Iterator[Tensor]:
    """All that a MODEL's patches hold: tuples, with the host's adapters in them."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for part in tree:
            yield from _tensors(part)
    elif hasattr(tree, "weights"):
        yield from _tensors(tree.weights)
