"""What a user may set of a policy: fields of its dataclass, with what the command line and errors say of each."""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import PlanError

_KEY = "option"


@dataclass(frozen=True)
class Option:
    """One field that can be set.

    help      -- what it does, in a few words, with the unit
    at_least  -- the least number allowed; at_most the greatest
    flag      -- of the command line, without dashes; "" takes the field's name
    unset     -- the word that stands for None, e.g. "auto"; "" where None cannot be set
    overrides -- fields that have no effect beside it
    read      -- makes the value out of a file; None for numbers
    """

    help: str
    at_least: float | None = None
    at_most: float | None = None
    flag: str = ""
    unset: str = ""
    overrides: tuple[str, ...] = ()
    read: Callable[[Path], Any] | None = None

    def check(self, name: str, value: Any) -> None:
        """PlanError unless the number lies within the bounds. None is what `unset` stands for."""
        if value is None or self.read is not None:
            return
        low, high = self.at_least, self.at_most
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            expected = f"{low:g} to {high:g}" if low is not None and high is not None else f"{low:g} or more"
            raise PlanError(f"expected {name} of {expected}, got {value}; {self.help}")


def option(default: Any, about: Option) -> Any:
    """A dataclass field that users may set: option(1, Option("first frames kept", at_least=0, flag="sink"))."""
    return field(default=default, metadata={_KEY: about})


def options_of(policy: Any) -> dict[str, Option]:
    """Field name -> option of a policy or its class."""
    return {one.name: one.metadata[_KEY] for one in fields(policy) if _KEY in one.metadata}


def default_of(policy: Any, name: str) -> Any:
    """What a field is when nothing is said."""
    default = next(one.default for one in fields(policy) if one.name == name)
    return None if default is MISSING else default
