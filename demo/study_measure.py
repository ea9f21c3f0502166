"""What the study measures of one policy: errors along the dense clip, what is remembered, bytes and time."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dummyforcing_core.kv.plan import HeadPlan
from dummyforcing_core.loops.clip_memory import ClipMemory
from dummyforcing_core.loops.run import kv_shape
from dummyforcing_core.models.denoiser import Step
from dummyforcing_core.policies import Full, Policy
from dummyforcing_core.schedule import add_noise
from dummyforcing_core.vae.demo_codec import DemoCodec

from . import measure
from .sampling import decode
from .study_policies import Entry, held_frames
from .study_scene import BATCH, Case, Scene, Subject, cases, make
from .world import Clips, render

Reference = list[list[tuple[Tensor, Tensor]]]
"""Per chunk with a history and denoising step: the dense x0 (B, C, T, h, w) and the norm (B,) of its velocity."""


@torch.inference_mode()
def predictions(
    subject: Subject,
    case: Case,
    policy: Policy,
    latents: Tensor,
    on_plan: Callable[[HeadPlan], None] = lambda plan: None,
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Per chunk with a history: (x0, norm per clip of x - x0) of every denoising step along finished latents."""
    run = case.run(subject, policy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        memory = ClipMemory(run)
    for span in run.spans:
        latent, context = latents[:, :, span.start : span.stop], run.prompts.at(span.start)
        on_plan(memory.cache.plan)
        passes = zip(run.levels(span), run.timesteps(span), strict=True) if span.start else ()
        steps = []
        for i, (sigma, timestep) in enumerate(passes):
            memory.cache.begin(span.start, span.frames)
            x = add_noise(latent, run.noise(i, span), sigma)
            levels = torch.full((run.shape.batch, span.frames), sigma)
            x0 = run.denoise(x, levels, context, Step(memory.cache, timestep=timestep))
            assert x0 is not None
            steps.append((x0, _norm(x - x0)))
        if steps:
            yield steps
        memory.commit(span, latent, context)


def velocity_errors(
    subject: Subject,
    case: Case,
    policy: Policy,
    latents: Tensor,
    dense: Reference,
    on_plan: Callable[[HeadPlan], None] = lambda plan: None,
) -> Tensor:
    """(B,) relative L2 error of the velocity, mean over steps and chunks: `teacher_forced` clip by clip.

    dense -- `predictions` under the full cache, which are the same for every policy
    on_plan -- gets the plan of every chunk
    """
    walk = zip(predictions(subject, case, policy, latents, on_plan), dense, strict=True)
    return torch.stack(
        [_norm(x0 - true) / scale for ours, theirs in walk for (x0, _), (true, scale) in zip(ours, theirs, strict=True)]
    ).mean(0)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.float(), dim=(1, 2, 3, 4))


def remembered(codec: DemoCodec, clips: Clips, latents: Tensor) -> dict[str, Tensor]:
    """Of the last two chunks of clips, both lit, as the latents (B, C, T, h, w) show them; (B,) each.

    recall: share of coloured pixels in a true colour in the chunk in which the light returns. kept: share of the
    shapes that are there, in colour and kind, in the last 9 pixel frames; nan where the truth hides them.
    """
    pixels = decode(codec, latents[:, :, -7:])[:, 1:]
    padded = torch.cat([pixels.new_zeros(len(pixels), 9, *pixels.shape[2:]), pixels], 1)  # a chunk 0 before them
    right, judged = measure.shapes_right(pixels[:, -9:], _tail(clips, 9, 1))
    right, judged = right[:, :, 0], judged[:, :, 0]
    return {
        "recall": measure.colour_recall(padded, _tail(clips, 33, 3), 1),
        "kept": (right & judged).sum(1) / judged.sum(1),
    }


def _tail(clips: Clips, frames: int, chunks: int) -> Clips:
    """The last so many pixel frames as a clip of their own, which must be as long as its chunks say."""
    centre, light, slots = clips.centre[:, :, -frames:], clips.light[:, -chunks:], clips.slots[:, -chunks:]
    return Clips(clips.colour, clips.kind, clips.present, centre, light, slots)


