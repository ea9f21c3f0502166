"""Clips whose heads have a bank: what is held, by a definition of its own; what equals what; the cache made again."""

import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dummyforcing_core.errors import PlanError
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv.attention import sdpa
from dummyforcing_core.kv.bank import EpisodeEnd, Every
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan
from dummyforcing_core.loops.clip_memory import replay_clip
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import ChunkResult, Run
from dummyforcing_core.loops.table import kv_peak_bytes
from dummyforcing_core.models.denoiser import ModelGeometry, WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.models.stepcache import StepCache
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import HeadBudget, HeadForcing, Policy, SlidingWindow
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule
from tests.property.dummy_runs import MODEL
from tests.property.policy_cases import CASES, PROFILE
from tests.property.tiny import HEADS, LAYERS, context

FAMILY = Family("tiny", "Tiny", "tests", window_frames=12, trained_frames=999)
RECACHING = replace(FAMILY, window_frames=9, sink_frames=3, recache=True)
TEXTS = [context(seed) for seed in range(6)]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Keeping(WanDenoiser):
    """Keeps the cache of the last call."""

    cache: KVCache

    def __init__(self):
        super().__init__(MODEL)

    def __call__(self, x, sigma, text, step):
        self.cache = step.cache
        return super().__call__(x, sigma, text, step)


class Fixed(Policy):
    """One memory in every head."""

    def __init__(self, memory: HeadMemory, rule=None):
        object.__setattr__(self, "memory", memory)
        object.__setattr__(self, "rule", rule)

    def plan(self, setting):
        return self.uniform(setting, self.memory, "fixed", self.rule)


