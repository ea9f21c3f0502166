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
from ..kv.cache import KVCache, Observer
from ..kv.plan import HeadPlan, KVShape
from ..models.denoiser import ModelGeometry
from ..models.families import Family
from ..policies.base import Observing, Seen
from .clip_memory import clean_pass, passing
from .context_latents import ContextLatents, context_frames, warn_plain_latent
from .rollout import denoised
from .run import ChunkResult, MemoryLog, Run, kv_shape


@torch.inference_mode()
def recompute(run: Run) -> Generator[ChunkResult, None, None]:
    """Yields one ChunkResult per chunk; its bytes are those of the cache that the chunk was made with.

    A policy plans over the context: its sink is the context's first frame. Heads are observed in a chunk's last
    denoising step, or in the one that the policy names. Observers see frames by their place in the context,
    0 .. K + F - 1.

    A chunk's context is read under the prompt of the chunk before: at a switch the chunk itself is the first under the
    new one, then the next context.
    """
    context = ContextLatents(run.family, run.given_frames, run.still)
    memory = _Memory(run)
    if run.still is None and any(span.start and not span.given and not context.keeps_first(span) for span in run.spans):
        warn_plain_latent(run.family)
    before: Tensor | None = None  # text of the chunk before
    for span in run.spans:
        text = run.prompts.at(span.start)
        full, seen = False, None
        if run.is_made(span):
            if span.start and not span.given:
                context.pass_by()
            latent = run.made.latent(span)
            memory.go_on(span, run.log_of(span))
        elif run.start is not None and span.given:
            latent = run.start
        else:
            # 1. The context's latents. Pixels may be decoded and encoded for them: not beside the last chunk's K/V.
            memory.release()
            latents = context.before(span) if span.start else None
            # 2. A cache made of them, under the prompt of the chunk before.
            memory.begin(span, switched=before is not None and text is not before)
            if latents is not None and before is not None:
                memory.read(span, latents, before)
            # 3. The chunk behind it; its heads may be scored in the last step.
            full = memory.cache.is_full
            position = memory.cache.committed_frames
            latent = denoised(run, memory.cache, span, text, position, memory.observed)
            seen = memory.settle(span)
        context.add(latent)
        before = text
        if not run.is_made(span):
            result = ChunkResult.of(memory.cache, span, latent, full, memory.predicted_peak_bytes, seen)
            log = MemoryLog(memory.cache.plan, seen is not None)
            yield replace(result, log=log, still=context.encoded)


class _Memory:
    """One cache per chunk, laid out by the plan of the time; what is observed in it makes the next plan."""

    def __init__(self, run: Run):
        self._run, self.setting = run, run.setting
        self._shape = context_shape(run.denoise.geometry, run.shape, run.family)
        self._plan = self._widest = check_context(run.policy.plan(self.setting), run.family)
        self._observed: list[int] = []
        self._observation: Observing | None = None  # of this chunk
        self.predicted_peak_bytes = 0
        self.cache = self._empty()

    @property
    def observed(self) -> tuple[int, Observer] | None:
        """The step of this chunk that has to be watched, and by whom; no clean pass sees all that a chunk does."""
        step = self._run.policy.observed_step
        last = len(self._run.schedule)
        return None if self._observation is None else (last if step is None else step, self._observation)

    def release(self) -> None:
        """Frees the last chunk's K/V."""
        del self.cache

    def begin(self, span: Span, switched: bool) -> None:
        """An empty cache for a chunk, of the widest plan if heads are to be scored in it."""
        policy = self._run.policy
        observes = policy.observes(span, self.setting, self._observed, switched)
        self._observation = policy.observation(self.setting, self._run.denoise.project) if observes else None
        if observes:
            self._plan = self._widest
        self.cache = self._empty()

    def read(self, span: Span, latents: Tensor, text: Tensor) -> None:
        """Clean passes over the context (B, C, m, h, w) of a chunk, at positions from 0 on."""
        for part in Span(span.chunk, 0, latents.shape[2]).passes(self.setting.chunk_frames):
            self._run.on_step(replace(span, part=part.part), len(self._run.schedule))
            clean_pass(self._run, self.cache, part, latents[:, :, part.start : part.stop], text)

    def go_on(self, span: Span, log: MemoryLog) -> None:
        """Behind a chunk that is made: its plan holds."""
        if log.observed:
            self._plan = log.plan
            self._observed.append(span.chunk)

    def settle(self, span: Span) -> Seen | None:
        """After a chunk: what was seen of its heads if they were observed; the cache then goes over to their plan."""
        if self._observation is None:
            return None
        seen = self._observation.result()
        self._plan = check_context(self._run.policy.replan(seen, self.setting), self._run.family)
        self._estimate(self.cache.plan.repack_peak_bytes(self._shape, self._plan))
        self.cache.repack(self._plan)
        self._observed.append(span.chunk)
        return seen

    def _empty(self) -> KVCache:
        self._estimate(self._plan.resident_bytes(self._shape))
        model = self._run.denoise.geometry
        return KVCache(self._plan, self._shape, model.device, model.dtype, self._run.attend)

    def _estimate(self, peak_bytes: int) -> None:
        self.predicted_peak_bytes = max(self.predicted_peak_bytes, peak_bytes)


def check_context(plan: HeadPlan, family: Family) -> HeadPlan:
    """The plan; PlanError if a head is to keep more first or more recent frames than there ever are."""
    frames = context_frames(family)
    plan = passing(plan, family)
    for memory in {memory for row in plan.memories for memory in row}:
        if max(memory.sink_frames, memory.recent_frames or 0) > frames:
            raise PlanError(
                f"expected at most {frames} first and {frames} recent frames, got {memory.sink_frames} and "
                f"{memory.recent_frames or 'all'}; {family.title} reads {frames} frames before every chunk: use a "
                f"window of {family.default_window_frames} or less"
            )
    return plan


def context_shape(model: ModelGeometry, shape: LatentShape, family: Family) -> KVShape:
    """What turns a clip's head plans into bytes: its history is the context, however long the clip."""
    return replace(kv_shape(model, shape, family), clip_frames=min(context_frames(family), shape.frames))
