"""Latents to pixels chunk by chunk through the host's VAE, in memory that does not grow with the clip."""

from collections.abc import Sequence
from typing import Any

import comfy.ldm.wan.vae
import comfy.model_management
import comfy.taesd.taehv
import torch
from torch import Tensor

from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.vae.streaming import StreamingDecoder
from .cancel import cancellable
from .tiled_stream import no_frames
from .tiny_stream import HostTinyStream
from .wan_stream import HostWanStream
from .weights import check_weights

SMALL_TILE = (32, 32)  # latents; for the second try after a decode ran out of memory


def stream_of(vae: Any, tile: tuple[int, int] | None = None) -> StreamingDecoder:
    """A decoder for one clip of latents as the host's LATENT holds them. VAEs without streaming decode at the end."""
    model = vae.first_stage_model
    if isinstance(model, comfy.taesd.taehv.TAEHV) and model.patch_size == 1:
        return HostTinyStream(vae, tile)
    if isinstance(model, comfy.ldm.wan.vae.WanVAE):
        return HostWanStream(vae, tile)
    if hasattr(model, "decoder_stream"):
        return model.decoder_stream()
    return WholeDecode(vae)


def streams(vae: Any) -> bool:
    """Whether this VAE decodes a clip chunk by chunk."""
    return not isinstance(stream_of(vae), WholeDecode)


def decode_bytes(vae: Any, shape: Sequence[int]) -> int:
    """What decoding latents of `shape` (B, C, t, h, w) takes; the host's own price is that of one of the batch."""
    return shape[0] * int(vae.memory_used_decode(shape, vae.vae_dtype))


def load(vae: Any, shape: Sequence[int]) -> None:
    """Brings the VAE to its device, with room to decode latents of `shape` (B, C, t, h, w)."""
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=decode_bytes(vae, shape))


def check_vae(vae: Any, channels: int) -> None:
    """DummyForcingError unless the VAE decodes videos of so many latent channels, with weights that are all numbers."""
    if vae is None:
        raise DummyForcingError("the VAE input is empty: the checkpoint has none; connect Load VAE with the Wan2.1 VAE")
    dimensions = getattr(vae, "latent_dim", 3)
    if vae.latent_channels != channels or dimensions != 3:
        if vae.latent_channels == 16 and dimensions == 3:
            raise DummyForcingError(
                f"expected a latent of 16 channels for this VAE, got {channels}, which is another model's; connect a "
                "Wan2.1 model's, or the VAE of the model that made it"
            )
        kind = "videos" if dimensions == 3 else "images"
        raise DummyForcingError(
            f"this VAE decodes {kind} of {vae.latent_channels} latent channels, the clip is a video of {channels}; "
            "connect the Wan2.1 VAE (the demo model has its own)"
        )
    check_weights(vae.patcher, vae.first_stage_model, "the VAE")


def wrong_kind(vae: Any) -> str:
    """One line if the host has taken the file for another model's, else ""."""
    model = vae.first_stage_model
    if isinstance(model, comfy.taesd.taehv.TAEHV) and model.patch_size == 1 and model.latent_format is not None:
        return (
            "Load VAE took this tiny decoder for HunyuanVideo's, as it does taew2_1: colours will be off; use "
            "lighttaew2_1 or the Wan2.1 VAE"
        )
    return ""


class WholeDecode(StreamingDecoder):
    """Keeps every latent and decodes once, at the end: for VAEs whose memory of the past the host does not expose."""

    def __init__(self, vae: Any):
        self._vae = vae
        self.reset()

    def reset(self) -> None:
        self._latents: list[Tensor] = []

    def push(self, latents: Tensor) -> Tensor:
        self._latents.append(latents.cpu())
        return no_frames(latents)

    def flush(self) -> Tensor:
        with cancellable(self._vae.first_stage_model):
            pixels = self._vae.decode(torch.cat(self._latents, dim=2))
        pixels = pixels if pixels.ndim == 5 else pixels[None]
        self.reset()
        return pixels.permute(0, 4, 1, 2, 3).float() * 2 - 1
