"""Krea Realtime's loop on a tiny random model against a dense one without a cache: explicit masks, float64 attention.

The oracle reads the context in ONE pass under the block mask, as the public code does, and the chunk in another, whose
queries see the context frames that the definitions give each head. Its levels, re-noising and positions are its own.
"""

import gc
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from dummyforcing_core.clips.memory_use import MemoryUse
from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.loops.recompute import context_shape, recompute
from dummyforcing_core.loops.run import ChunkResult, Run, Watch
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.models.stepcache import NO_STEPS, StepCache
from dummyforcing_core.models.wan import forward, text_kv
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Full, Policy, SlidingWindow
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule
from tests.property.oracle import rotate
from tests.property.tiny import HEADS, LAYERS, FunctionMemory, context, tiny_model

SIGMAS, TOLD = (1.0, 0.7, 0.0049801), (1000.0, 700.0, 0.0)
SCHEDULE = Schedule(SIGMAS, timesteps=tuple(TOLD))
KREA = Family("krea", "Tiny Krea", "tests", window_frames=6, trained_frames=10**6)


MODEL = tiny_model()


A, B, C = map(context, range(3))


class Stills:
    """A made-up encoder: some function of the latent itself, so that nothing else can give it."""

    def __init__(self) -> None:
        self.latents: list[Tensor] = []

    def push(self, latents: Tensor) -> None:
        self.latents += latents.split(1, dim=2)

    def at(self, frame: int) -> Tensor:
        return still_of(self.latents[frame])


def still_of(latent: Tensor) -> Tensor:
    return 0.5 * latent.flip(-1) + 0.3


# -- the oracle ------------------------------------------------------------------------------------------------------


def held(memory: HeadMemory, read: int) -> set[int]:
    """Which of `read` context frames a head remembers."""
    sink = set(range(min(memory.sink_frames, read)))
    rest = sorted(set(range(read)) - sink)
    limit = memory.recent_frames
    return sink | set(rest if limit is None else rest[len(rest) - min(limit, len(rest)) :])


class Masked:
    """Self-attention with a (heads, query frames, key frames) mask; keys are `past` and then the pass's own."""

    def __init__(self, mask: Tensor, at: list[int], grid: tuple[int, int], past: "Masked | None" = None):
        self.mask, self.at, self.grid, self.past = mask, at, grid, past
        self.k: dict[int, Tensor] = {}
        self.v: dict[int, Tensor] = {}
        self.mass = torch.zeros(LAYERS, HEADS, mask.shape[2])

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        raise AssertionError("the oracle runs every pass to its end")

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tokens = self.grid[0] * self.grid[1]
        turned = [torch.stack([rotate(x[:, :, h], self.at, *self.grid) for h in range(HEADS)], 2) for x in (q, k)]
        q, keys, values = turned[0], turned[1], v.double()
        self.k[layer], self.v[layer] = keys, values
        if self.past is not None:
            keys = torch.cat((self.past.k[layer], keys), 1)
            values = torch.cat((self.past.v[layer], values), 1)
        mask = self.mask.repeat_interleave(tokens, 1).repeat_interleave(tokens, 2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, keys) / q.shape[-1] ** 0.5
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        self.mass[layer] = weights.unflatten(-1, (-1, tokens)).sum(-1).mean((0, 2)).float()
        return torch.einsum("bhqk,bkhd->bqhd", weights, values).to(v)


def velocity(x: Tensor, timestep: float, text: Tensor, attend: Masked) -> Tensor:
    time = torch.full((x.shape[0], x.shape[2]), timestep)
    out = forward(MODEL, x, time, text_kv(MODEL, text), FunctionMemory(attend))
    assert out is not None
    return out


