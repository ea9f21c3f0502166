"""Which clean latents a chunk's cache is made of, where it is made anew before every chunk (see recompute.py)."""

import warnings

import torch
from torch import Tensor

from ..errors import OutputError, PlanError
from ..geometry import Span
from ..models.families import Family
from ..vae.still_frame import StillFrames


def context_frames(family: Family) -> int:
    """K, the frames that are read before a chunk: the family's window without the chunk. PlanError if there is none."""
    frames = family.default_window_frames - family.chunk_frames
    if frames < 1 or family.sink_frames > 1:
        raise PlanError(
            f"family {family.name!r} has a window of {family.default_window_frames} frames, chunks of "
            f"{family.chunk_frames} and a sink of {family.sink_frames}; where the cache is made anew before every "
            "chunk, the window needs 1 or more frames beside the chunk, and the sink is 0 frames or 1"
        )
    return frames


class ContextLatents:
    """Frame 0 and the newest K latents of a clip; nothing else is kept, however long it gets.

    A context is the newest K - 1 latents, and in front of them frame 0 or E: the last pixel frame before them, encoded
    as a still image. Frame 0 stays for ever if the family has a sink frame. Otherwise E takes over with the first chunk
    behind K + F generated frames or more; a given start that fits into the context does not count as generated, behind
    a longer one it is E at once.
    """

    def __init__(self, family: Family, given_frames: int = 0, still: StillFrames | None = None):
        self.frames = context_frames(family)
        self._family, self._given = family, given_frames
        self._still = None if family.sink_frames else still  # frame 0 stays: no pixels are needed
        self.encoded: tuple[int, Tensor] | None = None  # the frame of the last context that was encoded, and E
        self._first: Tensor | None = None
        self._newest = self._unseen = torch.empty(0)

    def keeps_first(self, span: Span) -> bool:
        """Whether the context before `span` begins with frame 0 itself."""
        made_before_last = span.start - self._given - self._family.chunk_frames
        return self._family.sink_frames > 0 or (self._given <= self.frames and made_before_last < self.frames)

    def add(self, latent: Tensor) -> None:
        """The clip's next finished frames (B, C, t, h, w)."""
        if self._first is None:
            self._first, self._newest = latent[:, :, :1].clone(), latent[:, :, :0]
        self._newest = torch.cat((self._newest, latent[:, :, -self.frames :]), dim=2)[:, :, -self.frames :]
        if self._still is not None:
            self._unseen = latent.clone()

    def pass_by(self) -> None:
        """Before a chunk whose context nobody asks for: pixels are those of later ones too."""
        self.encoded = None
        if self._still is not None:
            self._still.push(self._unseen)

    def before(self, span: Span) -> Tensor:
        """The context (B, C, min(span.start, K), h, w) of `span`. Ask once after every `add`: pixels are made here."""
        assert self._first is not None
        self.pass_by()
        front = self._newest[:, :, :1]
        if self.keeps_first(span):
            front = self._first
        elif self._still is not None:
            front = encoded_still(self._still, span.start - self.frames, front)
            self.encoded = span.start - self.frames, front
        return torch.cat((front, self._newest[:, :, 1:]), dim=2)


def encoded_still(still: StillFrames, frame: int, plain: Tensor) -> Tensor:
    """Latent frame `frame` as a still image, in shape and dtype of the `plain` latent (B, C, 1, h, w) it stands for."""
    encoded = still.at(frame)
    if encoded.shape != plain.shape:
        raise OutputError(
            f"expected a still frame of shape {tuple(plain.shape)} from the encoder, got {tuple(encoded.shape)}; "
            "decode and encode with the VAE that belongs to the model"
        )
    return encoded.to(plain)


def warn_plain_latent(family: Family) -> None:
    """One line to whoever samples without a VAE that can encode."""
    warnings.warn(
        f"{family.title} begins its context with a re-encoded pixel frame, and there is no VAE to make one: the "
        "plain latent is used, which the model was not made for; give a VAE that has an encoder",
        stacklevel=3,
    )
