"""A given start: an image, or the latents of a clip that goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, OutputError, shown
from ..geometry import SPATIAL, LatentShape, pixel_frames
from ..models.finite import beyond
from ..models.tensor_check import READABLE
from ..models.weight_files import read_weights
from ..reading import unreadable
from .pipeline import Pipeline

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

LARGEST_LATENT = 1e3  # latents are about as large as standard normal noise


def start_from_latents(path: Path, shape: LatentShape) -> Tensor:
    """The tensor "latent" (1, 16, n, h, w) of a .safetensors file; it counts in the clip's length."""
    name = shown(path, 200)
    try:
        latent = read_weights(path)[0].get("latent")
    except CheckpointError as error:
        raise OutputError(f"{name}: {error}; save latents with --save-latents") from error
    wanted = (1, shape.channels, shape.height, shape.width)
    if not isinstance(latent, Tensor) or latent.ndim != 5 or (*latent.shape[:2], *latent.shape[3:]) != wanted:
        got, use = 'no tensor "latent"', "a file of --save-latents"
        if isinstance(latent, Tensor):
            got = f"a latent of shape {tuple(latent.shape)}"
            if latent.ndim == 5 and tuple(latent.shape[:2]) == wanted[:2] and latent.numel():
                use = f"--size {latent.shape[4] * SPATIAL}x{latent.shape[3] * SPATIAL}"
        raise OutputError(
            f"{name}: expected a latent (1, {shape.channels}, frames, {shape.height}, {shape.width}) for this clip, "
            f"got {got}; use {use}"
        )
    if not latent.shape[2]:
        raise OutputError(f"{name}: its latent has no frame; save one with --save-latents")
    if latent.shape[2] >= shape.frames:
        given, made = pixel_frames(latent.shape[2]), pixel_frames(shape.frames)
        raise OutputError(
            f"{name}: the start has {given} frames and counts in the clip's length, which is {made}; use more --frames"
        )
    if latent.dtype not in READABLE:
        raise OutputError(
            f"{name}: expected latents in floating point, got {str(latent.dtype)[6:]}; save them with --save-latents"
        )
    latent = latent.float()
    if odd := beyond(latent, LARGEST_LATENT):
        raise OutputError(f"{name}: its latents hold {odd}; save them again with --save-latents")
    return latent


def start_from_image(pixels: Tensor, pipeline: Pipeline) -> Tensor:
    """One latent frame (1, 16, 1, h, w) of an image as `image_pixels` reads it."""
    if pipeline.encode_pixels is None:
        raise OutputError("a start image needs an encoder, which this model has not; give --start-latents instead")
    return pipeline.encode_pixels(pixels.to(pipeline.denoiser.geometry.device))


def image_pixels(
    path: Path, shape: LatentShape, warn: Callable[[str], None], crop: tuple[int, int] | None = None
) -> Tensor:
    """Pixels (1, 3, 1, H, W) in [-1, 1] of an image, scaled to cover the clip's size and cropped to its middle.

    crop -- width and height of the middle that will be shown, if less is shown than made: the image fills that, and
            its edge rows and columns are repeated around it
    """
    from PIL import Image, ImageOps

    size = shape.width * SPATIAL, shape.height * SPATIAL
    if why := unreadable(path):
        raise OutputError(f"cannot read the image {shown(path, 200)}: {why}")
    try:
        image = _upright_rgb(path)
    except Exception as error:  # a damaged file makes the parsers raise almost anything
        reason = shown(str(error) or type(error).__name__, 200)
        raise OutputError(f"cannot read the image {shown(path, 200)}: {reason}; give another file") from error
    width, height = size if crop is None or image.size == size else crop
    if image.width * height != image.height * width:
        warn(f"{path.name} is {image.width}x{image.height}, another shape than {width}x{height}: its middle is used")
    fitted = np.array(ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2  # where streaming.crop takes the middle from
    sides = ((top, size[1] - height - top), (left, size[0] - width - left), (0, 0))
    pixels = torch.from_numpy(np.pad(fitted, sides, mode="edge")).permute(2, 0, 1).float() / 127.5 - 1
    return pixels[None, :, None]


def _upright_rgb(path: Path) -> "PILImage":
    """The image in a file as a viewer shows it: turned as its EXIF says, over black, 8 bits per channel."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        grey = np.nan_to_num(np.asarray(image).astype(np.float64))
        # Integers are 16 bits wide, whatever holds them; floats have no one range: the least usual that fits.
        white = next((w for w in ((1, 255, 65535) if image.mode == "F" else (65535,)) if grey.max() <= w), grey.max())
        return Image.fromarray((grey / white * 255).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return image.convert("RGB")
