"""The host's tiny decoder for Wan2.1 (lighttaew2_1 of Load VAE) chunk by chunk."""

import comfy.taesd.taehv
import torch
from torch import Tensor

from .tiled_stream import Memory, TiledStream


class HostTinyStream(TiledStream):
    """The host's TAEHV, one latent frame at a time. What links them is the last input of every memory block.

    The same layers in the same order as the host's own decode, so the same pixels however the clip is cut; a latent
    frame becomes 4 pixel frames, of which the clip's first latent keeps the last.
    """

    def _pieces(self, latents: Tensor) -> list[Tensor]:
        return list(latents.split(1, dim=2)) if latents.shape[2] else []

    def _new_memory(self) -> Memory:
        return [None] * len(self._vae.first_stage_model.decoder)

    def _prepared(self, latents: Tensor) -> Tensor:
        return self._vae.first_stage_model.process_in(latents)

    def _part(self, z: Tensor, memory: Memory) -> Tensor:
        model, batch = self._vae.first_stage_model, z.shape[0]
        x = z[:, :, 0]
        for index, layer in enumerate(model.decoder):  # x is (B * f, C, h, w), the frames of a clip in a row
            if isinstance(layer, comfy.taesd.taehv.MemBlock):
                frames = x.unflatten(0, (batch, -1))
                last = torch.zeros_like(frames[:, 0]) if memory[index] is None else memory[index]
                before = torch.cat((last[:, None], frames[:, :-1]), dim=1).flatten(0, 1)
                memory[index] = frames[:, -1].clone()
                x = layer(x, before)
            else:
                x = layer(x)
        frames = x.unflatten(0, (batch, -1))[:, 0 if self._started else model.frames_to_trim :]
        return frames.movedim(2, 1).float().mul_(2).sub_(1)
