"""A CausalWan as the callable that the rollout samples with."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..kv.cache import KVCache
from ..schedule import TRAIN_STEPS, x0_from_velocity
from ..transfer import to_device
from .wan import Residual, TextKV, forward, text_kv, time_embedding


@dataclass(frozen=True)
class ModelGeometry:
    """What a cache must know of a model."""

    layers: int
    heads: int
    head_dim: int
    channels: int
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Step:
    """One pass over a chunk: the cache it reads and writes, whether its output is read, and step caching's residual.

    told -- the noise level that the network is told, if it is not the pass's sigma
    """

    cache: KVCache
    output: bool = True
    residual: Residual | None = None
    told: float | None = None


class Denoiser(Protocol):
    """Predicts the clean chunk; all self-attention goes through the step's cache."""

    geometry: ModelGeometry

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        """x0 (B, C, T, h, w) of x at noise levels sigma (B, T); None if the step's output is not read."""
        ...

    def time_signal(self, sigma: float, modulation: bool) -> Tensor:
        """The time embedding e (dim) at one noise level, or the modulation e0 (6, dim) made of it."""
        ...


class WanDenoiser:
    """Runs our own CausalWan. Text K/V are kept per prompt, time embeddings per noise level.

    geometry -- of a host's modules; our own model tells it itself
    """

    def __init__(self, model: Any, geometry: ModelGeometry | None = None):
        self.model = model
        self.geometry = geometry or _geometry(model)
        self._text: tuple[Tensor, TextKV] | None = None
        self._time: dict[tuple, tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        velocity = self.velocity(x, sigma, context, step)
        return None if velocity is None else x0_from_velocity(x, velocity.to(x.dtype), sigma)

    def velocity(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        """The network's own output (noise minus clean) in the model's dtype; arguments as above."""
        cache = step.cache
        told = sigma if step.told is None else torch.full_like(sigma, step.told)
        time, text = self._time_of(told), self._text_of(context)
        x = x.to(self.geometry.dtype)
        return forward(self.model, x, time, text, cache, step.output, cache.attend, step.residual)

    def time_signal(self, sigma: float, modulation: bool) -> Tensor:
        e, e0 = self._time_of(torch.full((1, 1), sigma))
        return (e0 if modulation else e)[0, 0]

    def _text_of(self, context: Tensor) -> TextKV:
        if self._text is None or self._text[0] is not context:
            self._text = context, text_kv(self.model, to_device(context.to(self.geometry.dtype), self.geometry.device))
        return self._text[1]

    def _time_of(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        key = tuple(map(tuple, sigma.tolist()))
        if key not in self._time:
            model = self.geometry
            self._time[key] = time_embedding(self.model, sigma * TRAIN_STEPS, model.dtype, model.device)
        return self._time[key]


def _geometry(model: Any) -> ModelGeometry:
    weight, c = model.patch_embedding.weight, model.config
    return ModelGeometry(c.num_layers, c.num_heads, c.head_dim, c.in_dim, weight.device, weight.dtype)
