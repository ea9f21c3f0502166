"""A MODEL that is loaded and ready to be sampled: what ComfyUI's guider hands over, as a run of the core."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.geometry import FPS, LatentShape
from ...dummyforcing_core.kv.attention import AttentionFn
from ...dummyforcing_core.loops.run import Run
from ...dummyforcing_core.loops.table import loop_of
from ...dummyforcing_core.models.denoiser import Denoiser
from ...dummyforcing_core.models.families import Family
from ...dummyforcing_core.models.stepcache import StepCache
from ...dummyforcing_core.noise import SeededNoise
from ...dummyforcing_core.policies import own_policy
from ...dummyforcing_core.prompts import PromptSchedule
from ...dummyforcing_core.schedule import Schedule
from .denoiser import HostDenoiser, check_cfg, check_shape, host_attention, wan_of
from .memory import reserve
from .patches import check_patches, patch_notes
from .prompts import check_features, prompt_notes, prompts_of
from .settings import ARSettings, StreamingSamplerBase, family_of, settings_of
from .sigmas import schedule_by, sigmas_of
from .weights import check_weights, title_of


@dataclass(frozen=True)
class Session:
    """Inside one call of a guider: the model on its device, its settings, and the guider's own inputs.

    noise    -- of the whole latent that the guider was called with, (B, C, T, h, w)
    latent   -- that latent, None if it is empty
    scaled   -- turns noise and a latent into a chunk's first input
    callback -- ComfyUI's progress callback, and how many steps it counts
    notes    -- what the prompts' makers say of them, and what on the MODEL has no effect
    """

    denoise: Denoiser
    attend: AttentionFn
    family: Family
    settings: ARSettings
    schedule: Schedule
    prompts: PromptSchedule
    seed: int
    to_model: Callable[[Tensor], Tensor]
    to_latent: Callable[[Tensor], Tensor]
    latent_format: Any
    noise: Tensor
    latent: Tensor | None
    scaled: Callable[[Tensor, Tensor], Tensor]
    callback: Any
    steps: int
    notes: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        return self.noise.device

    @property
    def step_cache(self) -> StepCache:
        """The steps that the MODEL's settings skip."""
        return self.settings.step_cache(self.denoise, self.schedule)

    def seeded_noise(self, shape: LatentShape) -> SeededNoise:
        """The core's own noise: chunk k is the same however long the clip is."""
        return SeededNoise(self.seed, shape, self.family.chunk_frames, self.device)

    def run(self, shape: LatentShape) -> Run:
        """A clip of this shape under the MODEL's settings, from seeded noise."""
        return Run(
            self.denoise,
            shape,
            self.schedule,
            self.prompts,
            self.settings.policy or own_policy(self.family),
            self.family,
            self.seeded_noise(shape),
            attend=self.attend,
            steps=self.step_cache,
        )


class ARSampler(StreamingSamplerBase, comfy.samplers.Sampler):
    """Runs `work` on a ready session; what it returns, (B, 16, T, h, w) in the model's space, are the samples."""

    def __init__(self, work: Callable[[Session], Tensor], fps: float = FPS):
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
        """ComfyUI's entry; model_wrap is its guider."""
        _check_call(model_wrap, noise, denoise_mask)
        patcher, model = model_wrap.model_patcher, model_wrap.inner_model
        family, _ = family_of(patcher)
        seed, options = int(extra_args.get("seed") or 0), extra_args["model_options"]
        prompts, conditions = prompts_of(model_wrap.conds.get("positive", []), self._fps)
        wan = wan_of(patcher)
        check_features(prompts, wan.text_embedding[0].in_features)
        check_weights(patcher, wan, title_of(patcher))
        return self._work(
            Session(
                denoise=HostDenoiser(model_wrap, options, seed, conditions),
                attend=host_attention(options.get("transformer_options", {})),
                family=family,
                settings=settings_of(patcher),
                schedule=schedule_by(sigmas, family.schedule),
                prompts=prompts,
                seed=seed,
                to_model=model.process_latent_in,
                to_latent=model.process_latent_out,
                latent_format=model.latent_format,
                noise=noise,
                latent=latent_image,
                scaled=_scaled(model, model_wrap, sigmas),
                callback=callback,
                steps=len(sigmas) - 1,
                notes=(*prompt_notes(conditions.values()), *patch_notes(patcher, own_levels=False)),
            )
        )


def _check_call(guider: Any, noise: Tensor, mask: Tensor | None) -> None:
    """DummyForcingError for what a guider may ask and a stream cannot do."""
    check_cfg(guider)
    check_patches(guider.model_patcher)
    if type(guider).predict_noise is not comfy.samplers.CFGGuider.predict_noise:
        raise DummyForcingError(
            f"expected a guider that reads one prompt, got a {type(guider).__name__}; use a Basic Guider"
        )
    if mask is not None:
        raise DummyForcingError("the latent has a noise mask, which streaming cannot follow; remove the mask")
    if noise.ndim != 5:
        raise DummyForcingError(
            f"expected a video latent (batch, 16, frames, h, w), got shape {tuple(noise.shape)}; connect Clip Size"
        )


def _scaled(model: Any, guider: Any, sigmas: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    sampler = comfy.samplers.Sampler()
    full = sampler.max_denoise(guider, sigmas)

    def scaled(noise: Tensor, latent: Tensor) -> Tensor:
        return model.model_sampling.noise_scaling(sigmas[0], noise, latent, full)

    return scaled


@dataclass(frozen=True)
class Task:
    """What a MODEL is to be loaded for.

    shape        -- of the clip
    needed_bytes -- of device memory beside weights and one chunk's activations
    beside       -- patchers of other models that must stay loaded, e.g. a VAE's
    """

    model: Any
    conditioning: list
    shape: LatentShape
    seed: int
    sigmas: Tensor | None = None
    fps: float = FPS
    needed_bytes: int = 0
    beside: tuple[Any, ...] = ()


def with_session(task: Task, work: Callable[[Session], Tensor]) -> Tensor:
    """Calls `work` with the MODEL loaded; returns its samples as a LATENT holds them."""
    wan_of(task.model)
    family, _ = family_of(task.model)
    shape = task.shape
    check_shape(shape, family)
    schedule_by(task.sigmas, family.schedule)  # ComfyUI would answer empty SIGMAS with the empty latent
    model = task.model.clone()
    if task.needed_bytes:
        reserve(model, task.needed_bytes)
    if task.beside:
        model.set_additional_models("dummyforcing", list(task.beside))
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": task.conditioning})
    guider.set_cfg(1.0)
    # ComfyUI plans its memory by what it is handed: one pass's frames, however long the clip.
    frames = min(loop_of(family).pass_frames(family), shape.frames)
    chunk = torch.zeros(shape.batch, shape.channels, frames, shape.height, shape.width)
    sigmas = sigmas_of(family.schedule) if task.sigmas is None else task.sigmas
    return guider.sample(chunk, chunk, ARSampler(work, task.fps), sigmas, seed=task.seed)
