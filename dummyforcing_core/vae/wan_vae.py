"""The Wan2.1 VAE: modules with the official tensor names, pixels to latents and back, a piece of the clip at a time.

Architecture: Wan2.1 (arXiv 2503.20314, section 4.1). Latents are the normalised ones the transformer works in:
(encoder's mean - LATENT_MEAN) / LATENT_STD per channel.

    state = State()
    for piece in latents.split(3, dim=2):               # (B, 16, t, h, w)
        pixels = vae.decode(piece, state)               # (B, 3, f, 8h, 8w), f = 4t, and 4t - 3 for the first piece
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import OutputError
from .wan_vae_blocks import CausalConv3d, Chain, Downsample, ResidualBlock, RMSNorm, SpatialAttention, State, Upsample

# Per channel, of the encoder's output over Wan2.1's training data.
LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
LATENT_CHANNELS = len(LATENT_MEAN)


@dataclass(frozen=True)
class WanVAEConfig:
    """Geometry: level i has dim * mult[i] channels, from full resolution down; time_halved[i] lies below level i."""

    dim: int = 96
    mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    time_halved: tuple[bool, ...] = (False, True, True)
    encoder: bool = True


class Encoder(nn.Module):
    """Pixels (B, 3, f, H, W) -> mean and log variance (B, 32, t, H/8, W/8)."""

    def __init__(self, c: WanVAEConfig) -> None:
        super().__init__()
        deepest = c.dim * c.mult[-1]
        self.conv1 = CausalConv3d(3, c.dim)
        self.downsamples = Chain(self._levels(c))
        self.middle = _middle(deepest)
        self.head = Chain([RMSNorm(deepest), nn.SiLU(), CausalConv3d(deepest, 2 * LATENT_CHANNELS)])

    @staticmethod
    def _levels(c: WanVAEConfig) -> Iterator[nn.Module]:
        width = c.dim
        for mult, halved in zip(c.mult, (*c.time_halved, None), strict=True):
            for _ in range(c.res_blocks):
                yield ResidualBlock(width, c.dim * mult)
                width = c.dim * mult
            if halved is not None:
                yield Downsample(width, time=halved)

    def forward(self, x: Tensor, state: State) -> Tensor:
        for layer in (self.conv1, self.downsamples, self.middle, self.head):
            x = layer(x, state)
        state.first = False
        return x


class Decoder(nn.Module):
    """Latents (B, 16, t, h, w) -> pixels (B, 3, f, 8h, 8w)."""

    def __init__(self, c: WanVAEConfig) -> None:
        super().__init__()
        deepest = c.dim * c.mult[-1]
        self.conv1 = CausalConv3d(LATENT_CHANNELS, deepest)
        self.middle = _middle(deepest)
        self.upsamples = Chain(self._levels(c))
        self.head = Chain([RMSNorm(c.dim * c.mult[0]), nn.SiLU(), CausalConv3d(c.dim * c.mult[0], 3)])

    @staticmethod
    def _levels(c: WanVAEConfig) -> Iterator[nn.Module]:
        width = c.dim * c.mult[-1]
        for mult, doubled in zip(c.mult[::-1], (*c.time_halved[::-1], None), strict=True):
            for _ in range(c.res_blocks + 1):
                yield ResidualBlock(width, c.dim * mult)
                width = c.dim * mult
            if doubled is not None:
                yield Upsample(width, time=doubled)
                width //= 2

    def forward(self, x: Tensor, state: State) -> Tensor:
        for layer in (self.conv1, self.middle, self.upsamples, self.head):
            x = layer(x, state)
        state.first = False
        return x


def _middle(width: int) -> Chain:
    return Chain([ResidualBlock(width, width), SpatialAttention(width), ResidualBlock(width, width)])


class WanVAE(nn.Module):
    """Encoder (where the file has one) and decoder; the pieces of a clip go through with one State in order."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        self.config = config
        both = 2 * LATENT_CHANNELS
        self.encoder = Encoder(config) if config.encoder else None
        self.conv1 = CausalConv3d(both, both, (1, 1, 1)) if config.encoder else None
        self.conv2 = CausalConv3d(LATENT_CHANNELS, LATENT_CHANNELS, (1, 1, 1))
        self.decoder = Decoder(config)

    def encode(self, pixels: Tensor, state: State) -> Tensor:
        """pixels (B, 3, f, H, W) in [-1, 1] -> normalised latents (B, 16, t, H/8, W/8) float32, the posterior's mean.

        f = 4(t-1) + 1 for the first piece of a clip, 4t for every later one.
        """
        if self.encoder is None or self.conv1 is None:
            raise OutputError(
                "this VAE has a decoder only, encoding pixels needs encoder.* and conv1.*; load the complete Wan2.1 VAE"
            )
        moments = self.conv1(self.encoder(pixels.to(self.conv2.weight), state), state)
        mean, std = _statistics(moments.device)
        return (moments.chunk(2, 1)[0].float() - mean) / std

    def decode(self, latents: Tensor, state: State) -> Tensor:
        """Normalised latents (B, 16, t, h, w) -> pixels (B, 3, f, 8h, 8w) float32, not clamped.

        f = 4(t-1) + 1 for the first piece of a clip, 4t for every later one.
        """
        weight = self.conv2.weight
        mean, std = _statistics(weight.device)
        z = (latents.to(weight.device, torch.float32) * std + mean).to(weight)
        return self.decoder(self.conv2(z, state), state).float()


def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents, (16, 1, 1, 1) float32 each."""
    mean, std = torch.tensor((LATENT_MEAN, LATENT_STD), device=device).reshape(2, LATENT_CHANNELS, 1, 1, 1)
    return mean, std
