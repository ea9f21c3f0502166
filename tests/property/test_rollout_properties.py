"""The loop over chunks, with a tiny random model: what must be equal, and what must not be left behind."""

import gc
import tracemalloc
import weakref
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dummyforcing_core.errors import OutputError
from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.kv.attention import sdpa
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan
from dummyforcing_core.loops.clip_memory import replay
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import ChunkResult, Run, kv_shape
from dummyforcing_core.models.denoiser import ModelGeometry, WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import Full, Policy, SlidingWindow
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule, add_noise
from tests.property.tiny import context, tiny_model

FAMILY = Family("tiny", "Tiny random model", "tests", chunk_frames=3, trained_frames=10_000)
SCHEDULE = Schedule((1.0, 0.6))
FULL = Full()


MODEL = tiny_model(heads=2)


PROMPT = context(0)


class Watched(WanDenoiser):
    """The tiny model; remembers every call and the cache that it was given."""

    def __init__(self, model=MODEL):
        super().__init__(model)
        self.calls: list[dict] = []
        self.cache: weakref.ref[KVCache] | None = None

    def __call__(self, x, sigma, context, step):
        self.cache = weakref.ref(step.cache)
        x0 = super().__call__(x, sigma, context, step)
        self.calls.append(
            {
                "x": x,
                "sigma": sigma,
                "context": context,
                "frames": step.cache.pass_frames,
                "output": step.output,
                "x0": x0,
            }
        )
        return x0


@dataclass
class Case:
    """What these tests vary of a run, with defaults; `chunks()` makes the clip."""

    frames: int = 9
    chunk: int = 3
    batch: int = 1
    seed: int = 0
    policy: Policy = FULL
    schedule: Schedule = SCHEDULE
    prompts: PromptSchedule = field(default_factory=lambda: PromptSchedule.constant(PROMPT))
    start: torch.Tensor | None = None
    denoise: WanDenoiser = field(default_factory=Watched)

    @property
    def shape(self) -> LatentShape:
        return LatentShape(self.batch, 16, self.frames, 4, 4)

    @property
    def family(self) -> Family:
        return replace(FAMILY, chunk_frames=self.chunk)

    @property
    def noise(self) -> SeededNoise:
        return SeededNoise(self.seed, self.shape, self.chunk)

    @property
    def run(self) -> Run:
        return Run(
            self.denoise, self.shape, self.schedule, self.prompts, self.policy, self.family, self.noise, self.start
        )

    def iterate(self, **options):
        return rollout(replace(self.run, **options))

    def chunks(self) -> list[ChunkResult]:
        return list(self.iterate())

    def latents(self) -> torch.Tensor:
        return torch.cat([chunk.latent for chunk in self.chunks()], dim=2)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames, chunk, window, sink", [(9, 3, 9, 0), (9, 3, 9, 3), (8, 3, 12, 3), (5, 1, 5, 1)])
def test_a_window_that_covers_the_clip_equals_the_full_cache(frames, chunk, window, sink):
    full = Case(frames, chunk).latents()
    windowed = Case(frames, chunk, policy=SlidingWindow(window, sink)).latents()
    torch.testing.assert_close(windowed, full, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("window, sink", [(3, 0), (6, 0), (6, 3)])
def test_a_narrower_window_does_not(window, sink):
    full, windowed = Case().latents(), Case(policy=SlidingWindow(window, sink)).latents()
    assert torch.equal(windowed[:, :, :3], full[:, :, :3])
    assert relative(windowed[:, :, 6:], full[:, :, 6:]) > 1e-3


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.integers(0, 99))
def test_whole_chunks_do_not_depend_on_how_long_the_clip_is(chunk, chunks, short, more, seed):
    """Bit for bit, at an equal plan: a longer clip only makes the buffers of a full cache longer."""
    short_run = Case(chunk * chunks, chunk, seed=seed)
    long_run = Case(chunk * (chunks + more) + min(short, chunk), chunk, seed=seed)
    assert torch.equal(long_run.latents()[:, :, : short_run.frames], short_run.latents())


