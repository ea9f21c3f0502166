"""Pixels to look at while no VAE decodes: a tiny decoder where there is one, else colours by a linear map."""

from pathlib import Path
from typing import Any, Protocol

import folder_paths
import numpy as np
import torch
from torch import Tensor

from ...dummyforcing_core.errors import CheckpointError
from ...dummyforcing_core.vae.streaming import to_uint8
from ...dummyforcing_core.vae.tiny_vae import TinyStream
from ...dummyforcing_core.vae.tiny_vae_file import load_tiny_decoder

NAMES = ("taew2_1", "lighttaew2_1")
MAX_LATENTS = 90 * 160  # rows x columns; above 720P the tiny decoder's state would cost a gigabyte


class Preview(Protocol):
    """Turns every chunk of a run, in order, into pixels."""

    def __call__(self, latents: Tensor, frames: int) -> np.ndarray:
        """Latents (B, C, t, h, w) in the model's space -> about `frames` frames (f, H, W, 3) uint8 of item 0."""
        ...


def preview_for(latent_format: Any, height: int, width: int, device: torch.device) -> Preview:
    """The best preview for latents of this size."""
    path = _tiny_file()
    wan = type(latent_format).__name__ == "Wan21"
    if path is not None and wan and height * width <= MAX_LATENTS:
        try:
            return TinyPreview(path, device)
        except CheckpointError:
            pass  # a file of another model under this name: previews are no reason to stop a run
    return RoughPreview(latent_format)


class TinyPreview:
    """taew2_1 or lighttaew2_1 of models/vae_approx."""

    def __init__(self, path: Path, device: torch.device):
        self._stream = TinyStream(load_tiny_decoder(path, device))

    def __call__(self, latents: Tensor, frames: int) -> np.ndarray:
        return to_uint8(self._stream.push(latents[:1]))[0]


class RoughPreview:
    """The newest latent frame by the linear map of its latent format, 8x enlarged; still within a chunk."""

    def __init__(self, latent_format: Any):
        self._factors = getattr(latent_format, "latent_rgb_factors", None)
        self._bias = getattr(latent_format, "latent_rgb_factors_bias", None)

    def __call__(self, latents: Tensor, frames: int) -> np.ndarray:
        if self._factors is None:
            return np.empty((0, 2, 2, 3), np.uint8)
        rgb = torch.einsum("chw,cr->hwr", latents[0, :, -1].float().cpu(), torch.tensor(self._factors))
        if self._bias is not None:
            rgb = rgb + torch.tensor(self._bias)
        levels = ((rgb + 1) * 127.5).clamp(0, 255).to(torch.uint8).numpy()
        return np.repeat(levels.repeat(8, axis=0).repeat(8, axis=1)[None], frames, axis=0)


def _tiny_file() -> Path | None:
    for name in folder_paths.get_filename_list("vae_approx"):
        if name.startswith(NAMES):
            return Path(folder_paths.get_full_path_or_raise("vae_approx", name))
    return None
