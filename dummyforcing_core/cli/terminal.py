"""Lines on stderr, each on its own even while a progress bar is drawn there."""

import sys
from collections.abc import Callable

from ..errors import MESSAGE, shown

WIPES: list[Callable[[], None]] = []  # of the bars that are there; they draw themselves again


def warn(text: str) -> None:
    """One line on stderr, whatever the text holds."""
    for wipe in WIPES:
        wipe()
    print(f"warning: {shown(text, MESSAGE)}", file=sys.stderr)
