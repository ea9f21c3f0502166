"""What is sampled, and what comes out: the one argument of every loop, and the chunks that it yields."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import OutputError
from ..geometry import LatentShape, Span
from ..kv.attention import AttentionFn, attention
from ..kv.cache import KVCache, Observer
from ..kv.plan import HeadPlan, KVShape
from ..models.denoiser import Denoiser, ModelGeometry
from ..models.families import Family
from ..models.stepcache import NO_STEPS, StepCache
from ..noise import NoiseFn
from ..policies.base import Policy, Seen, Setting
from ..prompts import Prompts
from ..schedule import Schedule
from ..vae.still_frame import StillFrames

OnStep = Callable[[Span, int], None]
Watch = Callable[[Span, int], Observer | None]
OnCommit = Callable[[Span, Tensor, KVCache], None]


@dataclass(frozen=True)
class MemoryLog:
    """What was decided in one chunk; with the clip's latents, enough to make its cache again.

    plan     -- from this chunk on
    observed -- the plan was made from what was seen in this chunk
    recached -- the window was read again before it
    marked   -- frames that are banked when they leave the ring: as the chunk begins, then after each of its clean
    passes
    """

    plan: HeadPlan
    observed: bool = False
    recached: bool = False
    marked: tuple[frozenset[int], ...] = ()


@dataclass(frozen=True, eq=False)
class StoredKV:
    """Keys and values as they were once chunk `chunk` was committed, layer by layer, as `KVCache.stored` gave them."""

    chunk: int
    layer: Callable[[int], Sequence[tuple[Tensor, Tensor]]]


@dataclass(frozen=True, eq=False)
class Made:
    """Chunks of a clip that are there already, from its first one on; the loop goes on behind them, bit for bit.

    latent -- what was made of a span, (B, C, span.frames, h, w)
    log    -- of every chunk
    window -- of a rolling window, the noisy latents (B, C, F, h, w) of the chunks that come next, as they were left
    stills -- latent frames that were encoded as still images, (B, C, 1, h, w) by frame
    stored -- of the loop over chunks, keys and values that need not be made again
    fresh  -- of so many of the first chunks the log is another memory's (another policy's, other weights'): this run's
    policy plans for them, and what it observes in clean passes it observes now
    """

    latent: Callable[[Span], Tensor]
    log: tuple[MemoryLog, ...]
    window: tuple[Tensor, ...] = ()
    stills: Mapping[int, Tensor] = field(default_factory=dict)
    stored: StoredKV | None = None
    fresh: int = 0


NOTHING_MADE = Made(lambda span: torch.empty(0), ())


@dataclass(frozen=True, eq=False)
class Run:
    """One clip to be sampled. A value: a loop reads it, all that changes on the way lives in the loop's memory.

    prompts -- asked once per chunk, when the chunk is begun: what is said later holds for later chunks
    start   -- latents (B, C, n, h, w) of a given image or clip: the clip's first n frames, chunk 0
    steps   -- denoising steps that reuse the last residual
    on_step -- called before every model call with the chunk and the step; raise in it to cancel
    watch   -- may give an observer of a denoising pass' attention
    still   -- encodes pixel frames of the clip, for loops that want them; without one they use the plain latent
    made    -- chunks that are there already: none of them is yielded
    on_commit -- in the loop over chunks, called with a chunk that is made, its latent, and the cache that has read it

    OutputError if the start is not of the clip's size.
    """

    denoise: Denoiser
    shape: LatentShape
    schedule: Schedule
    prompts: Prompts
    policy: Policy
    family: Family
    noise: NoiseFn
    start: Tensor | None = None
    attend: AttentionFn = attention
    steps: StepCache = NO_STEPS
    on_step: OnStep = lambda span, step: None
    watch: Watch = lambda span, step: None
    still: StillFrames | None = None
    made: Made = NOTHING_MADE
    on_commit: OnCommit = lambda span, latent, cache: None

    def __post_init__(self) -> None:
        clip = self.shape
        expected = (clip.batch, clip.channels, clip.height, clip.width)
        if self.start is not None and (*self.start.shape[:2], *self.start.shape[3:]) != expected:
            raise OutputError(
                f"expected start latents of shape ({clip.batch}, {clip.channels}, frames, {clip.height}, "
                f"{clip.width}), got {tuple(self.start.shape)}; encode the image or clip at the size of this one"
            )

    def is_made(self, span: Span) -> bool:
        """Whether a chunk is there already."""
        return span.chunk < len(self.made.log)

    def log_of(self, span: Span) -> MemoryLog:
        """What was decided in a chunk that is made; of a fresh one, that the policy's first plan holds."""
        return MemoryLog(self.policy.plan(self.setting)) if self.is_fresh(span) else self.made.log[span.chunk]

    def is_fresh(self, span: Span) -> bool:
        """Whether a chunk is made, and its memory is not."""
        return span.chunk < self.made.fresh

    @property
    def given_frames(self) -> int:
        """Latent frames of the given start."""
        return 0 if self.start is None else self.start.shape[2]

    @property
    def setting(self) -> Setting:
        """What the policy may look at."""
        setting = setting_of(self.denoise.geometry, self.shape, self.family, self.given_frames)
        return replace(setting, kv=self.kv_shape)

    @property
    def spans(self) -> list[Span]:
        """The clip's chunks; a given start is one."""
        return self.setting.spans

    def levels(self, span: Span) -> tuple[float, ...]:
        """Noise levels of a chunk's denoising steps."""
        return self.schedule.levels(first=span.start == self.given_frames)

    def timesteps(self, span: Span) -> tuple[float, ...]:
        """What the time embedding is given for each of them."""
        return self.schedule.timesteps_of(first=span.start == self.given_frames)

    @property
    def recaches(self) -> bool:
        """Whether the window may be read again under a new prompt."""
        return self.family.recache and self.prompts.may_switch

    @property
    def kv_shape(self) -> KVShape:
        """What turns the clip's head plans into bytes."""
        return kv_shape(self.denoise.geometry, self.shape, self.family, self.recaches)

    def new_cache(self, plan: HeadPlan | None = None) -> KVCache:
        """An empty cache laid out by `plan`, by default the policy's first one."""
        model = self.denoise.geometry
        plan = self.policy.plan(self.setting) if plan is None else plan
        return KVCache(plan, self.kv_shape, model.device, model.dtype, self.attend)


