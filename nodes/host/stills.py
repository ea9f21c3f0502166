"""Frames out of the middle of a clip, encoded as stills through the host's VAE (see the core's still_frame.py)."""

import warnings
from typing import Any

import torch
from torch import Tensor

from ...dummyforcing_core.vae.still_frame import KeptStills
from .cancel import cancellable
from .decoder import stream_of
from .session import Session
from .tiny_stream import HostTinyStream


def host_stills(session: Session, vae: Any, frames: int) -> KeptStills:
    """Stills of the newest `frames` latents, in the model's space, of the pixels that the output is made of."""

    if isinstance(stream_of(vae), HostTinyStream):
        warnings.warn(
            f"{session.family.title} begins its context with a re-encoded pixel frame, and this VAE is a tiny one: the "
            "clip itself will differ a little from what the Wan2.1 VAE would make of it",
            stacklevel=2,
        )

    def encode(pixels: Tensor) -> Tensor:
        images = ((pixels + 1) / 2).permute(0, 2, 3, 4, 1)  # the host's IMAGE: (frames, H, W, 3) of each item
        with cancellable(vae.first_stage_model):
            encoded = torch.cat([vae.encode(image) for image in images])
        return session.to_model(encoded.to(session.device, torch.float32))

    return KeptStills(encode, frames)
