"""What a user may set of a policy: fields of its dataclass, with what the command line and errors say of each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import PlanError, shown

_KEY = "option"


@dataclass(frozen=True)
class Option:
    """One field that can be set.

    help      -- what it does, in a few words, with the unit
    at_least  -- the least number allowed; at_most the greatest
    flag      -- of the command line, without dashes; "" takes the field's name
    unset     -- the word that stands for None, e.g. "auto"; "" where None cannot be set
    overrides -- fields that have no effect beside it
    read      -- makes the value out of a file; None for numbers and words
    choices   -- the words allowed, where the field is one of them; its default says which if nothing is said
    fraction  -- the number need not be whole; a default that is a float says so too
    later     -- younger than its policy: at its default a policy reads as it did before, so that folders go on
    """

    help: str
    at_least: float | None = None
    at_most: float | None = None
    flag: str = ""
    unset: str = ""
    overrides: tuple[str, ...] = ()
    read: Callable[[Path], Any] | None = None
    choices: tuple[str, ...] = ()
    fraction: bool = False
    later: bool = False

    def check(self, name: str, value: Any) -> None:
        """PlanError unless the number lies within the bounds, or the word is known. None is what `unset` stands for."""
        if value is not None and self.read is None and not self._allows(value):
            raise PlanError(f"expected {name} of {self._allowed}, got {shown(repr(value))}; {self.help}")

    def _allows(self, value: Any) -> bool:
        if self.choices or isinstance(value, str):  # a word for a number: `unset` of another policy's flag
            return value in self.choices
        low, high = self.at_least, self.at_most
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return (low is None or value >= low) and (high is None or value <= high)

    @property
    def _allowed(self) -> str:
        low, high = self.at_least, self.at_most
        if self.choices:
            return either(self.choices)
        if low is None:
            return "a number" if high is None else f"{high:g} or less"
        return f"{low:g} or more" if high is None else f"{low:g} to {high:g}"


def either(words: Sequence[str]) -> str:
    """ "a, b or c", for messages and help."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


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
