"""The loop over clips of the trained length, each of which begins with the end of the one before: CausVid's long video.

Facts from the public code (tianweiy/CausVid, minimal_inference/longvideo_autoregressive_inference.py). With N trained
frames and an overlap of K, the first clip are frames 0 .. N - 1 of the video, and every later one

    begins    [E, the newest K - 1 latents]    one clean pass at positions 0 .. K - 1
    goes on   N - K new frames                 chunk by chunk, at positions K .. N - 1

E is the last pixel frame of the latent that it stands for, encoded as a still image. Cache, positions and head plan
begin anew with every clip, so positions never leave 0 .. N - 1 and memory does not grow. The public code decodes every
clip by itself and cuts its end off; here the latents follow one another and are decoded as one video.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import PlanError
from ..geometry import LatentShape, Span
from ..kv.attention import AttentionFn, attention
from ..kv.plan import HeadPlan, KVShape
from ..models.denoiser import Denoiser
from ..models.families import Family
from ..models.stepcache import NO_STEPS, StepCache
from ..noise import NoiseFn
from ..policies.base import Policy
from ..prompts import PromptSchedule
from ..schedule import Schedule
from ..vae.still_frame import StillFrames
from .clip_memory import kv_shape, setting_of
from .context_latents import encoded_still, warn_plain_latent
from .rollout import ChunkResult, OnStep, Watch, checked_start, rollout


@dataclass(frozen=True)
class Part:
    """One clip of a video: its first and last + 1 latent frame, and how many of them are there when it begins."""

    start: int
    stop: int
    held: int


def parts_of(frames: int, family: Family, given_frames: int = 0) -> list[Part]:
    """The clips of a video of so many latent frames. A given start that leaves no room is overlapped like any end."""
    length, overlap, chunk = family.trained_frames, family.overlap_frames, family.chunk_frames
    if overlap < 1 or overlap + chunk > length:
        raise PlanError(
            f"family {family.name!r} has clips of {length} frames that overlap by {overlap} in chunks of {chunk}; an "
            "overlap of 1 or more must leave room for a chunk"
        )
    start, held = (given_frames - overlap, overlap) if given_frames > length - chunk else (0, given_frames)
    parts: list[Part] = []
    while not parts or parts[-1].stop < frames:
        new = (length - held) // chunk * chunk
        parts.append(Part(start, min(start + held + new, frames), held))
        start, held = parts[-1].stop - overlap, overlap
    return parts


def part_shape(denoise: Denoiser, shape: LatentShape, family: Family) -> KVShape:
    """What a video's cache is priced by: that of its longest clip."""
    return kv_shape(denoise, replace(shape, frames=min(family.trained_frames, shape.frames)), family)


@torch.inference_mode()
def restarts(
    denoise: Denoiser,
    shape: LatentShape,
    schedule: Schedule,
    prompts: PromptSchedule,
    policy: Policy,
    family: Family,
    noise: NoiseFn,
    start: Tensor | None = None,
    on_step: OnStep = lambda span, step: None,
    attend: AttentionFn = attention,
    steps: StepCache = NO_STEPS,
    watch: Watch = lambda span, step: None,
    still: StillFrames | None = None,
) -> Generator[ChunkResult, None, None]:
    """Yields one ChunkResult per chunk; spans are those of the whole video, bytes and plan those of its clip.

    Arguments as rollout's, and `still`, which makes E; without one the plain latent stands there, with a warning.
    A policy plans, and heads are scored, in every clip anew. The frames that a clip begins with are read under the
    prompt that speaks at the first of them.
    """
    given = 0 if start is None else checked_start(start, shape).shape[2]
    parts = parts_of(shape.frames, family, given)
    if still is None and parts[-1].start > 0:
        warn_plain_latent(family)
    tail = _Tail(family.overlap_frames, still if parts[-1].start > 0 else None)
    made = 0  # chunks
    if start is not None and parts[0].start:  # longer than a clip has room for: its end begins the first one
        first = replace(shape, frames=parts[0].stop - parts[0].start)
        yield _unread(start, policy.plan(setting_of(denoise, first, family, parts[0].held)))
        tail.add(start)
        made = 1
    for part in parts:
        begin = tail.before(part.start) if part.start else start
        moved = _Moved(part.start, max(made - 1, 0))
        for chunk in rollout(
            denoise,
            replace(shape, frames=part.stop - part.start),
            schedule,
            _from(prompts, part.start),
            policy,
            family,
            moved.noise(noise),
            begin,
            moved.step(on_step),
            attend,
            steps,
            moved.watch(watch),
        ):
            if chunk.span.given and made:
                continue  # the end of the clip before
            chunk = replace(chunk, span=moved(chunk.span))
            if part is not parts[-1]:
                tail.add(chunk.latent)
            made += 1
            yield chunk


def _unread(start: Tensor, plan: HeadPlan) -> ChunkResult:
    """A given start of which nothing is in a cache yet."""
    span = Span(0, 0, start.shape[2], given=True)
    return ChunkResult(span, start, plan, False, 0, 0, 0, 0, 0, 0)


class _Tail:
    """The newest latents of a video, and its pixels where a VAE makes the first of them anew."""

    def __init__(self, frames: int, still: StillFrames | None):
        self._frames, self._still = frames, still
        self._newest: Tensor | None = None

    def add(self, latent: Tensor) -> None:
        """The video's next latents (B, C, t, h, w)."""
        newest = latent if self._newest is None else torch.cat((self._newest, latent), dim=2)
        self._newest = newest[:, :, -self._frames :].clone()
        if self._still is not None:
            self._still.push(latent)

    def before(self, frame: int) -> Tensor:
        """What a clip that begins with latent frame `frame` of the video begins with, (B, C, frames, h, w)."""
        assert self._newest is not None
        if self._still is None:
            return self._newest
        first = encoded_still(self._still, frame, self._newest[:, :, :1])
        return torch.cat((first, self._newest[:, :, 1:]), dim=2)


@dataclass(frozen=True)
class _Moved:
    """Spans of a clip as spans of the video. chunk: the ordinal there of the clip's chunk 0."""

    frame: int
    chunk: int

    def __call__(self, span: Span) -> Span:
        return replace(span, chunk=span.chunk + self.chunk, start=span.start + self.frame, stop=span.stop + self.frame)

    def noise(self, noise: NoiseFn) -> NoiseFn:
        return lambda step, span: noise(step, self(span))

    def step(self, on_step: OnStep) -> OnStep:
        return lambda span, step: on_step(self(span), step)

    def watch(self, watch: Watch) -> Watch:
        return lambda span, step: watch(self(span), step)


def _from(prompts: PromptSchedule, frame: int) -> PromptSchedule:
    """The schedule of what begins at a latent frame of the video."""
    later = [(start - frame, context) for start, context in prompts.entries if start > frame]
    return PromptSchedule(((0, prompts.at(frame)), *later))
