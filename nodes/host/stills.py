"""Frames out of the middle of a clip, encoded as stills through the host's VAE (see the core's still_frame.py)."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...dummyforcing_core.geometry import TEMPORAL, pixel_frames
from .decoder import stream_of

if TYPE_CHECKING:
    from .sampler import Session

PIECE_FRAMES = 3  # latents at a time, so that a long given start is never there in pixels as a whole


class HostStills:
    """Decodes the clip beside the loop, with a stream of its own, and keeps the pixels of the newest frames.

    frames -- how many latent frames back `at` may look
    """

    def __init__(self, session: "Session", vae: Any, frames: int):
        self._session, self._vae, self._frames = session, vae, frames
        self._stream = stream_of(vae)
        self._pixels: dict[int, Tensor] = {}  # by pixel frame: (B, 3, 1, H, W)
        self._count = 0

    def push(self, latents: Tensor) -> None:
        """The clip's next latents (B, C, t, h, w) in the model's space."""
        for piece in latents.split(PIECE_FRAMES, dim=2):
            for frame in self._stream.push(self._session.to_latent(piece)).split(1, dim=2):
                self._pixels[self._count] = frame.cpu()
                self._count += 1
            oldest = self._count - TEMPORAL * (self._frames + 2)  # the stream may hold a latent back
            self._pixels = {index: frame for index, frame in self._pixels.items() if index >= oldest}

    def at(self, frame: int) -> Tensor:
        """The last pixel frame of a latent frame, as a video of its own: (B, C, 1, h, w), model's space."""
        pixels = self._pixels[pixel_frames(frame + 1) - 1]
        images = ((pixels + 1) / 2).permute(0, 2, 3, 4, 1)  # the host's IMAGE: (frames, H, W, 3) of each item
        encoded = torch.cat([self._vae.encode(image) for image in images])
        return self._session.to_model(encoded.to(self._session.device, torch.float32))
