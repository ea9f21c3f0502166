"""A streaming run before it begins: what was asked for, checked, and its device memory estimated."""

from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ...dummyforcing_core import __version__
from ...dummyforcing_core.clips.render import device_name, made_conditions, shown_conditions
from ...dummyforcing_core.clips.start import LARGEST_LATENT
from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.geometry import SPATIAL, LatentShape, Span, chunk_spans, pixel_frames
from ...dummyforcing_core.loops.run import setting_of
from ...dummyforcing_core.loops.table import early_plan, loop_of
from ...dummyforcing_core.models.families import Family
from ...dummyforcing_core.models.finite import beyond
from ...dummyforcing_core.models.sizes import size_note
from ...dummyforcing_core.policies import Policy, own_policy
from ...dummyforcing_core.rates import OWN_RATE, seconds_text
from ...dummyforcing_core.schedule import Schedule
from .decoder import check_vae, streams
from .denoiser import check_shape, geometry_of
from .memory import Needs, check_fits, fits_together, needs_of
from .patches import check_patches
from .prompt_words import PromptWords
from .settings import family_of, settings_of
from .shown import Shown, extended, made_side, shown_of
from .sigmas import schedule_by


@dataclass(frozen=True)
class ClipJob:
    """One clip that a MODEL is to make.

    canvas   -- the LATENT's samples at the clip's shape (batch, 16, frames, h, w); not empty for video to video
    shown    -- what of its pixels the video has
    start    -- latents (batch, 16, n, h, w) of a given image or clip, as a LATENT holds them
    live     -- the VAE decodes every chunk as soon as it is done, else it waits for the last one
    notes    -- lines that the report must show
    """

    model: Any
    conditioning: list
    canvas: Tensor
    shown: Shown
    fps: Fraction
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

    @property
    def _start_condition(self) -> dict[str, str]:
        given = self._given_frames
        return {"given start": f"{pixel_frames(given)} frames ({given} latent)"} if given else {}

    def conditions(self, seed: int, words: PromptWords) -> dict[str, Any]:
        """The first lines of its report."""
        return {
            "family": f"{self.family.name} ({self.known_from})",
            "policy": policy_text(self.policy),
            **shown_conditions(self.shown.size, self.shown.frames, self.fps),
            **made_conditions(self.shown.size, self.shown.frames, self.fps, self.shape),
            **self._start_condition,
            "prompts": str(words),
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
    fps: Fraction = OWN_RATE,
    vae: Any = None,
    start_latent: dict | None = None,
    sigmas: Tensor | None = None,
) -> ClipJob:
    """The job of a Streaming Sampler's inputs; DummyForcingError if it cannot be done."""
    family, known_from = _family(model)
    schedule = schedule_by(sigmas, family.schedule)
    shown, shape = _made(latent, fps, family, schedule)
    start = None if start_latent is None else _checked_start(start_latent["samples"], shape, fps)
    settings = settings_of(model)
    policy = settings.policy or own_policy(family)
    notes = tuple(note for note in (*settings.notes, size_note(*shown.size, family)) if note)
    given = 0 if start is None else start.shape[2]
    early_plan(setting_of(geometry_of(model), shape, family, given), schedule, policy, settings.listed_steps(schedule))
    clip = model, shape, policy, family, given, len(conditioning) - 1
    if vae is not None:
        check_vae(vae, shape.channels)
    live = vae is not None and streams(vae)
    needs = needs_of(*clip, vae if live else None)
    if live and not loop_of(family).still_frames(family) and not fits_together(model, vae, needs):
        notes += (f"decoding waits for the last chunk: it does not fit beside the model ({needs})",)
        live, needs = False, needs_of(*clip, None)
    check_fits(model, needs, shape, policy, family)
    return ClipJob(
        model, conditioning, extended(latent["samples"], shape), shown, fps, start, family, known_from, policy, sigmas,
        schedule, vae, live, needs, notes,
    )  # fmt: skip


def _family(model: Any) -> tuple[Family, str]:
    """Of a MODEL that other nodes have left fit for a stream, and where it is known from."""
    family, known_from = family_of(model)
    check_patches(model)
    return family, known_from


