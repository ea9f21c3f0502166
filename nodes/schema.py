"""Schemas that older hosts accept too, and the socket type of our own."""

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

CATEGORY = "Dummy Forcing"
HeadProfileType = io.Custom("DummyForcingHeadProfile")


def schema(**values: Any) -> io.Schema:
    """An io.Schema in our category, without the fields that this host does not know."""
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{name: value for name, value in {"category": CATEGORY, **values}.items() if name in known})
