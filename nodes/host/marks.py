"""What a MODEL and a VAE are made of, as marks that a take keeps: equal for equal weights and patches."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .settings import KEY, settings_of

SAMPLES = 16  # values of a tensor that are looked at
ENDS = 2**20  # bytes of a file's two ends that are


def model_mark(model: Any) -> str:
    """Of the checkpoint: what our loader found of its weights, else its file's size and ends; "" without either."""
    if own := settings_of(model).fingerprint:
        return own
    arguments = (getattr(model, "cached_patcher_init", None) or (None, ()))[1]
    path = Path(str(arguments[0])) if arguments and isinstance(arguments[0], str) else None
    return _file_mark(path) if path is not None and path.is_file() else ""


def patch_mark(model: Any) -> str:
    """Of LoRA and other patches of weights, with their strengths; "" if there are none."""
    tensors = {name: patch for name, patch in model.object_patches.items() if isinstance(patch, Tensor)}
    patches = {**model.patches, **tensors}
    if not patches:
        return ""
    digest = hashlib.sha256()
    for name in sorted(patches, key=str):
        digest.update(str(name).encode())
        for part in _parts(patches[name]):
            digest.update(part)
    return digest.hexdigest()[:16]


def weights_mark(network: torch.nn.Module) -> str:
    """Of a network that no patches change, such as a VAE."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + _sample(tensor))
    return digest.hexdigest()[:16]


def unchecked(model: Any) -> list[str]:
    """What other nodes have put on a MODEL and no mark can tell from its like, by name."""
    options = model.model_options
    inner = options.get("transformer_options", {})
    found = [name for name, patch in model.object_patches.items() if not isinstance(patch, Tensor)]
    found += [*inner.get("patches", {}), *inner.get("patches_replace", {}), *getattr(model, "injections", {})]
    found += [name for kinds in getattr(model, "wrappers", {}).values() for name, held in kinds.items() if held]
    found += [name for name in ("optimized_attention_override",) if inner.get(name)]
    found += [name for name in ("model_function_wrapper",) if options.get(name)]
    found += ["hooks"] if getattr(model, "hook_patches", None) else []
    found += [] if model_mark(model) else ["the checkpoint"]
    return sorted({str(name) for name in found if name not in (KEY, None)})


def _file_mark(path: Path) -> str:
    with path.open("rb") as file:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode() + file.read(ENDS))
        file.seek(max(size - ENDS, 0))
        digest.update(file.read(ENDS))
    return digest.hexdigest()[:16]


def _parts(tree: Any) -> Iterator[bytes]:
    """All that a patch holds, in order: numbers, words, a few values of every tensor, the host's adapters."""
    if isinstance(tree, Tensor):
        yield _sample(tree)
    elif isinstance(tree, list | tuple):
        yield str(len(tree)).encode()
        for part in tree:
            yield from _parts(part)
    elif hasattr(tree, "weights"):
        yield type(tree).__name__.encode()
        yield from _parts(tree.weights)
    elif isinstance(tree, str | int | float | None):
        yield repr(tree).encode()
    else:
        yield type(tree).__name__.encode()


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    few = flat[:: max(len(flat) // SAMPLES, 1)][:SAMPLES]
    return str((tuple(tensor.shape), tensor.dtype)).encode() + few.float().cpu().numpy().tobytes()
