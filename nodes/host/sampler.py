"""The streaming sampler as the host's SAMPLER: one rollout of the core, whatever guider calls it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.geometry import FPS, LatentShape, Span
from ...dummyforcing_core.kv.attention import AttentionFn
from ...dummyforcing_core.loops.rollout import ChunkResult
from ...dummyforcing_core.loops.table import loop_of
from ...dummyforcing_core.models.denoiser import Denoiser
from ...dummyforcing_core.models.families import Family
from ...dummyforcing_core.models.stepcache import NO_STEPS, StepCache
from ...dummyforcing_core.noise import NoiseFn, SeededNoise
from ...dummyforcing_core.prompts import PromptSchedule
from ...dummyforcing_core.schedule import Schedule
from ...dummyforcing_core.transfer import to_device
from ...dummyforcing_core.vae.still_frame import StillFrames
from .denoiser import HostDenoiser, check_shape, host_attention, wan_of
from .memory import free_for
from .prompts import check_width, schedule_of
from .settings import ARSettings, StreamingSamplerBase, default_policy, family_of, settings_of


@dataclass(frozen=True)
class Session:
    """A MODEL that is loaded and ready to be sampled by the core, inside one call of a guider."""

    denoise: Denoiser
    attend: AttentionFn
    family: Family
    settings: ARSettings
    schedule: Schedule
    prompts: PromptSchedule
    seed: int
    device: torch.device
    to_model: Callable[[Tensor], Tensor]
    to_latent: Callable[[Tensor], Tensor]
    latent_format: Any

    def seeded_noise(self, shape: LatentShape) -> SeededNoise:
        """The core's own noise: chunk k is the same however long the clip is."""
        return SeededNoise(self.seed, shape, self.family.chunk_frames, self.device)

    @property
    def step_cache(self) -> StepCache:
        """The steps that the MODEL's settings skip."""
        return self.settings.step_cache(self.denoise, self.schedule)


class ARSampler(StreamingSamplerBase, comfy.samplers.Sampler):
    """Runs `work` on a ready session; what it returns, (B, 16, T, h, w) in the model's space, are the samples."""

    def __init__(self, work: Callable[[Session, "Given"], Tensor], fps: float = FPS):
        self._work, self._fps = work, fps

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict,
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """The host's entry; model_wrap is its guider."""
        cfg = getattr(model_wrap, "cfg", 1.0)
        if cfg != 1.0:
            raise DummyForcingError(
                f"cfg {cfg:g} came; few-step autoregressive models are sampled without guidance: set cfg to 1, or use "
                "a Basic Guider"
            )
        if type(model_wrap).predict_noise is not comfy.samplers.CFGGuider.predict_noise:
            raise DummyForcingError(
                f"a guider of type {type(model_wrap).__name__} came, which reads more than one prompt or scale; use a "
                "Basic Guider"
            )
        if denoise_mask is not None:
            raise DummyForcingError("the latent has a noise mask, which streaming cannot follow; remove the mask")
        if noise.ndim != 5:
            raise DummyForcingError(
                f"a latent of shape {tuple(noise.shape)} came; connect a video latent (batch, 16, frames, h, w), e.g. "
                "of Clip Size"
            )
        patcher, model = model_wrap.model_patcher, model_wrap.inner_model
        family, _ = family_of(patcher)
        settings = settings_of(patcher)
        seed = int(extra_args.get("seed") or 0)
        prompts, conditions = schedule_of(model_wrap.conds.get("positive", []), self._fps)
        check_width(prompts, wan_of(patcher).text_embedding[0].in_features)
        options = extra_args["model_options"]
        session = Session(
            denoise=HostDenoiser(model_wrap, options, seed, conditions),
            attend=host_attention(options.get("transformer_options", {})),
            family=family,
            settings=settings,
            schedule=schedule_from(sigmas, family.schedule),
            prompts=prompts,
            seed=seed,
            device=noise.device,
            to_model=model.process_latent_in,
            to_latent=model.process_latent_out,
            latent_format=model.latent_format,
        )
        given = Given(noise, latent_image, _scaled(model, model_wrap, sigmas), callback, len(sigmas) - 1)
        return self._work(session, given)


@dataclass(frozen=True)
class Given:
    """What the host's guider handed over. `scaled` turns noise and a latent into a chunk's first input."""

    noise: Tensor
    latent: Tensor | None
    scaled: Callable[[Tensor, Tensor], Tensor]
    callback: Any
    steps: int


