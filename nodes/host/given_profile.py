"""A head profile as a policy's node is given it: read by now, or the name of a file that is not here."""

from typing import Any

from ...dummyforcing_core.policies.profile import HeadProfile, changes_of
from .denoiser import geometry_of
from .settings import settings_of

MISSING = "head profile {name} is not on this machine: the heads are classified online, in the first chunks"


def usable_profile(model: Any, given: Any, by_change: bool) -> tuple[HeadProfile | None, tuple[str, ...]]:
    """The profile if it is one of such a model, and the MODEL's notes with what is to be told of it.

    by_change -- the policy goes by output change, which files of version 1 lack: a PlanError says so
    """
    geometry, settings = geometry_of(model), settings_of(model)
    notes = tuple(note for note in settings.notes if not note.startswith("head profile"))
    if isinstance(given, str):  # a name that Load Head Profile did not find
        return None, (*notes, MISSING.format(name=given))
    if given is None:
        return None, notes
    given.check(geometry.layers, geometry.heads)
    if by_change:
        changes_of(given)
    if settings.fingerprint and given.fingerprint and settings.fingerprint != given.fingerprint:
        notes = (*notes, "head profile of another checkpoint with equal layers and heads: used all the same")
    return given, notes
