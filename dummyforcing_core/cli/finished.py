"""Clips that an earlier run left in a folder: skipped if they are what is asked for now, refused if not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..clips.encoding import DEFAULT_ENCODING
from ..clips.video import frame_count
from ..errors import OutputError, shown
from ..reading import parse_json, read_text

# What a report without them means.
LEFT_OUT: dict[str, Any] = {"switches": [], "blend chunks": 0, "fps": "16", "codec": str(DEFAULT_ENCODING)}
NO_FILES = dict.fromkeys(("lora", "vae", "text encoder", "text embedding", "start image", "start latents"), "none")


def check_finished(video: Path, asked: Mapping[str, Any]) -> None:
    """OutputError that names the first condition in which `video`'s report differs from what is asked for, or its
    number of frames, if `asked` has one.

    A condition that the report does not have is taken as it is; so are all of a clip without a readable report.
    """
    found = _conditions(video)
    for name, value in asked.items():
        if name in found and found[name] != value:
            raise OutputError(
                f"expected {name} {shown(repr(found[name]))}, which {video} was made with, got {shown(repr(value))}; "
                "choose another folder, or delete it"
            )
    if "frames" in asked:
        check_frames(video, asked["frames"])


def check_frames(video: Path, frames: int) -> None:
    """OutputError unless `video` is one of so many frames."""
    if (found := _frames(video)) != frames:
        raise OutputError(f"expected {frames} frames in {video}, got {found}; choose another folder, or delete it")


def _frames(video: Path) -> int:
    try:
        return frame_count(video)
    except OutputError as error:
        why = str(error).rpartition("; ")[0]  # what to do is another thing here
        raise OutputError(f"{why}; delete it, and it is made again, or choose another folder") from error


def _conditions(video: Path) -> dict[str, Any]:
    try:
        found = LEFT_OUT | parse_json(read_text(video.with_suffix(".json"), "report", OutputError))["conditions"]
    except (OutputError, ValueError, TypeError, KeyError):
        return {}
    return NO_FILES | found if "fingerprint" in found else found  # older reports name no files
