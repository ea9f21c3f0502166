"""ComfyUI's SIGMAS and the core's noise levels."""

import torch
from torch import Tensor

from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.schedule import Schedule


def sigmas_of(schedule: Schedule) -> Tensor:
    """The core's schedule as SIGMAS."""
    return torch.tensor([*schedule.sigmas, 0.0])


def schedule_by(sigmas: Tensor | None, own: Schedule) -> Schedule:
    """SIGMAS, high to low and ending at 0, as the core's schedule; `own` if there are none, or they are its levels."""
    if sigmas is None:
        return own
    levels = [float(s) for s in sigmas]
    if len(levels) < 2 or levels[-1] != 0:
        raise DummyForcingError(
            f"expected SIGMAS that fall to 0 (denoise 1, no split), got {[round(s, 4) for s in levels]}; the last step "
            "of every chunk has to finish it"
        )
    same = len(levels) == len(own.sigmas) + 1 and torch.allclose(sigmas.cpu().float(), sigmas_of(own), atol=1e-4)
    return own if same else Schedule(tuple(levels[:-1]))
