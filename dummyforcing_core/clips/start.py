"""A given start: an image, or the latents of a clip that goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import OutputError
from ..geometry import SPATIAL, LatentShape
from ..models.finite import is_finite
from .pipeline import Pipeline

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


def start_from_latents(path: Path, shape: LatentShape) -> Tensor:
    """The tensor "latent" (1, 16, n, h, w) of a .safetensors file; it counts in the clip's length."""
    try:
        latent = load_file(path).get("latent")
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path}: not a readable .safetensors file ({error}); save it with --save-latents") from error
    wanted = (1, shape.channels, shape.height, shape.width)
    if latent is None or latent.ndim != 5 or (*latent.shape[:2], *latent.shape[3:]) != wanted:
        got = 'no tensor "latent"' if latent is None else f"a latent of shape {tuple(latent.shape)}"
        raise OutputError(
            f"{path}: expected a latent (1, {shape.channels}, frames, {shape.height}, {shape.width}) for this clip, "
            f"got {got}; "
            "make the clip of the same size"
        )
    if latent.shape[2] >= shape.frames:
        raise OutputError(
            f"{path}: holds {latent.shape[2]} latent frames, the clip has {shape.frames} in all; use more --frames"
        )
    if not is_finite(latent):
        raise OutputError(f"{path}: its latents hold NaN or infinity, finite ones were expected; make that clip again")
    return latent.float()


def start_from_image(
    path: Path,
    pipeline: Pipeline,
    shape: LatentShape,
    warn: Callable[[str], None],
    shown: tuple[int, int] | None = None,
) -> Tensor:
    """One latent frame (1, 16, 1, h, w) of an image, scaled to cover the clip's size and cropped to its middle.

    shown -- width and height of the middle that will be shown, if less is shown than made: the image fills that, and
             its edge rows and columns are repeated around it
    """
    from PIL import Image, ImageOps

    if pipeline.encode_pixels is None:
        raise OutputError("a start image needs an encoder, which this model has not; give --start-latents instead")
    size = shape.width * SPATIAL, shape.height * SPATIAL
    try:
        image = _upright_rgb(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OutputError(f"cannot read the image {path}: {error}; give another file") from error
    width, height = size if shown is None or image.size == size else shown
    if image.width * height != image.height * width:
        warn(f"{path.name} is {image.width}x{image.height}, another shape than {width}x{height}: its middle is used")
    fitted = np.array(ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2  # where streaming.crop takes the middle from
    sides = ((top, size[1] - height - top), (left, size[0] - width - left), (0, 0))
    pixels = torch.from_numpy(np.pad(fitted, sides, mode="edge")).permute(2, 0, 1).float() / 127.5 - 1
    return pipeline.encode_pixels(pixels[None, :, None].to(pipeline.denoiser.geometry.device))


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
