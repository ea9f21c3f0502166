"""Frame rates as exact fractions, and how many frames a time is. Seconds are those of the video that comes out."""

import math
import re
from fractions import Fraction

from .errors import OutputError, shown
from .geometry import FPS

OWN_RATE = Fraction(FPS)  # what the models make motion for
HIGHEST = 240
LONGEST_S = 10**9
# A few digits: exponents make numbers that nothing comes to the end of.
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,18}|/[0-9]{1,9})?")
_NTSC = tuple(Fraction(1000 * rate, 1001) for rate in (24, 30, 48, 60, 120))


def rate_of(value: str | float | Fraction) -> Fraction:
    """Frames per second from a number or text ("24", "23.976", "24000/1001"); 23.976 is read as 24000/1001.

    OutputError unless it is above 0 and at most 240.
    """
    try:
        text = str(value).strip() if isinstance(value, str | float) else ""
        rate = Fraction(text if _NUMBER.fullmatch(text) else "") if text else Fraction(value)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not Fraction(1, 100) <= rate <= HIGHEST:
        raise OutputError(
            f"expected frames per second from 0.01 to {HIGHEST}, got {shown(value, 20)}; write e.g. 16, 24 or 23.976"
        )
    near = next((exact for exact in _NTSC if abs(exact - rate) < Fraction(1, 200)), rate)
    return near.limit_denominator(1001)


def rate_text(rate: Fraction) -> str:
    """The rate as people write it: 24, 23.976."""
    return f"{float(rate):.3f}".rstrip("0").rstrip(".")


def frames_in(seconds: float, rate: Fraction) -> int:
    """Frames that cover `seconds` of video, at least one. OutputError for what is no length."""
    if not math.isfinite(seconds) or seconds <= 0:
        raise OutputError(f"expected a length above 0 seconds, got {seconds:g}; give e.g. 5")
    if seconds > LONGEST_S:
        raise OutputError(f"expected at most {LONGEST_S} seconds, got {seconds:g}; make several clips")
    return max(1, math.ceil(Fraction(repr(seconds)) * rate))


def seconds_text(frames: int, rate: Fraction) -> str:
    """How long so many frames are shown, "5.04 s"."""
    return f"{float(frames / rate):.3f}".rstrip("0").rstrip(".") + " s"


def clock(seconds: float) -> str:
    """A time as people write it, 5:00 or 1:02.5."""
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{minutes:.0f}:{rest:06.3f}".rstrip("0").rstrip(".") if rest % 1 else f"{minutes:.0f}:{rest:02.0f}"


def fine_clock(seconds: float) -> str:
    """The same always in hundredths, 0:01.50: for stretches of less than a second."""
    minutes, rest = divmod(round(seconds, 2), 60)
    return f"{minutes:.0f}:{rest:05.2f}"


def speed_note(rate: Fraction) -> str:
    """One line if motion looks clearly slower or faster than it was made, else ""."""
    times = rate / OWN_RATE
    if Fraction(3, 4) <= times < Fraction(3, 2):
        return ""
    return f"motion is made for {rate_text(OWN_RATE)} fps: at {rate_text(rate)} it plays {float(times):.3g}x as fast"
