"""Errors a user can act on. Each message says what was expected, what it got, and what to do."""


class DummyForcingError(Exception):
    """Base of every error that is the input's fault; command lines print it in one line and exit with 2."""


class CheckpointError(DummyForcingError):
    """A weights file that cannot be used."""


class PlanError(DummyForcingError):
    """A head plan, policy or window that does not fit the model or the clip."""


class BackendError(DummyForcingError):
    """An attention backend that is unknown or cannot serve this call."""


class OutputError(DummyForcingError):
    """A clip that cannot be produced or written: bad size, NaN latents, a full or unwritable disk."""
