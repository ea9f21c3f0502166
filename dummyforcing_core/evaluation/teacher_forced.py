"""Teacher-forced policy error: the same finished latents, the same noise, two memories.

The primary measure of what a policy costs: no drift, no chaos, only what its heads no longer see. A family's own loop
runs under both policies, with a denoiser that answers every denoising pass with the finished latents: whatever the
order of its passes, the loop then goes along that clip, and what the network would have said is compared.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..geometry import LatentShape, Span
from ..loops.run import ChunkResult, Run
from ..loops.table import sample
from ..models.denoiser import Denoiser, Step
from ..models.stepcache import NO_STEPS
from ..policies.base import Policy
from ..vae.still_frame import NewStills, no_stills


@dataclass(frozen=True, eq=False)
class ChunkError:
    """Relative L2 error of one chunk against the reference, averaged over its denoising passes.

    velocity: of the network's output. heads (layers, heads): of every head's attention output. Where one pass denoises
    several chunks, it counts whole, for its oldest one.
    """

    span: Span
    velocity: float
    heads: Tensor


@torch.inference_mode()
def teacher_forced(
    run: Run, latents: Tensor, reference: Policy, new_stills: NewStills = no_stills
) -> Iterator[ChunkError]:
    """Errors of the run's policy against `reference`, chunk by chunk, along finished latents (B, C, T, h, w).

    run        -- what the clip was sampled with; its own length, start, steps to skip, watch and stills play no part
    new_stills -- pixel frames of a clip as stills, for a loop that wants them (recompute.py)

    Head errors include what earlier layers pass on; the first layer's are the head's own. The reference's head outputs
    of one chunk wait in main memory: 0.4 GiB per pass over 3 frames of 480p in a 1.3B model.
    """
    errors = _Errors(run.denoise.geometry.layers)
    first = _Forced(run.denoise, latents, errors.expect_heads, errors.expect)
    second = _Forced(run.denoise, latents, errors.compare_heads, errors.compare)
    alone = replace(run, policy=reference)
    for chunk, _ in zip(first.along(alone, new_stills), second.along(run, new_stills), strict=True):
        yield errors.of_chunk(chunk.span)


@torch.inference_mode()
def velocities(
    run: Run, latents: Tensor, policy: Policy, new_stills: NewStills = no_stills
) -> Iterator[tuple[Span, list[Tensor]]]:
    """What the network says under `policy` along finished latents, chunk by chunk: the velocities (B, C, t, h, w) of
    its denoising passes. All but the policy is as in `teacher_forced`."""
    said: list[Tensor] = []
    forced = _Forced(run.denoise, latents, lambda layer, out: None, said.append)
    for chunk in forced.along(replace(run, policy=policy), new_stills):
        yield chunk.span, said.copy()
        said.clear()


def relative_error(velocity: Tensor, expected: Tensor) -> float:
    """Relative L2 error of one pass."""
    return float((velocity - expected).norm() / expected.norm())


class _Errors:
    """Queues of what passes under the reference gave; passes under the policy empty them in the same order."""

    def __init__(self, layers: int):
        self._layers = layers
        self._expected_heads: deque[Tensor] = deque()
        self._expected: deque[Tensor] = deque()
        self._heads: list[Tensor] = []
        self._velocities: list[float] = []

    def expect_heads(self, layer: int, out: Tensor) -> None:
        """Attention outputs (B, L, H, D) of a layer."""
        self._expected_heads.append(out.cpu())

    def expect(self, velocity: Tensor) -> None:
        self._expected.append(velocity)

    def compare_heads(self, layer: int, out: Tensor) -> None:
        expected = self._expected_heads.popleft().to(out.device)
        self._heads.append(_norms(out - expected) / _norms(expected).clamp_min(1e-12))

    def compare(self, velocity: Tensor) -> None:
        self._velocities.append(relative_error(velocity, self._expected.popleft()))

    def of_chunk(self, span: Span) -> ChunkError:
        """The mean over the passes since the last call."""
        assert not self._expected
        heads = torch.stack(self._heads).unflatten(0, (-1, self._layers)).mean(0).cpu()
        velocity = sum(self._velocities) / len(self._velocities)
        self._heads, self._velocities = [], []
        return ChunkError(span, velocity, heads)


class _Forced:
    """A denoiser that answers denoising passes with the clip's finished latents, and tells what the network said."""

    def __init__(
        self,
        denoise: Denoiser,
        latents: Tensor,
        on_heads: Callable[[int, Tensor], None],
        on_velocity: Callable[[Tensor], None],
    ):
        self.geometry, self.time_signal = denoise.geometry, denoise.time_signal
        self._denoise, self._latents = denoise, latents
        self._on_heads, self._on_velocity = on_heads, on_velocity
        self._span: Span | None = None  # of the denoising pass that comes next

    def along(self, run: Run, new_stills: NewStills) -> Iterator[ChunkResult]:
        """The chunks of the run's loop along the clip, with this as its denoiser."""
        shape = LatentShape(*self._latents.shape)
        alone = replace(run, denoise=self, shape=shape, start=None, steps=NO_STEPS, watch=self.watch)
        return sample(replace(alone, still=new_stills()))

    def project(self, layer: int, x: Tensor) -> Tensor:
        return self._denoise.project(layer, x)

    def watch(self, span: Span, step: int) -> None:
        """The loop tells of denoising passes only, so that clean ones go through as they are."""
        self._span = span

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        span, self._span = self._span, None
        if span is None:
            return self._denoise(x, sigma, context, step)
        step.cache.on_output = self._on_heads
        try:
            x0 = self._denoise(x, sigma, context, step)
        finally:
            step.cache.on_output = None
        assert x0 is not None
        self._on_velocity((x - x0) / sigma.to(x)[:, None, :, None, None])
        return self._latents[:, :, span.start : span.start + x.shape[2]]


def _norms(x: Tensor) -> Tensor:
    """L2 norm per head of x (B, L, H, D)."""
    return torch.linalg.vector_norm(x.float(), dim=(0, 1, 3))
