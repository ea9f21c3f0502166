"""Layers of the Wan2.1 VAE. They see a clip in pieces, and what they need of the past lies in a `State`.

A layer keeps nothing itself, so one set of weights serves any number of clips and tiles at once.

x is (B, C, f, H, W) everywhere: f frames of the piece at hand.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..kv.attention import attention


@dataclass
class State:
    """What the layers remember of one clip between two pieces of it: as much for a long clip as for a short one."""

    past: dict[nn.Module, Tensor] = field(default_factory=dict)  # layer -> the last frames it saw
    first: bool = True  # the next piece begins with the clip's first frame

    @property
    def bytes(self) -> int:
        return sum(frames.nbytes for frames in self.past.values())

    def move(self, device: torch.device) -> None:
        self.past = {layer: frames.to(device) for layer, frames in self.past.items()}


class Streamed(nn.Module):
    """A layer that is called with (x, state) instead of x alone."""


class Chain(nn.ModuleList):
    """Layers one after another; those that are Streamed get the state."""

    def forward(self, x: Tensor, state: State) -> Tensor:
        for layer in self:
            x = layer(x, state) if isinstance(layer, Streamed) else layer(x)
        return x


class CausalConv3d(nn.Conv3d, Streamed):
    """A convolution that looks back in time only. Before the clip there are zeros."""

    def __init__(self, channels: int, out: int, kernel: tuple[int, int, int] = (3, 3, 3)) -> None:
        frames, height, width = kernel
        super().__init__(channels, out, kernel, padding=(0, height // 2, width // 2))
        self.keep = frames - 1

    def forward(self, x: Tensor, state: State) -> Tensor:  # type: ignore[override]
        if self.keep:
            past = state.past.get(self)
            x = F.pad(x, (0, 0, 0, 0, self.keep, 0)) if past is None else torch.cat([past, x], 2)
            state.past[self] = x[:, :, -self.keep :].clone()  # a slice would hold on to the whole piece
        return super().forward(x)


class RMSNorm(nn.Module):
    """Divides every position by the root mean square over its channels (dim 1), in float32; times gamma."""

    def __init__(self, channels: int, axes: int = 3) -> None:
        """axes: how many follow the channels, 3 in a clip and 2 in an image."""
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        scale = x.shape[1] ** 0.5 * self.gamma.float()
        return (F.normalize(x.float(), dim=1) * scale).to(x.dtype)


class ResidualBlock(Streamed):
    """Two 3x3x3 convolutions around a skip connection."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.residual = Chain(
            [
                *(RMSNorm(channels), nn.SiLU(), CausalConv3d(channels, out)),
                *(RMSNorm(out), nn.SiLU(), nn.Identity(), CausalConv3d(out, out)),  # training has a dropout here
            ]
        )
        self.shortcut = CausalConv3d(channels, out, (1, 1, 1)) if channels != out else None

    def forward(self, x: Tensor, state: State) -> Tensor:
        skip = x if self.shortcut is None else self.shortcut(x, state)
        return self.residual(x, state) + skip


class SpatialAttention(nn.Module):
    """Every frame attends to itself, in one head as wide as the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + per_frame(self._attend, x)

    def _attend(self, frames: Tensor) -> Tensor:
        parts = rearrange(self.to_qkv(self.norm(frames)), "n (part c) h w -> part n (h w) 1 c", part=3)
        q, k, v = parts.contiguous()  # fused kernels need adjacent channels, without them all scores are in memory
        out = rearrange(attention(q, k, v), "n (h w) 1 c -> n c h w", h=frames.shape[2])
        return self.proj(out)


class Upsample(Streamed):
    """Twice the height and width at half the channels, and with `time` two frames for one.

    The clip's first frame stays one frame, and the convolution in time starts behind it.
    """

    def __init__(self, channels: int, time: bool) -> None:
        super().__init__()
        enlarge = nn.Upsample(scale_factor=2.0, mode="nearest-exact")
        self.resample = nn.Sequential(enlarge, nn.Conv2d(channels, channels // 2, 3, padding=1))
        self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1, 1)) if time else None

    def forward(self, x: Tensor, state: State) -> Tensor:
        return per_frame(self.resample, x if self.time_conv is None else self._double(self.time_conv, x, state))

    @staticmethod
    def _double(time_conv: CausalConv3d, x: Tensor, state: State) -> Tensor:
        single = int(state.first)
        first, later = x[:, :, :single], x[:, :, single:]
        if not later.shape[2]:
            return first
        pairs = rearrange(time_conv(later, state), "b (pair c) f h w -> b c (f pair) h w", pair=2)
        return torch.cat([first, pairs], 2) if single else pairs


class Downsample(Streamed):
    """Half the height and width, and with `time` one frame for two: after the first piece, frames come in pairs.

    The clip's first frame passes as it is; every later output sees a pair and the frame before it.
    """

    def __init__(self, channels: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if time else None

    def forward(self, x: Tensor, state: State) -> Tensor:
        x = per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        seen = x if state.first else torch.cat([state.past[self], x], 2)
        state.past[self] = seen[:, :, -1:].clone()
        if seen.shape[2] == 1:
            return seen
        halved = self.time_conv(seen)
        return torch.cat([x[:, :, :1], halved], 2) if state.first else halved


def per_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies what takes images (n, C, H, W) to every frame of x."""
    frames = layer(rearrange(x, "b c f h w -> (b f) c h w"))
    return rearrange(frames, "(b f) c h w -> b c f h w", b=x.shape[0])