@dataclass
class Dense:
    """The whole loop from its definition. memories(chunk): of every head, layer by layer."""

    family: Family
    shape: LatentShape
    prompts: PromptSchedule
    stills: bool = True
    context_noise: float = 0.0
    mass: dict[int, Tensor] = field(default_factory=dict)  # of the last step, (layers, heads, frames seen)

    def chunk(self, number: int, c: int, clip: Tensor, given: int, memories, text_before: Tensor) -> Tensor:
        """Latents of chunk `number` from frame c on, after clip (B, C, c, h, w)."""
        size, noise = self.family.chunk_frames, SeededNoise(5, self.shape, self.family.chunk_frames)
        frames = min(size, self.shape.frames - c)
        grid = self.shape.height // 2, self.shape.width // 2
        read, past = self.context(c, clip, given), None
        m = read.shape[2]
        if m:
            blocks = torch.arange(m) // size
            mask = torch.zeros(LAYERS, HEADS, m, m, dtype=torch.bool)
            for i in range(LAYERS):
                for h in range(HEADS):
                    for query in range(m):
                        before = int(blocks[query]) * size
                        seen = held(memories[i][h], before) | {f for f in range(m) if blocks[f] == blocks[query]}
                        mask[i, h, query, sorted(seen)] = True
            past = PerLayer(mask, list(range(m)), grid)
            if self.context_noise:
                for part in range(-(-m // size)):
                    span = Span(number, part * size, min(part * size + size, m), part=part)
                    s, e = self.context_noise, noise(len(SIGMAS) + part, span)
                    read[:, :, span.start : span.stop] = (1 - s) * read[:, :, span.start : span.stop] + s * e
            velocity(read, 1000 * self.context_noise, text_before, past)
        mask = torch.ones(LAYERS, HEADS, frames, m + frames, dtype=torch.bool)
        for i in range(LAYERS):
            for h in range(HEADS):
                mask[i, h, :, [f for f in range(m) if f not in held(memories[i][h], m)]] = False
        span = Span(number, c, c + frames)
        x = noise(0, span)
        for step, (sigma, timestep) in enumerate(zip(SIGMAS, TOLD, strict=True)):
            if step:
                x = (1 - sigma) * x + sigma * noise(step, span)
            attend = PerLayer(mask, list(range(m, m + frames)), grid, past)
            x = x - sigma * velocity(x, timestep, self.prompts.at(c), attend)
        self.mass[number] = attend.mass
        return x

    def context(self, c: int, clip: Tensor, given: int) -> Tensor:
        size, k = self.family.chunk_frames, self.family.default_window_frames - self.family.chunk_frames
        if c == 0:
            return clip
        index = (c - given) // size  # of the generated chunks
        tail = clip[:, :, 1:][:, :, -(k - 1) :] if k > 1 else clip[:, :, :0]
        if self.family.sink_frames or (given <= k and (index - 1) * size < k):
            return torch.cat((clip[:, :, :1], tail), 2)
        before = clip[:, :, c - k : c - k + 1]
        return torch.cat((still_of(before) if self.stills else before, tail), 2)


class PerLayer(Masked):
    """A mask per layer."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        whole, self.mask = self.mask, self.mask[layer]
        try:
            return super().__call__(layer, q, k, v)
        finally:
            self.mask = whole

    def __init__(self, mask: Tensor, at: list[int], grid: tuple[int, int], past: "Masked | None" = None):
        super().__init__(mask, at, grid, past)
        self.mass = torch.zeros(LAYERS, HEADS, mask.shape[3])


# -- the engine ------------------------------------------------------------------------------------------------------


class Noting(WanDenoiser):
    """The tiny model; keeps a weak hold of the cache and counts runs of the blocks."""

    def __init__(self) -> None:
        super().__init__(MODEL)
        self.cache: weakref.ref[KVCache] | None = None

    def __call__(self, x, sigma, context, step):
        self.cache = weakref.ref(step.cache)
        return super().__call__(x, sigma, context, step)


@dataclass
class Case:
    """A clip with defaults. Sizes in latents."""

    policy: Policy
    frames: int = 15
    family: Family = KREA
    given: int = 0
    switches: dict[int, Tensor] = field(default_factory=dict)
    batch: int = 1
    size: tuple[int, int] = (4, 4)
    stills: bool = True
    context_noise: float = 0.0
    steps: StepCache = NO_STEPS
    watch: Watch = lambda span, step: None
    denoise: Noting = field(default_factory=Noting)

    @property
    def shape(self) -> LatentShape:
        return LatentShape(self.batch, 16, self.frames, *self.size)

    @property
    def prompts(self) -> PromptSchedule:
        return PromptSchedule(((0, A), *self.switches.items()))

    @property
    def start(self) -> Tensor | None:
        size = (self.batch, 16, self.given, *self.size)
        return torch.randn(size, generator=torch.Generator().manual_seed(7)) if self.given else None

    def iterate(self) -> Iterator[ChunkResult]:
        schedule = replace(SCHEDULE, context_noise=self.context_noise)
        noise = SeededNoise(5, self.shape, self.family.chunk_frames)
        still = Stills() if self.stills else None
        return recompute(
            Run(
                *(self.denoise, self.shape, schedule, self.prompts, self.policy, self.family, noise, self.start),
                steps=self.steps,
                watch=self.watch,
                still=still,
            )
        )


def check(run: Case) -> dict[int, HeadScores]:
    """Follows a clip chunk by chunk: latents, scores, frames held, bytes. Returns the scores by chunk.

    The oracle goes on from the engine's own latents, so an error shows in the chunk that makes it.
    """
    dense = Dense(run.family, run.shape, run.prompts, run.stills, run.context_noise)
    priced = context_shape(run.denoise.geometry, run.shape, run.family)
    use, scores = MemoryUse(priced), dict[int, HeadScores]()
    clip = torch.empty(run.batch, 16, 0, *run.size)
    plan: HeadPlan | None = None
    text_before = A
    for chunk in run.iterate():
        span = chunk.span
        if plan is not None and chunk.scores is None:
            assert chunk.plan == plan, "a plan changes where heads were scored, nowhere else"
        if not span.given:
            used = widest(run) if chunk.scores is not None else chunk.plan
            memories = [[memory.within(min(window(run), run.frames)) for memory in row] for row in used.memories]
            wanted = dense.chunk(span.chunk, span.start, clip, run.given, memories, text_before)
            assert float((chunk.latent - wanted).abs().max()) < 1e-4, span
            m = min(span.start, window(run))
            if chunk.scores is None:
                lengths = [len(held(memory, m)) for row in memories for memory in row]
                assert chunk.history_bytes == sum(lengths) * priced.frame_bytes
            else:
                scores[span.chunk] = chunk.scores
                sinks = memories[0][0].sink_frames
                mass = dense.mass[span.chunk]
                parts = [mass[..., :sinks].sum(-1), mass[..., sinks:m].sum(-1), mass[..., m:].sum(-1)]
                assert float((chunk.scores.mass - torch.stack(parts, -1)).abs().max()) < 1e-4
                assert chunk.history_bytes <= chunk.plan.history_bytes(priced, m)
        assert chunk.resident_bytes == chunk.plan.resident_bytes(priced)
        use.add(chunk)
        plan, text_before = chunk.plan, run.prompts.at(span.start)
        clip = torch.cat((clip, chunk.latent), 2)
    assert use.actual_peak == use.predicted_peak
    assert clip.shape == (run.batch, 16, run.frames, *run.size) and bool(clip.isfinite().all())
    return scores


def window(run: Case) -> int:
    return run.family.default_window_frames - run.family.chunk_frames


def widest(run: Case) -> HeadPlan:
    """The plan that Dummy Forcing scores under: the sink and everything local."""
    policy = run.policy
    assert isinstance(policy, DummyForcing)
    local = max(policy.local_chunks * run.family.chunk_frames, policy.packed_frames)
    return HeadPlan.uniform(LAYERS, HEADS, HeadMemory(policy.sink_frames, local), "unclassified", run.family.name)


PROFILE = HeadProfile(
    HeadScores(
        torch.tensor([[[0.6, 0.1, 0.3], [0.1, 0.6, 0.3], [0.02, 0.01, 0.97], [0.01, 0.02, 0.97]]]).expand(
            LAYERS, -1, -1
        )
    )
)
FIXED: dict[str, Policy] = {
    "full": Full(),
    "window 5, sink 1": SlidingWindow(5, 1),
    "window 4": SlidingWindow(4, 0),
    "nothing": SlidingWindow(3, 0),
    "profile": DummyForcing(profile=PROFILE),
    "profile, bare": DummyForcing(profile=PROFILE, packed_frames=0),
}
SCORED: dict[str, Policy] = {
    "online": DummyForcing(),
    "online, chunk 2": DummyForcing(observe_chunk=2, packed_frames=2),
    "again every chunk": DummyForcing(reclassify_chunks=1),
    "all dummies": DummyForcing(dummy_ratio=1.0),
}
EVERY = FIXED | SCORED


@pytest.mark.parametrize("name", EVERY)
def test_as_released(name: str) -> None:
    check(Case(EVERY[name]))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("given", [1, 3, 7])
def test_behind_a_given_start(name: str, given: int) -> None:
    check(Case(EVERY[name], given + 9, given=given))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("switches", [{6: B}, {3: B, 9: C}, {4: B, 5: C}], ids=lambda s: str(list(s)))
def test_around_prompt_switches(name: str, switches: dict[int, Tensor]) -> None:
    check(Case(EVERY[name], 12, switches=switches))


@pytest.mark.parametrize("k", [1, 2, 4, 6, 7])
@pytest.mark.parametrize("policy", [Full(), SlidingWindow(4, 1), SlidingWindow(4, 0)], ids=str)
def test_contexts_of_other_lengths_are_read_under_the_block_mask(policy: Policy, k: int) -> None:
    check(Case(policy, 18, replace(KREA, window_frames=k + 3)))


@pytest.mark.parametrize("k", [4, 6])
@pytest.mark.parametrize("name", SCORED)
def test_dummy_forcing_over_longer_contexts(name: str, k: int) -> None:
    check(Case(SCORED[name], 18, replace(KREA, window_frames=k + 3)))


@pytest.mark.parametrize("name", ["full", "profile", "online"])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6, 10, 11])
def test_short_clips_and_short_last_chunks(name: str, frames: int) -> None:
    policy = EVERY[name]
    check(Case(policy, frames))


@pytest.mark.parametrize("name", ["full", "profile", "online"])
def test_two_clips_at_once_another_size_and_frame_0_kept(name: str) -> None:
    check(Case(EVERY[name], 12, replace(KREA, sink_frames=1), batch=2, size=(4, 6)))
    check(Case(EVERY[name], 12, stills=True, batch=2, size=(2, 2)))


@pytest.mark.filterwarnings("ignore:.*re-encoded")
@pytest.mark.parametrize("name", ["full", "online"])
def test_without_stills_and_with_context_noise(name: str) -> None:
    check(Case(EVERY[name], 12, stills=False))
    check(Case(EVERY[name], 12, replace(KREA, window_frames=8), context_noise=0.1))


def test_the_oracle_would_see_it() -> None:
    """What the comparisons above would find if a still, a prompt or a frame were another one."""
    clip = torch.cat([chunk.latent for chunk in Case(Full(), 12).iterate()], 2)
    for other in (
        Case(Full(), 12, stills=False),
        Case(Full(), 12, switches={9: B}),
        Case(SlidingWindow(5, 0), 12),
        Case(SlidingWindow(5, 1), 12),
        Case(Full(), 12, replace(KREA, sink_frames=1)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = torch.cat([chunk.latent for chunk in other.iterate()], 2)
        assert float((theirs - clip)[:, :, 9:].abs().max()) > 1e-2, other


def test_the_old_prompt_in_the_context_shows() -> None:
    """The chunk of a switch reads its context under the old prompt; that the oracle tells the two apart."""
    run = Case(Full(), 12, switches={9: B})
    clip = torch.cat([chunk.latent for chunk in run.iterate()], 2)
    dense = Dense(KREA, run.shape, run.prompts)
    memories = [[HeadMemory(0, 3)] * HEADS] * LAYERS
    old, new = (dense.chunk(3, 9, clip[:, :, :9], 0, memories, text_before) for text_before in (A, B))
    assert float((clip[:, :, 9:] - old).abs().max()) < 1e-4
    assert float((clip[:, :, 9:] - new).abs().max()) > 1e-3


# -- roles -----------------------------------------------------------------------------------------------------------


def test_what_each_role_sees_of_the_context() -> None:
    """Sink heads the still in front, neighbours all three, dummies the newest frame."""
    run, places = Case(DummyForcing(profile=PROFILE), 12), {}
    for chunk in run.iterate():
        cache = run.denoise.cache and run.denoise.cache()
        assert cache is not None
        roles = chunk.plan.roles[0]
        if chunk.span.chunk:
            places |= {role: cache.export(0, head)[0] for head, role in enumerate(roles)}
            assert cache.export(1, 0)[0] == places[roles[0]]
    assert places == {"sink": [0], "neighbour": [0, 1, 2], "dummy": [2]}


@pytest.mark.parametrize(
    "policy, given, switches, chunks",
    [
        (DummyForcing(), 0, {}, [1]),
        (DummyForcing(), 1, {}, [2]),
        (DummyForcing(), 3, {}, [1]),
        (DummyForcing(observe_chunk=3), 0, {}, [3]),
        (DummyForcing(reclassify_chunks=2), 0, {}, [1, 3]),
        (DummyForcing(), 0, {9: B}, [1, 3]),
        (DummyForcing(), 0, {3: B}, [1]),
        (DummyForcing(profile=PROFILE), 0, {9: B}, []),
    ],
    ids=str,
)
def test_when_heads_are_scored(policy: Policy, given: int, switches: dict[int, Tensor], chunks: list[int]) -> None:
    assert list(check(Case(policy, given + 15, given=given, switches=switches))) == chunks


def test_a_watcher_sees_every_step_beside_the_scoring_and_changes_nothing() -> None:
    """The last step of the scored chunk has two observers: both see all heads at places 0 .. 5."""
    seen: dict[tuple[int, int], set[tuple[int, int]]] = {}
    frames: dict[int, set[tuple[int, ...]]] = {}

    def watch(span: Span, step: int):
        def observe(layer, heads, q, k, v, regions) -> None:
            seen.setdefault((span.chunk, step), set()).update((layer, head) for head in heads)
            frames.setdefault(span.chunk, set()).add(tuple(f for region in regions for f in region.frames))

        return observe

    watched, alone = (list(Case(DummyForcing(), 9, watch=w).iterate()) for w in (watch, lambda span, step: None))
    everyone = {(layer, head) for layer in range(LAYERS) for head in range(HEADS)}
    assert seen == {(chunk, step): everyone for chunk in range(3) for step in range(3)}
    assert frames[0] == {(0, 1, 2)} and frames[1] == {(3, 4, 5, 0, 1, 2)}
    for a, b in zip(watched, alone, strict=True):
        assert torch.equal(a.latent, b.latent)
    assert watched[1].scores is not None and alone[1].scores is not None
    assert torch.equal(watched[1].scores.mass, alone[1].scores.mass)


def test_a_saved_profile_of_the_scores_gives_the_same_later_chunks() -> None:
    online = list(Case(DummyForcing(), 12).iterate())
    scores = online[1].scores
    assert scores is not None
    saved = Case(DummyForcing(profile=HeadProfile(scores)), 12)
    assert [chunk.plan for chunk in saved.iterate()][-1] == online[-1].plan


def test_ranks_are_positions_here() -> None:
    """A head that holds the whole context at its ranks is one that holds it at its positions."""

    @dataclass(frozen=True)
    class Ranked(Full):
        def plan(self, setting):
            memory = HeadMemory(1, 2, "rank")
            return HeadPlan.uniform(setting.layers, setting.heads, memory, "rank", setting.family.name)

    ranked, plain = (torch.cat([c.latent for c in Case(p, 12).iterate()], 2) for p in (Ranked(), Full()))
    assert float((ranked - plain).abs().max()) < 1e-5


# -- step caching ----------------------------------------------------------------------------------------------------


def test_steps_may_be_skipped_but_not_the_one_that_is_scored() -> None:
    """Step 2 is the last. Were it skipped in the scored chunk, there would be no attention to score."""
    whole, skipped = (
        list(Case(DummyForcing(), 12, steps=steps).iterate()) for steps in (NO_STEPS, StepCache(frozenset({2})))
    )
    assert [chunk.scores is None for chunk in skipped] == [True, False, True, True]
    assert all(not torch.equal(a.latent, b.latent) for a, b in zip(whole, skipped, strict=True))


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [30, pytest.param(200, marks=pytest.mark.proof)])
@pytest.mark.parametrize("name", ["full", "profile", "online", "again every chunk"])
def test_many_chunks_cost_what_3_cost(name: str, chunks: int) -> None:
    run, priced, peak = Case(EVERY[name], 3 * chunks, size=(2, 2)), set(), 0
    for chunk in run.iterate():
        peak = max(peak, chunk.peak_bytes)
        if chunk.span.chunk >= 2:
            cache = run.denoise.cache and run.denoise.cache()
            assert cache is not None and cache.query_frames.stop <= 6
            priced.add(chunk.predicted_peak_bytes)
            assert chunk.window_full and chunk.resident_bytes == cache.resident_bytes
            del cache
    assert priced == {peak}
    gc.collect()
    assert run.denoise.cache is not None and run.denoise.cache() is None