def _scaled(model: Any, guider: Any, sigmas: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    sampler = comfy.samplers.Sampler()
    full = sampler.max_denoise(guider, sigmas)

    def scaled(noise: Tensor, latent: Tensor) -> Tensor:
        return model.model_sampling.noise_scaling(sigmas[0], noise, latent, full)

    return scaled


def schedule_from(sigmas: Tensor, own: Schedule) -> Schedule:
    """Host SIGMAS, high to low and ending at 0, as the core's schedule; `own` if they are the family's levels."""
    levels = [float(s) for s in sigmas]
    if len(levels) < 2 or levels[-1] != 0:
        raise DummyForcingError(
            f"SIGMAS {[round(s, 4) for s in levels]} came; they must fall to 0 (denoise 1, no split): the last step of "
            "every chunk has to finish it"
        )
    same = len(levels) == len(own.sigmas) + 1 and torch.allclose(sigmas.cpu().float(), sigmas_of(own), atol=1e-4)
    return own if same else Schedule(tuple(levels[:-1]))


def sigmas_of(schedule: Schedule) -> Tensor:
    """The core's schedule as host SIGMAS."""
    return torch.tensor([*schedule.sigmas, 0.0])


@dataclass(frozen=True)
class Clip:
    """One streaming run. Latents in the model's space.

    start    -- (B, C, n, h, w) of a given image or clip, counted in shape.frames
    noise    -- of a session; None: the core's seeded noise
    steps    -- to skip
    on_chunk -- called with every finished chunk; True ends the clip there
    still    -- for loops that encode a pixel frame of the clip
    """

    shape: LatentShape
    start: Tensor | None = None
    noise: NoiseFn | None = None
    steps: StepCache = NO_STEPS
    on_step: Callable[[Span, int], None] = lambda span, step: None
    on_chunk: Callable[[ChunkResult], bool] = field(default=lambda chunk: False)
    still: StillFrames | None = None


def stream(session: Session, clip: Clip) -> Tensor:
    """Samples a clip chunk by chunk: (B, C, T, h, w) in the model's space, on the host's intermediate device."""
    policy = session.settings.policy or default_policy(session.family)
    where = comfy.model_management.intermediate_device()
    latents: list[Tensor] = []

    def on_step(span: Span, step: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        clip.on_step(span, step)

    free_for(session, policy, clip)
    chunks = loop_of(session.family, clip.still)(
        session.denoise,
        clip.shape,
        session.schedule,
        session.prompts,
        policy,
        session.family,
        clip.noise or session.seeded_noise(clip.shape),
        start=clip.start,
        on_step=on_step,
        attend=session.attend,
        steps=clip.steps,
    )
    try:
        for chunk in chunks:
            latents.append(chunk.latent.to(where))
            if clip.on_chunk(chunk):
                break
    finally:
        chunks.close()  # the cache dies now, not when the traceback does
    return torch.cat(latents, dim=2)


def full_clip_sampler() -> ARSampler:
    """The SAMPLER for SamplerCustomAdvanced: shape, first noise and start come with the host's latent and noise."""

    def work(session: Session, given: Given) -> Tensor:
        batch, channels, frames, height, width = given.noise.shape
        shape = LatentShape(batch, channels, frames, height, width)
        check_shape(shape)
        clip = Clip(
            shape, noise=host_noise(session, given), steps=session.step_cache, on_chunk=_reporting(given, shape)
        )
        return stream(session, clip)

    return ARSampler(work)


def host_noise(session: Session, given: Given) -> NoiseFn:
    """The host's noise and latent start every chunk; ours renoises."""
    latent = torch.zeros_like(given.noise) if given.latent is None else given.latent
    first = given.noise
    return over_latent(session, given, LatentShape(*first.shape), latent, lambda s: first[:, :, s.start : s.stop])


def over_latent(
    session: Session,
    given: Given,
    shape: LatentShape,
    latent: Tensor,
    first: Callable[[Span], Tensor] | None = None,
) -> NoiseFn:
    """Video to video: every chunk starts from `first` noise (None: ours) over the latent, as sigmas below 1 need it."""
    seeded = session.seeded_noise(shape)

    def noise(step: int, span: Span) -> Tensor:
        if step:
            return seeded(step, span)
        drawn = seeded(step, span) if first is None else first(span)
        return given.scaled(drawn, to_device(latent[:, :, span.start : span.stop].to(drawn.dtype), drawn.device))

    return noise


def _reporting(given: Given, shape: LatentShape) -> Callable[[ChunkResult], bool]:
    """Tells the host of every chunk: the newest frame is what it previews, and the last it hears of is the clip."""
    where = comfy.model_management.intermediate_device()
    made: list[Tensor] = []

    def on_chunk(chunk: ChunkResult) -> bool:
        if given.callback is not None:
            made.append(chunk.latent.to(where))
            whole = chunk.span.stop == shape.frames
            shown = torch.cat(made, dim=2) if whole else chunk.latent[:, :, -1:]
            given.callback(chunk.span.stop * given.steps // shape.frames - 1, shown, shown, given.steps)
        return False

    return on_chunk
