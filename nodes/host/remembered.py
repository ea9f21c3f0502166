"""The frames that a clip's bank holds, as pictures: kept out of the clip's own decoding, which is never done twice."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ...dummyforcing_core.geometry import TEMPORAL, Span
from ...dummyforcing_core.kv.plan import HeadPlan
from ...dummyforcing_core.models.families import Family


class RememberedFrames:
    """Of every latent frame that is banked, or may still come to the bank, the last pixel frame that the video shows.

        frames = RememberedFrames(family)
        output.on_frames = frames.add                      # told of (B, f, H, W, 3) uint8, in order
        for chunk in ...:                                  # each once, before or behind its pixels
            frames.committed(chunk.span, chunk.plan, chunk.banked)
        frames.image()                                     # once all are written

    Holds no more than the bank, and what heads with a bank keep of the newest frames.
    """

    def __init__(self, family: Family):
        self._overlap = family.overlap_frames  # where a clip begins anew, they come to its bank
        self._pixels: dict[int, np.ndarray] = {}  # by latent frame, (B, H, W, 3) uint8
        self._last = np.empty((0, 2, 2, 3), np.uint8)
        self._count = 0  # pixel frames so far
        self._banked: tuple[int, ...] = ()
        self._recent = 0  # the first latent frame that is not banked yet, but may be

    def add(self, frames: np.ndarray) -> None:
        """The clip's next frames."""
        newest = {}
        for frame in frames.swapaxes(0, 1):
            newest[-(-self._count // TEMPORAL)] = frame  # pixel 4t is the last one of latent t
            self._count += 1
        # Copies: a view would keep all frames of the chunk alive.
        self._pixels |= {latent: frame.copy() for latent, frame in newest.items()}
        if newest:
            self._last = self._pixels[max(newest)]
        self._forget()

    def skip(self, frames: int) -> None:
        """So many frames of the clip are not shown: none of them is in `image`."""
        self._count += frames

    def committed(self, span: Span, plan: HeadPlan, banked: Iterable[int]) -> None:
        """A chunk is history: what it changed in the bank."""
        self._banked = tuple(banked)
        self._recent = span.stop - max(_ring_frames(plan), self._overlap)
        self._forget()

    def image(self) -> Tensor:
        """(N, H, W, 3) in [0, 1], in temporal order, clip after clip of a batch; the last frame, where nothing is held
        or what is held is not shown."""
        held = [self._pixels[latent] for latent in sorted(self._banked) if latent in self._pixels] or [self._last]
        return torch.from_numpy(np.stack(held, axis=1)).flatten(0, 1).float() / 255

    def _forget(self) -> None:
        self._pixels = {
            latent: frame for latent, frame in self._pixels.items() if latent in self._banked or latent >= self._recent
        }


def _ring_frames(plan: HeadPlan) -> int:
    """The most newest frames that a head with a bank keeps beside it."""
    return max((memory.recent_frames or 0 for row in plan.memories for memory in row if memory.bank_frames), default=0)
