"""Latents to pixels, chunk by chunk: the protocol every decoder follows, and a preview that needs no weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OutputError
from ..geometry import TEMPORAL

if TYPE_CHECKING:
    import numpy as np


@runtime_checkable
class StreamingDecoder(Protocol):
    """Turns the latents of one clip into pixels as they arrive.

        decoder.reset()
        for latents in chunks:                        # (B, C, t, h, w) float
            show(decoder.push(latents))               # (B, 3, f, H, W) float in [-1, 1]
        show(decoder.flush())                         # whatever was held back

    The first latent frame of a clip gives 1 pixel frame, every later one 4; a decoder may hold frames back
    (f = 0 is a valid answer), but push and flush together give exactly 4 * (T - 1) + 1 frames, and the same
    pixels however the T latent frames were cut into chunks.
    """

    def push(self, latents: Tensor) -> Tensor:
        """latents (B, C, t, h, w) -> the pixels that are ready, (B, 3, f, H, W) in [-1, 1], f >= 0."""
        ...

    def flush(self) -> Tensor:
        """The remaining pixels of the clip, (B, 3, f, H, W), f >= 0. Call it once, then reset()."""
        ...

    def reset(self) -> None:
        """Forget the clip: the next latent frame is the first of a new one."""
        ...


# How much of each of Wan2.1's 16 (normalised) latent channels shows up as red, green and blue, in [-1, 1]:
# a published least-squares fit, the one ComfyUI's own latent previews use.
_WAN21_RGB_BIAS = (-0.1835, -0.0868, -0.3360)
_WAN21_RGB_FACTORS = (
    (-0.1299, -0.1692, 0.2932),
    (0.0671, 0.0406, 0.0442),
    (0.3568, 0.2548, 0.1747),
    (0.0372, 0.2344, 0.1420),
    (0.0313, 0.0189, -0.0328),
    (0.0296, -0.0956, -0.0665),
    (-0.3477, -0.4059, -0.2925),
    (0.0166, 0.1902, 0.1975),
    (-0.0412, 0.0267, -0.1364),
    (-0.1293, 0.0740, 0.1636),
    (0.0680, 0.3019, 0.1128),
    (0.0032, 0.0581, 0.0639),
    (-0.1251, 0.0927, 0.1699),
    (0.0060, -0.0633, 0.0005),
    (0.3477, 0.2275, 0.2950),
    (0.1984, 0.0913, 0.1861),
)


class LatentPreview(StreamingDecoder):
    """A rough preview of Wan2.1 latents when no VAE is at hand: colours and layout, no detail, no motion in between.

    Every latent pixel becomes one colour (a linear map) and is enlarged `scale` times; every latent frame after
    the first is shown four times, so that length and speed are those of the real clip.
    Latents are the normalised ones the model works in, (B, 16, t, h, w).
    """

    def __init__(self, scale: int = 8, mode: str = "bilinear") -> None:
        """scale: pixels per latent pixel; mode: "bilinear" (soft) or "nearest" (shows the latent grid)."""
        if mode not in ("bilinear", "nearest"):
            raise ValueError(f"preview mode {mode!r} is unknown; choose bilinear or nearest")
        self.scale = scale
        self.mode = mode
        self.reset()

    def reset(self) -> None:
        self._started = False
        self._nothing = torch.empty(1, 3, 0, 0, 0)

    def push(self, latents: Tensor) -> Tensor:
        channels = len(_WAN21_RGB_FACTORS)
        if latents.ndim != 5 or latents.shape[1] != channels:
            raise OutputError(
                f"the latent preview got latents of shape {tuple(latents.shape)}; "
                f"it knows Wan2.1's (batch, {channels}, frames, height, width) only"
            )
        x = latents.float()
        factors = torch.tensor(_WAN21_RGB_FACTORS, device=x.device)
        bias = torch.tensor(_WAN21_RGB_BIAS, device=x.device)
        rgb = torch.einsum("bcthw,cr->btrhw", x, factors) + bias[:, None, None]
        batch, frames, _, height, width = rgb.shape
        size = (height * self.scale, width * self.scale)
        rgb = F.interpolate(rgb.flatten(0, 1), size=size, mode=self.mode).clamp_(-1, 1)
        rgb = rgb.reshape(batch, frames, 3, *size).transpose(1, 2)

        repeats = torch.full((frames,), TEMPORAL, device=x.device)
        if frames and not self._started:
            repeats[0] = 1
            self._started = True
        pixels = rgb.repeat_interleave(repeats, dim=2)
        self._nothing = pixels.new_empty(batch, 3, 0, *size)
        return pixels

    def flush(self) -> Tensor:
        return self._nothing


def crop(pixels: Tensor, width: int, height: int) -> Tensor:
    """The middle `width` x `height` of pixels (..., H, W): of 1088 rows, which the model needs, a screen's 1080."""
    rows, cols = pixels.shape[-2:]
    if not (0 < height <= rows and 0 < width <= cols):
        raise OutputError(f"cannot crop {cols}x{rows} pixels to {width}x{height}; ask for less than there is")
    top, left = (rows - height) // 2, (cols - width) // 2
    return pixels[..., top : top + height, left : left + width]


def to_uint8(pixels: Tensor, size: tuple[int, int] | None = None) -> np.ndarray:
    """pixels (B, 3, f, H, W) float in [-1, 1] -> (B, f, H, W, 3) uint8 in memory, cropped to `size` (width, height).

    Values outside [-1, 1] are clipped; NaN or infinity is an OutputError, because a black frame would hide it.
    """
    if pixels.ndim != 5 or pixels.shape[1] != 3:
        raise OutputError(f"expected pixels (batch, 3, frames, height, width), got shape {tuple(pixels.shape)}")
    if size is not None:
        pixels = crop(pixels, *size)
    if not bool(torch.isfinite(pixels).all()):
        raise OutputError(
            "the decoded pixels hold NaN or infinity; try dtype fp32 or bf16, and check that the checkpoint is intact"
        )
    levels = pixels.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    frames: np.ndarray = levels.permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()
    return frames
