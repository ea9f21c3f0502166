"""The loop that a family is sampled by; all have rollout's arguments and yield its ChunkResult."""

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial

from ..geometry import LatentShape, chunk_spans
from ..kv.plan import HeadPlan, KVShape
from ..models.denoiser import Denoiser
from ..models.families import Family
from ..schedule import Schedule
from ..vae.still_frame import StillFrames
from .clip_memory import kv_shape
from .context_latents import context_frames
from .recompute import context_shape, recompute
from .restarts import part_shape, parts_of, restarts
from .rolling import rolling
from .rollout import ChunkResult, rollout

Loop = Callable[..., Generator[ChunkResult, None, None]]

LOOPS: dict[str, Loop] = {"chunks": rollout, "rolling": rolling, "recompute": recompute, "restarts": restarts}


def loop_of(family: Family, still: StillFrames | None = None) -> Loop:
    """The family's loop for one clip. `still` encodes pixel frames of it, where a loop wants them (recompute.py)."""
    loop = LOOPS[family.loop]
    return partial(loop, still=still) if still_frames(family) else loop


def still_frames(family: Family) -> int:
    """How many latent frames back the family's loop asks for a pixel frame as a still; 0: it never does."""
    if family.loop == "recompute":
        return context_frames(family)
    return family.overlap_frames if family.loop == "restarts" else 0


def model_calls(family: Family, schedule: Schedule, frames: int, given_frames: int = 0) -> int:
    """How many calls a clip of `frames` latent frames takes, as the loop's on_step tells of them.

    Not counted: reading the window again at a prompt switch, and rebuilding a cache for a second look at the heads.
    """
    if family.loop == "restarts":
        clip = replace(family, loop="chunks")
        parts = parts_of(frames, family, given_frames)
        return sum(model_calls(clip, schedule, part.stop - part.start, part.held) for part in parts)
    spans = chunk_spans(frames, family.chunk_frames, given_frames)
    if family.loop == "rolling":  # a window per chunk, and the first chunk waits for its own
        return 2 * len(spans) + len(schedule) - 1
    made = [span for span in spans if not span.given]
    denoising = sum(len(schedule.levels(span.start == given_frames)) for span in made)
    if family.loop == "recompute":
        context = context_frames(family)
        return denoising + sum(-(-min(span.start, context) // family.chunk_frames) for span in made)
    return denoising + sum(len(span.passes(family.chunk_frames)) for span in spans)


def price_shape(denoise: Denoiser, shape: LatentShape, family: Family, switches: int = 0) -> KVShape:
    """What a clip's head plan is priced by in that loop. switches: of its prompt."""
    if family.loop == "recompute":
        return context_shape(denoise, shape, family)
    if family.loop == "restarts":
        return part_shape(denoise, shape, family)
    return kv_shape(denoise, shape, family, family.recache and switches > 0)


def pass_flops(plan: HeadPlan, shape: KVShape, family: Family, frames: int) -> int:
    """Multiply-adds times two of self-attention in one denoising pass, deep in a clip of `frames` latent frames."""
    before = max(frames - family.pass_frames, 0)
    if family.loop == "rolling":
        before = min(family.default_window_frames - family.pass_frames, before)
    if family.loop == "recompute":
        before = min(context_frames(family), before)
    if family.loop == "restarts":
        before = min(family.trained_frames - family.chunk_frames, before)
    return plan.attention_flops(replace(shape, pass_frames=min(family.pass_frames, frames)), before)
