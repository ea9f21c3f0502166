"""Overlapping tiles of a frame: where they lie, and how their results are blended into one.

Along each axis a tile's share falls linearly to zero over the overlap; the shares of all tiles sum to one everywhere.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ..errors import OutputError

MIN_TILE = 4  # latent rows or columns; smaller tiles are all edge


@dataclass(frozen=True)
class Strip:
    """One tile along one axis: latents [start, stop), and its share of every output sample there."""

    start: int
    stop: int
    share: Tensor  # ((stop - start) * scale,) float32


@dataclass(frozen=True)
class Tile:
    """A rectangle of the frame."""

    rows: Strip
    cols: Strip

    def cut(self, frames: Tensor, scale: int = 1) -> Tensor:
        """This tile of frames (..., H, W) that have `scale` samples per latent."""
        return frames[..., _samples(self.rows, scale), _samples(self.cols, scale)]

    def add(self, result: Tensor, whole: Tensor, scale: int = 1) -> None:
        """Adds this tile's share of its result to the whole frames (..., H, W)."""
        share = self.rows.share[:, None] * self.cols.share
        self.cut(whole, scale).add_(result * share)


def tiles(height: int, width: int, size: tuple[int, int] | None, scale: int, device: torch.device) -> list[Tile]:
    """Tiles of at most `size` (rows, columns) that cover height x width, all in latents; None: one tile.

    scale: output samples per latent (8 when decoding, 1 when encoding); device: of the result.
    """
    if size is not None and (len(size) != 2 or min(size) < MIN_TILE):
        raise OutputError(
            f"expected tiles of (rows, columns), at least {MIN_TILE} latents each (8 pixels a latent), got {size}; "
            "32 or more look best"
        )
    rows, cols = size or (height, width)
    return [
        Tile(*strips) for strips in product(_strips(height, rows, scale, device), _strips(width, cols, scale, device))
    ]


def _strips(size: int, tile: int, scale: int, device: torch.device) -> list[Strip]:
    tile = min(tile, size)
    overlap = max(tile // 4, 1)
    count = -(-(size - overlap) // (tile - overlap)) if tile < size else 1
    starts = [i * (size - tile) // max(count - 1, 1) for i in range(count)]
    shares = torch.zeros(count, size * scale)
    rising = (torch.arange(tile * scale) + 0.5) / (overlap * scale)
    for share, start in zip(shares, starts, strict=True):
        ramp = torch.ones(tile * scale)
        if start > 0:
            ramp = torch.minimum(ramp, rising)
        if start + tile < size:
            ramp = torch.minimum(ramp, rising.flip(0))
        share[start * scale : (start + tile) * scale] = ramp
    shares /= shares.sum(0)
    return [
        Strip(start, start + tile, share[start * scale : (start + tile) * scale].to(device))
        for share, start in zip(shares, starts, strict=True)
    ]


def _samples(strip: Strip, scale: int) -> slice:
    return slice(strip.start * scale, strip.stop * scale)