def test_a_bounded_window_has_the_same_prefix_too():
    policy = SlidingWindow(6, 2)
    assert torch.equal(Case(15, policy=policy).latents()[:, :, :9], Case(9, policy=policy).latents())


@pytest.mark.parametrize("policy", [Full(), SlidingWindow(6, 2)], ids=["full", "window"])
def test_every_chunk_reports_the_plans_price(policy):
    run = Case(11, policy=policy)
    cache = run.run.new_cache()
    priced = kv_shape(run.denoise.geometry, run.shape, run.family)
    for chunk in run.chunks():
        assert chunk.resident_bytes == cache.plan.resident_bytes(priced)
        assert chunk.history_bytes == cache.plan.history_bytes(priced, chunk.span.stop)


@pytest.mark.parametrize("policy", [Full(), SlidingWindow(6, 2)], ids=["full", "window"])
@pytest.mark.parametrize("given_frames", [0, 4])
@pytest.mark.parametrize("context_noise", [0.0, 0.1])
def test_replaying_the_finished_latents_rebuilds_the_cache_bit_for_bit(policy, given_frames, context_noise):
    start = torch.randn(1, 16, given_frames, 4, 4, generator=torch.Generator().manual_seed(9)) if given_frames else None
    prompts = PromptSchedule(((0, PROMPT), (5, context(1))))
    schedule = replace(SCHEDULE, context_noise=context_noise)
    run = Case(11, policy=policy, prompts=prompts, start=start, schedule=schedule)
    latents = []
    for chunk in run.iterate():
        latents.append(chunk.latent)
        original = run.denoise.cache()
        rebuilt = run.run.new_cache()
        replay(replace(run.run, denoise=WanDenoiser(MODEL)), rebuilt, torch.cat(latents, dim=2))
        assert rebuilt.committed_frames == original.committed_frames == chunk.span.stop
        for layer in range(2):
            for head in range(2):
                ours, theirs = rebuilt.export(layer, head), original.export(layer, head)
                assert ours[0] == theirs[0]
                assert torch.equal(ours[1], theirs[1])
                assert torch.equal(ours[2], theirs[2])


def test_cancelling_leaves_nothing_behind():
    class Cancelled(Exception):
        pass

    def cancel(span, step):
        if (span.chunk, step) == (1, 1):
            raise Cancelled

    run = Case()
    iterator = run.iterate(on_step=cancel)
    next(iterator)
    assert run.denoise.cache() is not None
    with pytest.raises(Cancelled):
        next(iterator)
    assert next(iterator, "ended") == "ended"
    del iterator
    gc.collect()
    assert run.denoise.cache() is None


def test_a_rollout_that_is_dropped_half_way_frees_its_cache_at_once():
    run = Case()
    iterator = run.iterate()
    next(iterator)
    iterator.close()
    assert run.denoise.cache() is None


class ToyDenoiser:
    """One layer of one head: latents are queries, keys and values; x0 leans towards what is remembered."""

    geometry = ModelGeometry(1, 1, 64, 16, torch.device("cpu"), torch.float32)

    def __init__(self):
        self.cache: KVCache | None = None

    def __call__(self, x, sigma, context, step):
        self.cache = step.cache
        tokens = x.permute(0, 2, 3, 4, 1).flatten(2)[:, :, None, :]  # a frame of 2 x 2 latents is one token
        out = self.cache(0, tokens, tokens, tokens)
        return (0.5 * out[:, :, 0]).unflatten(2, (2, 2, 16)).permute(0, 4, 1, 2, 3) if step.output else None


