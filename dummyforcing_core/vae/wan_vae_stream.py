"""Whole clips through the Wan2.1 VAE in memory that does not grow with their length.

    decoder = WanVAEDecoder(vae)
    for latents in chunks:                        # (B, 16, t, h, w), any t
        show(decoder.push(latents))               # (B, 3, f, 8h, 8w) in [-1, 1]

    latents = encode(vae, pixels)                 # (B, 3, 4(T-1)+1, H, W) -> (B, 16, T, H/8, W/8)

Both take `tile=(rows, columns)` in latents: the frame is worked on in overlapping tiles that are blended. The
device then holds one tile at a time; a decoder keeps the state of the others in main memory. A tile does not see
beyond its edge, so the result differs a little from the untiled one; where one tile covers the frame it is the same.
"""

import torch
from torch import Tensor

from ..errors import OutputError
from ..geometry import SPATIAL, TEMPORAL, pixel_frames
from .streaming import StreamingDecoder
from .wan_vae import LATENT_CHANNELS, WanVAE
from .wan_vae_blocks import State
from .wan_vae_tiles import Tile, tiles

TileSize = tuple[int, int]


class WanVAEDecoder(StreamingDecoder):
    """Latents in, pixels out, nothing held back.

    The frames are decoded one by one, so the result does not depend on how the clip was cut, not even in the last
    bit. Between two of them every convolution's last two input frames stay in memory: `state_bytes`.
    """

    def __init__(self, vae: WanVAE, tile: TileSize | None = None, clamp: bool = True) -> None:
        """tile: rows and columns of a tile in latents; clamp: pixels to [-1, 1] (False: as the VAE gave them)."""
        self.vae = vae
        self.tile = tile
        self.clamp = clamp
        self.reset()

    def reset(self) -> None:
        self._size: tuple[int, ...] | None = None  # (B, h, w) of this clip
        self._tiles: list[Tile] = []
        self._states: list[State] = []  # of each tile

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, 16, t, h, w) -> pixels (B, 3, f, 8h, 8w) float32, f = 4t, and 4t - 3 at the start."""
        shape = tuple(latents.shape)
        size = shape[:1] + shape[3:]
        fits = len(shape) == 5 and shape[1] == LATENT_CHANNELS and 0 not in size
        if not fits or self._size not in (None, size):
            raise OutputError(
                f"the decoder got latents {shape}; this stream takes (B, {LATENT_CHANNELS}, t, h, w) "
                f"with (B, h, w) = {self._size or 'any'}: call reset() before another clip"
            )
        if self._size is None:
            _, height, width = size
            self._tiles = tiles(height, width, self.tile, SPATIAL, self.vae.conv2.weight.device)
            self._states = [State() for _ in self._tiles]
            self._size = size
        count = latents.shape[2]
        frames = pixel_frames(count) if self._states[0].first else TEMPORAL * count
        pixels = self._blank(frames)
        for tile, state in zip(self._tiles, self._states, strict=True):
            state.move(pixels.device)
            done = 0
            for frame in range(count):
                result = self.vae.decode(tile.cut(latents[:, :, frame : frame + 1]), state)
                tile.add(result, pixels[:, :, done : done + result.shape[2]], SPATIAL)
                done += result.shape[2]
            if len(self._tiles) > 1:
                state.move(torch.device("cpu"))
        return pixels.clamp_(-1, 1) if self.clamp else pixels

    def flush(self) -> Tensor:
        """What is still held back: nothing, pixels (B, 3, 0, 8h, 8w)."""
        return self._blank(0)

    @property
    def state_bytes(self) -> int:
        """What is kept of the clip until the next push; constant from the second latent frame on."""
        return sum(state.bytes for state in self._states)

    def _blank(self, frames: int) -> Tensor:
        batch, height, width = self._size or (1, 0, 0)
        device = self.vae.conv2.weight.device
        return torch.zeros(batch, 3, frames, SPATIAL * height, SPATIAL * width, device=device)


@torch.no_grad()
def encode(vae: WanVAE, pixels: Tensor, tile: TileSize | None = None) -> Tensor:
    """pixels (B, 3, 4(T-1)+1, H, W) in [-1, 1], on any device -> normalised latents (B, 16, T, H/8, W/8) float32."""
    _check(pixels)
    batch, _, frames, height, width = pixels.shape
    count, rows, cols = (frames - 1) // TEMPORAL + 1, height // SPATIAL, width // SPATIAL
    latents = torch.zeros(batch, LATENT_CHANNELS, count, rows, cols, device=vae.conv2.weight.device)
    for part in tiles(rows, cols, tile, 1, latents.device):
        state = State()
        pieces = part.cut(pixels, SPATIAL).split([1] + [TEMPORAL] * (count - 1), dim=2)
        for latent, piece in zip(latents.split(1, dim=2), pieces, strict=True):
            part.add(vae.encode(piece, state), latent)
    return latents


def _check(pixels: Tensor) -> None:
    shape = tuple(pixels.shape)
    fits = len(shape) == 5 and shape[1] == 3 and shape[2] % TEMPORAL == 1 and not any(n % SPATIAL for n in shape[3:])
    if not fits or 0 in shape:
        raise OutputError(
            f"the encoder got pixels {shape}; it takes (B, 3, frames, H, W) with {TEMPORAL}(T-1)+1 frames "
            f"and sides that are multiples of {SPATIAL}: cut or pad the clip"
        )
