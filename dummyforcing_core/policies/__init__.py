"""Head policies: one file each, one row here."""

from ..errors import PlanError
from .base import Policy, Setting
from .dummy_forcing import DummyForcing
from .full import Full
from .sliding_window import SlidingWindow

POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (Full, SlidingWindow, DummyForcing)}


def get_policy(name: str) -> type[Policy]:
    """The policy called `name`; unknown names list the known ones."""
    if name not in POLICIES:
        raise PlanError(f"unknown policy {name!r}; known policies: {', '.join(POLICIES)}")
    return POLICIES[name]


__all__ = ["POLICIES", "DummyForcing", "Full", "Policy", "Setting", "SlidingWindow", "get_policy"]
