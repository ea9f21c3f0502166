"""A frame out of the middle of a clip as a video model sees the first frame of a video: one pixel frame, encoded alone.

A latent behind the first holds four pixel frames. A context that begins in the middle of a clip therefore begins with
a frame of a kind that the model never saw there; CausVid's and Krea Realtime's public code decode the last pixel
frame before the latents they keep, and encode it as a still image.

    stills = KeptStills(partial(encode, vae), frames=3)      # where the clip is decoded anyway
    stills.keep(pixels)                                      # (B, 3, f, H, W), every pixel frame once, in order
    stills = DecodedStills(WanVAEDecoder(vae), partial(encode, vae), frames=3)  # where it is not
    stills.push(latents)                                     # (B, 16, t, h, w), every latent once, in order
    first = stills.at(frame)                                 # (B, 16, 1, h, w)
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..errors import OutputError
from ..geometry import TEMPORAL
from .streaming import StreamingDecoder

EncodePixels = Callable[[Tensor], Tensor]
"""Pixels (B, 3, 4(T-1)+1, H, W) in [-1, 1] -> latents (B, C, T, h, w)."""


class StillFrames(Protocol):
    """What a loop asks of whoever has the pixels of the clip."""

    def push(self, latents: Tensor) -> None:
        """The clip's next finished latents (B, C, t, h, w), from frame 0 on; each comes once, behind its chunk."""
        ...

    def at(self, frame: int) -> Tensor:
        """The last pixel frame of latent frame `frame`, encoded as a video of its own: (B, C, 1, h, w)."""
        ...


NewStills = Callable[[], StillFrames | None]


def no_stills() -> StillFrames | None:
    """Where there is no VAE."""
    return None


class KeptStills:
    """Keeps one pixel frame per latent frame of a clip that somebody decodes chunk by chunk, as a video is written.

    Whoever takes the loop's chunks hands over their pixels before asking for the next chunk.

    encode -- of the VAE that decodes
    frames -- how many latent frames back `at` may look: the length of the context
    """

    def __init__(self, encode: EncodePixels, frames: int):
        if frames < 1:
            raise OutputError(f"expected stills of the last 1 latent or more, got {frames}; a context has at least 1")
        self._encode, self._frames = encode, frames
        self._last_pixels: dict[int, Tensor] = {}  # of each latent frame: (B, 3, 1, H, W)
        self._count = 0  # pixel frames so far

    def keep(self, pixels: Tensor) -> None:
        """The clip's next pixels (B, 3, f, H, W) in [-1, 1], from frame 0 on; each comes once."""
        for frame in pixels.split(1, dim=2):
            newest, behind = divmod(self._count, TEMPORAL)  # pixel 4t is the last one of latent t
            self._count += frame.shape[2]
            if not behind and frame.shape[2]:
                self._last_pixels[newest] = frame.clone()
                self._last_pixels.pop(newest - self._frames, None)

    def push(self, latents: Tensor) -> None:
        """As the protocol says; their pixels come through `keep`."""

    @torch.inference_mode()
    def at(self, frame: int) -> Tensor:
        """As the protocol says; `frame` must be among the newest `frames`."""
        if frame not in self._last_pixels:
            raise OutputError(
                f"a still of latent frame {frame} was asked for, {list(self._last_pixels) or 'none'} are there; decode "
                "every chunk before the next one is made, with a decoder that holds nothing back, such as the Wan VAE"
            )
        return self._encode(self._last_pixels[frame])


class DecodedStills(KeptStills):
    """Decodes the clip beside the loop, with a fresh decoder of its own: for runs that write no video."""

    def __init__(self, decoder: StreamingDecoder, encode: EncodePixels, frames: int):
        super().__init__(encode, frames)
        self._decoder = decoder

    @torch.inference_mode()
    def push(self, latents: Tensor) -> None:
        """One latent at a time, so that a long given start is never there in pixels as a whole."""
        for latent in latents.split(1, dim=2):
            self.keep(self._decoder.push(latent))
