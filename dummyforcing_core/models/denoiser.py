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

    timestep -- what the time embedding is given, 0 to 1000, if it is not 1000 * sigma
    """

    cache: KVCache
    output: bool = True
    residual: Residual | None = None
    timestep: float | None = None


class Denoiser(Protocol):
    """Predicts the clean chunk; all self-attention goes through the step's cache."""

    geometry: ModelGeometry

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        """x0 (B, C, T, h, w) of x at noise levels sigma (B, T); None if the step's output is not read."""
        ...

    def time_signal(self, timestep: float, modulation: bool) -> Tensor:
        """The time embedding e (dim) of one timestep, 0 to 1000, or the modulation e0 (6, dim) made of it."""
        ...

    def project(self, layer: int, x: Tensor) -> Tensor:
        """The output projection of a layer's self-attention, of heads' outputs x (n, dim); only during a pass."""
        ...


class WanDenoiser:
    """Runs our own CausalWan. Text K/V are kept per prompt, time embeddings per timestep.

    geometry -- of ComfyUI's modules; our own model knows it itself
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
        timesteps = sigma * TRAIN_STEPS if step.timestep is None else torch.full_like(sigma, step.timestep)
        time, text = self._time_of(timesteps), self._text_of(context)
        x = x.to(self.geometry.dtype)
        return forward(self.model, x, time, text, cache, step.output, step.residual)

    def time_signal(self, timestep: float, modulation: bool) -> Tensor:
        e, e0 = self._time_of(torch.full((1, 1), timestep))
        return (e0 if modulation else e)[0, 0]

    def project(self, layer: int, x: Tensor) -> Tensor:
        return self.model.blocks[layer].self_attn.o(x)

    def _text_of(self, context: Tensor) -> TextKV:
        if self._text is None or self._text[0] is not context:
            self._text = context, text_kv(self.model, to_device(context.to(self.geometry.dtype), self.geometry.device))
        return self._text[1]

    def _time_of(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        key = tuple(map(tuple, timesteps.tolist()))
        if key not in self._time:
            model = self.geometry
            self._time[key] = time_embedding(self.model, timesteps, model.dtype, model.device)
        return self._time[key]


def _geometry(model: Any) -> ModelGeometry:
    weight, c = model.patch_embedding.weight, model.config
    return ModelGeometry(c.num_layers, c.num_heads, c.head_dim, c.in_dim, weight.device, weight.dtype)
