"""What of a LATENT a video is to show: its size and frames, where the latents are of a larger clip."""

from dataclasses import dataclass, replace
from fractions import Fraction

from torch import Tensor
from torch.nn.functional import pad

from ...dummyforcing_core.geometry import PATCH, SPATIAL, LatentShape, latent_frames, pixel_frames, screen_size
from ...dummyforcing_core.rates import frames_in

KEY = "dummyforcing_shown"


@dataclass(frozen=True)
class Shown:
    """Of a clip's pixels those that its video has, in the middle and from the first frame on.

    latent  -- (frames, rows, columns) of the latents that this was said of: another node may have changed them
    seconds -- the length that was asked for, of an empty canvas
    """

    size: tuple[int, int]
    frames: int
    latent: tuple[int, ...]
    seconds: float | None = None

    def of(self, samples: Tensor) -> "Shown":
        """The same of other latents (B, C, T, h, w) of the clip, which may have ended early."""
        return replace(self, frames=min(self.frames, pixel_frames(samples.shape[2])), latent=tuple(samples.shape[2:]))

    def at(self, fps: Fraction) -> "Shown":
        """The same at a rate: as many frames as its seconds take."""
        return self if self.seconds is None else replace(self, frames=frames_in(self.seconds, fps))

    @property
    def latent_frames(self) -> int:
        """Latent frames that cover it."""
        return latent_frames(self.frames)


def shown_of(latent: dict) -> Shown:
    """What a LATENT's maker said of it; else all of it, but of 1088 rows a screen's 1080."""
    samples = latent["samples"]
    said = latent.get(KEY)
    if isinstance(said, Shown) and said.latent == tuple(samples.shape[2:]):
        return said
    frames, height, width = samples.shape[2:]
    return Shown(screen_size(width * SPATIAL, height * SPATIAL), pixel_frames(frames), (frames, height, width))


def with_shown(samples: Tensor, shown: Shown) -> dict:
    """A LATENT that says so."""
    return {"samples": samples, KEY: shown.of(samples)}


def made_side(latents: int) -> int:
    """Latent rows or columns that a model can work on, so many or one more."""
    return -(-latents // PATCH) * PATCH


def extended(samples: Tensor, shape: LatentShape) -> Tensor:
    """Latents (B, C, T, h, w) at a longer or larger shape, or a shorter one: last frame, row and column repeat."""
    samples = samples[:, :, : shape.frames]
    frames, height, width = samples.shape[2:]
    sides = (0, shape.width - width, 0, shape.height - height, 0, shape.frames - frames)
    return pad(samples, sides, mode="replicate") if any(sides) else samples
