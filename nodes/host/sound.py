"""An AUDIO of the host's under a VIDEO of the host's."""

from typing import Any

import numpy as np

from ...dummyforcing_core.clips.soundtrack import add_sound
from ...dummyforcing_core.errors import DummyForcingError
from .files import OutputFile
from .given_video import on_disk


def add_sound_to(video: Any, audio: Any, prefix: str) -> OutputFile:
    """Writes the VIDEO with the AUDIO under it to the output folder, its picture as it is coded."""
    try:
        samples, rate = audio["waveform"], int(audio["sample_rate"])
        samples = samples[0].detach().float().cpu().numpy()
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        raise DummyForcingError("expected AUDIO, got nothing that is one; connect Load Audio") from error
    if not samples.size:
        raise DummyForcingError("expected AUDIO with a sample in it, got silence of no length; connect another one")
    with on_disk(video) as path:
        file = OutputFile(prefix, *_size(video))
        try:
            add_sound(path, file.part, np.ascontiguousarray(samples), rate)
        except BaseException:
            file.abandon()
            raise
    file.finish()
    return file


def _size(video: Any) -> tuple[int, int]:
    """Width and height, which a filename_prefix may ask for."""
    width, height = video.get_dimensions()
    return int(width), int(height)
