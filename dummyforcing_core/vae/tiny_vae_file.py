"""Loads taew2_1 or lighttaew2_1; the two have the same tensors, so the file's name says which it is."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, shown
from ..models.finite import check_loaded
from ..models.names import listing
from ..models.tensor_check import mismatch
from ..models.weight_files import flat_names, open_container, read_weights
from .tiny_vae import TinyDecoder
from .wan_vae import LATENT_CHANNELS

NATIVE = (torch.bfloat16, torch.float16, torch.float32)
CONTAINERS = ("vae", "first_stage_model", "state_dict", "model")
FIX = "give taew2_1 (madebyollin/taehv) or lighttaew2_1 (lightx2v/Autoencoders)"
EXPECTED = "a tiny decoder for Wan2.1 was expected"
FIRST = "decoder.1.weight"  # carries the latent channels

_TINY = re.compile(r"(^|\.)decoder\.\d+\.conv\.0\.weight$")  # a full VAE's decoder has names in place of the number
_RAW = re.compile(r"light_?taew2[._]1")
_NORMALISED = re.compile(r"taew2[._]1")

# Latent channels of the other members of the family.
OTHERS = {24: "MiniMax H3", 32: "HunyuanVideo 1.5", 48: "Wan2.2 5B", 128: "LTX-2"}


def is_tiny_decoder(names: Iterable[str]) -> bool:
    """Whether a file with these tensor names is a tiny decoder, of whatever model, and not a full VAE."""
    return any(_TINY.search(name) for name in names)


def load_tiny_decoder(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    raw_latents: bool | None = None,
) -> TinyDecoder:
    """Loads a .pth, .pt or .safetensors file; the encoder in it is left alone.

    raw_latents: whether it was trained on the VAE's own latents, as lighttaew2_1 was, or on normalised ones, as taew2_1
    was. None asks the file's name: the tensors cannot tell, and neither can they tell HunyuanVideo's file of the same
    geometry. The wrong answer gives wrong colours.
    dtype None: float32 on the CPU; elsewhere as stored where that is bf16, fp16 or fp32, else bf16.
    Raises CheckpointError, one line.
    """
    path, device = Path(path), torch.device(device)
    try:
        tensors = _read(path)
        raw_latents = _takes_raw_latents(path) if raw_latents is None else raw_latents
        return _loaded(tensors, raw_latents, device, dtype)
    except CheckpointError as error:
        # One line whatever a tensor in the file is called.
        raise CheckpointError(f"{shown(path, 200)}: {' '.join(str(error).split())}") from error


def _loaded(
    tensors: dict[str, Tensor], raw_latents: bool, device: torch.device, dtype: torch.dtype | None
) -> TinyDecoder:
    """The decoder of a file's tensors; CheckpointError for NaN and infinity in them."""
    if dtype is None:
        stored = tensors[FIRST].dtype
        fallback = torch.bfloat16 if stored not in NATIVE else stored
        dtype = torch.float32 if device.type == "cpu" else fallback
    state = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
    for name, tensor in state.items():
        check_loaded(name, tensor, tensors[name])
    decoder = _empty(raw_latents)
    decoder.load_state_dict(state, assign=True)
    return decoder.requires_grad_(False).eval()


def _read(path: Path) -> dict[str, Tensor]:
    """The decoder's tensors in the file, checked."""
    tree, _ = read_weights(path)
    tensors, _ = open_container(tree, CONTAINERS)
    names = list(tensors) or flat_names(tree)
    if not is_tiny_decoder(tensors):
        raise CheckpointError(f"holds {listing(names) or 'no tensors'}, {EXPECTED} ({FIRST} and its like); {FIX}")
    first = tensors.get(FIRST)
    channels = first.shape[1] if first is not None and first.ndim == 4 else LATENT_CHANNELS
    if channels != LATENT_CHANNELS:
        kind = OTHERS.get(channels, "another model")
        raise CheckpointError(
            f"is a tiny decoder for {channels} latent channels ({kind}), "
            f"one for Wan2.1's {LATENT_CHANNELS} was expected; {FIX}"
        )
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder.")}
    _check(tensors)
    return tensors


def _takes_raw_latents(path: Path) -> bool:
    name = path.stem.lower()
    if _RAW.search(name):
        return True
    if _NORMALISED.search(name):
        return False
    raise CheckpointError(
        "its name must tell which tiny decoder it is, because the tensors of taew2_1, lighttaew2_1 and HunyuanVideo's "
        "taehv are alike; if it is one of the first two, rename it to taew2_1 or lighttaew2_1"
    )


def _empty(raw_latents: bool) -> TinyDecoder:
    """The modules on the meta device: names and shapes, no memory."""
    with torch.device("meta"):
        return TinyDecoder(raw_latents)


def _check(tensors: dict[str, Tensor]) -> None:
    expected = {name: tensor.shape for name, tensor in _empty(raw_latents=False).state_dict().items()}
    if found := mismatch(tensors, expected):
        raise CheckpointError(f"tensors {found}; a tiny decoder has {len(expected)}; {FIX}")
