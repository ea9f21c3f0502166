"""The loop over clips of the trained length, each of which begins with the end of the one before: CausVid's long video.

Facts from the public code (tianweiy/CausVid, minimal_inference/longvideo_autoregressive_inference.py). With N trained
frames and an overlap of K, the first clip are frames 0 .. N - 1 of the video, and every later one

    begins    [E, the newest K - 1 latents]    one clean pass at positions 0 .. K - 1
    goes on   N - K new frames                 chunk by chunk, at positions K .. N - 1

E is the last pixel frame of the latent that it stands for, encoded as a still image. Cache, positions and head plan
begin anew with every clip, so positions never leave 0 .. N - 1 and memory does not grow. The public code decodes every
clip by itself and cuts its end off; here the latents follow one another and are decoded as one video.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import PlanError
from ..geometry import LatentShape, Span
from ..kv.plan import KVShape
from ..models.denoiser import ModelGeometry
from ..models.families import Family
from ..noise import NoiseFn
from ..prompts import Prompts
from .context_latents import encoded_still, warn_plain_latent
from .rollout import rollout
from .run import ChunkResult, Made, MemoryLog, OnStep, Run, Watch, kv_shape, setting_of


@torch.inference_mode()
def restarts(run: Run) -> Generator[ChunkResult, None, None]:
    """Yields one ChunkResult per chunk; spans are those of the whole video, bytes and plan those of its clip.

    A policy plans, and heads are scored, in every clip anew. The frames that a clip begins with are read under the
    prompt of the first of them.
    """
    parts = parts_of(run.shape.frames, run.family, run.given_frames)
    if run.still is None and parts[-1].start > 0:
        warn_plain_latent(run.family)
    tail = _Tail(run, with_stills=parts[-1].start > 0)
    done = 0  # chunks
    if run.start is not None and parts[0].start:  # longer than a clip has room for: its end begins the first one
        if not run.made.log:
            yield _unread(run, parts[0])
        tail.add(run.start)
        done = 1
    for part in parts:
        moved = _Moved(part.start, max(done - 1, 0))
        begin = tail.before(part.start) if part.start else run.start
        clip = _clip(run, part, begin, moved)
        for span in clip.spans:
            if clip.is_made(span) and not (span.given and done):
                if part is not parts[-1]:
                    tail.add(run.made.latent(moved(span)))
                done += 1
        for chunk in rollout(clip):
            if chunk.span.given and done:
                continue  # the end of the clip before
            banked, log = moved.frames(chunk.banked), chunk.log
            if log is not None:
                log = replace(log, marked=tuple(frozenset(moved.frames(frames)) for frames in log.marked))
            still, tail.encoded = tail.encoded, None  # told of once, with the first chunk behind it
            chunk = replace(chunk, span=moved(chunk.span), banked=banked, log=log, still=still)
            if part is not parts[-1]:
                tail.add(chunk.latent)
            done += 1
            yield chunk


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


def part_shape(model: ModelGeometry, shape: LatentShape, family: Family) -> KVShape:
    """What turns a video's head plans into bytes: the shape of its longest clip."""
    return kv_shape(model, replace(shape, frames=min(family.trained_frames, shape.frames)), family)


def _unread(run: Run, first: Part) -> ChunkResult:
    """A given start of which nothing is in a cache yet, and the plan that the first clip begins with."""
    assert run.start is not None
    shape = replace(run.shape, frames=first.stop - first.start)
    plan = run.policy.plan(setting_of(run.denoise.geometry, shape, run.family, first.held))
    span = Span(0, 0, run.given_frames, given=True)
    return ChunkResult(span, run.start, plan, log=MemoryLog(plan))


class _Tail:
    """The newest latents of a video, and its pixels where a VAE makes the first of them anew.

    encoded -- the frame that was encoded last, and what came out
    """

    def __init__(self, run: Run, with_stills: bool):
        self._frames, self._made = run.family.overlap_frames, run.made
        self._still = run.still if with_stills else None
        self._newest: Tensor | None = None
        self.encoded: tuple[int, Tensor] | None = None

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
        first = self._made.stills.get(frame)
        if first is None:
            first = encoded_still(self._still, frame, self._newest[:, :, :1])
            self.encoded = frame, first
        return torch.cat((first.to(self._newest), self._newest[:, :, 1:]), dim=2)


@dataclass(frozen=True)
class _Moved:
    """Spans of a clip as spans of the video. chunk: the ordinal there of the clip's chunk 0."""

    frame: int
    chunk: int

    def __call__(self, span: Span) -> Span:
        return replace(span, chunk=span.chunk + self.chunk, start=span.start + self.frame, stop=span.stop + self.frame)

    def frames(self, frames: Iterable[int]) -> tuple[int, ...]:
        return tuple(frame + self.frame for frame in frames)

    def noise(self, noise: NoiseFn) -> NoiseFn:
        return lambda step, span: noise(step, self(span))

    def step(self, on_step: OnStep) -> OnStep:
        return lambda span, step: on_step(self(span), step)

    def watch(self, watch: Watch) -> Watch:
        return lambda span, step: watch(self(span), step)


@dataclass(frozen=True)
class _PromptsFrom:
    """A video's prompts as a clip asks for them that begins with latent frame `frame` of it."""

    prompts: Prompts
    frame: int

    @property
    def may_switch(self) -> bool:
        return self.prompts.may_switch

    def at(self, chunk_start: int) -> Tensor:
        return self.prompts.at(chunk_start + self.frame)


def _clip(run: Run, part: Part, begin: Tensor | None, moved: _Moved) -> Run:
    """One clip of the video, which goes on from `begin`."""
    log = run.made.log[moved.chunk :]
    if part.start and log:  # what a clip begins with is not what the video has there, and nothing is observed in it
        log = () if len(log) == 1 else (replace(log[0], observed=False), *log[1:])

    def latent(span: Span) -> Tensor:
        return begin if span.given and begin is not None else run.made.latent(moved(span))

    return replace(
        run,
        made=Made(latent, log, fresh=max(run.made.fresh - moved.chunk, 0)),
        shape=replace(run.shape, frames=part.stop - part.start),
        prompts=_PromptsFrom(run.prompts, part.start),
        noise=moved.noise(run.noise),
        start=begin,
        on_step=moved.step(run.on_step),
        watch=moved.watch(run.watch),
        on_commit=lambda span, latent, cache: None,
    )
