"""Two VIDEOs of the host's side by side, frame by frame."""

import contextlib
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np

from ...dummyforcing_core.clips.video import VideoWriter
from ...dummyforcing_core.clips.video_metrics import VideoMetrics, metrics_table
from ...dummyforcing_core.errors import OutputError
from ...dummyforcing_core.evaluation.comparison import joined_frames
from ...dummyforcing_core.rates import OWN_RATE, rate_of
from .files import OutputFile


def compare(first: Any, second: Any, prefix: str) -> tuple[OutputFile, str]:
    """Writes both beside each other to the output folder and tells how they differ. Holds one frame of each."""
    with _on_disk(first) as left, _on_disk(second) as right:
        fps = _rate(first)
        metrics = {name: VideoMetrics(fps=max(1, round(fps))) for name in ("first", "second")}
        difference: list[float] = []
        file = writer = None
        try:
            for joined, (a, b) in joined_frames([left, right]):
                if writer is None:
                    height, width = joined.shape[:2]
                    file = OutputFile(prefix, width, height)
                    writer = VideoWriter(file.part, width, height, fps)
                writer.write(joined[None])
                for name, frame in zip(metrics, (a, b), strict=True):
                    if frame is not None:
                        metrics[name].add(frame)
                if a is not None and b is not None and a.shape == b.shape:
                    difference.append(float(np.abs(a.astype(np.float32) - b).mean()))
        finally:
            if writer is not None:
                writer.close()
        assert file is not None  # a VIDEO has a frame
        file.finish()
        return file, metrics_table(metrics, difference)


def _rate(video: Any) -> Fraction:
    """Of a VIDEO; the models' own where it tells none, or one that no video has."""
    try:
        return rate_of(video.get_frame_rate())
    except (AttributeError, OutputError):
        return OWN_RATE


@contextlib.contextmanager
def _on_disk(video: Any) -> Iterator[Path]:
    source = video.get_stream_source() if hasattr(video, "get_stream_source") else None
    trimmed = hasattr(video, "get_active_trim_window") and any(video.get_active_trim_window())
    if isinstance(source, str) and not trimmed:
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(dir=_temp()) as folder:
        path = Path(folder) / "clip.mp4"
        video.save_to(str(path))
        yield path


def _temp() -> str:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)