def clip(policy: Policy, switches=(), frames: int = 24, family: Family = FAMILY, given: int = 0) -> Run:
    """Another prompt from each of these chunks on."""
    shape = LatentShape(1, 16, frames, 4, 4)
    active = [TEXTS[sum(chunk >= s for s in switches) % len(TEXTS)] for chunk in range(frames // 3 + 1)]
    prompts = PromptSchedule.per_chunk(active, 3)
    start = torch.randn(1, 16, given, 4, 4, generator=torch.Generator().manual_seed(7)) if given else None
    return Run(Keeping(), shape, Schedule((1.0, 0.6)), prompts, policy, family, SeededNoise(0, shape, 3), start)


def made(run: Run) -> tuple[list[ChunkResult], KVCache]:
    chunks = list(rollout(run))
    assert isinstance(run.denoise, Keeping)
    return chunks, run.denoise.cache


def latents(chunks: list[ChunkResult]) -> Tensor:
    return torch.cat([chunk.latent for chunk in chunks], 2)


def episode_ends(video: Tensor, switches: list[int], novelty: float, room: int) -> list[int]:
    """The chunks that are marked in the end, by numpy: newest last."""
    kept: list[tuple[int, np.ndarray]] = []
    for switch in switches:
        chunk = video[0, :, 3 * switch - 3 : 3 * switch].flatten(1).numpy().astype(np.float64)
        looks = np.concatenate([chunk.mean(1), chunk.std(1, ddof=1)])
        near = [float(x @ looks / np.linalg.norm(x) / np.linalg.norm(looks)) for _, x in kept]
        if not near or 1 - max(near) > novelty:
            kept = [*kept, (switch - 1, looks)][-room:]
    return [chunk for chunk, _ in kept]


@settings(deadline=None, max_examples=25)
@given(
    switches=st.lists(st.integers(1, 7), unique=True, max_size=5).map(sorted),
    novelty=st.sampled_from((0.0, 0.01, 0.1, 1.0)),
    sink=st.sampled_from((0, 1, 3)),
    recent=st.sampled_from((3, 4, 6)),
    room=st.sampled_from((1, 2)),
)
def test_the_ends_of_episodes_are_held(switches, novelty, sink, recent, room) -> None:
    policy = Fixed(HeadMemory(sink, recent, bank_frames=3 * room), EpisodeEnd(novelty, first_chunk=False))
    chunks, cache = made(clip(policy, switches))
    marked = [f for c in episode_ends(latents(chunks), switches, novelty, room) for f in range(3 * c, 3 * c + 3)]
    gone = [f for f in marked if f >= sink and f < 24 - recent]  # the others are pinned, or recent still
    held = cache.export(0, 0)[0]
    assert [f for f in held if f >= 24 - recent] == list(range(24 - recent, 24))
    assert [f for f in held if f < sink] == list(range(sink))
    between = [f for f in held if sink <= f < 24 - recent]
    assert between == list(chunks[-1].banked)
    assert set(gone) <= set(between)
    assert len(between) <= 3 * room


def test_no_bank_is_the_window_bit_for_bit_and_a_window_that_covers_the_clip_needs_none() -> None:
    plain = latents(made(clip(SlidingWindow(9, 1), [2, 4]))[0])
    for memory, rule in [
        (HeadMemory(1, 5, bank_frames=0), EpisodeEnd()),
        (HeadMemory(1, 5, bank_frames=3), Every(999)),
    ]:
        assert torch.equal(latents(made(clip(Fixed(memory, rule), [2, 4]))[0]), plain)
    full = latents(made(clip(Fixed(HeadMemory()), [2, 4]))[0])
    assert torch.equal(latents(made(clip(Fixed(HeadMemory(0, 24, bank_frames=6), EpisodeEnd(0)), [2, 4]))[0]), full)


def test_what_is_banked_changes_the_clip() -> None:
    without = latents(made(clip(Fixed(HeadMemory(0, 3)), [2, 5]))[0])
    banked = latents(made(clip(Fixed(HeadMemory(0, 3, bank_frames=6), EpisodeEnd(0)), [2, 5]))[0])
    assert torch.equal(without[:, :, :6], banked[:, :, :6])
    assert not torch.equal(without[:, :, 15:], banked[:, :, 15:])


@pytest.mark.parametrize("positions", ["rank", "end"])
def test_positions_of_an_unbroken_window_equal_absolute_ones_up_to_a_shift(positions: str) -> None:
    family = replace(FAMILY, trained_frames=12)
    absolute, moved = (
        latents(made(clip(SlidingWindow(9, 0, p), family=family))[0]) for p in ("absolute", positions)
    )  # fmt: skip
    assert float((absolute - moved).abs().max()) < 1e-3 * float(absolute.abs().max())


def test_end_anchored_positions_differ_from_ranks_where_frames_are_missing() -> None:
    family = replace(FAMILY, trained_frames=21)
    rank, end = (
        latents(made(clip(SlidingWindow(7, 1, p), frames=36, family=family))[0]) for p in ("rank", "end")
    )  # fmt: skip
    assert torch.isfinite(rank).all() and torch.isfinite(end).all()
    assert not torch.allclose(rank, end, atol=1e-3)


def test_a_switch_drops_all_but_the_first_and_the_newest_frames() -> None:
    seen: list[list[int]] = []

    class Looking(Keeping):
        def __call__(self, x, sigma, text, step):
            if sigma.any():
                seen.append(step.cache.export(0, 0)[0])
            return super().__call__(x, sigma, text, step)

    run = replace(clip(SlidingWindow(9, 1, switch_frames=1), [4], frames=18), denoise=Looking())
    list(rollout(run))
    by_chunk = seen[::2]
    assert by_chunk[3:] == [[0, 4, 5, 6, 7, 8], [0, 11], [0, 11, 12, 13, 14]]


ALL = {f"{name} {kind}".strip(): policy for name, row in CASES.items() for kind, policy in row.items()}


@pytest.mark.parametrize("family", [FAMILY, RECACHING], ids=["chunks", "re-caching"])
@pytest.mark.parametrize("given", [0, 4])
@pytest.mark.parametrize("policy", ALL.values(), ids=ALL)
def test_the_log_of_a_clip_makes_its_cache_again_bit_for_bit(policy: Policy, given: int, family: Family) -> None:
    run = clip(policy, [2, 3, 6], family=family, given=given)
    chunks, cache = made(run)

    class Unasked(WanDenoiser):
        def project(self, layer: int, x: Tensor) -> Tensor:
            raise AssertionError("nothing is observed again")

    assert isinstance(run.denoise, Keeping)
    again = replay_clip(replace(run, denoise=Unasked(run.denoise.model)), latents(chunks), [c.log for c in chunks])
    assert again.plan == cache.plan and again.marked == cache.marked and again.banked_frames == cache.banked_frames
    for layer in range(LAYERS):
        for head in range(HEADS):
            (frames, k, v), (frames_again, k_again, v_again) = cache.export(layer, head), again.export(layer, head)
            assert frames == frames_again
            assert torch.equal(k, k_again) and torch.equal(v, v_again)


def test_heads_that_are_observed_again_keep_what_was_banked_and_say_what_that_is_worth() -> None:
    policy = HeadForcing(num_memory=3, reclassify_chunks=3, novelty=0.0)
    with pytest.warns(UserWarning, match="banked frames are read again"):
        chunks, _ = made(clip(policy, [2, 5], frames=30))
    again = [chunk for chunk in chunks if chunk.scores is not None]
    assert len(again) > 1
    before, after = chunks[again[1].span.chunk - 1].banked, again[1].banked
    assert set(before) <= set(after) | set(range(6)) and after


def test_memory_heads_that_keep_less_than_a_chunk_are_refused() -> None:
    with pytest.raises(PlanError, match="expected heads with a bank to keep a chunk"):
        made(clip(Fixed(HeadMemory(0, 2, bank_frames=3), EpisodeEnd())))


def test_a_bank_beyond_the_trained_range_is_refused_under_own_positions() -> None:
    family = replace(FAMILY, trained_frames=21)
    for positions, match in (("rank", "rank positions"), ("end", "end positions")):
        policy = HeadForcing(0.5, bank_chunks=9, positions=positions, profile=PROFILE)
        with pytest.raises(PlanError, match=match):
            made(clip(policy, family=family, frames=60))


def test_plans_are_of_one_list_whatever_heads_keep() -> None:
    """Heads with banks of other sizes hold what of the list there is room for."""
    few, many = HeadMemory(0, 3, bank_frames=3), HeadMemory(0, 4, bank_frames=6)

    class Two(Policy):
        def plan(self, setting):
            rows = tuple(tuple([few, many] * (HEADS // 2)) for _ in range(LAYERS))
            return HeadPlan(rows, (("x",) * HEADS,) * LAYERS, bank=EpisodeEnd(0.0, False))

    chunks, cache = made(clip(Two(), [2, 4, 6]))
    small, large = cache.export(0, 0)[0], cache.export(0, 1)[0]
    assert small == [9, 10, 11, *range(21, 24)] or small == [15, 16, 17, *range(21, 24)]
    assert large[-4:] == list(range(20, 24))
    assert set(small[:-3]) <= set(large)
    assert chunks[-1].banked == tuple(large[:-4])


class Toy:
    """One layer of two heads: latents are queries, keys and values; x0 leans towards what is remembered."""

    geometry = ModelGeometry(1, 2, 32, 16, torch.device("cpu"), torch.float32)

    def project(self, layer, x):
        return x

    def __call__(self, x, sigma, text, step):
        self.cache = step.cache
        tokens = x.permute(0, 2, 3, 4, 1).flatten(2).unflatten(2, (2, 32))  # a frame of 2 x 2 latents is one token
        out = self.cache(0, tokens, tokens, tokens).flatten(2) + text.mean()
        return (0.5 * out).unflatten(2, (2, 2, 16)).permute(0, 4, 1, 2, 3) if step.output else None


@pytest.mark.parametrize("chunks", [150, pytest.param(10_000, marks=pytest.mark.proof)])
def test_memory_is_constant_however_many_episodes(chunks: int) -> None:
    denoise, shape = Toy(), LatentShape(1, 16, 3 * chunks, 2, 2)
    texts = [TEXTS[chunk // 5 % len(TEXTS)] for chunk in range(chunks)]
    policy = HeadForcing(0.5, novelty=0.0)
    run = Run(
        denoise, shape, Schedule((1.0, 0.6)), PromptSchedule.per_chunk(texts, 3), policy, FAMILY,
        SeededNoise(0, shape, 3), attend=sdpa,
    )  # fmt: skip
    banks, resident, tensors, traced, storages = set(), set(), set(), [], set()
    tracemalloc.start()
    try:
        for chunk in rollout(run):
            number = chunk.span.chunk
            if number > 20:
                resident.add(chunk.resident_bytes)
                banks.add(len(chunk.banked))
                assert chunk.history_bytes <= chunk.predicted_history_bytes
            if number in (99, chunks // 2, chunks - 1):
                gc.collect()
                tensors.add(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
                traced.append(tracemalloc.get_traced_memory()[0])
                storages.add(tuple(group.k.data_ptr() for group in denoise.cache.layers[0]))
    finally:
        tracemalloc.stop()
    assert banks == {6} and len(resident) == len(tensors) == len(storages) == 1
    assert traced[-1] - traced[0] < 100_000


def test_heads_that_are_observed_find_in_their_bank_what_was_marked_before() -> None:
    chunks, _ = made(clip(HeadForcing(0.5, first_chunk=1), [6], frames=30))
    assert [chunk.banked for chunk in chunks[1:6]] == [(), *[(0, 1, 2)] * 4]
    assert set(chunks[-1].banked) <= {0, 1, 2, 15, 16, 17}


@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_step_that_is_observed_runs_though_step_caching_would_skip_it(step: int) -> None:
    ran: list[tuple[int, bool]] = []

    class Counting(Keeping):
        def velocity(self, x, sigma, text, step):
            if step.output and sigma.any():
                ran.append((step.cache.pass_frames.start, step.residual is not None and step.residual.reuse))
            return super().velocity(x, sigma, text, step)

    policy = HeadForcing(0.5, observe_step=step)
    run = replace(clip(policy, frames=12), denoise=Counting(), steps=StepCache(frozenset({1})))
    chunks = list(rollout(run))
    assert [chunk.scores is not None for chunk in chunks] == [False, False, True, False]
    observed_last = step > 0  # a step beyond the schedule is its last
    assert [reused for _, reused in ran] == [False, True, False, True, False, not observed_last, False, True]


@pytest.mark.parametrize("positions", ["rank", "end"])
def test_heads_that_are_observed_may_leave_own_positions(positions: str) -> None:
    """Local heads go over to absolute ones: their keys are turned as if they had always been there."""
    family = replace(FAMILY, trained_frames=21)
    policy = HeadForcing(0.5, positions=positions, local_frames=3)
    chunks, cache = made(clip(policy, [3, 5], family=family, frames=30))
    absolute, _ = made(clip(replace(policy, positions="absolute"), [3, 5], family=family, frames=30))
    assert chunks[-1].banked == absolute[-1].banked
    memories = {memory.positions for row in chunks[-1].plan.memories for memory in row}
    assert memories == {positions, "absolute"}
    whole, other = latents(chunks), latents(absolute)
    assert torch.isfinite(whole).all()
    assert float((whole - other)[:, :, :9].abs().max()) < 1e-3 * float(other.abs().max())
    again = replay_clip(clip(policy, [3, 5], family=family, frames=30), whole, [c.log for c in chunks])
    for layer in range(LAYERS):
        for head in range(HEADS):
            ours, theirs = cache.export(layer, head), again.export(layer, head)
            assert ours[0] == theirs[0] and torch.equal(ours[1], theirs[1]) and torch.equal(ours[2], theirs[2])


def test_a_bank_is_emptied_with_the_first_frames_in_front_of_it() -> None:
    family = replace(RECACHING, global_sink=False)
    policy = Fixed(HeadMemory(3, 3, bank_frames=3), EpisodeEnd(0.0))
    for chunk in rollout(clip(policy, [2, 4, 6, 8], family=family, frames=30)):
        assert chunk.history_bytes <= chunk.predicted_history_bytes


@pytest.mark.parametrize(
    "policy",
    [HeadForcing(1.0, bank_chunks=6), HeadForcing(0.5), HeadBudget(budget_frames=14.0), HeadBudget()],
)
def test_what_is_made_room_for_beforehand_is_enough_behind_heads_that_are_observed(policy: Policy) -> None:
    run = clip(policy, [2, 4, 6, 8], frames=36)
    needed = kv_peak_bytes(policy, run.setting, run.kv_shape)
    chunks, _ = made(run)
    assert max(chunk.peak_bytes for chunk in chunks) <= needed
