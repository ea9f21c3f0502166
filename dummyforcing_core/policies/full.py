"""The full cache: every head keeps every frame. Self-Forcing (arXiv 2506.08009) as trained; the dense baseline."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

from ..kv.plan import HeadMemory, HeadPlan
from .base import Policy, Setting


@dataclass(frozen=True)
class Full(Policy):
    """Everything, at absolute positions. Warns beyond the family's trained range."""

    name: ClassVar[str] = "full"

    def plan(self, setting: Setting) -> HeadPlan:
        family = setting.family
        if setting.clip_frames > family.trained_frames:
            warnings.warn(
                f"the clip has {setting.clip_frames} latent frames, {family.title} was trained on "
                f"{family.trained_frames}; a full cache degrades beyond that and grows with the clip: "
                f"use policy window, window {family.default_window_frames}, sink {family.sink_frames}",
                stacklevel=2,
            )
        return self.uniform(setting, HeadMemory(), "full")
