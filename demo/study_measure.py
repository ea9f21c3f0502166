"""What the study measures of one policy, clip by clip: error along the dense clip, what is remembered, bytes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dummyforcing_core.evaluation.teacher_forced import teacher_forced
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.policies import Full
from dummyforcing_core.vae.demo_codec import DemoCodec

from . import measure
from .sampling import decode
from .study_policies import Entry, held_frames
from .study_tasks import Task, dense_clip, make
from .world import Clips, render

RESAMPLES, COVERAGE = 4000, 0.9


@torch.no_grad()
def measured(denoise: WanDenoiser, codec: DemoCodec, entry: Entry, tasks: Sequence[Task]) -> dict:
    """One row: {"key", "name", "draw", "frames", "bytes", "values": {measure: one number a clip}}.

    Clips go on from the dense clip's chunk 0, which no memory changes. Errors, and random choices, are of one task.
    """
    values: dict[str, list[float]] = {}
    frames = size = 0.0
    for task in tasks if entry.draw is None else tasks[:1]:
        for number in range(len(task.truth.colour)):
            dense = dense_clip(denoise, task, number)
            run = replace(task.run(denoise, number, entry.policy), start=dense[:, :, :3])
            chunks = make(run)
            latents = torch.cat([chunk.latent for chunk in chunks], 2)
            for name, value in remembered(codec, pick(task.truth, number), latents).items():
                values.setdefault(f"{name}, {task.name}", []).append(value)
            if task is tasks[0]:
                values.setdefault("error", []).append(_error(replace(run, start=None), dense))
                plan, history = chunks[-2].plan, run.shape.frames - 3  # while the last chunk is made
                frames += float(np.mean(held_frames(plan, history)))
                size += plan.history_bytes(run.kv_shape, history)
    clips = len(values["error"])
    row = {"key": entry.key, "name": entry.name, "draw": entry.draw}
    return row | {"frames": frames / clips, "bytes": size / clips, "values": values}


def _error(run: Run, latents: Tensor) -> float:
    """Teacher-forced relative L2 error of the velocity against the full cache, mean over chunks with a history."""
    errors = [one.velocity for one in teacher_forced(run, latents, Full()) if one.span.start > 0]
    return sum(errors) / len(errors)


def remembered(codec: DemoCodec, clip: Clips, latents: Tensor) -> dict[str, float]:
    """Of the last two chunks of a clip, both lit, as the latents (1, C, T, h, w) show them.

    recall: share of coloured pixels in a true colour in the chunk in which the light returns. kept: share of the
    shapes that are there, in colour and kind, in the last 9 pixel frames; nan where the truth hides them.
    """
    pixels = decode(codec, latents)[:, -24:]  # whole: the codec remembers
    padded = torch.cat([pixels.new_zeros(len(pixels), 9, *pixels.shape[2:]), pixels], 1)  # a chunk 0 before them
    right, judged = (x[:, :, 0] for x in measure.shapes_right(pixels[:, -9:], _tail(clip, 9, 1)))
    recall = measure.colour_recall(padded, _tail(clip, 33, 3), 1)
    return {"recall": float(recall), "kept": float((right & judged).sum() / judged.sum())}


@torch.no_grad()
def ceiling(codec: DemoCodec, task: Task) -> dict[str, float]:
    """`remembered` of the truth after the codec's round trip, mean over clips."""
    found = []
    for number in range(len(task.truth.colour)):
        clip = pick(task.truth, number)
        found.append(remembered(codec, clip, codec.encode(render(clip).transpose(1, 2))))
    return {f"{name}, {task.name}": float(np.nanmean([one[name] for one in found])) for name in found[0]}


def pick(clips: Clips, number: int) -> Clips:
    """One of the clips."""
    return Clips(*(getattr(clips, name)[number : number + 1] for name in Clips.__dataclass_fields__))


def _tail(clips: Clips, frames: int, chunks: int) -> Clips:
    """The last so many pixel frames as a clip of their own, which must be as long as its chunks say."""
    centre, light, slots = clips.centre[:, :, -frames:], clips.light[:, -chunks:], clips.slots[:, -chunks:]
    return Clips(clips.colour[..., -chunks:], clips.kind[..., -chunks:], clips.present, centre, light, slots)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Bootstrap interval over clips of the mean; clips that are nan do not count."""
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    chosen = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[chosen].mean(1), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
