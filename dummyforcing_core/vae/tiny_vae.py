"""The tiny decoders for Wan2.1's latents, taew2_1 and lighttaew2_1: a preview at a small part of the VAE's cost.

    stream = TinyStream(load_tiny_decoder("taew2_1.pth", "cuda"))
    for latents in chunks:                        # (B, 16, t, h, w), any t
        show(stream.push(latents))                # (B, 3, f, 8h, 8w) in [-1, 1]

Architecture: madebyollin/taehv, the Wan2.1 geometry (16 channels, no patches). Convolutions over single frames; what
links them in time are the memory blocks, which see the frame before. A latent frame becomes 4 pixel frames, and the
first 3 of a clip are dropped, as the VAE gives one frame for the first latent.

Both files have the same tensors and differ in the latents they were trained on:
    taew2_1       the normalised ones the transformer works in (taehv's README: it applies no scale and no shift)
    lighttaew2_1  the VAE's own, z * LATENT_STD + LATENT_MEAN (ModelTC/LightX2V: `need_scaled` for "lighttae" files;
                  ComfyUI agrees: its VAE nodes hand over such latents, and this file gets them as they come)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OutputError
from ..geometry import SPATIAL, TEMPORAL, pixel_frames
from .streaming import StreamingDecoder
from .wan_vae import LATENT_CHANNELS, LATENT_MEAN, LATENT_STD
from .wan_vae_blocks import Chain, State, Streamed

WIDTHS = (256, 128, 64)  # channels of the levels, from the latents' resolution up
TIMES = (1, 2, 2)  # how many frames each level makes of one
BLOCKS = 3  # memory blocks per level


@dataclass
class TinyState(State):
    """The last input frame of every memory block, for each clip of the batch."""

    batch: int = 1


# In the layers x is (f * B, C, H, W), frame by frame: the batch's clips lie next to each other.


def _conv(channels: int, out: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, bias=bias)


class MemoryBlock(Streamed):
    """A residual block over a frame and the one before it; before the clip there are zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width),
            nn.ReLU(inplace=True),
            _conv(width, width),
            nn.ReLU(inplace=True),
            _conv(width, width),
        )

    def forward(self, x: Tensor, state: TinyState) -> Tensor:
        batch = state.batch
        before = state.past.get(self)
        before = torch.zeros_like(x[:batch]) if before is None else before
        # A slice would hold on to all frames of the piece.
        state.past[self] = x if len(x) == batch else x[-batch:].clone()
        inside: Tensor = self.conv(torch.cat([x, torch.cat([before, x[:-batch]])], 1))
        return inside.add_(x).relu_()


class Grow(Streamed):
    """One frame to `times` frames, a linear map per pixel."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(width, times * width, 1, bias=False)

    def forward(self, x: Tensor, state: TinyState) -> Tensor:
        frames: Tensor = self.conv(x)
        apart = frames.unflatten(1, (self.times, -1)).unflatten(0, (-1, state.batch))  # (f, B, times, C, H, W)
        return apart.transpose(1, 2).flatten(0, 2)


class EnlargingConv(nn.Conv2d):
    """Every pixel to 2 x 2, then a convolution.

    The files enlarge before `Grow`. It maps each pixel by itself, so that the order is free: this way it has a quarter
    of the pixels to map.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))


