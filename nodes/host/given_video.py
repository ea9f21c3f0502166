"""VIDEOs that other nodes give: as a file, and at what rate."""

import contextlib
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import folder_paths

from ...dummyforcing_core.errors import OutputError
from ...dummyforcing_core.files import make_folder
from ...dummyforcing_core.rates import OWN_RATE, rate_of


def rate_of_video(video: Any) -> Fraction:
    """Of a VIDEO; the models' own where it tells none, or one that no video has."""
    try:
        return rate_of(video.get_frame_rate())
    except (AttributeError, OutputError, OSError, ValueError):  # whoever reads its frames says what is wrong
        return OWN_RATE


@contextlib.contextmanager
def on_disk(video: Any) -> Iterator[Path]:
    """A VIDEO's own file; one that lies in memory or is cut is written to the temp folder while the block runs."""
    source = video.get_stream_source() if hasattr(video, "get_stream_source") else None
    trimmed = hasattr(video, "get_active_trim_window") and any(video.get_active_trim_window())
    if isinstance(source, str) and not trimmed:
        yield Path(source)
        return
    root = Path(folder_paths.get_temp_directory())
    make_folder(root)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        path = Path(folder) / "clip.mp4"
        video.save_to(str(path))
        yield path
