"""A given start: an image, or the latents of a clip that goes on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .errors import OutputError
from .geometry import SPATIAL, LatentShape
from .pipeline import Pipeline


def start_from_latents(path: Path, shape: LatentShape) -> Tensor:
    """The tensor "latent" (1, 16, n, h, w) of a .safetensors file; it counts in the clip's length."""
    try:
        latent = load_file(path).get("latent")
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path}: not a readable .safetensors file ({error}); save it with --save-latents") from error
    wanted = (1, shape.channels, shape.height, shape.width)
    if latent is None or latent.ndim != 5 or (*latent.shape[:2], *latent.shape[3:]) != wanted:
        came = 'no tensor "latent"' if latent is None else f"a latent of shape {tuple(latent.shape)}"
        raise OutputError(
            f"{path}: holds {came}; this clip needs (1, {shape.channels}, frames, {shape.height}, {shape.width})"
        )
    if latent.shape[2] >= shape.frames:
        raise OutputError(
            f"{path}: holds {latent.shape[2]} latent frames, the clip has {shape.frames} in all; use more --frames"
        )
    return latent.float()


def start_from_image(path: Path, pipeline: Pipeline, shape: LatentShape, warn: Callable[[str], None]) -> Tensor:
    """One latent frame (1, 16, 1, h, w) of an image, scaled to cover the clip's size and cropped to its middle."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if pipeline.encode_pixels is None:
        raise OutputError("a start image needs an encoder, which this model has not; give --start-latents instead")
    size = shape.width * SPATIAL, shape.height * SPATIAL
    try:
        image = Image.open(path).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise OutputError(f"cannot read the image {path}: {error}") from error
    if image.width * size[1] != image.height * size[0]:
        warn(f"{path.name} is {image.width}x{image.height}, another shape than {size[0]}x{size[1]}: its middle is used")
    fitted = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 127.5 - 1
    return pipeline.encode_pixels(pixels[None, :, None].to(pipeline.denoiser.geometry.device))
