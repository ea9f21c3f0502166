"""The host's Wan2.1 VAE chunk by chunk."""

import comfy.ldm.wan.vae
import torch
from torch import Tensor

from .tiled_stream import Memory, TiledStream


class HostWanStream(TiledStream):
    """The host's Wan2.1 VAE with its feature cache kept between pushes.

    The host's decoder is exact when it gets one latent frame first and at least two in every later call, so a single
    frame is held back until the next push.
    """

    def reset(self) -> None:
        super().reset()
        self._held: Tensor | None = None

    @torch.no_grad()
    def flush(self) -> Tensor:
        """The frame that was held back, if any."""
        held, self._held = self._held, None
        return self._nothing if held is None else self._decoded(held)

    def _pieces(self, latents: Tensor) -> list[Tensor]:
        if self._held is not None:
            latents = torch.cat([self._held, latents], dim=2)
            self._held = None
        pieces = []
        if not self._started and latents.shape[2]:
            pieces.append(latents[:, :, :1])
            latents = latents[:, :, 1:]
        while latents.shape[2] >= 2:
            count = 3 if latents.shape[2] == 3 else 2
            pieces.append(latents[:, :, :count])
            latents = latents[:, :, count:]
        self._held = latents if latents.shape[2] else None
        return pieces

    def _new_memory(self) -> Memory:
        return [None] * comfy.ldm.wan.vae.count_cache_layers(self._vae.first_stage_model.decoder)

    def _prepared(self, latents: Tensor) -> Tensor:
        return self._vae.first_stage_model.conv2(latents)

    def _part(self, z: Tensor, memory: Memory) -> Tensor:
        parts = self._vae.first_stage_model.decoder(z, feat_cache=memory, feat_idx=[0])
        return torch.cat(parts, dim=2)[:, :3].float()
