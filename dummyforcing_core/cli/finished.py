"""Clips that an earlier run left in a folder: skipped if they are what is asked for now, refused if not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..reading import parse_json, read_text

LEFT_OUT: dict[str, Any] = {"switches": [], "blend chunks": 0}  # what a report without them means


def check_finished(video: Path, asked: Mapping[str, Any]) -> None:
    """OutputError that names the first condition in which `video`'s report differs from what is asked for.

    A clip without a readable report is taken as it is; so is a condition that the report does not have.
    """
    try:
        found = LEFT_OUT | parse_json(read_text(video.with_suffix(".json"), "report", OutputError))["conditions"]
    except (OutputError, ValueError, TypeError, KeyError):
        return
    for name, value in asked.items():
        if name in found and found[name] != value:
            raise OutputError(
                f"expected {name} {found[name]!r}, which {video} was made with, got {value!r}; choose another folder, "
                "or "
                "delete it"
            )
