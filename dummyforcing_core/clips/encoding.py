"""How a video is coded: codecs whose encoders give out every frame at once, so that a growing file is never behind."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import OutputError, shown
from .colours import CHROMA_IN_THE_MIDDLE, tag

_KEYFRAME_SECONDS = 2


@dataclass(frozen=True)
class Codec:
    """One kind of video: its encoder in PyAV, the crf of the worst quality, the shortest side in pixels, and the
    encoder's options at a crf."""

    encoder: str
    worst: int
    shortest: int
    options: Callable[[int], dict[str, str]]


def _x264(crf: int) -> dict[str, str]:
    # zerolatency: every frame that goes in comes out at once, so a chunk is complete when it is written.
    # veryfast: generation waits for it, and at crf 16 slower presets gave files of the same size.
    return {"crf": str(crf), "preset": "veryfast", "tune": "zerolatency", **CHROMA_IN_THE_MIDDLE}


def _svt_av1(crf: int) -> dict[str, str]:
    # pred-struct=1, low delay: as zerolatency. To SVT-AV1 a crf of 0 means its own default, lossless is a switch.
    lossless = "" if crf else ":lossless=1"
    return {"crf": str(crf), "preset": "8", "svtav1-params": f"pred-struct=1{lossless}"}


# Below 32 pixels SVT-AV1 does not refuse: it hangs, or ends the process.
CODECS = {"h264": Codec("libx264", 51, 2, _x264), "av1": Codec("libsvtav1", 63, 32, _svt_av1)}
DEFAULT_CODEC, DEFAULT_CRF = "h264", 16
WORST_CRF = max(codec.worst for codec in CODECS.values())


@dataclass(frozen=True)
class Encoding:
    """A codec and its quality: crf 0 is lossless, higher is smaller and worse. OutputError for what does not exist."""

    codec: str = DEFAULT_CODEC
    crf: int = DEFAULT_CRF

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            known = " or ".join(CODECS)
            raise OutputError(f"expected codec {known}, got '{shown(self.codec)}'; try {DEFAULT_CODEC}")
        worst = CODECS[self.codec].worst
        if not 0 <= self.crf <= worst:
            raise OutputError(
                f"expected crf 0 (lossless) to {worst} (worst) for {self.codec}, got {self.crf}; try {DEFAULT_CRF}"
            )

    def __str__(self) -> str:
        return f"{self.codec}, crf {self.crf}"

    @property
    def encoder(self) -> str:
        """As PyAV names it."""
        return CODECS[self.codec].encoder

    def check_size(self, width: int, height: int) -> None:
        """OutputError for frames that no video of this codec can be."""
        if width % 2 or height % 2:
            raise OutputError(
                f"expected even sides of a video, got {width}x{height} pixels; crop it or choose another size"
            )
        shortest = CODECS[self.codec].shortest
        if min(width, height) < shortest:
            raise OutputError(
                f"expected sides of at least {shortest} pixels for {self.codec}, got {width}x{height}; choose a larger "
                f"size, or {DEFAULT_CODEC}"
            )

    def check_encoder(self) -> None:
        """OutputError if PyAV or its encoder is missing."""
        try:
            import_av().codec.Codec(self.encoder, "w")
        except ValueError as error:
            raise OutputError(
                f"this build of PyAV has no {self.codec} encoder ({self.encoder}); the build on PyPI has it: "
                "pip install --force-reinstall av"
            ) from error

    def add_stream(self, container: Any, width: int, height: int, rate: Fraction) -> Any:
        """A stream of this kind in a container of PyAV's, its encoder opened. FFmpegError if that will not."""
        stream = container.add_stream(self.encoder, rate=rate)
        context = stream.codec_context
        context.width, context.height = width, height
        context.gop_size = max(1, round(rate * _KEYFRAME_SECONDS))
        if self.codec == "h264":
            context.thread_count = 1  # its output depends on the number of threads, and this is far from the slow part
        tag(context)
        context.options = CODECS[self.codec].options(self.crf)
        os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 tells stderr about itself; what it refuses is raised as well
        with _usual_priority():
            context.open()
        return stream


DEFAULT_ENCODING = Encoding()


@contextlib.contextmanager
def _usual_priority() -> Iterator[None]:
    """Where it may, as root, SVT-AV1 makes its threads and the caller's real-time ones for good, and all else waits."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir() or not hasattr(os, "sched_setscheduler"):  # only Linux has both
        yield
        return
    own, before = str(threading.get_native_id()), set(os.listdir(tasks))
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for task in {own, *os.listdir(tasks)} - (before - {own}):
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setscheduler(int(task), policy, priority)


def import_av() -> Any:
    """PyAV; OutputError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise OutputError("video files need PyAV, which is not installed: pip install av") from error
    return av