def tensors_alive() -> int:
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("chunks", [120, pytest.param(1000, marks=pytest.mark.proof)])
def test_memory_is_constant(chunks: int):
    denoise, shape = ToyDenoiser(), LatentShape(1, 16, 3 * chunks, 2, 2)
    run = rollout(Run(
        denoise, shape, SCHEDULE, PromptSchedule.constant(PROMPT), SlidingWindow(12, 3), FAMILY,
        SeededNoise(0, shape, 3), attend=sdpa,
    ))  # fmt: skip
    resident, tensors, traced, storages = set(), set(), [], set()
    tracemalloc.start()
    try:
        for chunk in run:
            resident.add(chunk.resident_bytes)
            if chunk.span.chunk in (chunks // 2, 99, chunks - 1):
                gc.collect()
                tensors.add(tensors_alive())
                traced.append(tracemalloc.get_traced_memory()[0])
                storages.add(tuple(g.k.data_ptr() for g in denoise.cache.layers[0]))
                assert chunk.history_bytes == 9 * 2 * 64 * 4
    finally:
        tracemalloc.stop()
    assert chunk.span == Span(chunks - 1, 3 * chunks - 3, 3 * chunks)
    assert torch.isfinite(chunk.latent).all()
    assert resident == {(9 + 3) * 2 * 64 * 4}
    assert len(tensors) == len(storages) == 1
    assert traced[-1] - traced[0] < 100_000


# -- seeds, batches, lengths -----------------------------------------------------------------------------------------


def test_the_same_seed_twice_gives_the_same_bits_and_another_seed_does_not():
    assert torch.equal(Case(seed=5).latents(), Case(seed=5).latents())
    assert relative(Case(seed=6).latents(), Case(seed=5).latents()) > 0.1


def test_torchs_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Case().latents()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(Case().latents(), first)


def test_a_batch_item_is_the_clip_of_the_seed_so_much_higher():
    together = Case(batch=3, seed=10, policy=SlidingWindow(6, 1)).latents()
    for item in range(3):
        alone = Case(seed=10 + item, policy=SlidingWindow(6, 1)).latents()
        torch.testing.assert_close(together[item], alone[0], rtol=1e-4, atol=1e-4)


def test_batch_items_may_have_prompts_of_their_own():
    prompts = context(3, batch=2)
    together = Case(batch=2, seed=10, prompts=PromptSchedule.constant(prompts)).latents()
    for item in range(2):
        alone = Case(seed=10 + item, prompts=PromptSchedule.constant(prompts[item : item + 1])).latents()
        torch.testing.assert_close(together[item], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "frames, chunk, lengths",
    [(3, 1, [1, 1, 1]), (7, 3, [3, 3, 1]), (8, 3, [3, 3, 2]), (2, 3, [2]), (1, 4, [1]), (5, 5, [5])],
)
@pytest.mark.parametrize("policy", [Full(), SlidingWindow(7, 2)], ids=["full", "window"])
def test_clips_of_any_length(frames, chunk, lengths, policy):
    chunks = Case(frames, chunk, policy=policy).chunks()
    assert [c.span.frames for c in chunks] == lengths
    assert [tuple(c.latent.shape) for c in chunks] == [(1, 16, n, 4, 4) for n in lengths]
    assert all(torch.isfinite(c.latent).all() and c.latent.dtype == torch.float32 for c in chunks)


def test_bf16_stays_near_float32():
    """Within 5 % relative L2 of each chunk at equal history; free running clips drift apart, which is no error."""
    half = tiny_model().bfloat16()
    exact = Case()
    start = exact.latents()[:, :, :6]
    exact, coarse = Case(start=start), Case(start=start, denoise=Watched(half))
    coarse_chunks = coarse.chunks()
    assert coarse.denoise.calls[-1]["x"].dtype == torch.float32
    assert coarse_chunks[-1].resident_bytes * 2 == exact.chunks()[-1].resident_bytes
    ours, theirs = coarse_chunks[-1].latent, exact.chunks()[-1].latent
    assert ours.dtype == torch.float32
    assert 1e-5 < relative(ours, theirs) < 0.05


# -- the steps of a chunk --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context_noise", [0.0, 0.25])
def test_a_chunk_is_denoised_step_by_step_and_committed_by_one_clean_pass(context_noise):
    schedule = Schedule((1.0, 0.8, 0.4), context_noise=context_noise)
    run = Case(5, schedule=schedule)
    chunks = run.chunks()
    calls = iter(run.denoise.calls)
    assert len(run.denoise.calls) == 2 * (3 + 1)
    for chunk in chunks:
        x0 = None
        for step, sigma in enumerate(schedule.sigmas):
            call = next(calls)
            noise = run.noise(step, chunk.span)
            assert torch.equal(call["x"], noise if x0 is None else add_noise(x0, noise, sigma))
            assert torch.equal(call["sigma"], torch.full((1, chunk.span.frames), sigma))
            assert call["output"]
            x0 = call["x0"]
        assert torch.equal(chunk.latent, x0)
        clean = next(calls)
        expected = add_noise(x0, run.noise(3, chunk.span), context_noise) if context_noise else chunk.latent
        assert torch.equal(clean["x"], expected)
        assert torch.equal(clean["sigma"], torch.full((1, chunk.span.frames), context_noise))
        assert not clean["output"]


def steps_of(run: Case) -> list[tuple[int, int]]:
    steps = []
    list(run.iterate(on_step=lambda span, step: steps.append((span.chunk, step))))
    return steps


def test_on_step_comes_before_every_model_call():
    run = Case(7)
    assert steps_of(run) == [(chunk, step) for chunk in range(3) for step in range(len(SCHEDULE) + 1)]
    calls_before = []
    list(run.iterate(on_step=lambda span, step: calls_before.append(len(run.denoise.calls))))
    assert calls_before == list(range(9, 18))


def test_on_step_also_comes_before_the_clean_passes_of_a_given_start():
    run = Case(9, start=torch.zeros(1, 16, 6, 4, 4))
    assert len(steps_of(run)) == len(run.denoise.calls)


# -- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch, first_chunk_start", [(1, 3), (3, 3), (4, 6), (6, 6), (7, 9)])
def test_a_prompt_switch_takes_effect_at_the_first_chunk_start_at_or_after_it(switch, first_chunk_start):
    other = context(1)
    run = Case(9, prompts=PromptSchedule(((0, PROMPT), (switch, other))))
    switched, plain = run.latents(), Case(9).latents()
    for call in run.denoise.calls:
        assert (call["context"] is other) == (call["frames"].start >= first_chunk_start)
    assert torch.equal(switched[:, :, :first_chunk_start], plain[:, :, :first_chunk_start])
    for start in range(first_chunk_start, 9, 3):
        assert relative(switched[:, :, start : start + 3], plain[:, :, start : start + 3]) > 1e-3


@dataclass(frozen=True)
class Noting(SlidingWindow):
    """A window that notes, per generated chunk after the first, whether the rollout says that the prompt changed."""

    notes: list = field(default_factory=list, hash=False)

    def observes(self, span, setting, observed, switched):
        self.notes.append((span.start, switched))
        return False


@pytest.mark.parametrize(
    "switch, first_chunk_start",
    [(1, 3), (3, 3), (4, 6), (5, 6), (6, 6)],
)
def test_a_policy_is_told_of_a_prompt_switch_at_the_chunk_where_it_takes_effect(switch, first_chunk_start):
    policy = Noting(12, 3)
    Case(9, policy=policy, prompts=PromptSchedule(((0, PROMPT), (switch, context(1))))).chunks()
    assert policy.notes == [(start, start == first_chunk_start) for start in (0, 3, 6)]


def test_switching_back_brings_back_the_first_prompts_features():
    """The denoiser keeps text keys and values per prompt; a stale one would show here."""
    other = context(1)
    shared = Watched()
    prompts = PromptSchedule(((0, PROMPT), (3, other), (6, PROMPT)))
    again = PromptSchedule(((0, PROMPT.clone()), (3, other.clone()), (6, PROMPT.clone())))
    assert torch.equal(Case(9, prompts=prompts, denoise=shared).latents(), Case(9, prompts=again).latents())
    assert torch.equal(Case(9, prompts=prompts, denoise=shared).latents(), Case(9, prompts=again).latents())


# -- given start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Full(), SlidingWindow(6, 2)], ids=["full", "window"])
def test_continuing_from_a_given_first_chunk_equals_the_clip_that_made_it(policy):
    whole = Case(11, policy=policy).chunks()
    continued = Case(11, policy=policy, start=whole[0].latent).chunks()
    assert [c.span for c in continued] == [replace(c.span, given=c.span.chunk == 0) for c in whole]
    for ours, theirs in zip(continued, whole, strict=True):
        assert torch.equal(ours.latent, theirs.latent)
        assert (ours.history_bytes, ours.resident_bytes) == (theirs.history_bytes, theirs.resident_bytes)


@pytest.mark.parametrize("given_frames, passes", [(1, [1]), (3, [3]), (5, [3, 2]), (8, [3, 3, 2])])
def test_a_given_start_is_chunk_0_unchanged_and_primed_by_clean_passes_alone(given_frames, passes):
    start = torch.randn(1, 16, given_frames, 4, 4, generator=torch.Generator().manual_seed(4))
    run = Case(8, start=start.clone())
    first = next(run.iterate())
    assert first.span == Span(0, 0, given_frames, given=True)
    assert torch.equal(first.latent, start)
    assert [len(call["frames"]) for call in run.denoise.calls] == passes
    assert torch.equal(torch.cat([call["x"] for call in run.denoise.calls], dim=2), start)
    assert all(not call["output"] and not call["sigma"].any() for call in run.denoise.calls)


def test_a_given_start_matters_to_what_follows():
    starts = [torch.randn(1, 16, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    first, second = (Case(7, start=start).latents()[:, :, 1:] for start in starts)
    assert relative(first, second) > 1e-3


def test_a_start_as_long_as_the_clip_is_the_clip():
    start = torch.randn(1, 16, 6, 4, 4, generator=torch.Generator().manual_seed(4))
    assert torch.equal(Case(6, start=start).latents(), start)


@pytest.mark.parametrize("size", [(2, 16, 3, 4, 4), (1, 4, 3, 4, 4), (1, 16, 3, 4, 6), (1, 16, 3, 2, 4)])
def test_a_start_of_another_shape_is_refused_and_both_shapes_named(size):
    with pytest.raises(OutputError) as error:
        Case(9, start=torch.zeros(size)).chunks()
    assert str(size) in str(error.value)
    assert "(1, 16, frames, 4, 4)" in str(error.value)


def test_a_start_longer_than_the_clip_is_refused():
    with pytest.raises(OutputError, match="6 latent frames in chunks of 3 with 7 given"):
        Case(6, start=torch.zeros(1, 16, 7, 4, 4)).chunks()


# -- plans that change -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Narrowing(Policy):
    """Dummy Forcing's course of events with roles given outright: observe chunk 1, then narrow."""

    name: ClassVar[str] = "narrowing"
    wide: ClassVar[HeadPlan] = HeadPlan.uniform(2, 2, HeadMemory(1, 6), "unclassified")
    narrow: ClassVar[HeadPlan] = HeadPlan(
        ((HeadMemory(1, 0), HeadMemory(0, 1)), (HeadMemory(0, 6), HeadMemory(1, 0))), (("any",) * 2,) * 2
    )

    def plan(self, setting):
        return self.wide

    def observes(self, span, setting, observed, switched):
        return span.chunk == 1

    def replan(self, scores, setting):
        assert scores.mass.shape == (2, 2, 3)
        torch.testing.assert_close(scores.mass.sum(-1), torch.ones(2, 2))
        return self.narrow


def test_an_observing_policy_narrows_the_cache_behind_the_observed_chunk():
    run = Case(15, policy=Narrowing())
    held, chunks = [], []
    for chunk in run.iterate():
        cache = run.denoise.cache()
        held.append([cache.export(layer, head)[0] for layer in range(2) for head in range(2)])
        chunks.append(chunk)
    assert held == [
        [[0, 1, 2]] * 4,
        [[0], [5], [1, 2, 3, 4, 5], [0]],
        [[0], [8], [3, 4, 5, 6, 7, 8], [0]],
        [[0], [11], [6, 7, 8, 9, 10, 11], [0]],
        [[0], [14], [9, 10, 11, 12, 13, 14], [0]],
    ]
    priced = kv_shape(run.denoise.geometry, run.shape, run.family)
    wide, narrow = Narrowing.wide.resident_bytes(priced), Narrowing.narrow.resident_bytes(priced)
    assert [chunk.plan for chunk in chunks] == [Narrowing.wide] + [Narrowing.narrow] * 4
    assert [chunk.resident_bytes for chunk in chunks] == [wide] + [narrow] * 4
    peak = Narrowing.wide.repack_peak_bytes(priced, Narrowing.narrow)
    assert [chunk.peak_bytes for chunk in chunks] == [wide, peak, narrow, narrow, narrow]
    assert [chunk.window_full for chunk in chunks] == [False, False, False, True, True]


def test_chunks_up_to_the_observed_one_are_those_of_the_wide_plan():
    narrowed, wide = Case(15, policy=Narrowing()).latents(), Case(15, policy=Mixed(Narrowing.wide)).latents()
    assert torch.equal(narrowed[:, :, :6], wide[:, :, :6])
    assert relative(narrowed[:, :, 6:], wide[:, :, 6:]) > 1e-3


# -- mixed plans -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mixed(Policy):
    """A plan given outright."""

    head_plan: HeadPlan

    name: ClassVar[str] = "mixed"

    def plan(self, setting) -> HeadPlan:
        return self.head_plan


@settings(deadline=None, max_examples=10)
@given(
    st.lists(
        st.builds(HeadMemory, st.integers(0, 2), st.integers(0, 4), st.sampled_from(("absolute", "rank"))),
        min_size=4,
        max_size=4,
    ),
    st.integers(1, 3),
)
def test_a_mixed_plan_runs_and_its_bytes_are_its_price(memories, chunk):
    plan = HeadPlan((tuple(memories[:2]), tuple(memories[2:])), (("any",) * 2,) * 2)
    run = Case(7, chunk, policy=Mixed(plan))
    priced = kv_shape(run.denoise.geometry, run.shape, run.family)
    for result in run.chunks():
        assert result.resident_bytes == plan.resident_bytes(priced)
        assert result.history_bytes == plan.history_bytes(priced, result.span.stop)
        assert torch.isfinite(result.latent).all()
    assert torch.equal(Case(7, chunk, policy=Mixed(plan)).latents(), Case(7, chunk, policy=Mixed(plan)).latents())


def test_positions_by_rank_equal_absolute_ones_until_something_is_dropped():
    plans = [HeadPlan.uniform(2, 2, HeadMemory(0, 3, positions), "any") for positions in ("absolute", "rank")]
    absolute, rank = (Case(9, policy=Mixed(plan)).latents() for plan in plans)
    torch.testing.assert_close(rank[:, :, :6], absolute[:, :, :6], rtol=1e-5, atol=1e-5)
    # From chunk 2 on everything held has moved by three frames; scores depend on distances alone.
    torch.testing.assert_close(rank, absolute, rtol=1e-4, atol=1e-4)


def test_positions_by_rank_close_the_gap_behind_a_sink():
    plans = [HeadPlan.uniform(2, 2, HeadMemory(1, 2, positions), "any") for positions in ("absolute", "rank")]
    absolute, rank = (Case(12, policy=Mixed(plan)).latents() for plan in plans)
    torch.testing.assert_close(rank[:, :, :6], absolute[:, :, :6], rtol=1e-5, atol=1e-5)
    assert relative(rank[:, :, 6:], absolute[:, :, 6:]) > 1e-4
