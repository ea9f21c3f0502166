"""Clips that an earlier run left in a folder: skipped if they are what is asked for now, refused if not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import OutputError

LEFT_OUT: dict[str, Any] = {"switches": [], "blend chunks": 0, "fps": "16"}  # what a report without them means


def check_finished(video: Path, asked: Mapping[str, Any]) -> None:
    """OutputError that names the first condition in which `video`'s report differs from what is asked for.

    A clip without a readable report is taken as it is; so is a condition that the report does not have.
    """
    try:
        found = LEFT_OUT | json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))["conditions"]
    except (OSError, ValueError, TypeError, KeyError):
        return
    for name, value in asked.items():
        if name in found and found[name] != value:
            raise OutputError(
                f"expected {name} {found[name]!r}, which {video} was made with, got {value!r}; choose another folder, "
                "or "
                "delete it"
            )
