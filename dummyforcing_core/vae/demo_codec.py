"""The demo model's codec: 8x in space, 4x in time, causal, small.

    codec = DemoCodec()
    latents = codec.encode(pixels)        # (B, 3, 4(T-1)+1, H, W) -> (B, 16, T, H/8, W/8)
    decoder = codec.decoder_stream()
    pixels = decoder.push(latents)        # any split along T gives the same pixels

The encoder is a fixed linear projection of each patch of 4 frames x 8 x 8 pixels (its principal
components). The decoder is a small convolutional net that remembers: its blocks mix what they see with what they saw
one frame before, first per latent frame, then per pixel frame, so that motion goes on evenly where latents meet.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OutputError

LATENT_CHANNELS = 16
PATCH_PX = 8
PATCH_FRAMES = 4
PATCH_SIZE = 3 * PATCH_FRAMES * PATCH_PX * PATCH_PX


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class MemoryBlock(nn.Module):
    """A residual block over frames that sees the frame before each as well (after the tiny decoders' memory blocks)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (B, f, C, h, w), past: the frame before them, (B, 1, C, h, w) or None; the result and the next past."""
        before = torch.cat([torch.zeros_like(x[:, :1]) if past is None else past, x[:, :-1]], 1)
        seen = torch.cat([x, before], 2).flatten(0, 1)
        change = self.conv2(F.silu(self.conv1(F.silu(seen))))
        return x + change.unflatten(0, x.shape[:2]), x[:, -1:]


class Decoder(nn.Module):
    """Latent frames to pixel frames, four each; `memory` holds what each memory block saw last."""

    def __init__(self, width: int = 96, fine_width: int = 32, fine_blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(LATENT_CHANNELS, width, 3, padding=1)
        self.coarse = MemoryBlock(width)
        self.mix = nn.Sequential(ResidualBlock(width), ResidualBlock(width))
        self.spread = nn.Sequential(nn.SiLU(), nn.Conv2d(width, PATCH_FRAMES * 4 * fine_width, 1), nn.PixelShuffle(2))
        self.fine = nn.ModuleList(MemoryBlock(fine_width) for _ in range(fine_blocks))
        self.paint = nn.Sequential(nn.SiLU(), nn.Conv2d(fine_width, 16 * 3, 3, padding=1), nn.PixelShuffle(4))

    def forward(self, latents: Tensor, memory: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """latents (B, t, 16, h, w), memory of the frames before -> pixels (B, 4t, 3, 8h, 8w), not clamped; memory."""
        past: Sequence[Tensor | None] = memory or [None] * (1 + len(self.fine))
        x, coarse = self.coarse(_each(self.stem, latents), past[0])
        x = _each(self.spread, _each(self.mix, x))  # (B, t, 4 * fine, 2h, 2w)
        x = rearrange(x, "b t (f c) h w -> b (t f) c h w", f=PATCH_FRAMES)
        kept = [coarse]
        for block, before in zip(self.fine, past[1:], strict=True):
            x, last = block(x, before)
            kept.append(last)
        return _each(self.paint, x), kept


def _each(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer over every frame of x (B, f, ...)."""
    result: Tensor = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return result


class DemoCodec(nn.Module):
    """Pixels in [-1, 1] to latents of about unit variance and back."""

    encoder_mean: Tensor  # (768,) mean patch
    encoder_matrix: Tensor  # (16, 768) scaled principal components

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("encoder_mean", torch.zeros(PATCH_SIZE))
        self.register_buffer("encoder_matrix", torch.zeros(LATENT_CHANNELS, PATCH_SIZE))
        self.decoder = Decoder()

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, 4(T-1)+1, H, W) in [-1, 1] -> latents (B, 16, T, H/8, W/8)."""
        frames, height, width = pixels.shape[2:]
        if (frames - 1) % PATCH_FRAMES or height % 16 or width % 16:
            raise OutputError(
                f"the codec got {frames} frames of {width}x{height} pixels; it needs 4(T-1)+1 frames "
                "and sides that are multiples of 16: cut or pad the clip"
            )
        pixels = torch.cat([pixels[:, :, :1].expand(-1, -1, 3, -1, -1), pixels], 2)
        patches = rearrange(
            pixels, "b c (t f) (h y) (w x) -> b t h w (c f y x)", f=PATCH_FRAMES, y=PATCH_PX, x=PATCH_PX
        )
        bias = self.encoder_matrix @ self.encoder_mean
        return rearrange(patches @ self.encoder_matrix.T - bias, "b t h w c -> b c t h w")

    def decoder_stream(self) -> "DemoDecoderStream":
        """A decoder that takes latents as they come."""
        return DemoDecoderStream(self)


class DemoDecoderStream:
    """Latents in, pixels out: push(latents) as often as they come, flush() at the end.

    The first latent frame gives one pixel frame, each later one four. Frames are decoded one by
    one, so that the result does not depend on how the clip was cut, not even in the last bit.
    """

    def __init__(self, codec: DemoCodec) -> None:
        self._codec = codec
        self._memory: list[Tensor] | None = None
        self._size: tuple[int, int, int] | None = None  # (B, h, w) of this clip

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """latents (B, 16, t, h, w) -> pixels (B, 3, frames, 8h, 8w) in [-1, 1]."""
        batch, channels, _, height, width = latents.shape
        if channels != LATENT_CHANNELS or self._size not in (None, (batch, height, width)):
            raise OutputError(
                f"the decoder got latents {tuple(latents.shape)}; this stream takes (B, {LATENT_CHANNELS}, t, h, w) "
                f"with (B, h, w) = {self._size or 'any'}: call reset() before another clip"
            )
        self._size = (batch, height, width)
        latents = latents.to(self._codec.encoder_matrix)
        out = [latents.new_zeros(batch, 3, 0, PATCH_PX * height, PATCH_PX * width)]
        for latent in latents.unbind(2):
            frames, memory = self._codec.decoder(latent[:, None], self._memory)
            frames = frames.transpose(1, 2).clamp(-1, 1)
            out.append(frames if self._memory else frames[:, :, -1:])
            self._memory = memory
        return torch.cat(out, 2)

    def flush(self) -> Tensor:
        """What is still held back: nothing, pixels (B, 3, 0, 8h, 8w)."""
        batch, height, width = self._size or (1, 0, 0)
        return self._codec.encoder_matrix.new_zeros(batch, 3, 0, PATCH_PX * height, PATCH_PX * width)

    def reset(self) -> None:
        """Forget the clip: the next latent frame is a first frame."""
        self._memory = None
        self._size = None
