"""The loop that makes the cache anew before every chunk, from a few clean latents: Krea Realtime 14B.

Facts from the public code (krea-ai/realtime-video, release_server.py). K context frames, chunks of F frames, c the
chunk's first frame, m = min(c, K):

    context   [frame 0 or E, the newest m - 1 latents]      clean passes at positions 0 .. m - 1
    denoise   the chunk at positions m .. m + F - 1         and no clean pass: these K/V are never used again

E is the pixel frame right before the latents that are kept, encoded as a still image (context_latents.py). Positions
never leave 0 .. K + F - 1, and memory does not grow: a clip may be of any length.

The public code reads the context in one pass under a mask: blocks of F frames, each sees itself and those before it.
A clean pass per block, over the blocks already in the cache, is the same computation; K <= F is one pass either way.
"""

from collections.abc import Generator
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import PlanError
from ..geometry import LatentShape, Span
from ..kv.attention import AttentionFn, attention
from ..kv.cache import KVCache, Observer, Region
from ..kv.plan import HeadPlan, KVShape
from ..kv.scoring import HeadScores, Observation
from ..models.denoiser import Denoiser, Step
from ..models.families import Family
from ..models.stepcache import NO_STEPS, StepCache
from ..models.wan import Residual
from ..noise import NoiseFn
from ..policies.base import Policy
from ..prompts import PromptSchedule
from ..schedule import Schedule, add_noise
from ..vae.still_frame import StillFrames
from .clip_memory import clean_pass, kv_shape, setting_of
from .context_latents import ContextLatents, context_frames, warn_plain_latent
from .rollout import ChunkResult, OnStep, Watch, checked_start


def context_shape(denoise: Denoiser, shape: LatentShape, family: Family) -> KVShape:
    """What a clip's cache is priced by: its history is the context, however long the clip."""
    return replace(kv_shape(denoise, shape, family), clip_frames=min(context_frames(family), shape.frames))


