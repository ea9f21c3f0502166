"""Predicted beside actual K/V memory of a clip."""

from dataclasses import dataclass

from ..kv.plan import KVShape
from ..loops.run import ChunkResult
from ..policies.base import Seen


@dataclass
class MemoryUse:
    """K/V bytes of a clip as its plans estimated them, beside what was really allocated."""

    shape: KVShape
    last: ChunkResult | None = None
    predicted_peak: int = 0
    actual_peak: int = 0
    scores: Seen | None = None

    def add(self, chunk: ChunkResult) -> None:
        """The next chunk of the clip."""
        self.predicted_peak = max(self.predicted_peak, chunk.predicted_peak_bytes)
        self.actual_peak = max(self.actual_peak, chunk.peak_bytes)
        self.scores = chunk.scores or self.scores
        self.last = chunk

    def rows(self) -> dict:
        """For RunReport.memory."""
        if self.last is None:
            return {}
        last, frames = self.last, self.shape.clip_frames
        cached = last.plan.cached_frames(frames)
        return {
            "history_bytes": {"predicted": last.predicted_history_bytes, "actual": last.history_bytes},
            "resident_bytes": {"predicted": last.predicted_resident_bytes, "actual": last.resident_bytes},
            "peak_bytes": {"predicted": self.predicted_peak, "actual": self.actual_peak},
            "cached_frames": {
                "mean": sum(cached) / len(cached),
                "max": max(cached),
                "context_ratio": sum(cached) / len(cached) / frames,
            },
        }
