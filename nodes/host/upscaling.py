"""A VIDEO through one of the host's upscale models, a few frames at a time."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from torch import Tensor

from ...dummyforcing_core.clips.soundtrack import copy_sound
from ...dummyforcing_core.clips.video import VideoWriter, frame_count, read_frames
from ...dummyforcing_core.errors import DummyForcingError, OutputError
from ...dummyforcing_core.geometry import LONGEST_SIDE
from .files import Destination, OutputFile, workflow_tags
from .given_video import on_disk, rate_of_video
from .notes import told

AS_MODEL = "as the model"
SHORT_SIDES = {"720P": 720, "1080P": 1080, "1440P": 1440, "2160P": 2160}


def upscale(video: Any, model: Any, size: str, window: int, to: Destination) -> OutputFile:
    """Writes the VIDEO larger to the output folder, `window` frames in memory at a time. Its sound comes along.

    size -- AS_MODEL, or a name of SHORT_SIDES to which the model's picture is brought
    """
    to = replace(to, fps=rate_of_video(video))
    with on_disk(video) as path, contextlib.ExitStack() as stack:
        bar = comfy.utils.ProgressBar(frame_count(path), node_id=to.hidden.unique_id)
        file = writer = None
        try:
            with told() as notes:
                for frames in _windows(read_frames(path), window):
                    comfy.model_management.throw_exception_if_processing_interrupted()
                    larger = _to_uint8(_resized(_by_model(model, frames), size))
                    if writer is None:
                        height, width = larger.shape[1:3]
                        file = OutputFile(to.prefix, width, height)
                        tags = workflow_tags(to.hidden)
                        writer = VideoWriter(file.part, width, height, to.fps, to.encoding, metadata=tags)
                        stack.enter_context(writer)
                    writer.write(larger)
                    bar.update(len(frames))
            if file is None or writer is None:
                raise DummyForcingError("expected a video with a frame, got none; connect another one")
            writer.finish()
        except BaseException:
            if file is not None:
                stack.close()
                file.abandon()
            raise
        for note in [*notes, *_sound_notes(file.part, path)]:
            logging.warning("Dummy Forcing: %s", note)
    file.finish()
    return file


def _windows(frames: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 in windows of so many, (f, H, W, 3)."""
    held: list[np.ndarray] = []
    for frame in frames:
        held.append(frame)
        if len(held) == count:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


def _by_model(model: Any, frames: np.ndarray) -> Tensor:
    """What the host's own node makes of frames (f, H, W, 3) uint8: (f, H', W', 3) in [0, 1]."""
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    image = torch.from_numpy(frames).float() / 255
    made: Tensor = ImageUpscaleWithModel.execute(model, image).result[0]
    return made


def _resized(image: Tensor, size: str) -> Tensor:
    """Frames (f, H, W, 3) at even sides, the short one as asked for."""
    height, width = image.shape[1:3]
    ratio = SHORT_SIDES[size] / min(height, width) if size != AS_MODEL else 1.0
    wanted = [max(2, round(side * ratio / 2) * 2) for side in (height, width)]
    if max(wanted) > LONGEST_SIDE:
        raise DummyForcingError(
            f"expected sides of at most {LONGEST_SIDE} pixels, got {wanted[1]}x{wanted[0]}; choose a smaller size"
        )
    if wanted == [height, width]:
        return image
    moved = comfy.utils.common_upscale(image.movedim(-1, 1), wanted[1], wanted[0], "lanczos", "disabled")
    return moved.movedim(1, -1)


def _to_uint8(image: Tensor) -> np.ndarray:
    return (image.float() * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _sound_notes(part: Path, source: Path) -> list[str]:
    """Brings the source's sound under the finished video; a line if that cannot be done."""
    sounding = part.with_name(f"{part.stem}.sound.mp4")
    try:
        if copy_sound(part, source, sounding):
            sounding.replace(part)
        return []
    except OutputError as error:
        return [f"the sound of the video was left out: {error}"]
