"""The bundled demo model as a MODEL and VAE that the host's own nodes accept."""

import math
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...dummyforcing_core.clips.demo_assets import load_demo_codec
from ...dummyforcing_core.errors import DummyForcingError, OutputError
from ...dummyforcing_core.models.checkpoints import DEMO_PATH, read_checkpoint
from ...dummyforcing_core.models.families import DEMO, get_family
from ...dummyforcing_core.vae.demo_codec import DemoCodec, DemoDecoderStream
from .settings import with_settings

SMALLEST = {
    "embed_dim": 1,
    "ddconfig": {
        "ch": 32,
        "ch_mult": [1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "resolution": 8,
        "in_channels": 3,
        "out_ch": 3,
        "z_channels": 1,
        "double_z": True,
    },
}
"""An image VAE of the host, as small as it builds them."""


class NotInCodec(DummyForcingError, AttributeError):
    """What a node of other models asks of the demo's codec; an AttributeError, as hasattr must say no."""


class DemoLatents(comfy.latent_formats.LatentFormat):
    """16 channels as the model works in them, with a linear map to colours for the host's previews."""

    latent_channels = 16
    latent_dimensions = 3
    spacial_downscale_ratio = 8
    temporal_downscale_ratio = 4

    def __init__(self) -> None:
        codec = load_demo_codec()
        # The encoder is linear: its pseudo-inverse says what colour a latent stands for.
        patches = torch.linalg.pinv(codec.encoder_matrix)  # (768, 16), 768 = colour x frames x rows x columns
        self.latent_rgb_factors = patches.reshape(3, -1, 16).mean(1).T.tolist()
        self.latent_rgb_factors_bias = codec.encoder_mean.reshape(3, -1).mean(1).tolist()


def demo_model() -> Any:
    """The demo transformer in float32, its settings noted."""
    return with_settings(_load(), family=get_family(DEMO), known_from="Load Demo Model", fingerprint=_fingerprint())


def _fingerprint() -> str:
    return read_checkpoint(DEMO_PATH, DEMO).info.fingerprint


def _load(disable_dynamic: bool = False) -> Any:
    weights = read_checkpoint(DEMO_PATH, DEMO)
    c = weights.info.geometry
    # The host infers heads of 128 channels; these are smaller, so the configuration is given, and registered nowhere.
    config = comfy.supported_models.WAN21_T2V(
        {
            "image_model": "wan2.1",
            "model_type": "t2v",
            "dim": c.dim,
            "ffn_dim": c.ffn_dim,
            "num_heads": c.num_heads,
            "num_layers": c.num_layers,
            "text_dim": c.text_dim,
            "text_len": c.text_len,
            "in_dim": c.in_dim,
            "out_dim": c.out_dim,
            "freq_dim": c.freq_dim,
            "patch_size": c.patch_size,
            "qk_norm": True,
            "cross_attn_norm": True,
            "eps": c.eps,
            "window_size": (-1, -1),
        }
    )
    config.sampling_settings = {"shift": get_family(DEMO).shift}
    config.latent_format = DemoLatents()
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    patcher_type = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_type(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    tensors = {name: tensor.float() for name, tensor in weights.tensors.items()}
    model.load_model_weights(tensors, "", assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (_load, ())
    return patcher


class DemoVAEModel(nn.Module):
    """The demo codec with the calls of a host's VAE model."""

    def __init__(self, codec: DemoCodec):
        super().__init__()
        self.codec = codec

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise NotInCodec(
                f"the demo model's VAE has no {name}: it is a codec of small videos; connect the VAE that this node is "
                "made for"
            ) from None

    def decoder_stream(self) -> DemoDecoderStream:
        return self.codec.decoder_stream()

    def decode(self, latents: Tensor, **options: Any) -> Tensor:
        """Latents (B, 16, t, h, w) -> pixels (B, 3, 4t - 3, 8h, 8w) in [-1, 1]; OutputError for anything else."""
        if latents.ndim != 5 or options:
            asked = "".join(f" with {name}" for name in options)
            raise OutputError(
                f"expected latents (batch, 16, frames, h, w) for the demo model's VAE, got shape "
                f"{tuple(latents.shape)}{asked}; connect the latents of the demo model"
            )
        return self.codec.decoder_stream().push(latents)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, f, H, W) in [-1, 1] -> latents (B, 16, t, H/8, W/8); OutputError for other pixels.

        A batch of images is a clip; frames past the last 4n + 1 are left out, as the host's Wan VAE does.
        """
        if pixels.ndim != 5 or pixels.shape[1] != 3 or not pixels.numel():
            raise OutputError(
                f"expected pixels (batch, 3, frames, height, width) for the demo model's VAE, got shape "
                f"{tuple(pixels.shape)}; connect images of three colours"
            )
        frames, height, width = 1 + (pixels.shape[2] - 1) // 4 * 4, *pixels.shape[3:]
        # The codec takes whole pairs of patches; each patch is encoded by itself, so that what is added changes none.
        pixels = F.pad(pixels[:, :, :frames], (0, -width % 16, 0, -height % 16))
        return self.codec.encode(pixels)[..., : height // 8, : width // 8]


class DemoVAE(comfy.sd.VAE):
    """The host's own VAE class around the demo codec: what the host gives to every VAE, this one has too.

    The host builds the network whose weights it recognises. It does not know these, so it is given the configuration of
    a small one, and the codec stands in its place.
    """

    def __init__(self) -> None:
        self._network = DemoVAEModel(load_demo_codec())
        super().__init__(sd=self._network.state_dict(), config={"params": SMALLEST}, dtype=torch.float32)
        # Nodes that need a second copy (multi-GPU) make it through this.
        self.patcher.cached_patcher_init = (_vae_patcher, ())
        self.working_dtypes = [torch.float32]
        self.latent_channels, self.latent_dim = 16, 3
        self.upscale_ratio = (lambda t: max(0, 4 * t - 3), 8, 8)
        self.downscale_ratio = (lambda f: max(0, math.floor((f + 3) / 4)), 8, 8)
        self.upscale_index_formula = self.downscale_index_formula = (4, 8, 8)
        self.memory_used_decode = lambda shape, dtype: 4 * 2000 * shape[-3] * shape[-2] * shape[-1]
        self.memory_used_encode = lambda shape, dtype: 4 * 20 * shape[-3] * shape[-2] * shape[-1]

    @property
    def first_stage_model(self) -> DemoVAEModel:
        return self._network

    @first_stage_model.setter
    def first_stage_model(self, network: nn.Module) -> None:
        if isinstance(network, DemoVAEModel):  # a copy for another device
            self._network = network


def demo_vae() -> DemoVAE:
    """The demo's VAE."""
    return DemoVAE()


def _vae_patcher(disable_dynamic: bool = False) -> Any:
    return DemoVAE().patcher
