"""Head policies: one file each, one row here."""

from ..errors import PlanError, shown
from ..models.families import Family
from .base import Policy, Setting
from .dummy_forcing import DummyForcing
from .forcing_kv import ForcingKV
from .full import Full
from .head_budget import HeadBudget
from .head_forcing import HeadForcing
from .options import Option, option
from .sliding_window import SlidingWindow

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        Full,
        SlidingWindow,
        DummyForcing,
        HeadForcing,
        HeadBudget,
        ForcingKV,
    )
}


def get_policy(name: str) -> type[Policy]:
    """The policy called `name`; unknown names list the known ones."""
    if name not in POLICIES:
        raise PlanError(f"unknown policy '{shown(name)}'; known policies: {', '.join(POLICIES)}")
    return POLICIES[name]


def own_policy(family: Family) -> Policy:
    """The memory that a family was trained with, for whoever says nothing: its window and sink, dense in every head."""
    return SlidingWindow().resolved(family)


__all__ = [
    "POLICIES", "DummyForcing", "ForcingKV", "Full", "HeadBudget", "HeadForcing", "Option", "Policy", "Setting",
    "SlidingWindow", "get_policy", "option", "own_policy",
]  # fmt: skip
