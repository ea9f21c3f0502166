"""The host's tiny decoders (taew2_1, lighttaew2_1 of Load VAE) chunk by chunk."""

from typing import Any

import comfy.taesd.taehv
import torch
from torch import Tensor

from ...dummyforcing_core.streaming import StreamingDecoder
from .wan_stream import check_latents, no_frames


class HostTinyStream(StreamingDecoder):
    """The host's TAEHV, one latent frame at a time. What links them is the last input of every memory block.

    The same layers in the same order as the host's own decode, so the same pixels however the clip is cut; a latent
    frame becomes 4 pixel frames, of which the clip's first latent keeps the last.
    """

    def __init__(self, vae: Any):
        self._vae = vae
        self.reset()

    def reset(self) -> None:
        self._past: dict[int, Tensor] = {}  # by layer: (B, C, h, w)
        self._nothing = torch.empty(1, 3, 0, 0, 0)

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """latents (B, 16, t, h, w) of a LATENT -> pixels (B, 3, f, 8h, 8w) float32 in [-1, 1]."""
        check_latents(latents, self._vae)
        self._nothing = no_frames(latents)
        pixels = [self._decoded(frame) for frame in latents.split(1, dim=2)] if latents.shape[2] else []
        return torch.cat(pixels, dim=2) if pixels else self._nothing

    def flush(self) -> Tensor:
        """What is still held back: nothing, pixels (B, 3, 0, 8h, 8w)."""
        return self._nothing

    def _decoded(self, latent: Tensor) -> Tensor:
        vae, model = self._vae, self._vae.first_stage_model
        batch, begins = latent.shape[0], not self._past
        x = model.process_in(latent.to(vae.device, vae.vae_dtype))[:, :, 0]
        for index, layer in enumerate(model.decoder):  # x is (B * f, C, h, w), the frames of a clip in a row
            if isinstance(layer, comfy.taesd.taehv.MemBlock):
                x = layer(x, self._before(index, x.unflatten(0, (batch, -1))))
            else:
                x = layer(x)
        frames = x.unflatten(0, (batch, -1))[:, model.frames_to_trim if begins else 0 :]
        return frames.movedim(2, 1).float().mul_(2).sub_(1).clamp_(-1, 1)

    def _before(self, index: int, x: Tensor) -> Tensor:
        """The frame before each of x (B, f, C, h, w), as (B * f, C, h, w); zeros before the clip."""
        past = self._past.get(index, torch.zeros_like(x[:, 0]))
        self._past[index] = x[:, -1].clone()
        return torch.cat((past[:, None], x[:, :-1]), dim=1).flatten(0, 1)
