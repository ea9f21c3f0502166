"""What the study measures of one policy and task, clip by clip: what lasts, what is obeyed, errors, bytes."""

import time

import numpy as np
import torch
from torch import Tensor

from dummyforcing_core.evaluation.teacher_forced import teacher_forced
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.policies import Full
from dummyforcing_core.text.demo_text import UNNAMED
from dummyforcing_core.vae.demo_codec import DemoCodec

from . import measure
from .sampling import decode, make
from .study_policies import Entry, held_frames
from .study_tasks import Task, dense_clip
from .world import CHUNK_FRAMES, Clips, render

RESAMPLES, COVERAGE = 4000, 0.9


@torch.no_grad()
def measured(denoise: WanDenoiser, codec: DemoCodec, entry: Entry, task: Task, batch: int) -> dict:
    """One row: {"key", "name", "draw", "task", "frames", "bytes", "seconds", "values": {measure: one number a clip}}.

    Frames a head and bytes a clip are of the last chunk; seconds are the processor's, of all clips, `batch` at a time.
    """
    began = time.process_time()
    values: dict[str, list[float]] = {}
    frames = size = 0.0
    clips = len(task.truth)
    looks = entry.alone == "always" or (entry.alone == "at switches" and task.switches)
    batch = 1 if looks else batch
    for first in range(0, clips, batch):
        run = task.run(denoise, first, min(batch, clips - first), entry.policy)
        chunks = make(run)
        latents = torch.cat([chunk.latent for chunk in chunks], 2)
        for name, found in measures(codec, pick(task.truth, first, run.shape.batch), latents).items():
            values.setdefault(name, []).extend(found.tolist())
        plan, history = chunks[-2].plan, run.shape.frames - CHUNK_FRAMES  # while the last chunk is made
        frames += run.shape.batch * float(np.mean(held_frames(plan, history)))
        size += plan.history_bytes(run.kv_shape, history)
    row = {"key": entry.key, "name": entry.name, "draw": entry.draw, "task": task.name}
    numbers = {"frames": frames / clips, "bytes": size / clips, "seconds": round(time.process_time() - began, 2)}
    return row | numbers | {"values": values}


def errors(denoise: WanDenoiser, entry: Entry, task: Task) -> list[float]:
    """Teacher-forced relative L2 error of each clip's velocity against the full cache, along the clip that this makes;
    mean over chunks with a history."""
    found = []
    for number in range(len(task.truth)):
        run = task.run(denoise, number, 1, entry.policy)  # alone: the norms are over all that is in a run
        chunks = teacher_forced(run, dense_clip(denoise, task, number), Full())
        found.append(float(np.mean([one.velocity for one in chunks if one.span.start > 0])))
    return found


def measures(codec: DemoCodec, clips: Clips, latents: Tensor) -> dict[str, Tensor]:
    """What the latents (B, C, T, h, w) show of clips that name colours in the same chunks: {measure: (B,)}.

    Whether the last prompt still names colours decides between `remembered` and `steady`. obeyed: where a later prompt
    renamed them, share of coloured pixels in the new colours in the last chunk that names them.
    """
    named = int((clips.slots[0, :, 0] != UNNAMED).nonzero().max())
    found = steady(codec, clips, latents) if named == clips.slots.shape[1] - 1 else remembered(codec, clips, latents)
    if (clips.colour[:, 0, named] != clips.colour[:, 0, 0]).any():
        found["obeyed"] = measure.colour_recall(*_part(codec, clips, latents, named, named + 1), 1)
    return found


def remembered(codec: DemoCodec, clips: Clips, latents: Tensor) -> dict[str, Tensor]:
    """Of the last two chunks, both lit, which name no colours.

    recall: share of coloured pixels in a true colour in the chunk in which the light returns. kept: share of the
    shapes that are there, in colour and kind, in the last 9 pixel frames; nan where the truth hides them.
    """
    chunks = clips.slots.shape[1]
    pixels, tail = _part(codec, clips, latents, chunks - 2, chunks)
    right, judged = measure.shapes_right(pixels[:, -9:], _chunks(clips, chunks - 1, chunks))
    return {"recall": measure.colour_recall(pixels, tail, 1), "kept": _share(right & judged, judged)}


def steady(codec: DemoCodec, clips: Clips, latents: Tensor) -> dict[str, Tensor]:
    """Of long clips of one prompt in which A moves.

    right: share of shapes, where the truth shows them, that are there in colour and kind, over the chunks of the last
    quarter. travel: range of A in px in the last five chunks, for a frozen clip is right as well.
    """
    chunks = clips.slots.shape[1]
    quarter = max(chunks // 4, 1)
    pixels, tail = _part(codec, clips, latents, max(chunks - max(quarter, 5), 1), chunks)
    right, judged = (x[:, :, -quarter:] for x in measure.shapes_right(pixels, tail))
    travel = measure.travel(pixels[:, -60:], clips.colour[:, 0, -1])
    return {"right": _share(right & judged, judged), "travel": travel}


def _share(right: Tensor, judged: Tensor) -> Tensor:
    """(B,) of (B, 2 shapes, chunks) bool."""
    return right.sum((1, 2)) / judged.sum((1, 2))


def _part(codec: DemoCodec, clips: Clips, latents: Tensor, first: int, stop: int) -> tuple[Tensor, Clips]:
    """Pixels (B, F, 3, H, W) and truth of chunks first..stop-1 (first > 0), behind the one before as chunk 0.

    That is as far as what the codec remembers reaches, so that nothing else need be decoded.
    """
    part = latents[:, :, CHUNK_FRAMES * (first - 1) : CHUNK_FRAMES * stop]
    return decode(codec, part), _chunks(clips, first - 1, stop)


def _chunks(clips: Clips, first: int, stop: int) -> Clips:
    """Chunks first..stop-1 as a clip of their own, whose first chunk lacks 3 pixel frames as every clip's does."""
    centre, where = clips.centre[:, :, 12 * first : 12 * stop - 3], slice(first, stop)
    light, slots = clips.light[:, where], clips.slots[:, where]
    return Clips(clips.colour[..., where], clips.kind[..., where], clips.present, centre, light, slots)


@torch.no_grad()
def ceiling(codec: DemoCodec, task: Task) -> dict[str, float]:
    """`measures` of the truth after the codec's round trip, mean over clips."""
    found = []
    for number in range(len(task.truth)):
        clip = pick(task.truth, number)
        found.append(measures(codec, clip, codec.encode(render(clip).transpose(1, 2))))
    return {f"{name}, {task.name}": float(np.nanmean([float(one[name]) for one in found])) for name in found[0]}


def pick(clips: Clips, first: int, count: int = 1) -> Clips:
    """So many of the clips, from this one on."""
    return Clips(*(getattr(clips, name)[first : first + count] for name in Clips.__dataclass_fields__))


def interval(values: np.ndarray) -> tuple[float, float]:
    """Bootstrap interval over clips of the mean; clips that are nan do not count."""
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    chosen = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[chosen].mean(1), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
