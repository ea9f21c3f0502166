"""A streaming run before it begins: what was asked for, checked, and its device memory estimated."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...dummyforcing_core import __version__
from ...dummyforcing_core.clips.render import device_name
from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.geometry import SPATIAL, LatentShape, Span, chunk_spans, pixel_frames, screen_size
from ...dummyforcing_core.loops.table import loop_of
from ...dummyforcing_core.models.families import Family
from ...dummyforcing_core.models.sizes import size_note
from ...dummyforcing_core.policies import Policy, own_policy
from ...dummyforcing_core.schedule import Schedule
from .decoder import check_vae, streams
from .memory import Needs, check_fits, fits_together, needs_of
from .settings import family_of, settings_of
from .sigmas import schedule_by


@dataclass(frozen=True)
class ClipJob:
    """One clip that a MODEL is to make.

    canvas   -- the LATENT's samples (batch, 16, frames, h, w); not empty for video to video
    start    -- latents (batch, 16, n, h, w) of a given image or clip, as a LATENT holds them
    live     -- the VAE decodes every chunk as soon as it is done, else it waits for the last one
    notes    -- lines that the report must show
    """

    model: Any
    conditioning: list
    canvas: Tensor
    start: Tensor | None
    family: Family
    known_from: str
    policy: Policy
    sigmas: Tensor | None
    schedule: Schedule
    vae: Any
    live: bool
    needs: Needs
    notes: tuple[str, ...]

    @property
    def shape(self) -> LatentShape:
        return LatentShape(*self.canvas.shape)

    @property
    def _given_frames(self) -> int:
        return 0 if self.start is None else self.start.shape[2]

    @property
    def spans(self) -> list[Span]:
        """Its chunks; a given start is one."""
        return chunk_spans(self.shape.frames, self.family.chunk_frames, self._given_frames)

    @property
    def calls(self) -> int:
        """Of the model, as the loop tells of them."""
        return loop_of(self.family).model_calls(self.family, self.schedule, self.shape.frames, self._given_frames)

    def conditions(self, seed: int) -> dict[str, Any]:
        """The first lines of its report."""
        return {
            "family": f"{self.family.name} ({self.known_from})",
            "policy": policy_text(self.policy),
            "size": "{}x{}".format(*screen_size(self.shape.width * SPATIAL, self.shape.height * SPATIAL)),
            "frames": pixel_frames(self.shape.frames),
            "prompts": len(self.conditioning),
            "steps": ", ".join(f"{level:.3f}" for level in self.schedule.sigmas),
            "seed": seed,
            "predicted memory": str(self.needs),
            "device": device_name(self.model.load_device),
            "versions": {"dummyforcing": __version__, "torch": torch.__version__},
        }


def clip_job(
    model: Any,
    conditioning: list,
    latent: dict,
    vae: Any = None,
    start_latent: dict | None = None,
    sigmas: Tensor | None = None,
) -> ClipJob:
    """The job of a Streaming Sampler's inputs; DummyForcingError if it cannot be done."""
    canvas = latent["samples"]
    if canvas.ndim != 5 or latent.get("noise_mask") is not None:
        raise DummyForcingError(
            "expected an empty video latent (batch, 16, frames, h, w) without a mask, got shape "
            f"{tuple(canvas.shape)}{' with a noise mask' if 'noise_mask' in latent else ''}; connect Clip Size"
        )
    shape = LatentShape(*canvas.shape)
    start = None if start_latent is None else _checked_start(start_latent["samples"], shape)
    family, known_from = family_of(model)
    settings = settings_of(model)
    policy = settings.policy or own_policy(family)
    note = size_note(*screen_size(shape.width * SPATIAL, shape.height * SPATIAL), family)
    notes = (*settings.notes, note) if note else settings.notes
    clip = model, shape, policy, family, 0 if start is None else start.shape[2], len(conditioning) - 1
    if vae is not None:
        check_vae(vae, shape.channels)
    live = vae is not None and streams(vae)
    needs = needs_of(*clip, vae if live else None)
    if live and not loop_of(family).still_frames(family) and not fits_together(model, vae, needs):
        notes += (f"decoding waits for the last chunk: it does not fit beside the model ({needs})",)
        live, needs = False, needs_of(*clip, None)
    check_fits(model, needs, shape, policy, family)
    schedule = schedule_by(sigmas, family.schedule)
    return ClipJob(
        model, conditioning, canvas, start, family, known_from, policy, sigmas, schedule, vae, live, needs, notes
    )


def policy_text(policy: Policy) -> str:
    """A policy by name and what differs from its defaults."""
    changed = {
        field.name: getattr(policy, field.name)
        for field in fields(policy)
        if getattr(policy, field.name) != field.default
    }
    return ", ".join([type(policy).__name__, *(f"{name} {value}" for name, value in changed.items())])


def _checked_start(start: Tensor, shape: LatentShape) -> Tensor:
    wanted = (shape.channels, shape.height, shape.width)
    if start.ndim != 5 or (start.shape[1], *start.shape[3:]) != wanted or start.shape[0] not in (1, shape.batch):
        raise DummyForcingError(
            f"expected a start_latent of shape ({shape.batch} or 1, {shape.channels}, frames, {shape.height}, "
            f"{shape.width}) for this clip, got {tuple(start.shape)}; scale the image to "
            f"{shape.width * SPATIAL}x{shape.height * SPATIAL} before encoding it"
        )
    if start.shape[2] >= shape.frames:
        raise DummyForcingError(
            f"the start has {start.shape[2]} latent frames, the clip {shape.frames} in all; make the clip longer"
        )
    return start.expand(shape.batch, -1, -1, -1, -1)
