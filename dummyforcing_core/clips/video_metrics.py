"""Figures of a finished video that need no network: motion, seams between chunks, drift of colour and sharpness.

None of them is a quality score. A frozen clip is perfectly consistent, so motion stands beside everything else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..geometry import FPS, TEMPORAL

EDGE_SECONDS = 5


@dataclass
class VideoMetrics:
    """Takes the frames of one clip, (H, W, 3) uint8, one after the other; holds one frame.

    chunk_frames -- latent frames per chunk, for the seams
    """

    chunk_frames: int = 3
    fps: int = FPS
    frames: int = 0
    _steps: list[float] = field(default_factory=list)  # mean absolute change to the next frame, 0..255
    _colours: list[np.ndarray] = field(default_factory=list)
    _sharpness: list[float] = field(default_factory=list)
    _last: np.ndarray | None = None

    def add(self, frame: np.ndarray) -> None:
        """The next frame."""
        now = frame.astype(np.float32)
        if self._last is not None:
            self._steps.append(float(np.abs(now - self._last).mean()))
        self._colours.append(now.mean((0, 1)))
        self._sharpness.append(_laplacian(now.mean(2)))
        self._last = now
        self.frames += 1

    @property
    def motion(self) -> float:
        """Mean absolute change per frame, in levels of 0..255."""
        return _mean(self._steps)

    @property
    def flicker(self) -> float:
        """(255 - motion) / 255, as VBench's temporal flickering counts; 1 is a still."""
        return (255 - self.motion) / 255

    @property
    def seam_ratio(self) -> float | None:
        """Change at chunk boundaries over change elsewhere; None without both."""
        step = TEMPORAL * self.chunk_frames
        # The first latent frame is one pixel frame, so chunks begin at 1 - 4 + 4 * chunk_frames * k.
        seams = {TEMPORAL * self.chunk_frames * k - TEMPORAL for k in range(1, self.frames // step + 2)}
        at = [value for i, value in enumerate(self._steps) if i in seams]
        off = [value for i, value in enumerate(self._steps) if i not in seams]
        return _mean(at) / _mean(off) if at and off and _mean(off) else None

    @property
    def colour_drift(self) -> float:
        """Largest change of a channel's mean from the first to the last 5 seconds, in levels of 0..255."""
        first, last = self._edges(self._colours)
        return float(np.abs(np.mean(last, 0) - np.mean(first, 0)).max()) if len(first) else 0.0

    @property
    def sharpness_ratio(self) -> float | None:
        """Laplacian sharpness of the last over that of the first 5 seconds."""
        first, last = self._edges(self._sharpness)
        return _mean(last) / _mean(first) if _mean(first) else None

    def rows(self) -> Mapping[str, float | None]:
        """All of them by name."""
        return {
            "frames": self.frames,
            "motion": self.motion,
            "flicker": self.flicker,
            "seam ratio": self.seam_ratio,
            "colour drift": self.colour_drift,
            "sharpness ratio": self.sharpness_ratio,
        }

    def _edges(self, values: list) -> tuple[list, list]:
        count = min(EDGE_SECONDS * self.fps, max(1, len(values) // 2))
        return values[:count], values[-count:]


def metrics_table(clips: Mapping[str, VideoMetrics], difference: Iterable[float], fps: int = FPS) -> str:
    """The clips' figures side by side, and how far apart they are: mean absolute levels, first and last second.

    difference -- of every pair of frames, at so many per second
    """
    names = list(clips)
    lines = ["".join([f"{'':<18}", *(f"{name:>12}" for name in names)])]
    for row in next(iter(clips.values())).rows():
        values = [clips[name].rows()[row] for name in names]
        lines.append(f"{row:<18}" + "".join(f"{'-' if v is None else format(v, '.4g'):>12}" for v in values))
    levels = list(difference)
    if len(levels) > fps:
        first, last = _mean(levels[:fps]), _mean(levels[-fps:])
        lines.append(f"difference of the two, levels of 255: first second {first:.2f}, last second {last:.2f}")
    elif levels:
        lines.append(f"difference of the two, levels of 255: {_mean(levels):.2f}")
    lines.append("chaotic models drift apart after a few chunks: a difference is not an error")
    return "\n".join(lines)


def _laplacian(grey: np.ndarray) -> float:
    inner = grey[1:-1, 1:-1]
    edges = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(edges.var()) if edges.size else 0.0


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
