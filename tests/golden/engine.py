"""How cases reach our engine: noise and family as recorded, every pass noted. No other file here runs a loop."""

import warnings
from dataclasses import dataclass, replace

import torch
from recorded import Case
from torch import Tensor

from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.loops.run import ChunkResult, Run
from dummyforcing_core.loops.table import sample
from dummyforcing_core.models import wan
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.noise import NoiseFn
from dummyforcing_core.schedule import x0_from_velocity


@dataclass(frozen=True)
class Pass:
    """One call of the network. span, step: as the loop announced it; None where it did not, which is a re-cache."""

    span: Span | None
    step: int | None
    x: Tensor
    sigma: Tensor
    velocity: Tensor

    @property
    def clean(self) -> bool:
        """Whether it read finished frames."""
        return not self.sigma.any()

    @property
    def flow(self) -> Tensor:
        """The network's output in the recorded layout (B, T, C, h, w)."""
        return self.velocity.transpose(1, 2)

    @property
    def x0(self) -> Tensor:
        """The clean estimate, in the recorded layout."""
        return x0_from_velocity(self.x, self.velocity, self.sigma).transpose(1, 2)


class Recorder(WanDenoiser):
    """Runs every pass to its end and notes it; copies the cache's layer 1 right after a re-cache."""

    def __init__(self, model: wan.CausalWan):
        super().__init__(model)
        self.passes: list[Pass] = []
        self.recached: list[dict[str, dict[int, Tensor]]] = []
        self.cache: KVCache | None = None
        self._announced: tuple[Span, int] | None = None

    def on_step(self, span: Span, step: int) -> None:
        self._announced = span, step

    def velocity(self, x, sigma, context, step):
        self.cache = step.cache
        if self.passes and self.passes[-1].span is None:
            self.recached.append(self._layer1())
        announced, self._announced = self._announced or (None, None), None
        velocity = super().velocity(x, sigma, context, replace(step, output=True))
        self.passes.append(Pass(*announced, x, sigma, velocity))
        return velocity

    def denoising(self) -> list[Pass]:
        return [p for p in self.passes if not p.clean]

    def first_steps(self) -> list[Pass]:
        """The first denoising step of every generated chunk."""
        return [p for p in self.denoising() if p.step == 0]

    def of_chunk(self, chunk: int) -> list[Pass]:
        return [p for p in self.passes if p.span is not None and p.span.chunk == chunk]

    def recaches(self) -> list[Pass]:
        return [p for p in self.passes if p.span is None]

    def _layer1(self) -> dict[str, dict[int, Tensor]]:
        """K and V by frame, (B, HW, H, D)."""
        held = [self.cache.export(1, head) for head in range(self.cache.plan.heads)]
        frames = held[0][0]
        tokens = self.cache.shape.frame_tokens
        stacked = {name: torch.stack([h[i] for h in held], dim=2) for i, name in ((1, "k"), (2, "v"))}
        return {
            name: {f: x[:, i * tokens : (i + 1) * tokens] for i, f in enumerate(frames)} for name, x in stacked.items()
        }


def recorded_family(case: Case, **facts) -> Family:
    """A family of the case's own parameters: the product's rows play no part (test_family_rows.py holds them to it)."""
    known = {"chunk_frames": case.chunk_frames, "trained_frames": 10**6} | facts
    return Family("golden", "golden weights", "recorded", **known)


def recorded_noise(case: Case, init: Tensor) -> NoiseFn:
    """init (B, T, C, h, w) from the frame noise_offset_frames of the video on, and the case's renoise[chunk, step].

    renoise_chunk_offset: how many chunks of a given start the recorded ordinals leave out; for us it is one, however
    long.
    """
    renoise, frame = case.noise("renoise"), case.params.get("noise_offset_frames", 0)
    left_out = min(case.params.get("renoise_chunk_offset", 0), 1)

    def noise(step: int, span: Span) -> Tensor:
        if step == 0:
            return init[:, span.start - frame : span.stop - frame].transpose(1, 2)
        return renoise[span.chunk - left_out, step - 1, :, : span.frames].transpose(1, 2)

    return noise


def latent_shape(case: Case, frames: int) -> LatentShape:
    """Of a clip of so many latent frames."""
    return LatentShape(1, 16, frames, *case.params["grid_hw_latent"])


def chunks_of(run: Run, recorder: Recorder) -> list[ChunkResult]:
    """The clip, by its family's loop. A warning is an error: no case earns one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return list(sample(replace(run, on_step=recorder.on_step)))


def joined(chunks: list[ChunkResult]) -> Tensor:
    """The latents of a clip in the recorded layout (B, T, C, h, w)."""
    return torch.cat([chunk.latent for chunk in chunks], dim=2).transpose(1, 2)
