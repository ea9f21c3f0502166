"""The host's Wan2.1 VAE chunk by chunk."""

from typing import Any

import comfy.ldm.wan.vae
import torch
from torch import Tensor

from ...dummyforcing_core.errors import OutputError
from ...dummyforcing_core.geometry import SPATIAL, TEMPORAL
from ...dummyforcing_core.models.wan_vae_tiles import Tile, tiles
from ...dummyforcing_core.streaming import StreamingDecoder


class HostWanStream(StreamingDecoder):
    """The host's Wan2.1 VAE with its feature cache kept between pushes.

    The host's decoder is exact when it gets one latent frame first and at least two in every later call, so a single
    frame is held back until the next push.
    """

    def __init__(self, vae: Any, tile: tuple[int, int] | None = None):
        self._vae, self._tile = vae, tile
        self.reset()

    def reset(self) -> None:
        self._held: Tensor | None = None
        self._nothing = torch.empty(1, 3, 0, 0, 0)
        self._started = False
        self._tiles: list[Tile] = []
        self._caches: list[list] = []

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """latents (B, 16, t, h, w) of a LATENT -> pixels (B, 3, f, 8h, 8w) float32 in [-1, 1]."""
        check_latents(latents, self._vae)
        self._nothing = no_frames(latents)
        if self._held is not None:
            latents = torch.cat([self._held, latents], dim=2)
            self._held = None
        out = []
        if not self._started and latents.shape[2]:
            out.append(self._decoded(latents[:, :, :1]))
            latents = latents[:, :, 1:]
        while latents.shape[2] >= 2:
            count = 3 if latents.shape[2] == 3 else 2
            out.append(self._decoded(latents[:, :, :count]))
            latents = latents[:, :, count:]
        self._held = latents if latents.shape[2] else None
        return torch.cat(out, dim=2) if out else self._nothing

    def flush(self) -> Tensor:
        """The frame that was held back, if any."""
        held, self._held = self._held, None
        return self._nothing if held is None else self._decoded(held)

    def _decoded(self, latents: Tensor) -> Tensor:
        vae = self._vae
        batch, _, count, height, width = latents.shape
        if not self._tiles:
            self._tiles = tiles(height, width, self._tile, SPATIAL, vae.device)
            layers = comfy.ldm.wan.vae.count_cache_layers(vae.first_stage_model.decoder)
            self._caches = [[None] * layers for _ in self._tiles]
        frames = TEMPORAL * count if self._started else 1
        z = vae.first_stage_model.conv2(latents.to(vae.device, vae.vae_dtype))
        pixels = torch.zeros(batch, 3, frames, SPATIAL * height, SPATIAL * width, device=vae.device)
        for tile, cache in zip(self._tiles, self._caches, strict=True):
            _move(cache, vae.device)
            part = vae.first_stage_model.decoder(tile.cut(z), feat_cache=cache, feat_idx=[0])
            part = torch.cat(part, dim=2) if isinstance(part, list) else part  # older hosts return a tensor
            tile.add(part[:, :3].float(), pixels, SPATIAL)
            if len(self._tiles) > 1:
                _move(cache, torch.device("cpu"))
        self._started = True
        return pixels.clamp_(-1, 1)


def _move(cache: list, device: torch.device) -> None:
    for index, entry in enumerate(cache):
        if isinstance(entry, Tensor):
            cache[index] = entry.to(device)


def check_latents(latents: Tensor, vae: Any) -> None:
    """OutputError unless these are a video's latents of this VAE."""
    if latents.ndim != 5 or latents.shape[1] != vae.latent_channels:
        raise OutputError(
            f"latents of shape {tuple(latents.shape)} came; this VAE decodes (batch, {vae.latent_channels}, "
            "frames, h, w): connect the VAE of the model"
        )


def no_frames(latents: Tensor) -> Tensor:
    """What latents (B, C, t, h, w) give before there is a pixel, (B, 3, 0, 8h, 8w)."""
    batch, _, _, height, width = latents.shape
    return torch.empty(batch, 3, 0, SPATIAL * height, SPATIAL * width, device=latents.device)
