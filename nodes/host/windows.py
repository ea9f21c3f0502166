"""A VIDEO of the host's through one of its own image nodes, a few frames at a time: read, made, written."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import InputImpl
from torch import Tensor

from ...dummyforcing_core.clips.given_video import GivenVideo
from ...dummyforcing_core.clips.sound import Samples, Sound
from ...dummyforcing_core.clips.video import VideoWriter
from ...dummyforcing_core.errors import DummyForcingError, OutputError
from ...dummyforcing_core.rates import rate_of
from .cancel import cancellable
from .files import Destination, OutputFile, workflow_tags
from .notes import told

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Frames:
    """What is read of a VIDEO.

    frames -- each (H, W, 3) in [0, 1], anew at every call
    count -- of frames, as far as its file tells
    """

    size: Size
    fps: Fraction
    count: int
    frames: Callable[[], Iterable[Tensor]]
    sound: Sound | None


def frames_of(video: Any) -> Frames:
    """The frames of a VIDEO, one by one from its file where it has one. A slice is read as one."""
    if not isinstance(video, InputImpl.VideoFromFile):
        return _in_memory(video)
    given = GivenVideo(video.get_stream_source(), *video.get_active_trim_window())

    def read() -> Iterator[Tensor]:
        return (torch.from_numpy(frame).float() / 255 for frame in given.frames())

    return Frames(given.size, given.fps, given.count, read, given.sound)


def _in_memory(video: Any) -> Frames:
    parts = video.get_components()
    images = parts.images
    if images.ndim != 4 or not len(images) or images.shape[-1] not in (1, 3, 4):
        raise DummyForcingError(
            f"expected a video of frames (frames, height, width, 3), got {tuple(images.shape)}; give another video"
        )
    colours = images[..., :3] if images.shape[-1] > 1 else images.expand(-1, -1, -1, 3)
    height, width = images.shape[1:3]
    return Frames((width, height), rate_of(parts.frame_rate), len(images), lambda: colours, sound_of(parts.audio))


def sound_of(audio: Any) -> Samples | None:
    """An AUDIO of the host's, the first of a batch; None if there is nothing in it."""
    if not audio or not audio["waveform"].numel():
        return None
    waveform = audio["waveform"]
    if waveform.ndim != 3:
        raise DummyForcingError(
            f"expected audio (batch, channels, samples), got {tuple(waveform.shape)}; connect a Load Audio"
        )
    return Samples(waveform[0].detach().float().cpu().numpy(), int(audio["sample_rate"]))


@dataclass(frozen=True)
class Work:
    """What is made of a window.

    make -- frames (n, H, W, 3) in [0, 1] -> frames, of any size
    size -- of the video: what `make` gives is brought to it, or its middle kept where only an odd line is too much
    network -- what `make` runs
    again -- frames that a window begins with once more, and frames of what is made of it that the last one had
    """

    make: Callable[[Tensor], Tensor]
    size: Size
    network: Any = None
    again: tuple[int, int] = (0, 0)


def write_windows(given: Frames, work: Work, to: Destination, window: int) -> OutputFile:
    """The whole video in the output folder, made and written `window` frames at a time.

    Ended before, by an error or by the user, the part that was written stays, and the log names it.
    """
    if window < 1:
        raise DummyForcingError(f"expected a window of at least 1 frame, got {window}; give e.g. 8")
    bar = comfy.utils.ProgressBar(given.count, node_id=to.hidden.unique_id)
    with told() as notes, _growing(work.size, to) as (file, video):
        done, windows = 0, _Windows(given.frames(), window, work.again[0])
        while fresh := _one_window(windows, work, video, bar, done):
            done += fresh
            bar.update_absolute(done, max(done, given.count))
        bar.update_absolute(done, done)
        video.finish(given.sound)
        file.finish()
    for note in notes:
        logging.warning("Dummy Forcing: %s", note)
    return file


@contextlib.contextmanager
def _growing(size: Size, to: Destination) -> Iterator[tuple[OutputFile, VideoWriter]]:
    file = OutputFile(to.prefix, *size)
    try:
        writer = VideoWriter(file.part, *size, to.fps, to.encoding, metadata=workflow_tags(to.hidden))
        with contextlib.closing(writer):
            yield file, writer
    except BaseException:
        file.abandon()
        raise


class _Windows:
    """Frames `size` at a time, each time behind the last `again` of those before. Only these are held in between."""

    def __init__(self, frames: Iterable[Tensor], size: int, again: int):
        self._frames, self._size, self._again = iter(frames), size, again
        self._last: list[Tensor] = []

    def read(self) -> tuple[Tensor, int]:
        """The next ones, and how many of them are new; 0 at the end."""
        fresh = list(itertools.islice(self._frames, self._size))
        if not fresh:
            return torch.empty(0), 0
        held = [*self._last, *fresh]
        self._last = held[len(held) - self._again :]
        return torch.stack(held), len(fresh)


def _one_window(windows: _Windows, work: Work, video: VideoWriter, bar: Any, done: int) -> int:
    """The next window read, made and written; how many of its frames were new, 0 at the end.

    A call per window: what is made, often gigabytes, is gone before the next is.
    """
    comfy.model_management.throw_exception_if_processing_interrupted()
    frames, fresh = windows.read()
    if fresh:
        with cancellable(work.network), _counting(bar, done, fresh):
            made = work.make(frames)
        begun = work.again[1] if done else 0
        video.write(np.stack([_pixels(frame, work.size) for frame in made[begun:]]))
    return fresh


@contextlib.contextmanager
def _counting(bar: Any, done: int, fresh: int) -> Iterator[None]:
    """While it lasts, bars that the host's node makes move ours by these frames: the page shows one bar per node."""

    def moved(value: int, total: int, *rest: Any, **more: Any) -> None:
        bar.update_absolute(done + fresh * value // max(1, total))

    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(moved)
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(before)


def _pixels(frame: Tensor, size: Size) -> np.ndarray:
    """A frame (H, W, 3) in [0, 1] as (height, width, 3) uint8."""
    if not frame.isfinite().all():
        raise OutputError("expected pixels of the model's, got NaN or infinity; use another model")
    width, height = size
    over = frame.shape[0] - height, frame.shape[1] - width
    if over[0] in (0, 1) and over[1] in (0, 1):
        frame = frame[:height, :width]
    else:
        frame = comfy.utils.common_upscale(frame.movedim(-1, 0)[None], width, height, "lanczos", "disabled")[0]
        frame = frame.movedim(0, -1)
    pixels: np.ndarray = frame.float().mul(255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return pixels


def even(size: Size) -> Size:
    """The largest size of even sides in it, as videos have them."""
    width, height = size
    return max(2, width // 2 * 2), max(2, height // 2 * 2)


def with_shorter_side(size: Size, pixels: int) -> Size:
    """The size of this shape whose shorter side has so many pixels; 0 keeps it. Even sides."""
    if pixels <= 0:
        return even(size)
    width, height = (max(2, 2 * round(side * pixels / min(size) / 2)) for side in size)
    return width, height
