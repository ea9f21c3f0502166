"""The video side of a streaming run: every chunk is decoded, written and shown as soon as it is done."""

import logging
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

import comfy.model_management
import numpy as np
from torch import Tensor

from ...dummyforcing_core.clips.video import VideoWriter
from ...dummyforcing_core.geometry import LatentShape, pixel_frames
from ...dummyforcing_core.vae.streaming import to_uint8
from .decoder import SMALL_TILE, check_vae, load, stream_of, wrong_kind
from .files import Destination, OutputFile, workflow_tags
from .shown import Shown
from .tiled_stream import TiledStream

LOOKBACK_FRAMES = 48  # latents; more than the Wan2.1 decoder's convolutions see of the past (about 37)


class ClipOutput:
    """Decodes and writes a clip chunk by chunk; one file per batch item.

        with ClipOutput(vae, shape, shown, destination) as output:
            for chunk in ...:
                pixels = output.add(latents)       # (B, f, H, W, 3) uint8, on disk and playable
            output.finish()

    Leaving it without finish() keeps the playable part and names it in the log.

    first -- pixel frames of the clip that the video leaves out; the latents before its own go into `skip`
    """

    def __init__(self, vae: Any, shape: LatentShape, shown: Shown, to: Destination, first: int = 0):
        check_vae(vae, shape.channels)
        self._vae, self._shape = vae, shape
        if line := wrong_kind(vae):
            warnings.warn(line, stacklevel=2)
        self.size, self._left = shown.size, shown.frames - first
        self.files = [OutputFile(to.prefix, *self.size, item) for item in range(shape.batch)]
        tags = workflow_tags(to.hidden)
        self._writers = [VideoWriter(file.part, *self.size, to.fps, to.encoding, metadata=tags) for file in self.files]
        self._stream = stream_of(vae)
        self._pushed: list[Tensor] = []  # on the CPU, as many as a second try with tiles needs of the past
        self._finished = False
        self._skipped, self._unwritten = 0, 0  # latents of the past, pixel frames of it that are still to come
        self.decode_ms: list[float] = []
        self.on_pixels: Callable[[Tensor], None] = lambda pixels: None  # told of (B, 3, f, 8h, 8w) in [-1, 1], in order
        self.on_frames: Callable[[np.ndarray], None] = lambda frames: None  # told of what is written, as `add` gives it

    def add(self, latents: Tensor) -> np.ndarray:
        """Latents (B, 16, t, h, w) of a LATENT -> the pixels that are ready, (B, f, H, W, 3) uint8."""
        began = time.perf_counter()
        pixels = self._written(self._decoded(latents))
        self.decode_ms.append(1000 * (time.perf_counter() - began))
        return pixels

    def skip(self, latents: Tensor) -> None:
        """What comes before the video's first frame, (B, 16, t, h, w), so that the decoder knows the past."""
        before, self._skipped = self._skipped, self._skipped + latents.shape[2]
        self._unwritten += pixel_frames(self._skipped) - pixel_frames(before)
        self._written(self._decoded(latents))

    @property
    def frames(self) -> int:
        """Of each video, so far."""
        return self._writers[0].frames_written

    def finish(self) -> np.ndarray:
        """The pixels that were held back; the files get their names."""
        rest = self._written(self._retried(lambda: self._stream.flush(), self._pushed))
        for writer, file in zip(self._writers, self.files, strict=True):
            writer.finish()
            file.finish()
        self._finished = True
        return rest

    def __enter__(self) -> "ClipOutput":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.reset()
        for writer, file in zip(self._writers, self.files, strict=True):
            writer.close()
            if not self._finished:
                file.abandon()

    def _decoded(self, latents: Tensor) -> Tensor:
        if not self._pushed:
            load(self._vae, latents.shape)
        self._pushed.append(latents.cpu())
        # In pairs: of single frames every other one is held back, and a second try must hold back the same ones.
        while sum(piece.shape[2] for piece in self._pushed[2:]) > LOOKBACK_FRAMES:
            del self._pushed[:2]
        return self._retried(lambda: self._stream.push(latents), self._pushed[:-1])

    def _retried(self, decode: Callable[[], Tensor], earlier: list[Tensor]) -> Tensor:
        """What `decode` gives; after running out of memory, in tiles that have seen the `earlier` latents."""
        try:
            return decode()
        except comfy.model_management.OOM_EXCEPTION:
            if not isinstance(self._stream, TiledStream):
                raise
        logging.warning(
            "Dummy Forcing: decoding ran out of memory, trying again in tiles of %dx%d latents", *SMALL_TILE
        )
        self._stream = stream_of(self._vae, SMALL_TILE)
        comfy.model_management.soft_empty_cache()
        for latents in earlier:  # their pixels are written already; the tiles need their past
            self._stream.push(latents)
        return decode()

    def _written(self, pixels: Tensor) -> np.ndarray:
        if not pixels.shape[2]:
            return np.empty((self._shape.batch, 0, self.size[1], self.size[0], 3), np.uint8)
        self.on_pixels(pixels)
        left_out = min(self._unwritten, pixels.shape[2])
        self._unwritten -= left_out
        frames = to_uint8(pixels[:, :, left_out:], self.size)[:, : self._left]
        self._left -= frames.shape[1]
        for writer, item in zip(self._writers, frames, strict=True):
            writer.write(item)
        self.on_frames(frames)
        return frames