class TinyDecoder(nn.Module):
    """The weights; what they remember of a clip lies in a `TinyState`, so they serve any number of clips at once."""

    def __init__(self, raw_latents: bool) -> None:
        """raw_latents: trained on z * LATENT_STD + LATENT_MEAN (lighttaew2_1), not on normalised latents (taew2_1)."""
        super().__init__()
        self.raw_latents = raw_latents
        self.decoder = Chain(self._layers())

    @staticmethod
    def _layers() -> Iterator[nn.Module]:
        yield nn.Identity()  # in the files' numbering the soft limit, which decode() applies in float32
        yield _conv(LATENT_CHANNELS, WIDTHS[0])
        yield nn.ReLU(inplace=True)
        for width, out, times in zip(WIDTHS, (*WIDTHS[1:], WIDTHS[-1]), TIMES, strict=True):
            for _ in range(BLOCKS):
                yield MemoryBlock(width)
            yield nn.Identity()  # in the files' numbering the enlargement, see EnlargingConv
            yield Grow(width, times)
            yield EnlargingConv(width, out, 3, padding=1, bias=False)
        yield nn.ReLU(inplace=True)
        yield _conv(WIDTHS[-1], 3)

    def decode(self, latents: Tensor, state: TinyState) -> Tensor:
        """Normalised latents (B, 16, t, h, w) -> pixels (B, 3, f, 8h, 8w) float32 around [-1, 1], not clamped.

        f = 4(t-1) + 1 for the first piece of a clip, 4t for every later one; t >= 1. B is state.batch.
        """
        weight = next(self.parameters())
        z = latents.to(weight.device, torch.float32)
        if self.raw_latents:
            mean, std = torch.tensor((LATENT_MEAN, LATENT_STD), device=z.device).reshape(2, -1, 1, 1, 1)
            z = z * std + mean
        z = (z / 3).tanh() * 3
        x = self.decoder(z.permute(2, 0, 1, 3, 4).flatten(0, 1).to(weight.dtype), state)
        pixels = x.unflatten(0, (-1, state.batch)).float().mul_(2).sub_(1)  # (f, B, 3, H, W), they came in [0, 1]
        trim = TEMPORAL - 1 if state.first else 0
        state.first = False
        return pixels[trim:].permute(1, 2, 0, 3, 4)


class TinyStream(StreamingDecoder):
    """Latents in, pixels out, nothing held back.

    One latent frame goes through at a time: the 4 pixel frames it becomes fill a GPU, memory stays that of one latent
    frame however much is pushed, and how the clip was cut makes no difference, not even in the last bit.
    """

    def __init__(self, decoder: TinyDecoder, clamp: bool = True) -> None:
        """clamp: pixels to [-1, 1] (False: as the decoder gave them)."""
        self.decoder = decoder
        self.clamp = clamp
        self.reset()

    def reset(self) -> None:
        self._size: tuple[int, ...] | None = None  # (B, h, w) of this clip
        self._state = TinyState()

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, 16, t, h, w) -> pixels (B, 3, f, 8h, 8w) float32, f = 4t, and 4t - 3 at the start.

        Both kinds of decoder take the normalised latents the transformer works in. Raises OutputError for another shape
        than the stream's and for NaN or infinity, which would stay in its memory, and leaves the stream as it was.
        """
        shape = tuple(latents.shape)
        size = shape[:1] + shape[3:]
        fits = len(shape) == 5 and shape[1] == LATENT_CHANNELS and 0 not in size
        if not fits or self._size not in (None, size):
            raise OutputError(
                f"the tiny decoder got latents {shape}; this stream takes (B, {LATENT_CHANNELS}, t, h, w) "
                f"with (B, h, w) = {self._size or 'any'}: call reset() before another clip"
            )
        # The soft limit would turn an infinity into a colour.
        if not bool(torch.isfinite(latents).all()):
            raise OutputError(
                "the latents hold NaN or infinity, finite numbers were expected; "
                "try dtype fp32 or bf16, and check that the checkpoint is intact"
            )
        if self._size is None:
            self._size, self._state = size, TinyState(batch=shape[0])
        count = shape[2]
        pixels = self._blank(pixel_frames(count) if self._state.first else TEMPORAL * count)
        done = 0
        for frame in latents.split(1, dim=2) if count else ():
            result = self.decoder.decode(frame, self._state)
            pixels[:, :, done : done + result.shape[2]] = result
            done += result.shape[2]
        return pixels.clamp_(-1, 1) if self.clamp else pixels

    def flush(self) -> Tensor:
        """What is still held back: nothing, pixels (B, 3, 0, 8h, 8w)."""
        return self._blank(0)

    @property
    def state_bytes(self) -> int:
        """What is kept of the clip until the next push; constant from the first latent frame on."""
        return self._state.bytes

    def _blank(self, frames: int) -> Tensor:
        batch, height, width = self._size or (1, 0, 0)
        device = next(self.decoder.parameters()).device
        return torch.empty(batch, 3, frames, SPATIAL * height, SPATIAL * width, device=device)
