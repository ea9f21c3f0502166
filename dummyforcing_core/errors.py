"""Errors a user can act on. Each message says what was expected, what it got, and what to do."""

import unicodedata

MESSAGE = 800  # characters that any message may have, a few lines of a terminal


def shown(value: object, longest: int = 60) -> str:
    """Foreign text (of a file, a name, an argument, a library) as a message may quote it: one line, no control
    characters, the middle left out of what is longer than `longest` characters."""
    text = " ".join(_cut(str(value), longest).split())
    return _cut("".join(map(_printable, text)), longest)


def _cut(text: str, longest: int) -> str:
    end = (longest - 5) // 3
    return text if len(text) <= longest else f"{text[: longest - 5 - end]} ... {text[len(text) - end :]}"


def harmless(text: str) -> str:
    """Text of any length as a terminal or a page may have it: its lines as they are, but for control characters."""
    return "".join(letter if letter == "\n" else _printable(letter) for letter in text)


def is_threat(letter: str) -> bool:
    """What a letter is made of (accents, joiners) is no threat to a terminal; what moves its cursor is."""
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _printable(letter: str) -> str:
    return letter.encode("unicode_escape").decode() if is_threat(letter) else letter


class DummyForcingError(Exception):
    """Base of every error that is the input's fault; command lines print it in one line and exit with 2."""

    # ComfyUI's toasts have room for about 110 characters and begin with a class's module and name, or with its name
    # alone if it is built in; as part of a pack this module's name is the path of a folder.
    __module__, __qualname__ = "builtins", "Dummy Forcing"

    def __init_subclass__(cls) -> None:
        cls.__module__, cls.__qualname__ = DummyForcingError.__module__, DummyForcingError.__qualname__

    def __init__(self, message: str):
        super().__init__(shown(message, MESSAGE))


class CheckpointError(DummyForcingError):
    """A weights file that cannot be used."""


class PlanError(DummyForcingError):
    """A head plan, policy or window that does not fit the model or the clip."""


class BackendError(DummyForcingError):
    """An attention backend that is unknown or cannot serve this call."""


class OutputError(DummyForcingError):
    """A clip that cannot be produced or written: bad size, NaN latents, a full or unwritable disk."""
