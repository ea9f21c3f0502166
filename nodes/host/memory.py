"""Device memory: what a run will need, asked of the host before anything is allocated."""

import math
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import torch

from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.geometry import SPATIAL, LatentShape
from ...dummyforcing_core.loops.run import setting_of
from ...dummyforcing_core.loops.table import clip_kv_shape, kv_peak_bytes, loop_of
from ...dummyforcing_core.models.denoiser import ModelGeometry
from ...dummyforcing_core.models.families import Family
from ...dummyforcing_core.policies import DummyForcing, Policy, SlidingWindow
from ...dummyforcing_core.policies.profile import HeadProfile
from .decoder import decode_bytes
from .denoiser import geometry_of
from .settings import KEY, Wrappers

GIB = 2**30


@dataclass(frozen=True)
class Needs:
    """Device memory of a run in bytes. Weights may be offloaded, the rest may not."""

    weights: int
    kv: int
    activations: int
    decode: int

    @property
    def fixed(self) -> int:
        """What has to fit whatever the host offloads."""
        return self.kv + max(self.activations, self.decode)

    def __str__(self) -> str:
        parts = {"weights": self.weights, "K/V": self.kv, "activations": self.activations, "decode": self.decode}
        return ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items()) + " GiB"


def kv_bytes(
    geometry: ModelGeometry,
    shape: LatentShape,
    policy: Policy,
    family: Family,
    given_frames: int = 0,
    switches: int = 0,
) -> int:
    """K/V bytes of a clip at its widest: the plan it starts with, and a re-packing that copies the largest layer."""
    setting = setting_of(geometry, shape, family, given_frames)
    return kv_peak_bytes(policy, setting, clip_kv_shape(geometry, shape, family, switches))


def needs_of(
    model: Any, shape: LatentShape, policy: Policy, family: Family, given_frames: int, switches: int, vae: Any
) -> Needs:
    """What sampling this clip takes; `vae` if every chunk is decoded beside the model."""
    one_pass, chunk = (
        [shape.batch, shape.channels, min(frames, shape.frames), shape.height, shape.width]
        for frames in (loop_of(family).pass_frames(family), family.chunk_frames)
    )
    return Needs(
        weights=int(model.model_size()),
        kv=kv_bytes(geometry_of(model), shape, policy, family, given_frames, switches),
        activations=int(model.model.memory_required(one_pass)),
        decode=0 if vae is None else decode_bytes(vae, chunk),
    )


def fits_together(model: Any, vae: Any, needs: Needs) -> bool:
    """Whether model, VAE and all that a run needs beside them can stay on the device at once."""
    both = needs.weights + int(vae.patcher.model_size()) + needs.fixed + comfy.model_management.extra_reserved_memory()
    return both <= comfy.model_management.get_total_memory(model.load_device)


def check_fits(
    model: Any, needs: Needs, shape: LatentShape, policy: Policy, family: Family, total_bytes: int | None = None
) -> None:
    """DummyForcingError with what would fit, if the device cannot hold the run even with all weights offloaded."""
    if total_bytes is None:
        total_bytes = comfy.model_management.get_total_memory(model.load_device)
        total_bytes -= comfy.model_management.extra_reserved_memory()
    if needs.fixed <= total_bytes:
        return
    raise DummyForcingError(
        f"this clip needs {needs.fixed / GIB:.1f} GiB beside its weights ({needs}), the device has "
        f"{total_bytes / GIB:.1f} GiB for it; {advice(geometry_of(model), shape, policy, family)}"
    )


CANVAS, JOINED = 1, 3  # times a clip's latents: the canvas alone, or with the clip and what is joined of it


def check_main_memory(shape: LatentShape, times: int = CANVAS) -> None:
    """DummyForcingError for latents that main memory cannot hold so many times."""
    needed = times * 4 * shape.batch * shape.channels * shape.frames * shape.height * shape.width
    there = comfy.model_management.get_total_memory(torch.device("cpu"))
    if needed > there:
        raise DummyForcingError(
            f"the latents of this clip would take {needed / GIB:.1f} GiB, this machine has {there / GIB:.1f} GiB of "
            f"memory; make it shorter or smaller, or the batch smaller{', or keep it as a take' * (times > CANVAS)}"
        )


def advice(geometry: ModelGeometry, shape: LatentShape, policy: Policy, family: Family) -> str:
    """Settings that need less K/V memory than `policy`, with what they need, most memory first."""
    now = kv_bytes(geometry, shape, policy, family)
    scored = replace(
        policy if isinstance(policy, DummyForcing) else DummyForcing(),
        cost="mass",  # an assumed profile has no output change, and the memory is the same
        profile=HeadProfile.assumed(geometry.layers, geometry.heads),
    )
    smaller = replace(shape, height=max(2, shape.height // 4 * 2), width=max(2, shape.width // 4 * 2))
    window = family.sink_frames + 2 * family.chunk_frames
    options = {
        f"Apply Cache Window with window {window} and sink {family.sink_frames}": kv_bytes(
            geometry, shape, SlidingWindow(window, family.sink_frames), family
        ),
        "Apply Dummy Forcing": kv_bytes(geometry, shape, DummyForcing(), family),
        "Apply Dummy Forcing with a saved head profile": kv_bytes(geometry, shape, scored, family),
        f"half the size ({smaller.width * SPATIAL}x{smaller.height * SPATIAL})": kv_bytes(
            geometry, smaller, policy, family
        ),
    }
    lower = sorted(((size, name) for name, size in options.items() if size < now), reverse=True)
    if not lower:
        return "use a smaller size or a smaller batch"
    return f"K/V now {now / GIB:.2f} GiB; " + "; ".join(f"{name}: {size / GIB:.2f} GiB" for size, name in lower)


def free_for(needed_bytes: int, device: torch.device) -> None:
    """Asks ComfyUI to make room on the device beside the models of this run."""
    if device.type == "cpu":
        return
    if comfy.model_management.get_free_memory(device) < needed_bytes:
        keep = comfy.model_management.current_loaded_models[:2]
        comfy.model_management.free_memory(needed_bytes, device, keep_loaded=keep)
        comfy.model_management.soft_empty_cache()


def reserve(model: Any, needed_bytes: int) -> None:
    """Makes the host load this MODEL (a clone of ours) beside `needed_bytes` of other use.

    The host plans memory by the latent's shape, so it is told of a latent long enough to cover them.
    """

    def prepare(executor: Any, patcher: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
        batch, channels, frames, height, width = noise_shape
        per_frame = patcher.model.memory_required([batch, channels, 1, height, width])
        longer = frames + math.ceil(needed_bytes / max(per_frame, 1))
        return executor(patcher, torch.Size((batch, channels, longer, height, width)), *args, **kwargs)

    model.add_wrapper_with_key(Wrappers.PREPARE_SAMPLING, KEY, prepare)
