"""The host's own nodes for upscaling and frame interpolation, as work on a window of a video."""

from fractions import Fraction
from typing import Any

from torch import Tensor

from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.rates import HIGHEST, rate_text
from .windows import Frames, Work, even, with_shorter_side


def upscaling(given: Frames, model: Any, shorter_side: int) -> Work:
    """An UPSCALE_MODEL's, brought to this many pixels; 0 keeps what it makes."""
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    width, height = (round(side * model.scale) for side in given.size)

    def make(frames: Tensor) -> Tensor:
        made: Tensor = ImageUpscaleWithModel.execute(model, frames).result[0]
        return made

    return Work(make, with_shorter_side((width, height), shorter_side), model.model)


def interpolating(given: Frames, model: Any, multiplier: int) -> tuple[Work, Fraction]:
    """An INTERP_MODEL's, and the rate at which its frames are as fast as those given.

    A frame in between is made of its two neighbours alone: windows that share one frame give those of a whole run.
    """
    from comfy_extras.nodes_frame_interpolation import FrameInterpolate

    if given.fps * multiplier > HIGHEST:
        raise DummyForcingError(
            f"expected at most {HIGHEST} frames per second, got {multiplier} times {rate_text(given.fps)}; choose a "
            "smaller multiplier"
        )

    def make(frames: Tensor) -> Tensor:
        made: Tensor = FrameInterpolate.execute(model, frames, multiplier).result[0]
        return made

    return Work(make, even(given.size), model.model, again=(1, 1)), given.fps * multiplier
