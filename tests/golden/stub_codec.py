"""The VAE that K and L were recorded with: a made-up one, exact and without memory of the frames before.

A latent z of one cell is 8x8 pixels in 3 colours, 192 values. In its last pixel frame the first 16 (order: colour, row,
column) are z / 32, clamped to -1..1. The frames before it hold other things, so that taking the wrong one is noticed.
"""

import torch
from torch import Tensor

from dummyforcing_core.geometry import SPATIAL
from dummyforcing_core.loops.table import loop_of
from dummyforcing_core.models.families import Family
from dummyforcing_core.vae.still_frame import DecodedStills
from dummyforcing_core.vae.streaming import StreamingDecoder

SCALE = 32.0
COLOURS = 3


def codec_stills(family: Family) -> DecodedStills:
    """Still frames as the family's loop asks for them."""
    return DecodedStills(CodecDecoder(), encoded, loop_of(family).still_frames(family))


class CodecDecoder(StreamingDecoder):
    """One pixel frame for the first latent, four for every later one."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._first = True

    def push(self, latents: Tensor) -> Tensor:
        frames: list[Tensor] = []
        for latent in latents.split(1, dim=2):
            last = last_pixels(latent)
            if not self._first:
                frames += [last * 0.25, last * 0.5 - 0.1, last.flip(-1) * 0.75]
            frames.append(last)
            self._first = False
        return torch.cat(frames, dim=2)

    def flush(self) -> Tensor:
        return torch.empty(1, COLOURS, 0, 0, 0)


def last_pixels(latent: Tensor) -> Tensor:
    """The last pixel frame (B, 3, 1, 8h, 8w) of one latent frame (B, 16, 1, h, w)."""
    batch, channels, _, height, width = latent.shape
    cells = latent.new_zeros(batch, COLOURS * SPATIAL**2, height, width)
    cells[:, :channels] = (latent[:, :, 0] / SCALE).clamp(-1, 1)
    cells = cells.view(batch, COLOURS, SPATIAL, SPATIAL, height, width)
    return cells.permute(0, 1, 4, 2, 5, 3).reshape(batch, COLOURS, 1, height * SPATIAL, width * SPATIAL)


def encoded(pixels: Tensor) -> Tensor:
    """A still (B, 3, 1, H, W) as a latent (B, 16, 1, h, w): not quite what it was decoded from."""
    batch, _, _, height, width = pixels.shape
    rows, cols = height // SPATIAL, width // SPATIAL
    cells = pixels.view(batch, COLOURS, rows, SPATIAL, cols, SPATIAL).permute(0, 1, 3, 5, 2, 4)
    latent = cells.reshape(batch, COLOURS * SPATIAL**2, rows, cols)[:, :16] * SCALE
    return latent[:, :, None] * 0.9 + 0.05
