"""A window of recent frames behind pinned first frames: LongLive's cache (arXiv 2509.22622, section 3.3)."""

import warnings
from dataclasses import dataclass, replace
from typing import ClassVar

from ..errors import PlanError
from ..kv.plan import POSITIONS, HeadMemory, HeadPlan
from ..models.families import Family
from .base import Policy, Setting
from .options import Option, option


@dataclass(frozen=True, repr=False)
class SlidingWindow(Policy):
    """Every head sees `window_frames` latent frames, current chunk and `sink_frames` first frames included.

    None is the family's own number: without options this is the memory that the family was trained with.
    """

    window_frames: int | None = option(
        None, Option("frames a head sees, current chunk included", 1, flag="window", unset="the family's")
    )
    sink_frames: int | None = option(None, Option("first frames kept", 0, flag="sink", unset="the family's"))
    positions: str = option("absolute", Option("where kept frames stand", choices=POSITIONS, later=True))
    switch_frames: int | None = option(
        None,
        Option(
            "newest frames that stay at a switch, besides the first", 0, flag="keep-at-switch", unset="all", later=True
        ),
    )

    name: ClassVar[str] = "window"

    def resolved(self, family: Family) -> "SlidingWindow":
        window = family.default_window_frames if self.window_frames is None else self.window_frames
        sink = family.sink_frames if self.sink_frames is None else self.sink_frames
        return replace(self, window_frames=window, sink_frames=sink)

    def plan(self, setting: Setting) -> HeadPlan:
        own = self.resolved(setting.family)
        window, sink = own.window_frames or 0, own.sink_frames or 0
        if window < sink + setting.chunk_frames:
            raise PlanError(
                f"expected a window of at least {sink + setting.chunk_frames} frames, {sink} for the sink and "
                f"{setting.chunk_frames} for the current chunk, got {window}; use a longer one, or a smaller sink"
            )
        recent = window - sink - setting.chunk_frames
        frames = setting.family.trained_frames if self.positions == "end" else 0
        if self.positions == "rank" and sink and recent < setting.chunk_frames:
            warnings.warn(
                f"rank positions with {recent} recent frames behind {sink} first ones can freeze the video: use "
                "positions absolute or end, or a longer window",
                stacklevel=2,
            )
        memory = HeadMemory(sink, recent, self.positions, 0, frames, self.switch_frames)  # type: ignore[arg-type]
        return self.uniform(setting, memory, "window")
