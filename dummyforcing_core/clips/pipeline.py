"""A model with all it needs to run headless: prompt -> features, denoiser, latents -> pixels."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import CheckpointError
from ..kv.attention import Backend, choose
from ..loops.table import still_frames
from ..models.checkpoints import LoadedModel, load_demo_model, load_model, read_checkpoint
from ..models.denoiser import WanDenoiser
from ..models.families import Family, get_family
from ..models.lora import Lora
from ..models.metadata import parse_metadata
from ..models.offload import offload_blocks, resident_bytes
from ..models.wan_geometry import size_doubt
from ..models.weight_files import read_header
from ..text.demo_text import TEXT_DIM, TEXT_LEN, encode_prompt
from ..text.umt5 import TextEncoder, padded
from ..vae.still_frame import DecodedStills, KeptStills
from ..vae.streaming import LatentPreview, StreamingDecoder
from ..vae.tiny_vae import TinyDecoder, TinyStream
from ..vae.wan_vae import WanVAE
from ..vae.wan_vae_stream import WanVAEDecoder
from ..vae.wan_vae_stream import encode as encode_video
from .demo_assets import load_demo_codec

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

    def new_stills(self) -> DecodedStills | None:
        """Pixel frames of one clip as stills, for a family whose loop wants them; None without an encoder."""
        frames = still_frames(self.family)
        if not frames or self.encode_pixels is None:
            return None
        return DecodedStills(self.new_decoder(), self.encode_pixels, frames)

    def kept_stills(self) -> KeptStills | None:
        """The same where the clip's pixels are made anyway: whoever decodes them hands them over."""
        frames = still_frames(self.family)
        return KeptStills(self.encode_pixels, frames) if frames and self.encode_pixels else None


def load_pipeline(
    model: str,
    family: str | None,
    device: torch.device,
    dtype: torch.dtype,
    backend: str = "auto",
    text_embedding: Path | None = None,
    warn: Warn = lambda text: None,
    lora: Lora | None = None,
    vae: WanVAE | TinyDecoder | None = None,
    vae_tile: tuple[int, int] | None = None,
    text_encoder: Path | None = None,
    tokenizer: Path | None = None,
    prompts: Sequence[str] = (),
    resident_blocks: int | None = None,
) -> Pipeline:
    """Loads the model called "demo" or a checkpoint file.

    Files of the demo family bring their text and codec. Others take their text from `text_embedding`, a .safetensors
    with one tensor (S, text_dim), or from the umt5 in `text_encoder` with its `tokenizer` (see models/umt5.py), which
    reads `prompts`, all that are known, before the model is loaded, and is gone then; any other prompt costs another
    pass. Their clips are decoded by `vae` (tiny ones cannot encode a start image), in tiles of `vae_tile` latent rows
    and columns if given, or as a rough preview without one. `warn` gets one line per thing the user should know.
    resident_blocks: None keeps all weights on the device, a number those of so many blocks (offload.py).
    """
    began = time.perf_counter()
    if text_encoder is not None and text_embedding is not None:
        raise CheckpointError(
            "--text-encoder and --text-embedding came, one source of text was expected; leave one out"
        )
    umt5: TextEncoder | None = None
    if model == DEMO:
        if family is not None and get_family(family).name != DEMO:
            raise CheckpointError(f"--family {family} came, --model demo is of family {DEMO}; leave --family out")
        if lora is not None:
            raise CheckpointError(f"{lora.path}: the demo model takes no LoRA; name its base checkpoint with --model")
        _refuse_parts(vae, text_encoder)
        loaded = load_demo_model(device, dtype)
    else:
        if text_encoder is not None and not is_demo(model):
            config = read_checkpoint(model, family).info.geometry
            umt5 = TextEncoder(text_encoder, tokenizer, device, dtype, config.text_len, config.text_dim, warn)
            umt5.read(prompts)
        loaded = load_model(model, family, device if resident_blocks is None else "cpu", dtype, lora)
        if resident_blocks is not None:
            offload_blocks(loaded.model, device, resident_blocks)
            held = resident_bytes(loaded.model, resident_blocks) / 2**30
            warn(f"{held:.2f} GiB of weights on {device}, the others come over layer by layer in every call")
    if doubt := size_doubt(loaded.model.config, loaded.family):
        warn(doubt)
    demo = loaded.family.name == DEMO
    new_decoder: Callable[[], StreamingDecoder] = LatentPreview
    encode_pixels: Callable[[Tensor], Tensor] | None = None
    if demo:
        _refuse_parts(vae, text_encoder)
        codec = load_demo_codec(device)
        new_decoder, encode_pixels = codec.decoder_stream, codec.encode
    elif isinstance(vae, TinyDecoder):
        if vae_tile is not None:
            raise CheckpointError("--vae-tile came with a tiny decoder, which needs none; leave it out")
        new_decoder = partial(TinyStream, vae)
    elif vae is not None:
        new_decoder = partial(WanVAEDecoder, vae, vae_tile)
        encode_pixels = partial(encode_video, vae, tile=vae_tile)
    encode = umt5 or _encoder(loaded, text_embedding, warn)
    if new_decoder is LatentPreview:
        warn("no VAE is loaded: the video is a rough preview of the latents; keep them with --save-latents")
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
        video_scale=DEMO_VIDEO_SCALE if demo else 1,
        encode_pixels=encode_pixels,
    )


def is_demo(model: str) -> bool:
    """Whether this is the bundled model or a file whose metadata says it is of its family; no tensor is read."""
    path = Path(model)
    if model == DEMO or not path.is_file():
        return model == DEMO
    try:
        return parse_metadata(read_header(path)).family == DEMO
    except CheckpointError:  # whoever loads the file says what is wrong with it
        return False


def _refuse_parts(vae: WanVAE | TinyDecoder | None, text_encoder: Path | None) -> None:
    """What the demo family brings itself cannot be given."""
    if vae is not None:
        raise CheckpointError("the demo model has a codec of its own; leave --vae out")
    if text_encoder is not None:
        raise CheckpointError("the demo model reads prompts by itself; leave --text-encoder out")


def _encoder(loaded: LoadedModel, text_embedding: Path | None, warn: Warn) -> Callable[[str], Tensor]:
    """Saved features, whatever the prompt, or the demo world's own text."""
    config = loaded.model.config
    if text_embedding is not None:
        features = _saved_features(text_embedding, config.text_len, config.text_dim)
        return lambda prompt: features
    if loaded.family.name != DEMO:
        raise CheckpointError(
            "this model needs --text-embedding FILE.safetensors (one tensor of text encoder output, rows x channels) "
            "or --text-encoder PATH (umt5-xxl); only the demo model understands a prompt without them"
        )
    if (config.text_len, config.text_dim) != (TEXT_LEN, TEXT_DIM):
        raise CheckpointError(
            f"this model of family {DEMO} reads {config.text_len} rows of {config.text_dim} channels, the demo world's "
            f"text has {TEXT_LEN} of {TEXT_DIM}; pass --text-embedding, or --family with how the model was trained"
        )
    return _demo_encoder(warn)


def _demo_encoder(warn: Warn) -> Callable[[str], Tensor]:
    def encode(prompt: str) -> Tensor:
        features, unknown = encode_prompt(prompt)
        if unknown:
            warn(f"the demo world does not know: {', '.join(dict.fromkeys(unknown))} (ignored)")
        return features

    return encode


def _saved_features(path: Path, text_len: int, text_dim: int) -> Tensor:
    """Features (1, text_len, text_dim) from a file, zero rows added behind the prompt's."""
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
    return padded(rows, text_len)
