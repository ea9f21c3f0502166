"""A window of recent frames behind pinned first frames: LongLive's cache (arXiv 2509.22622, section 3.3)."""

from dataclasses import dataclass
from typing import ClassVar

from ..errors import PlanError
from ..kv.plan import HeadMemory, HeadPlan
from .base import Policy, Setting


@dataclass(frozen=True)
class SlidingWindow(Policy):
    """Every head sees `window_frames` latent frames, current chunk and `sink_frames` first frames included."""

    window_frames: int = 12
    sink_frames: int = 3

    name: ClassVar[str] = "window"

    def plan(self, setting: Setting) -> HeadPlan:
        recent = self.window_frames - self.sink_frames - setting.chunk_frames
        if self.sink_frames < 0 or recent < 0:
            raise PlanError(
                f"a window of {self.window_frames} frames cannot hold {self.sink_frames} sink frames and a chunk of "
                f"{setting.chunk_frames}; use a window of at least {max(self.sink_frames, 0) + setting.chunk_frames} "
                "and a sink of 0 or more"
            )
        memory = HeadMemory(self.sink_frames, recent)
        return HeadPlan.uniform(setting.layers, setting.heads, memory, "window", setting.family.name)
