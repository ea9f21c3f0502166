"""Schemas that older hosts accept too, the categories of our nodes by task, and the socket type of our own."""

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

LOAD, PROMPTS, MEMORY, SAMPLE, LOOK = (
    f"Dummy Forcing/{task}" for task in ("load", "prompts", "memory", "sample", "look")
)
HeadProfileType = io.Custom("DummyForcingHeadProfile")


def schema(**values: Any) -> io.Schema:
    """An io.Schema without the fields that this host does not know."""
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{name: value for name, value in values.items() if name in known})
