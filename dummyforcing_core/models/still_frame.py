"""A frame out of the middle of a clip as a video model sees the first frame of a video: one pixel frame, encoded alone.

A latent behind the first holds four pixel frames. A context that begins in the middle of a clip therefore begins with
a frame of a kind that the model never saw there; CausVid's and Krea Realtime's public code decode the last pixel
frame before the latents they keep, and encode it as a still image.

    stills = DecodedStills(WanVAEDecoder(vae), partial(encode, vae), frames=3)
    stills.push(latents)                          # (B, 16, t, h, w), every latent of the clip once, in order
    first = stills.at(frame)                      # (B, 16, 1, h, w)
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..errors import OutputError
from ..geometry import pixel_frames
from ..streaming import StreamingDecoder

EncodePixels = Callable[[Tensor], Tensor]
"""Pixels (B, 3, 4(T-1)+1, H, W) in [-1, 1] -> latents (B, C, T, h, w)."""


class StillFrames(Protocol):
    """What a loop asks of whoever has the pixels of the clip."""

    def push(self, latents: Tensor) -> None:
        """The clip's next finished latents (B, C, t, h, w), from frame 0 on; each comes once."""
        ...

    def at(self, frame: int) -> Tensor:
        """The last pixel frame of latent frame `frame`, encoded as a video of its own: (B, C, 1, h, w)."""
        ...


NewStills = Callable[[], StillFrames | None]


def no_stills() -> StillFrames | None:
    """Where there is no VAE."""
    return None


class DecodedStills:
    """Decodes the clip beside the loop, with a decoder of its own, and keeps one pixel frame per latent frame.

    decoder -- a fresh one; each latent is decoded once, so it must give all pixels of what it has got at once
    encode  -- the encoder that belongs to it
    frames  -- how many latent frames back `at` may look: the length of the context
    """

    def __init__(self, decoder: StreamingDecoder, encode: EncodePixels, frames: int):
        if frames < 1:
            raise OutputError(f"still frames of the last {frames} latents came; a context has at least 1")
        self._decoder, self._encode, self._frames = decoder, encode, frames
        self._last_pixels: dict[int, Tensor] = {}  # of each latent frame: (B, 3, 1, H, W)
        self._latents = self._pixels = 0

    @torch.inference_mode()
    def push(self, latents: Tensor) -> None:
        """One latent at a time, so that a long given start is never there in pixels as a whole."""
        for latent in latents.split(1, dim=2):
            pixels = self._decoder.push(latent)
            self._latents += 1
            self._pixels += pixels.shape[2]
            if self._pixels != pixel_frames(self._latents):
                raise OutputError(
                    f"the decoder gave {self._pixels} pixel frames for {self._latents} latents, "
                    f"{pixel_frames(self._latents)} were expected; use one that holds nothing back, such as the Wan VAE"
                )
            self._last_pixels[self._latents - 1] = pixels[:, :, -1:].clone()
            self._last_pixels.pop(self._latents - 1 - self._frames, None)

    @torch.inference_mode()
    def at(self, frame: int) -> Tensor:
        """As the protocol says; `frame` must be among the newest `frames`."""
        if frame not in self._last_pixels:
            raise OutputError(
                f"a still of latent frame {frame} was asked for, {list(self._last_pixels) or 'none'} are there; "
                "push every latent of the clip, and keep as many frames as the context has"
            )
        return self._encode(self._last_pixels[frame])
