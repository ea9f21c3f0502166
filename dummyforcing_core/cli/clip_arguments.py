"""The clip that is asked for (--size, --frames, --seconds, --fps, --codec, --crf), and what a family makes for it."""

import argparse
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from ..clips.encoding import CODECS, DEFAULT_CODEC, DEFAULT_CRF, DEFAULT_ENCODING, Encoding
from ..clips.pipeline import is_demo
from ..clips.render import shown_conditions
from ..errors import OutputError, shown
from ..geometry import SIZES, LatentShape, check_shown_size, made_size, pixel_frames
from ..loops.table import loop_of
from ..models.families import ANY_LENGTH, Family
from ..rates import OWN_RATE, frames_in, rate_of, rate_text
from .numbers import whole

DEMO_SIZE = (64, 64)
DEFAULT_SIZE = (832, 480)
DEFAULT_FRAMES = 81
LONGEST = pixel_frames(ANY_LENGTH)


def add_clip_arguments(parser: argparse.ArgumentParser, frames: str) -> None:
    """What says how large and how long; `frames` is what the help says of a clip without --frames."""
    parser.add_argument(
        "--size",
        type=size,
        metavar="WxH",
        help="pixels, even; what is no multiple of 16 is made larger and cut (default: 64x64 for the demo, whose video "
        "shows every pixel six times larger)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--frames", type=whole, help=f"of the video (default: {frames})")
    length.add_argument("--seconds", type=float, metavar="S", help="of the video, instead of --frames")
    parser.add_argument(
        "--fps", type=rate, default=OWN_RATE, metavar="F", help="of the video, e.g. 24 or 23.976; motion is made for 16"
    )


def add_encoding_arguments(parser: argparse.ArgumentParser) -> None:
    """What says how the video is coded."""
    codecs = " or ".join(CODECS)
    parser.add_argument("--codec", default=DEFAULT_CODEC, help=f"of the video, {codecs} (default: {DEFAULT_CODEC})")
    parser.add_argument(
        "--crf", type=whole, default=DEFAULT_CRF, help=f"0 is lossless, higher is smaller (default: {DEFAULT_CRF})"
    )


def size(text: str) -> tuple[int, int]:
    """ "WxH" or a size's name as (width, height) shown."""
    name = text.strip().lower()
    match = re.fullmatch(r"(\d{1,9})[x*](\d{1,9})", name)
    if name not in SIZES and not match:
        raise argparse.ArgumentTypeError(
            f"expected WIDTHxHEIGHT, got '{shown(text)}'; write e.g. 832x480, or {', '.join(SIZES)}"
        )
    return (int(match[1]), int(match[2])) if match else SIZES[name]


def rate(text: str) -> Fraction:
    """Frames per second, as a number or a fraction."""
    try:
        return rate_of(text)
    except OutputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@dataclass(frozen=True)
class Asked:
    """A video: width and height, frames, frames per second, and how it is coded."""

    size: tuple[int, int]
    frames: int
    fps: Fraction
    encoding: Encoding = DEFAULT_ENCODING

    @property
    def conditions(self) -> dict[str, Any]:
        """As a report has them."""
        return shown_conditions(self.size, self.frames, self.fps) | {"codec": str(self.encoding)}

    def shape(self, family: Family) -> LatentShape:
        """Latents of what is made for it: sides of 16 pixels, and as many frames as the family's loop needs."""
        covering = LatentShape.of_pixels(*made_size(*self.size), self.frames)
        made = loop_of(family).made_frames(family, family.schedule, covering.frames)
        return LatentShape(1, covering.channels, made, covering.height, covering.width)


def asked_clip(args: argparse.Namespace, default_frames: int = DEFAULT_FRAMES) -> Asked:
    """What the arguments ask for, of `default_frames` if they say nothing of a length. OutputError if it cannot be."""
    wanted = args.size or (DEMO_SIZE if is_demo(args.model) else DEFAULT_SIZE)
    check_shown_size(*wanted)
    frames = default_frames if args.frames is None else args.frames
    if args.seconds is not None:
        frames = frames_in(args.seconds, args.fps)
    if frames < 1:
        raise OutputError(f"expected 1 frame or more, got {frames}; ask for at least 1")
    if frames > LONGEST:
        hours = float(LONGEST / args.fps / 3600)
        raise OutputError(
            f"expected at most {LONGEST} frames ({hours:.0f} hours at {rate_text(args.fps)} fps), got {frames}; make "
            "several clips"
        )
    return Asked(wanted, frames, args.fps)


def asked_video(args: argparse.Namespace) -> Asked:
    """The same of a command that writes it. OutputError also for a codec or crf that no encoder here has."""
    encoding, asked = Encoding(args.codec, args.crf), asked_clip(args)
    encoding.check_encoder()
    if not is_demo(args.model):  # whose video is larger
        encoding.check_size(*asked.size)
    return replace(asked, encoding=encoding)
