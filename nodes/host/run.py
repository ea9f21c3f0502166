"""One run of the core on a MODEL, through the host's guider."""

from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...dummyforcing_core.geometry import FPS, LatentShape
from .denoiser import check_shape, wan_of
from .memory import reserve
from .sampler import ARSampler, Given, Session, schedule_from, sigmas_of
from .settings import family_of


def run_on(
    model: Any,
    conditioning: list,
    shape: LatentShape,
    seed: int,
    work: Callable[[Session, Given], Tensor],
    sigmas: Tensor | None = None,
    fps: float = FPS,
    needed_bytes: int = 0,
    beside: list[Any] | None = None,
) -> Tensor:
    """Calls `work` with the MODEL loaded; returns its samples as the host's LATENT holds them.

    needed_bytes -- of device memory beside weights and one chunk's activations
    beside       -- patchers of other models that must stay loaded, e.g. a VAE's
    """
    wan_of(model)
    family, _ = family_of(model)
    check_shape(shape)
    levels = sigmas_of(family.schedule) if sigmas is None else sigmas
    schedule_from(levels, family.schedule)  # the host would answer empty SIGMAS with the empty latent
    model = model.clone()
    if needed_bytes:
        reserve(model, needed_bytes)
    if beside:
        model.set_additional_models("dummyforcing", beside)
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": conditioning})
    guider.set_cfg(1.0)
    # The host plans its memory by what it is handed: one pass's frames, however long the clip.
    chunk = torch.zeros(shape.batch, shape.channels, min(family.pass_frames, shape.frames), shape.height, shape.width)
    return guider.sample(chunk, chunk, ARSampler(work, fps), levels, seed=seed)
