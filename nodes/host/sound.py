"""An AUDIO of the host's under a VIDEO, whose frames stay as they are coded wherever they can."""

import contextlib
from dataclasses import replace
from typing import Any

from comfy_api.latest import InputImpl

from ...dummyforcing_core.clips.mp4 import lay_under
from ...dummyforcing_core.clips.sound import Samples
from ...dummyforcing_core.clips.video import opened
from ...dummyforcing_core.errors import DummyForcingError
from .files import Destination, OutputFile, workflow_tags
from .windows import Frames, Work, even, sound_of, write_windows

WINDOW_FRAMES = 8  # of what has to be encoded


def with_sound(video: Any, given: Frames, audio: Any, to: Destination) -> OutputFile:
    """The video with this sound in the output folder. Frames in memory, a slice, and what no mp4 holds are encoded."""
    sound = sound_of(audio)
    if sound is None:
        raise DummyForcingError("expected audio with samples in it, got none; connect a Load Audio")
    if isinstance(video, InputImpl.VideoFromFile) and not any(video.get_active_trim_window()):
        with contextlib.suppress(ValueError):
            return _copied(video, given, sound, to)
    work = Work(lambda frames: frames, even(given.size))
    return write_windows(replace(given, sound=sound), work, to, WINDOW_FRAMES)


def _copied(video: Any, given: Frames, sound: Samples, to: Destination) -> OutputFile:
    """ValueError for a codec that no mp4 holds."""
    file = OutputFile(to.prefix, *given.size)
    try:
        with opened(video.get_stream_source()) as source:
            lay_under(source, file.part, sound, workflow_tags(to.hidden))
    except BaseException:
        file.abandon()
        raise
    file.finish()
    return file
