"""Noise that depends on the seed, the chunk and the step alone: chunk k is the same however long the clip."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .geometry import LatentShape, Span
from .transfer import to_device

NoiseFn = Callable[[int, Span], Tensor]
"""noise(step, span) -> (B, C, span.frames, h, w), unit variance. Step 0 starts a chunk, step i > 0 re-noises."""


@dataclass(frozen=True)
class SeededNoise:
    """Own CPU generator per (seed + batch item, chunk, step); never touches torch's global state.

    Always draws a whole chunk, frame after frame, so a short last chunk begins like a whole one.
    """

    seed: int
    shape: LatentShape
    chunk_frames: int
    device: torch.device | str = "cpu"

    def __call__(self, step: int, span: Span) -> Tensor:
        items = [self._draw(self.seed + item, step, span) for item in range(self.shape.batch)]
        return to_device(torch.stack(items), self.device)

    def _draw(self, seed: int, step: int, span: Span) -> Tensor:
        # Two words for the seed, always: entropy of varying length could collide.
        words = (seed % 2**32, seed // 2**32 % 2**32, span.chunk, step)
        state = np.random.SeedSequence(words).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]))
        s = self.shape
        drawn = torch.randn((self.chunk_frames, s.channels, s.height, s.width), generator=generator)
        return drawn[: span.frames].transpose(0, 1)