def _check_canvas(latent: dict, schedule: Schedule) -> None:
    """DummyForcingError for what is no canvas, or holds what a clip from noise alone would throw away."""
    canvas = latent["samples"]
    if canvas.ndim != 5 or latent.get("noise_mask") is not None:
        raise DummyForcingError(
            "expected an empty video latent (batch, 16, frames, h, w) without a mask, got shape "
            f"{tuple(canvas.shape)}{' with a noise mask' if 'noise_mask' in latent else ''}; connect Clip Size"
        )
    if schedule.sigmas[0] >= 1 and canvas.any():
        raise DummyForcingError(
            "latent holds an image or clip, which would be lost: connect it to start_latent, and Clip Size to latent "
            "(or give SIGMAS that begin below 1, to change the clip itself)"
        )


def _made(latent: dict, fps: Fraction, family: Family, schedule: Schedule) -> tuple[Shown, LatentShape]:
    """What the video shows, and the shape of what has to be made for it."""
    _check_canvas(latent, schedule)
    canvas, shown = latent["samples"], shown_of(latent)
    if not canvas.any():
        shown = shown.at(fps)
    batch, channels, _, height, width = canvas.shape
    frames = loop_of(family).made_frames(family, schedule, shown.latent_frames)
    shape = LatentShape(batch, channels, frames, made_side(height), made_side(width))
    check_shape(shape, family)
    return shown, shape


def policy_text(policy: Policy) -> str:
    """A policy by name and what differs from its defaults."""
    changed = {
        field.name: getattr(policy, field.name)
        for field in fields(policy)
        if getattr(policy, field.name) != field.default
    }
    return ", ".join([type(policy).__name__, *(f"{name} {value}" for name, value in changed.items())])


def _checked_start(start: Tensor, shape: LatentShape, fps: Fraction) -> Tensor:
    if start.ndim == 5 and (made_side(start.shape[3]), made_side(start.shape[4])) == (shape.height, shape.width):
        start = extended(start, replace(shape, frames=start.shape[2]))
    if start.ndim != 5 or start.shape[1] != shape.channels:
        raise DummyForcingError(
            f"expected a start_latent (batch, {shape.channels}, frames, h, w) of Wan2.1, got {tuple(start.shape)}; "
            "encode the image with this model's VAE, or connect a clip that it made"
        )
    if start.shape[0] not in (1, shape.batch):
        one = "1 clip" if shape.batch == 1 else f"1 clip, or one for each of the {shape.batch}"
        raise DummyForcingError(
            f"expected a start_latent of {one}, got {start.shape[0]}; change batch_size of Clip Size"
        )
    if start.shape[3:] != (shape.height, shape.width):
        wanted, got = _pixels(shape.height, shape.width), _pixels(*start.shape[3:])
        image = f"scale the image to {wanted} before VAE Encode, or " if start.shape[2] == 1 else ""
        raise DummyForcingError(f"start_latent is {got}, this clip {wanted} pixels: {image}set Clip Size to {got}")
    if odd := beyond(start, LARGEST_LATENT):
        raise DummyForcingError(f"start_latent holds {odd}: encode the image again, or connect a clip that was made")
    if not start.any():
        raise DummyForcingError(
            "start_latent is an empty canvas (Clip Size): connect that to latent; start_latent takes an image or clip "
            "of VAE Encode, or nothing"
        )
    if start.shape[2] >= shape.frames:
        longer = pixel_frames(start.shape[2])
        raise DummyForcingError(
            f"the start is {_length(longer, fps)} long, the clip {_length(pixel_frames(shape.frames), fps)} in all: "
            f"make the clip longer than {seconds_text(longer, fps)}, or the start shorter"
        )
    return start.expand(shape.batch, -1, -1, -1, -1)


def _length(frames: int, fps: Fraction) -> str:
    return f"{frames} frame{'s' * (frames > 1)} ({seconds_text(frames, fps)})"


def _pixels(height: int, width: int) -> str:
    return f"{width * SPATIAL}x{height * SPATIAL}"
