"""RGB to what a video holds and back, without a drift: BT.709 in limited range, rounded instead of cut off."""

from __future__ import annotations

from typing import Any

import numpy as np

_BT709 = 1  # one number in all three of H.273's tables: primaries, transfer, matrix
_RGB, _UNSPECIFIED = 0, 2  # matrix values of a file that does not say
_LIMITED_RANGE, _FULL_RANGE = 1, 2

# swscale's fast paths cut off what they should round, one level per reading: these flags switch them off. The chroma
# planes are averages of 2x2 pixels on the way in (AREA) and are interpolated on the way out (BICUBIC).
_BICUBIC, _AREA, _FULL_CHROMA_INT, _FULL_CHROMA_INPUT, _ACCURATE = 1 << 2, 1 << 5, 1 << 13, 1 << 14, 1 << 18
_EXACT = _FULL_CHROMA_INT | _FULL_CHROMA_INPUT | _ACCURATE


# A chroma sample lies in the middle of its four pixels; h264 files that do not say so have it at their left edge.
# An option of libx264; AV1 has no word for the middle.
CHROMA_IN_THE_MIDDLE = {"x264-params": "chromaloc=1"}


def tag(context: Any) -> None:
    """Says in an encoder's stream what `to_yuv` makes."""
    context.pix_fmt = "yuv420p"
    context.color_primaries = context.color_trc = context.colorspace = _BT709
    context.color_range = _LIMITED_RANGE


def to_yuv(av: Any, frame: np.ndarray, size: tuple[int, int] | None = None) -> Any:
    """A frame (H, W, 3) uint8 RGB as a PyAV frame for an encoder, brought to `size` (width, height) if it is given."""
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return rgb.reformat(
        *(size or (rgb.width, rgb.height)),
        format="yuv420p",
        src_color_range=_FULL_RANGE,
        dst_color_range=_LIMITED_RANGE,
        dst_colorspace=_BT709,
        interpolation=_AREA | _EXACT,
    )


def to_rgb(frame: Any) -> np.ndarray:
    """A decoded PyAV frame as (H, W, 3) uint8 RGB, read as BT.709 in limited range unless it says otherwise."""
    known = frame.colorspace not in (_RGB, _UNSPECIFIED)
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=frame.colorspace if known else _BT709,
        src_color_range=frame.color_range or _LIMITED_RANGE,
        dst_color_range=_FULL_RANGE,
        interpolation=_BICUBIC | _EXACT,
    )
    pixels: np.ndarray = rgb.to_ndarray()
    return pixels
