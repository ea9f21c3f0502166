"""Step caching: denoising steps that reuse what the blocks added in the step before.

TeaCache (arXiv 2411.19108) on few-step models. Its signal depends only on the noise level and the weights, so the
pattern is the same for every chunk: it is computed once, before the first one. The first step and the clean pass
always run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import DummyForcingError
from ..schedule import Schedule
from .denoiser import Denoiser

# Published polynomials, highest power first, by model size and signal (ali-vilab/TeaCache).
COEFFICIENTS: dict[tuple[str, str], tuple[float, ...]] = {
    ("1.3B", "e"): (2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774),
    ("14B", "e"): (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404),
    ("1.3B", "e0"): (-5.21862437e4, 9.23041404e3, -5.28275948e2, 13.6987616, -0.0499875664),
    ("14B", "e0"): (-3.03318725e5, 4.90537029e4, -2.65530556e3, 58.7365115, -0.315583525),
}
LAYERS = {30: "1.3B", 40: "14B"}


@dataclass(frozen=True)
class StepCache:
    """Which denoising steps (0 is the first) reuse the last residual.

    A first chunk with noise levels of its own skips none.
    """

    skipped: frozenset[int] = frozenset()

    @classmethod
    def explicit(cls, steps: Sequence[int], schedule: Schedule) -> "StepCache":
        """The named steps; the first step and the clean pass can never be skipped."""
        count = len(schedule.sigmas)
        if steps and count == 1:
            raise DummyForcingError(
                f"expected no steps to skip, got {list(steps)}; this family has one step: nothing can be skipped"
            )
        for step in steps:
            if not 0 < step < count:
                raise DummyForcingError(
                    f"expected steps to skip from 1 to {count - 1}, got {step}; of {count} steps the first and the "
                    "clean pass "
                    "always run"
                )
        return cls(frozenset(steps))


NO_STEPS = StepCache()


@dataclass(frozen=True)
class TeaCache:
    """Skips steps while the accumulated, rescaled change of the time signal stays under `threshold`.

    signal       -- "e0" (the modulation; what the Dummy Forcing repository uses) or "e" (the time embedding)
    coefficients -- the rescaling polynomial, highest power first; None: the published set of signal "e" for the
                    model's size (1.3B where the size is none of the published)
    """

    threshold: float = 0.2
    signal: str = "e0"
    coefficients: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.threshold >= 0 or not math.isfinite(self.threshold):
            raise DummyForcingError(
                f"expected a TeaCache threshold of 0 or more, got {self.threshold}; 0 skips nothing"
            )
        if self.signal not in ("e", "e0"):
            raise DummyForcingError(f"expected TeaCache signal e or e0, got {self.signal!r}; e0 is the default")
        if self.coefficients is not None and (
            not self.coefficients or not all(math.isfinite(c) for c in self.coefficients)
        ):
            raise DummyForcingError(
                f"expected TeaCache coefficients that are finite numbers, got {self.coefficients}; give one or more"
            )

    def pattern(self, denoise: Denoiser, schedule: Schedule) -> StepCache:
        """The steps to skip, the same for every chunk."""
        skipped, total = set(), 0.0
        for step, (_, cost) in enumerate(self.costs(denoise, schedule), start=1):
            total += cost
            if self.threshold > 0 and total < self.threshold:  # a published polynomial may go below zero
                skipped.add(step)
            else:
                total = 0.0
        return StepCache(frozenset(skipped))

    def costs(self, denoise: Denoiser, schedule: Schedule) -> list[tuple[float, float]]:
        """For every step after the first: relative L1 change of the signal, and that change rescaled."""
        signals = [
            denoise.time_signal(timestep, self.signal == "e0").cpu().double()
            for timestep in schedule.timesteps_of(first=False)
        ]
        changes = []
        for before, now in pairwise(signals):
            change = float((now - before).abs().mean() / before.abs().mean())
            changes.append((change, self._rescaled(change, denoise)))
        return changes

    def _rescaled(self, change: float, denoise: Denoiser) -> float:
        size = LAYERS.get(denoise.geometry.layers, "1.3B")
        value = 0.0
        for coefficient in self.coefficients or COEFFICIENTS[size, "e"]:
            value = value * change + coefficient
        return value
