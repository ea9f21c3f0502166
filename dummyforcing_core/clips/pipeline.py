"""A model with all it needs to run headless: prompt -> features, denoiser, latents -> pixels."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..kv.attention import Backend, choose
from ..kv.interruptible import interruptible
from ..loops.table import loop_of
from ..models.checkpoints import LoadedModel, load_demo_model, load_model, read_checkpoint
from ..models.denoiser import WanDenoiser
from ..models.families import DEMO, Family, get_family
from ..models.lora import Lora
from ..models.metadata import parse_metadata
from ..models.offload import offload_blocks, resident_bytes
from ..models.wan_geometry import size_mismatch
from ..models.weight_files import read_header
from ..text.umt5 import TextEncoder
from ..vae.still_frame import DecodedStills, EncodePixels, KeptStills
from ..vae.streaming import LatentPreview, StreamingDecoder
from ..vae.tiny_vae import TinyDecoder, TinyStream
from ..vae.wan_vae import WanVAE
from ..vae.wan_vae_stream import WanVAEDecoder
from ..vae.wan_vae_stream import encode as encode_video
from .demo_assets import load_demo_codec
from .text_features import Encode, TextFiles, Warn, features_of

NewDecoder = Callable[[], StreamingDecoder]
DEMO_VIDEO_SCALE = 6  # 64 pixels are a stamp on a screen


@dataclass(frozen=True)
class Pipeline:
    """A loaded model. `encode` turns a prompt into features (1, S, text_dim); `new_decoder` starts a clip's decoder;
    `encode_pixels` makes latents of pixels (1, 3, 4(T-1)+1, H, W) in [-1, 1], where there is an encoder.
    """

    name: str
    denoiser: WanDenoiser
    family: Family
    encode: Encode
    new_decoder: NewDecoder
    backend: Backend
    fingerprint: str
    init_ms: float
    video_scale: int = 1
    encode_pixels: EncodePixels | None = None

    def new_stills(self) -> DecodedStills | None:
        """Pixel frames of one clip as stills, for a family whose loop wants them; None without an encoder."""
        frames = loop_of(self.family).still_frames(self.family)
        if not frames or self.encode_pixels is None:
            return None
        return DecodedStills(self.new_decoder(), self.encode_pixels, frames)

    def kept_stills(self) -> KeptStills | None:
        """The same where the clip's pixels are made anyway: whoever decodes them hands them over."""
        frames = loop_of(self.family).still_frames(self.family)
        return KeptStills(self.encode_pixels, frames) if frames and self.encode_pixels else None


@dataclass(frozen=True)
class Weights:
    """Which model: "demo" or a checkpoint file, its family if the file does not say, an adapter to merge."""

    model: str = DEMO
    family: str | None = None
    lora: Lora | None = None


