"""A VAE of the host chunk by chunk: what its decoder remembers of a clip is kept between pushes."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ...dummyforcing_core.errors import OutputError
from ...dummyforcing_core.geometry import SPATIAL, TEMPORAL, pixel_frames
from ...dummyforcing_core.vae.streaming import StreamingDecoder
from ...dummyforcing_core.vae.wan_vae_tiles import Tile, tiles
from .cancel import cancellable

Memory = list[Any]
"""What a decoder keeps of a clip: tensors, and entries that are none yet."""


class TiledStream(StreamingDecoder):
    """Decodes with the host's own modules, in overlapping tiles of so many latent rows and columns if `tile` is given.

    Each tile has a memory of its own, which lies in main memory while the others are at work.
    """

    def __init__(self, vae: Any, tile: tuple[int, int] | None = None):
        self._vae, self._tile = vae, tile
        self.reset()

    def reset(self) -> None:
        self._started = False
        self._tiles: list[Tile] = []
        self._memories: list[Memory] = []
        self._nothing = torch.empty(1, 3, 0, 0, 0)

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """latents (B, 16, t, h, w) of a LATENT -> pixels (B, 3, f, 8h, 8w) float32 in [-1, 1]."""
        if latents.ndim != 5 or latents.shape[1] != self._vae.latent_channels:
            raise OutputError(
                f"expected latents (batch, {self._vae.latent_channels}, frames, h, w) for this VAE, got shape "
                f"{tuple(latents.shape)}; connect the VAE of the model"
            )
        self._nothing = no_frames(latents)
        with cancellable(self._vae.first_stage_model):
            pixels = [self._decoded(piece) for piece in self._pieces(latents)]
        return torch.cat(pixels, dim=2) if pixels else self._nothing

    def flush(self) -> Tensor:
        """What is still held back."""
        return self._nothing

    def _decoded(self, latents: Tensor) -> Tensor:
        vae = self._vae
        batch, _, count, height, width = latents.shape
        if not self._tiles:
            self._tiles = tiles(height, width, self._tile, SPATIAL, vae.device)
            self._memories = [self._new_memory() for _ in self._tiles]
        frames = TEMPORAL * count if self._started else pixel_frames(count)
        z = self._prepared(latents.to(vae.device, vae.vae_dtype))
        pixels = torch.zeros(batch, 3, frames, SPATIAL * height, SPATIAL * width, device=vae.device)
        for tile, memory in zip(self._tiles, self._memories, strict=True):
            _move(memory, vae.device)
            tile.add(self._part(tile.cut(z), memory), pixels, SPATIAL)
            if len(self._tiles) > 1:
                _move(memory, torch.device("cpu"))
        self._started = True
        return pixels.clamp_(-1, 1)

    @abstractmethod
    def _pieces(self, latents: Tensor) -> list[Tensor]:
        """The latents to decode now, in pieces as the decoder takes them."""

    @abstractmethod
    def _new_memory(self) -> Memory:
        """Of a tile, before its first piece."""

    @abstractmethod
    def _prepared(self, latents: Tensor) -> Tensor:
        """Latents (B, 16, t, h, w) as the decoder reads them."""

    @abstractmethod
    def _part(self, z: Tensor, memory: Memory) -> Tensor:
        """Pixels (B, 3, f, 8h, 8w) float32 of a tile; its memory goes on."""


def no_frames(latents: Tensor) -> Tensor:
    """What latents (B, C, t, h, w) give before there is a pixel, (B, 3, 0, 8h, 8w)."""
    batch, _, _, height, width = latents.shape
    return torch.empty(batch, 3, 0, SPATIAL * height, SPATIAL * width, device=latents.device)


def _move(memory: Memory, device: torch.device) -> None:
    for index, entry in enumerate(memory):
        if isinstance(entry, Tensor):
            memory[index] = entry.to(device)
