"""Schemas that older hosts accept too, the categories of our nodes by task, and sockets without a name in the host."""

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from ..dummyforcing_core.clips.encoding import CODECS, DEFAULT_CODEC, DEFAULT_CRF, WORST_CRF

LOAD, PROMPTS, MEMORY, SAMPLE, LOOK = (
    f"Dummy Forcing/{task}" for task in ("load", "prompts", "memory", "sample", "look")
)
RATE_STEP = 0.001  # the page shows, and keeps, as many digits as the step of an arrow has: 23.976
HeadProfileType = io.Custom("DummyForcingHeadProfile")
InterpolationModelType = io.Custom("INTERP_MODEL")  # as the host's node names it


def schema(**values: Any) -> io.Schema:
    """An io.Schema without the fields that this host does not know."""
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{name: value for name, value in values.items() if name in known})


def encoding_inputs() -> list[io.Input]:
    """How a node's video is coded; optional, as prompts from before they were there have none."""
    return [
        io.Combo.Input(
            "codec",
            options=list(CODECS),
            default=DEFAULT_CODEC,
            optional=True,
            advanced=True,
            tooltip="h264 plays everywhere. av1 makes smaller files and takes longer.",
        ),
        io.Int.Input(
            "crf",
            default=DEFAULT_CRF,
            min=0,
            max=WORST_CRF,
            optional=True,
            advanced=True,
            tooltip="0 is lossless; higher is smaller and worse, up to 51 for h264, 63 for av1.",
        ),
    ]
