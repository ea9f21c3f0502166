"""Loads the Wan2.1 VAE from its official file, ComfyUI's, or the VAE inside an all-in-one file."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, shown
from ..models.finite import check_loaded
from ..models.names import Refusal, listing
from ..models.tensor_check import mismatch
from ..models.weight_files import flat_names, open_container, read_weights
from .wan_vae import LATENT_CHANNELS, WanVAE, WanVAEConfig

NATIVE = (torch.bfloat16, torch.float16, torch.float32)
CONTAINERS = ("vae", "first_stage_model", "state_dict", "model")
FIX = "give Wan2.1_VAE.pth, or ComfyUI's wan_2.1_vae.safetensors"
EXPECTED = "the VAE of Wan2.1 was expected"

# The tensors that carry the geometry: name -> their axes.
AXES = {"conv2.weight": 5, "decoder.head.0.gamma": 4}

REFUSED = (
    Refusal(
        re.compile(r"(^|\.)decoder\.upsamples\.\d+\.upsamples\."),
        f"this is Wan2.2's VAE (48 channels, 16 pixels a latent), {EXPECTED} (16 channels, 8 pixels): its latents "
        "mean nothing to a Wan2.1 model",
    ),
    Refusal(
        re.compile(r"(^|\.)(encoder\.conv_in|decoder\.conv_in|(post_)?quant_conv|decoder\.up_blocks\.\d+)\."),
        f"this VAE has diffusers' or another model's names, {EXPECTED} under its official names",
    ),
    Refusal(
        re.compile(r"(^|\.)(decoder\.\d+|taesd_decoder\.\d+)\."),
        f"this is a tiny preview decoder (taew2_1 or of that kind), {EXPECTED}",
    ),
    Refusal(
        re.compile(r"(^|\.)blocks\.\d+\.(self_attn|attn1)\."),
        f"this is a transformer without a VAE, {EXPECTED}",
    ),
)


def load_wan_vae(path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> WanVAE:
    """Loads a .pth or .safetensors file; geometry is read off its tensors, a file without encoder decodes only.

    dtype None keeps bf16, fp16 and fp32 as stored; other storage (fp8, fp64) becomes fp32 on the CPU, else bf16.
    Norms run in float32 in any case. Raises CheckpointError, one line.
    """
    path = Path(path)
    try:
        return _loaded(_read(path), torch.device(device), dtype)
    except CheckpointError as error:
        # One line whatever a tensor in the file is called.
        raise CheckpointError(f"{shown(path, 200)}: {' '.join(str(error).split())}") from error


def _loaded(tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype | None) -> WanVAE:
    """The VAE of a file's tensors; CheckpointError for NaN and infinity in them."""
    if dtype is None:
        stored = tensors["decoder.conv1.weight"].dtype
        fallback = torch.float32 if device.type == "cpu" else torch.bfloat16
        dtype = stored if stored in NATIVE else fallback
    vae = _empty(_config(tensors))
    state = {name: tensors[name].to(device, dtype) for name in vae.state_dict()}
    for name, tensor in state.items():
        check_loaded(name, tensor, tensors[name])
    vae.load_state_dict(state, assign=True)
    return vae.requires_grad_(False).eval()


def _read(path: Path) -> dict[str, Tensor]:
    """The file's tensors under official names, checked."""
    tree, _ = read_weights(path)
    tensors, _ = open_container(tree, CONTAINERS)
    names = list(tensors) or flat_names(tree)
    for pattern, message in REFUSED:
        hit = next((name for name in names if pattern.search(name)), None)
        if hit is not None:
            raise CheckpointError(f"{message} (found {hit}); {FIX}")
    if not any(name in tensors for name in AXES):
        raise CheckpointError(
            f"holds {listing(names) or 'no tensors'}, {EXPECTED} ({listing(AXES)} and its like); {FIX}"
        )
    _check(tensors, {name: tensor.shape for name, tensor in _empty(_config(tensors)).state_dict().items()})
    return tensors


def _config(tensors: Mapping[str, Tensor]) -> WanVAEConfig:
    absent = [name for name, axes in AXES.items() if name not in tensors or tensors[name].ndim != axes]
    if absent:
        raise CheckpointError(f"misses {listing(absent)} or has it in another shape, {EXPECTED}; {FIX}")
    channels, dim = (tensors[name].shape[0] for name in AXES)
    if channels != LATENT_CHANNELS or not dim:
        wan22 = " (Wan2.2's VAE, whose latents mean nothing to a Wan2.1 model)" if channels == 48 else ""
        raise CheckpointError(
            f"is a VAE of {channels} latent channels and {dim} pixel features{wan22}, {EXPECTED} "
            f"({LATENT_CHANNELS} channels, 96 features); {FIX}"
        )
    return WanVAEConfig(dim=dim, encoder=any(name.startswith(("encoder.", "conv1.")) for name in tensors))


def _empty(config: WanVAEConfig) -> WanVAE:
    """The modules on the meta device: names and shapes, no memory."""
    with torch.device("meta"):
        return WanVAE(config)


def _check(tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    if found := mismatch(tensors, expected):
        raise CheckpointError(f"tensors {found}; {len(expected)} were expected by its geometry; {FIX}")