def ceiling(codec: DemoCodec, clips: Clips) -> dict[str, float]:
    """`remembered` of the truth after the codec's round trip, mean over clips."""
    latents = codec.encode(render(clips).transpose(1, 2))
    return {name: float(values.nanmean()) for name, values in remembered(codec, clips, latents).items()}


def pick(clips: Clips, chosen: slice) -> Clips:
    """Some of the clips."""
    return Clips(*(getattr(clips, name)[chosen] for name in Clips.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Dense:
    """The full cache's clips of one scene, clip by clip: latents, and predictions where errors are measured."""

    latents: Tensor
    reference: Reference

    def of(self, case: Case) -> tuple[Tensor, Reference]:
        chosen = case.clips
        return self.latents[chosen], [[(x0[chosen], scale[chosen]) for x0, scale in steps] for steps in self.reference]


def make_dense(subject: Subject, scene: Scene, first: int, with_reference: bool) -> Dense:
    """One batch of the dense clips."""
    case = scene.case(subject, first, BATCH)
    latents = torch.cat([chunk.latent for chunk in make(subject, case, Full())], 2)
    return Dense(latents, list(predictions(subject, case, Full(), latents)) if with_reference else [])


def measure_entry(subject: Subject, entry: Entry, scenes: dict[str, Scene], dense: dict[str, Dense], main: str) -> dict:
    """Everything about one policy: per-clip lists under "values", and its memory and time in the main scene."""
    named = entry.draw is None
    began = subject.seconds()
    result: dict = {"key": entry.key, "values": {}}
    for name in entry.scenes(list(scenes), main):
        for key, values in _remembered_in(subject, entry, scenes[name], dense[name]).items():
            result["values"][f"{key}_{name}"] = values
    result |= _along_dense(subject, entry, scenes[main], dense[main], result["values"])
    if named:
        result["time"] = _time_ratio(subject, entry, scenes[main], dense[main])
    result["seconds"] = subject.seconds() - began
    return result


def _batch(entry: Entry) -> int:
    return 1 if entry.batch_one else BATCH


def _remembered_in(subject: Subject, entry: Entry, scene: Scene, dense: Dense) -> dict[str, list[float]]:
    """`remembered` of every clip, made under the policy from the dense chunk 0; nothing if the truth is not known."""
    if scene.clips is None or subject.codec is None:
        return {}
    found: dict[str, list[float]] = {}
    for case in cases(subject, scene, _batch(entry)):
        chunks = make(subject, case, entry.policy, _start(subject, case, dense))
        latents = torch.cat([chunk.latent for chunk in chunks], 2)
        for key, value in remembered(subject.codec, pick(scene.clips, case.clips), latents).items():
            found.setdefault(key, []).extend(value.tolist())
    return found


def _along_dense(subject: Subject, entry: Entry, scene: Scene, dense: Dense, values: dict[str, list[float]]) -> dict:
    """Adds the velocity errors to `values`; returns mean frames per head and bytes per clip during the last chunk."""
    frames, sizes = [], []
    values["error"] = []
    for case in cases(subject, scene, _batch(entry)):
        plans: list[HeadPlan] = []
        values["error"] += velocity_errors(subject, case, entry.policy, *dense.of(case), plans.append).tolist()
        history = case.shape.frames - subject.family.chunk_frames
        held = held_frames(plans[-1], history)
        frames.append(sum(held) / len(held))
        shape = kv_shape(subject.denoise.geometry, replace(case.shape, batch=1), subject.family)
        sizes.append(plans[-1].history_bytes(shape, history))
    return {"frames": sum(frames) / len(frames), "bytes": sum(sizes) / len(sizes)}


def _time_ratio(subject: Subject, entry: Entry, scene: Scene, dense: Dense) -> float:
    """Time of one clip, run alone, over that of the full cache, alternating in one process; best of three each."""
    case = scene.case(subject, 0, 1)
    best = {}
    for _ in range(3):
        for name, policy in (("dense", Full()), ("policy", entry.policy)):
            start = subject.seconds()
            make(subject, case, policy, _start(subject, case, dense))
            best[name] = min(best.get(name, float("inf")), subject.seconds() - start)
    return best["policy"] / best["dense"]


def _start(subject: Subject, case: Case, dense: Dense) -> Tensor:
    """Chunk 0, which is the same under every policy."""
    return dense.of(case)[0][:, :, : subject.family.chunk_frames]