def setting_of(model: ModelGeometry, shape: LatentShape, family: Family, given_frames: int = 0) -> Setting:
    """What a policy may look at when it plans for this clip."""
    priced = kv_shape(model, shape, family)
    return Setting(model.layers, model.heads, family, family.chunk_frames, shape.frames, given_frames, priced)


def kv_shape(model: ModelGeometry, shape: LatentShape, family: Family, recaches: bool = False) -> KVShape:
    """What turns a clip's head plans into bytes. A clip that re-caches has passes as long as the family's window."""
    longest = family.default_window_frames if recaches else family.chunk_frames
    return KVShape(
        batch=shape.batch,
        rows=shape.rows,
        cols=shape.cols,
        head_dim=model.head_dim,
        element_bytes=torch.finfo(model.dtype).bits // 8,
        clip_frames=shape.frames,
        pass_frames=min(longest, shape.frames),
    )


@dataclass(frozen=True, eq=False)
class ChunkResult:
    """A finished chunk: where it lies, its latent (B, C, T, h, w), bit for bit what the clean pass read.

    plan        -- the head plan from here on
    window_full -- the chunk was made with as much history as its plan ever holds
    scores      -- what the plan was made from, if heads were observed in this chunk
    banked      -- frames in the bank once the chunk is committed
    log         -- what was decided of memory in it
    window      -- of a rolling window, the noisy latents of the chunks that come next
    still       -- the latent frame that was encoded as a still image for it, and what came out, (B, C, 1, h, w)

    history_bytes, resident_bytes, peak_bytes: K/V live and allocated once the chunk is committed, and the most that
    was allocated on the way; predicted_...: what the plan, or for the peak the plans so far, estimated that at.
    """

    span: Span
    latent: Tensor
    plan: HeadPlan
    window_full: bool = False
    history_bytes: int = 0
    resident_bytes: int = 0
    peak_bytes: int = 0
    predicted_history_bytes: int = 0
    predicted_resident_bytes: int = 0
    predicted_peak_bytes: int = 0
    scores: Seen | None = None
    banked: tuple[int, ...] = ()
    log: MemoryLog | None = None
    window: tuple[Tensor, ...] = ()
    still: tuple[int, Tensor] | None = None

    @classmethod
    def of(
        cls,
        cache: KVCache,
        span: Span,
        latent: Tensor,
        window_full: bool,
        predicted_peak_bytes: int,
        scores: Seen | None,
    ) -> "ChunkResult":
        """A chunk that was made with `cache` and is committed to it."""
        plan, shape = cache.plan, cache.shape
        return cls(
            span,
            latent,
            plan,
            window_full,
            cache.history_bytes,
            cache.resident_bytes,
            cache.take_peak_bytes(),
            plan.history_bytes(shape, cache.committed_frames),
            plan.resident_bytes(shape),
            predicted_peak_bytes,
            scores,
            tuple(cache.banked_frames),
        )
