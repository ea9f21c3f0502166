"""Two VIDEOs of the host's side by side, moment by moment."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np

from ...dummyforcing_core.clips.encoding import Encoding
from ...dummyforcing_core.clips.video import VideoWriter, read_frames
from ...dummyforcing_core.clips.video_metrics import VideoMetrics, metrics_table
from ...dummyforcing_core.errors import OutputError
from ...dummyforcing_core.evaluation.comparison import joined_frames
from ...dummyforcing_core.rates import OWN_RATE, rate_of, rate_text, seconds_text
from .files import OutputFile
from .notes import told


def compare(
    first: Any, second: Any, prefix: str, encoding: Encoding, tags: Mapping[str, str]
) -> tuple[OutputFile, str]:
    """Writes both beside each other to the output folder and tells how they differ. Holds one frame of each.

    They are compared by time: of two rates the higher is the file's, and the other clip's frames are shown longer.
    """
    with _on_disk(first) as left, _on_disk(second) as right:
        sides = _Side(left, _rate(first)), _Side(right, _rate(second))
        fps = max(side.fps for side in sides)
        difference: list[float] = []
        file = writer = None
        with told() as notes, contextlib.ExitStack() as stack:
            for joined, (a, b) in joined_frames([side.frames(fps) for side in sides]):
                if writer is None:
                    height, width = joined.shape[:2]
                    file = OutputFile(prefix, width, height)
                    writer = stack.enter_context(VideoWriter(file.part, width, height, fps, encoding, metadata=tags))
                writer.write(joined[None])
                if a is not None and b is not None and a.shape == b.shape:
                    difference.append(float(np.abs(a.astype(np.float32) - b).mean()))
        assert file is not None  # a VIDEO has a frame
        file.finish()
        metrics = dict(zip(("first", "second"), (side.metrics for side in sides), strict=True))
        lines = [*(f"note: {note}" for note in notes), *_unequal(*sides)]
        return file, "\n".join([*lines, metrics_table(metrics, difference, max(1, round(fps)))])


class _Side:
    """One of the two clips: its rate, and what is seen of it while it is read."""

    def __init__(self, path: Path, fps: Fraction):
        self.fps, self.metrics = fps, VideoMetrics(fps=max(1, round(fps)))
        self.size: tuple[int, int] | None = None
        self._path = path

    @property
    def seconds(self) -> Fraction:
        return self.metrics.frames / self.fps

    def frames(self, fps: Fraction) -> Iterator[np.ndarray]:
        """Its frames as a video of this rate, not below its own, shows them."""
        shown = 0
        for number, frame in enumerate(read_frames(self._path), start=1):
            self.metrics.add(frame)
            self.size = (frame.shape[1], frame.shape[0])
            while shown < number * fps / self.fps:
                yield frame
                shown += 1


def _unequal(first: _Side, second: _Side) -> Iterator[str]:
    """A line for each way in which the clips are not alike."""
    if first.fps != second.fps:
        rates = rate_text(first.fps), rate_text(second.fps)
        yield (
            f"note: the clips play at {rates[0]} and {rates[1]} fps: compared by time, the side by side plays at "
            f"{rate_text(max(first.fps, second.fps))}"
        )
    apart = abs(first.seconds - second.seconds)
    if apart > max(1 / first.fps, 1 / second.fps) or (first.fps == second.fps and apart):
        lengths = [seconds_text(side.metrics.frames, side.fps) for side in (first, second)]
        shorter = lengths[0] if first.seconds < second.seconds else lengths[1]
        yield (
            f"note: the clips are {lengths[0]} and {lengths[1]} long: the difference is of the first {shorter}, then "
            "the shorter one holds its last frame"
        )
    if first.size != second.size and first.size and second.size:
        sizes = ["{}x{}".format(*size) for size in (first.size, second.size)]
        yield f"note: the clips are {sizes[0]} and {sizes[1]} pixels: there is no difference; make both one size"


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
