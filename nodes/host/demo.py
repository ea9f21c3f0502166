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

from ...dummyforcing_core.clips.demo_assets import load_demo_codec
from ...dummyforcing_core.models.checkpoints import DEMO_PATH, read_checkpoint
from ...dummyforcing_core.models.families import DEMO, get_family
from ...dummyforcing_core.vae.demo_codec import DemoCodec, DemoDecoderStream
from .settings import with_settings


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

    def decoder_stream(self) -> DemoDecoderStream:
        return self.codec.decoder_stream()

    def decode(self, latents: Tensor, **kwargs: Any) -> Tensor:
        return self.codec.decoder_stream().push(latents)

    def encode(self, pixels: Tensor, **kwargs: Any) -> Tensor:
        """A batch of images is a clip; frames past the last 4n + 1 are left out, as the host's Wan VAE does."""
        frames = 1 + (pixels.shape[2] - 1) // 4 * 4
        height, width = (side // 16 * 16 for side in pixels.shape[3:])
        return self.codec.encode(pixels[:, :, :frames, :height, :width])


class DemoVAE(comfy.sd.VAE):
    """A host VAE around the demo codec; the base class would look for a known set of weights."""

    def __init__(self) -> None:
        device = comfy.model_management.vae_device()
        self.first_stage_model = DemoVAEModel(load_demo_codec()).eval()
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model, load_device=device, offload_device=comfy.model_management.vae_offload_device()
        )
        self.device, self.vae_dtype = device, torch.float32
        self.output_device = comfy.model_management.intermediate_device()
        self.working_dtypes = [torch.float32]
        self.latent_channels, self.latent_dim, self.output_channels = 16, 3, 3
        self.upscale_ratio = (lambda t: max(0, 4 * t - 3), 8, 8)
        self.downscale_ratio = (lambda f: max(0, math.floor((f + 3) / 4)), 8, 8)
        self.upscale_index_formula = self.downscale_index_formula = (4, 8, 8)
        self.memory_used_decode = lambda shape, dtype: 4 * 2000 * shape[-3] * shape[-2] * shape[-1]
        self.memory_used_encode = lambda shape, dtype: 4 * 20 * shape[-3] * shape[-2] * shape[-1]
        self.process_input = lambda image: image * 2.0 - 1.0
        self.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
        self.disable_offload = self.not_video = False
        self.crop_input = True
        self.pad_channel_value = self.extra_1d_channel = self.size = self.format_encoded = None

    def vae_output_dtype(self) -> torch.dtype:
        return torch.float32


def demo_vae() -> DemoVAE:
    """The demo's VAE."""
    return DemoVAE()
