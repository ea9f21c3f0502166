"""Noise levels of few-step flow matching, and the two formulas every step uses.

sigma is the share of noise: x = (1 - sigma) * x0 + sigma * noise, velocity v = noise - x0.
The schedule is Self-Forcing's (arXiv 2506.08009, section 4): the steps 1000, 750, 500, 250 warped by shift 5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .errors import DummyForcingError
from .transfer import to_device

TRAIN_STEPS = 1000


def warp(u: float, shift: float) -> float:
    """Time-shifted noise level shift*u / (1 + (shift-1)*u) of u in [0, 1]."""
    return shift * u / (1 + (shift - 1) * u)


def sigma_table(shift: float, steps: int = TRAIN_STEPS) -> Tensor:
    """The training table: float32 (steps,), from 1 down to warp(1/steps)."""
    u = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    return (shift * u / (1 + (shift - 1) * u)).float()


def nearest_sigma(timestep: Tensor, table: Tensor) -> Tensor:
    """Noise level of the table's entry nearest to each timestep (...) = 1000 * sigma."""
    return table[(table * TRAIN_STEPS - timestep[..., None]).abs().argmin(-1)]


def x0_from_velocity(x: Tensor, velocity: Tensor, sigma: float | Tensor) -> Tensor:
    """Clean estimate x - sigma * v. x, velocity (B, C, T, h, w); sigma a number or (B, T)."""
    return x - per_frame(sigma, x) * velocity


def add_noise(x0: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """(1 - sigma) * x0 + sigma * noise. x0, noise (B, C, T, h, w); sigma a number or (B, T)."""
    level = per_frame(sigma, x0)
    return (1 - level) * x0 + level * noise


def per_frame(sigma: float | Tensor, like: Tensor) -> float | Tensor:
    """sigma (B, T) as (B, 1, T, 1, 1) in the dtype and on the device of `like`; a number stays one."""
    if not isinstance(sigma, Tensor):
        return sigma
    return to_device(sigma.to(like.dtype), like.device)[:, None, :, None, None]


@dataclass(frozen=True)
class Schedule:
    """Noise levels of one chunk: `sigmas` from high to low, one model call each; then the clean pass.

    first_sigmas -- of the first chunk that is generated, where a model of very few steps needs more there
    timesteps    -- what the time embedding is given for each of `sigmas`, 0 to 1000, where it is not 1000 * sigma
    """

    sigmas: tuple[float, ...]
    context_noise: float = 0.0
    first_sigmas: tuple[float, ...] | None = None
    timesteps: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for sigmas in (self.sigmas, self.levels(first=True)):
            falling = all(a > b for a, b in pairwise(sigmas))
            if not sigmas or not falling or not all(0 < s <= 1 and math.isfinite(s) for s in sigmas):
                raise DummyForcingError(
                    f"sigmas {sigmas} cannot be sampled: give one or more levels, 0 < sigma <= 1, each below the last"
                )
        steps = self.timesteps
        if steps is not None and (len(steps) != len(self.sigmas) or not all(0 <= t <= TRAIN_STEPS for t in steps)):
            raise DummyForcingError(
                f"expected {len(self.sigmas)} timesteps in 0..{TRAIN_STEPS}, one for each sigma, got {steps}; give as "
                "many"
            )
        if not 0 <= self.context_noise < 1:
            raise DummyForcingError(
                f"expected a context noise in 0 <= sigma < 1, got {self.context_noise}; 0 is as trained"
            )

    @classmethod
    def few_step(
        cls,
        steps: Sequence[float] = (1000, 750, 500, 250),
        shift: float = 5.0,
        first_steps: Sequence[float] | None = None,
    ) -> "Schedule":
        """Warps the step lists of a checkpoint (in thousandths) into noise levels."""
        warped = [
            None if these is None else tuple(warp(step / TRAIN_STEPS, shift) for step in these)
            for these in (steps, first_steps)
        ]
        return cls(warped[0] or (), first_sigmas=warped[1])

    def levels(self, first: bool) -> tuple[float, ...]:
        """Noise levels of a chunk; `first` of the clip's generated ones."""
        return self.first_sigmas if first and self.first_sigmas is not None else self.sigmas

    def timesteps_of(self, first: bool) -> tuple[float, ...]:
        """What the time embedding is given for those levels."""
        levels = self.levels(first)
        if levels is self.sigmas and self.timesteps is not None:
            return self.timesteps
        return tuple((torch.tensor(levels) * TRAIN_STEPS).tolist())

    @classmethod
    def from_timesteps(cls, timesteps: Sequence[float], shift: float) -> "Schedule":
        """Timesteps that are given as they are; each one's noise level is the training table's nearest entry."""
        sigmas = nearest_sigma(torch.tensor(timesteps, dtype=torch.float32), sigma_table(shift))
        return cls(tuple(sigmas.tolist()), timesteps=tuple(map(float, timesteps)))

    def __len__(self) -> int:
        """Steps of the longest chunk."""
        return max(len(self.sigmas), len(self.levels(first=True)))