@torch.inference_mode()
def recompute(
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
    """Yields one ChunkResult per chunk; its bytes are those of the cache that the chunk was made with.

    Arguments as rollout's, and `still`, which makes E; without one the plain latent stands there, with a warning.
    A policy plans over the context: its sink is the context's first frame. Heads are scored in a chunk's last
    denoising step. Observers see frames by their place in the context, 0 .. K + F - 1.

    A chunk's context is read under the prompt of the chunk before: at a switch the chunk itself speaks the new one
    first, and the next context does.
    """
    given = 0 if start is None else checked_start(start, shape).shape[2]
    context = ContextLatents(family, given, still)
    memory = _Memory(denoise, shape, schedule, policy, family, noise, attend, given)
    spans = memory.setting.spans
    if still is None and any(span.start and not span.given and not context.keeps_first(span) for span in spans):
        warn_plain_latent(family)
    spoken: Tensor | None = None  # the prompt of the chunk before
    for span in spans:
        prompt = prompts.at(span.start)
        full, scores = False, None
        if start is not None and span.given:
            latent = start
        else:
            memory.release()
            latents = context.before(span) if span.start else None
            memory.begin(span, switched=spoken is not None and prompt is not spoken)
            if latents is not None and spoken is not None:
                memory.read(span, latents, spoken, on_step)
            full = memory.cache.is_full
            latent = _denoised(memory, span, shape, prompt, on_step, steps, watch)
            scores = memory.settle(span)
        context.add(latent)
        spoken = prompt
        yield ChunkResult.of(memory.cache, span, latent, full, memory.predicted_peak_bytes, scores)


class _Memory:
    """One cache per chunk, laid out by the plan of the time; what is observed in it makes the next plan."""

    def __init__(
        self,
        denoise: Denoiser,
        shape: LatentShape,
        schedule: Schedule,
        policy: Policy,
        family: Family,
        noise: NoiseFn,
        attend: AttentionFn,
        given_frames: int,
    ):
        self.denoise, self.schedule, self.policy, self.noise = denoise, schedule, policy, noise
        self.setting = setting_of(denoise, shape, family, given_frames)
        self._shape, self._attend = context_shape(denoise, shape, family), attend
        self._plan = self._widest = self._fitting(policy.plan(self.setting))
        self._observed: list[int] = []
        self.observation: Observation | None = None  # of this chunk
        self.predicted_peak_bytes = 0
        self.cache = self._empty()

    def release(self) -> None:
        """Frees the last chunk's K/V before the next one's are there, and while pixels are decoded and encoded."""
        del self.cache

    def begin(self, span: Span, switched: bool) -> None:
        """An empty cache for a chunk, of the widest plan if heads are to be scored in it."""
        observes = self.policy.observes(span, self.setting, self._observed, switched)
        self.observation = self.policy.observation(self.setting) if observes else None
        if observes:
            self._plan = self._widest
        self.cache = self._empty()

    def read(self, span: Span, latents: Tensor, prompt: Tensor, on_step: OnStep) -> None:
        """Clean passes over the context (B, C, m, h, w) of a chunk, at positions from 0 on."""
        for part in Span(span.chunk, 0, latents.shape[2]).passes(self.setting.chunk_frames):
            on_step(replace(span, part=part.part), len(self.schedule))
            frames = latents[:, :, part.start : part.stop]
            clean_pass(self.cache, self.denoise, frames, part, prompt, self.schedule, self.noise)

    def settle(self, span: Span) -> HeadScores | None:
        """After a chunk: the scores of its heads if they were observed, and the plan made from them."""
        if self.observation is None:
            return None
        scores = self.observation.scores()
        self._plan = self._fitting(self.policy.replan(scores, self.setting))
        self._price(self.cache.plan.repack_peak_bytes(self._shape, self._plan))
        self.cache.repack(self._plan)
        self._observed.append(span.chunk)
        return scores

    def _empty(self) -> KVCache:
        self._price(self._plan.resident_bytes(self._shape))
        model = self.denoise.geometry
        return KVCache(self._plan, self._shape, model.device, model.dtype, self._attend)

    def _price(self, peak_bytes: int) -> None:
        self.predicted_peak_bytes = max(self.predicted_peak_bytes, peak_bytes)

    def _fitting(self, plan: HeadPlan) -> HeadPlan:
        """The plan; PlanError if a head is to keep more first or more recent frames than there ever are."""
        family, frames = self.setting.family, context_frames(self.setting.family)
        for memory in {memory for row in plan.memories for memory in row}:
            if max(memory.sink_frames, memory.recent_frames or 0) > frames:
                raise PlanError(
                    f"a plan of {memory.sink_frames} first and {memory.recent_frames or 'all'} recent frames came; "
                    f"{family.title} reads {frames} frames before every chunk, so ask for {frames} or fewer of each "
                    f"(a window of {family.default_window_frames} or less)"
                )
        return plan


def _denoised(
    memory: _Memory, span: Span, shape: LatentShape, prompt: Tensor, on_step: OnStep, steps: StepCache, watch: Watch
) -> Tensor:
    schedule, noise, cache = memory.schedule, memory.noise, memory.cache
    first = span.start == memory.setting.given_frames
    levels, told_levels = schedule.levels(first), schedule.told_levels(first)
    residual = Residual() if steps.skipped and levels is schedule.sigmas else None
    position = cache.committed_frames
    x = noise(0, span)
    for i, (sigma, told) in enumerate(zip(levels, told_levels, strict=True)):
        on_step(span, i)
        scored = memory.observation if i == len(levels) - 1 else None
        cache.begin(position, span.frames, _both(watch(span, i), scored))
        if i > 0:
            x = add_noise(x, noise(i, span), sigma)
        if residual is not None:
            residual.reuse = i in steps.skipped and scored is None
        per_frame = torch.full((shape.batch, span.frames), sigma)
        x0 = memory.denoise(x, per_frame, prompt, Step(cache, residual=residual, told=told))
        assert x0 is not None
        x = x0
    return x


def _both(first: Observer | None, second: Observer | None) -> Observer | None:
    """One observer that tells two, where there are two."""
    if first is None or second is None:
        return first or second

    def tell(layer: int, heads: list[int], q: Tensor, k: Tensor, regions: list[Region]) -> None:
        first(layer, heads, q, k, regions)
        second(layer, heads, q, k, regions)

    return tell
