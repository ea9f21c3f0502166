"""A model with all it needs to run headless: prompt -> features, denoiser, latents -> pixels."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .attention import Backend, choose
from .errors import CheckpointError
from .models.checkpoints import load_demo_model, load_model
from .models.demo_assets import load_demo_codec
from .models.demo_text import encode_prompt
from .models.denoiser import WanDenoiser
from .models.families import Family, get_family
from .models.lora import Lora
from .models.wan_vae import WanVAE
from .models.wan_vae_stream import WanVAEDecoder
from .models.wan_vae_stream import encode as encode_video
from .streaming import LatentPreview, StreamingDecoder

Warn = Callable[[str], None]
DEMO = "demo"
DEMO_VIDEO_SCALE = 6  # 64 pixels are a stamp on a screen


@dataclass(frozen=True)
class Pipeline:
    """A loaded model. `encode` turns a prompt into features (1, S, text_dim); `new_decoder` starts a clip's decoder;
    `encode_pixels` makes latents of pixels (1, 3, 4(T-1)+1, H, W) in [-1, 1], where there is an encoder.
    """

    name: str
    denoiser: WanDenoiser
    family: Family
    encode: Callable[[str], Tensor]
    new_decoder: Callable[[], StreamingDecoder]
    backend: Backend
    fingerprint: str
    init_ms: float
    video_scale: int = 1
    encode_pixels: Callable[[Tensor], Tensor] | None = None


def load_pipeline(
    model: str,
    family: str | None,
    device: torch.device,
    dtype: torch.dtype,
    backend: str = "auto",
    text_embedding: Path | None = None,
    warn: Warn = lambda text: None,
    lora: Lora | None = None,
    vae: WanVAE | None = None,
    vae_tile: tuple[int, int] | None = None,
) -> Pipeline:
    """Loads the model called "demo" or a checkpoint file.

    A file takes its text from `text_embedding`, a .safetensors with one tensor (S, text_dim). Its clips are decoded by
    `vae`, in tiles of `vae_tile` latent rows and columns if given, or as a rough preview without
    one. `warn` gets one line per thing the user should know.
    """
    began = time.perf_counter()
    encode: Callable[[str], Tensor]
    new_decoder: Callable[[], StreamingDecoder]
    encode_pixels: Callable[[Tensor], Tensor] | None = None
    if model == DEMO:
        if family is not None and get_family(family).name != DEMO:
            raise CheckpointError(f"--family {family} came, --model demo is of family {DEMO}; leave --family out")
        if lora is not None:
            raise CheckpointError(f"{lora.path}: the demo model takes no LoRA; name its base checkpoint with --model")
        if vae is not None:
            raise CheckpointError("the demo model has a codec of its own; leave --vae out")
        loaded = load_demo_model(device, dtype)
        codec = load_demo_codec(device)
        encode, new_decoder, encode_pixels = _demo_encoder(warn), codec.decoder_stream, codec.encode
    else:
        loaded = load_model(model, family, device, dtype, lora)
        config = loaded.model.config
        features = _saved_features(text_embedding, config.text_len, config.text_dim)
        encode, new_decoder = lambda prompt: features, LatentPreview
        if vae is None:
            warn("no VAE is loaded: the video is a rough preview of the latents; keep them with --save-latents")
        else:
            new_decoder = partial(WanVAEDecoder, vae, vae_tile)
            encode_pixels = partial(encode_video, vae, tile=vae_tile)
    denoiser = WanDenoiser(loaded.model)
    return Pipeline(
        name=model if model == DEMO else Path(model).name,
        denoiser=denoiser,
        family=loaded.family,
        encode=encode,
        new_decoder=new_decoder,
        backend=choose(backend, device, dtype, denoiser.geometry.head_dim),
        fingerprint=loaded.info.fingerprint,
        init_ms=1000 * (time.perf_counter() - began),
        video_scale=DEMO_VIDEO_SCALE if model == DEMO else 1,
        encode_pixels=encode_pixels,
    )


def _demo_encoder(warn: Warn) -> Callable[[str], Tensor]:
    def encode(prompt: str) -> Tensor:
        features, unknown = encode_prompt(prompt)
        if unknown:
            warn(f"the demo world does not know: {', '.join(dict.fromkeys(unknown))} (ignored)")
        return features

    return encode


def _saved_features(path: Path | None, text_len: int, text_dim: int) -> Tensor:
    """Features (1, text_len, text_dim) from a file, zero rows added behind the prompt's."""
    if path is None:
        raise CheckpointError(
            "this model needs --text-embedding FILE.safetensors (one tensor of text encoder output, rows x channels); "
            "only --model demo understands a prompt without it"
        )
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable .safetensors file ({error}); save it again") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    tensor = next(iter(tensors.values())) if len(tensors) == 1 else torch.empty(0)
    rows = tensor.flatten(0, -2).float() if tensor.ndim > 1 else torch.empty(0, 0)
    if rows.shape[1] != text_dim or not 0 < rows.shape[0] <= text_len:
        raise CheckpointError(
            f"{path}: holds {shapes}; expected one tensor (rows, {text_dim}) with 1 to {text_len} rows for this model"
        )
    return torch.nn.functional.pad(rows, (0, 0, 0, text_len - rows.shape[0]))[None]