@dataclass(frozen=True)
class Compute:
    """Where and how it runs.

    resident_blocks -- None keeps all weights on the device, a number those of so many blocks (offload.py)
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    attention: str = "auto"
    resident_blocks: int | None = None


@dataclass(frozen=True)
class Decoder:
    """What makes pixels; tiny ones cannot encode a start image.

    tile -- latent rows and columns that are decoded at a time; None: the whole picture
    """

    vae: WanVAE | TinyDecoder | None = None
    tile: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.tile is not None and isinstance(self.vae, TinyDecoder):
            raise CheckpointError("expected no --vae-tile for a tiny decoder, which needs none, got one; leave it out")


NO_TEXT, NO_DECODER = TextFiles(), Decoder()


def load_pipeline(
    weights: Weights,
    compute: Compute,
    text: TextFiles = NO_TEXT,
    decoder: Decoder = NO_DECODER,
    warn: Warn = lambda text: None,
) -> Pipeline:
    """Loads a model with all it needs. `warn` gets one line per thing the user should know.

    Files of the demo family bring their text and codec. Others need one of the text files, and without a decoder their
    video is a rough preview of the latents.
    """
    began = time.perf_counter()
    umt5, loaded = _loaded(weights, compute, text, decoder, warn)
    if mismatch := size_mismatch(loaded.model.config, loaded.family):
        warn(mismatch)
    demo = loaded.family.name == DEMO
    if demo:
        _refuse_parts(decoder, text)
    new_decoder, encode_pixels = _codec(compute.device) if demo else _pixels(decoder)
    encode = umt5 or features_of(loaded, text.embedding, warn)
    if new_decoder is LatentPreview:
        warn("no VAE is loaded: the video is a rough preview of the latents; keep them with --save-latents")
    denoiser = WanDenoiser(loaded.model)
    backend = choose(compute.attention, compute.device, compute.dtype, denoiser.geometry.head_dim)
    return Pipeline(
        name=weights.model if weights.model == DEMO else Path(weights.model).name,
        denoiser=denoiser,
        family=loaded.family,
        encode=encode,
        new_decoder=new_decoder,
        backend=replace(backend, run=interruptible(backend.run)),
        fingerprint=loaded.info.fingerprint,
        init_ms=1000 * (time.perf_counter() - began),
        video_scale=DEMO_VIDEO_SCALE if demo else 1,
        encode_pixels=encode_pixels,
    )


def _loaded(
    weights: Weights, compute: Compute, text: TextFiles, decoder: Decoder, warn: Warn
) -> tuple[TextEncoder | None, LoadedModel]:
    """The model on its device, and its umt5, which has read the prompts and left memory before."""
    model, family, device, dtype = weights.model, weights.family, compute.device, compute.dtype
    if model == DEMO:
        check_demo_family(family)
        if weights.lora is not None:
            raise CheckpointError(
                f"{weights.lora.path}: the demo model takes no LoRA; name its base checkpoint with --model"
            )
        _refuse_parts(decoder, text)
        return None, load_demo_model(device, dtype)
    umt5: TextEncoder | None = None
    if text.encoder is not None and not is_demo(model):
        config = read_checkpoint(model, family).info.geometry
        umt5 = TextEncoder(text.encoder, text.tokenizer, device, dtype, config.text_len, config.text_dim, warn)
        umt5.read(text.prompts)
    resident = compute.resident_blocks
    loaded = load_model(model, family, device if resident is None else "cpu", dtype, weights.lora)
    if resident is not None:
        offload_blocks(loaded.model, device, resident)
        held = resident_bytes(loaded.model, resident) / 2**30
        warn(f"{held:.2f} GiB of weights on {device}, the others come over layer by layer in every call")
    return umt5, loaded


def decoder_of(demo: bool, device: torch.device, decoder: Decoder = NO_DECODER) -> tuple[NewDecoder, int]:
    """What makes pixels where no model is loaded, and how much a video of them is enlarged."""
    if demo:
        _refuse_parts(decoder, NO_TEXT)
        return _codec(device)[0], DEMO_VIDEO_SCALE
    return _pixels(decoder)[0], 1


def _codec(device: torch.device) -> tuple[NewDecoder, EncodePixels | None]:
    """The demo world's own."""
    codec = load_demo_codec(device)
    return codec.decoder_stream, codec.encode


def _pixels(decoder: Decoder) -> tuple[NewDecoder, EncodePixels | None]:
    """A clip's decoder, and the encoder that belongs to it, if there is one."""
    vae, tile = decoder.vae, decoder.tile
    if vae is None:
        return LatentPreview, None
    if isinstance(vae, TinyDecoder):
        return partial(TinyStream, vae), None
    return partial(WanVAEDecoder, vae, tile), partial(encode_video, vae, tile=tile)


def check_demo_family(family: str | None) -> None:
    """CheckpointError if the bundled model is asked for under another family."""
    if family is not None and get_family(family).name != DEMO:
        raise CheckpointError(f"expected --family {DEMO} or none for --model demo, got {family}; leave it out")


def is_demo(model: str) -> bool:
    """Whether this is the bundled model or a file whose metadata says it is of its family; no tensor is read."""
    path = Path(model)
    if model == DEMO or not os.path.isfile(path):
        return model == DEMO
    try:
        return parse_metadata(read_header(path)).family == DEMO
    except CheckpointError:  # whoever loads the file says what is wrong with it
        return False


def _refuse_parts(decoder: Decoder, text: TextFiles) -> None:
    """What the demo family brings itself cannot be given."""
    if decoder.vae is not None:
        raise CheckpointError("the demo model has a codec of its own; leave --vae out")
    if text.encoder is not None:
        raise CheckpointError("the demo model reads prompts by itself; leave --text-encoder out")
