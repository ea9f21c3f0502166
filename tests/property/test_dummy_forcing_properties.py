"""Dummy Forcing through the real rollout on a tiny random model: what every head holds, when, and what it costs."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dummyforcing_core.errors import PlanError
from dummyforcing_core.kv.attention import reference, sdpa
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan, KVShape
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.loops.clip_memory import replay
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.models.denoiser import Step, WanDenoiser
from dummyforcing_core.models.stepcache import StepCache
from dummyforcing_core.policies import DummyForcing, Policy
from dummyforcing_core.policies.profile import HeadProfile
from tests.property.dummy_runs import (
    MODEL,
    PROMPT,
    ROLE_NAMES,
    SCHEDULE,
    Case,
    GivenRoles,
    Watched,
    all_heads,
    held,
    latents,
    relative,
    spans,
)
from tests.property.oracle import NaiveCache
from tests.property.tiny import HEADS, LAYERS

# -- frame sets ------------------------------------------------------------------------------------------------------

WIDE = "unclassified"


@dataclass(frozen=True)
class FrameSets:
    """What heads hold once each chunk is committed. `wide`: up to the one before the observed chunk."""

    policy: GivenRoles
    chunk: int
    frames: int
    wide: list[list[int]]
    sink: list[list[int]]
    neighbour: list[list[int]]
    dummy: list[list[int]]
    given: int = 0


FRAME_SETS = {
    "the paper's: F 3, observe 1, lc 1": FrameSets(
        GivenRoles(observe_chunk=1), 3, 12,
        wide=[[0, 1, 2]],
        sink=[[0]] * 3, neighbour=[[3, 4, 5], [6, 7, 8], [9, 10, 11]], dummy=[[5], [8], [11]],
    ),
    "auto is chunk 1 at F 3": FrameSets(
        GivenRoles(), 3, 9,
        wide=[[0, 1, 2]], sink=[[0]] * 2, neighbour=[[3, 4, 5], [6, 7, 8]], dummy=[[5], [8]],
    ),
    "F 3, observe 1, lc 2": FrameSets(
        GivenRoles(local_chunks=2), 3, 15,
        wide=[[0, 1, 2]],
        sink=[[0]] * 4, neighbour=spans((1, 6), (3, 9), (6, 12), (9, 15)), dummy=[[5], [8], [11], [14]],
    ),
    "F 3, observe 2, lc 1: not dense before": FrameSets(
        GivenRoles(observe_chunk=2), 3, 12,
        wide=[[0, 1, 2], [0, 3, 4, 5]], sink=[[0]] * 2, neighbour=[[6, 7, 8], [9, 10, 11]], dummy=[[8], [11]],
    ),
    "F 3, observe 2, lc 2": FrameSets(
        GivenRoles(observe_chunk=2, local_chunks=2), 3, 15,
        wide=[[0, 1, 2], [0, 1, 2, 3, 4, 5]],
        sink=[[0]] * 3, neighbour=spans((3, 9), (6, 12), (9, 15)), dummy=[[8], [11], [14]],
    ),
    "bare dummies": FrameSets(
        GivenRoles(packed_frames=0), 3, 12,
        wide=[[0, 1, 2]], sink=[[0]] * 3, neighbour=[[3, 4, 5], [6, 7, 8], [9, 10, 11]], dummy=[[]] * 3,
    ),
    "two packed frames, two sink frames": FrameSets(
        GivenRoles(packed_frames=2, sink_frames=2), 3, 12,
        wide=[[0, 1, 2]],
        sink=[[0, 1]] * 3, neighbour=[[3, 4, 5], [6, 7, 8], [9, 10, 11]], dummy=[[4, 5], [7, 8], [10, 11]],
    ),
    "more packed than local frames, which widens the window": FrameSets(
        GivenRoles(packed_frames=5), 3, 12,
        wide=[[0, 1, 2]],
        sink=[[0]] * 3, neighbour=[[3, 4, 5], [6, 7, 8], [9, 10, 11]], dummy=spans((1, 6), (4, 9), (7, 12)),
    ),
    "F 1: auto is the first chunk with a neighbour": FrameSets(
        GivenRoles(), 1, 5,
        wide=[[0], [0, 1]], sink=[[0]] * 3, neighbour=[[2], [3], [4]], dummy=[[2], [3], [4]],
    ),
    "F 1, two sink frames: one chunk later": FrameSets(
        GivenRoles(sink_frames=2), 1, 6,
        wide=[[0], [0, 1], [0, 1, 2]], sink=[[0, 1]] * 3, neighbour=[[3], [4], [5]], dummy=[[3], [4], [5]],
    ),
    "F 1, observed where there is no neighbour yet": FrameSets(
        GivenRoles(observe_chunk=1), 1, 4,
        wide=[[0]], sink=[[0]] * 3, neighbour=[[1], [2], [3]], dummy=[[1], [2], [3]],
    ),
    "F 1, two packed frames, lc 3": FrameSets(
        GivenRoles(packed_frames=2, local_chunks=3), 1, 6,
        wide=[[0], [0, 1]],
        sink=[[0]] * 4, neighbour=spans((1, 3), (1, 4), (2, 5), (3, 6)), dummy=spans((1, 3), (2, 4), (3, 5), (4, 6)),
    ),
    "one given frame: auto is chunk 2": FrameSets(
        GivenRoles(), 3, 10, given=1,
        wide=[[0], [0, 1, 2, 3]], sink=[[0]] * 2, neighbour=[[4, 5, 6], [7, 8, 9]], dummy=[[6], [9]],
    ),
    "a long given start: auto is the first chunk after it": FrameSets(
        GivenRoles(), 3, 11, given=5,
        wide=[[0, 2, 3, 4]], sink=[[0]] * 2, neighbour=[[5, 6, 7], [8, 9, 10]], dummy=[[7], [10]],
    ),
    "a short last chunk": FrameSets(
        GivenRoles(), 3, 8,
        wide=[[0, 1, 2]], sink=[[0]] * 2, neighbour=[[3, 4, 5], [5, 6, 7]], dummy=[[5], [7]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FRAME_SETS)
def test_frame_sets(case: str):
    golden = FRAME_SETS[case]
    run = Case(golden.policy, golden.frames, golden.chunk, given=golden.given)
    local = golden.policy.local_chunks * golden.chunk
    wide = HeadMemory(golden.policy.sink_frames, max(local, golden.policy.packed_frames))
    memories = {
        "sink": HeadMemory(golden.policy.sink_frames, 0),
        "neighbour": HeadMemory(0, local),
        "dummy": HeadMemory(0, golden.policy.packed_frames),
        WIDE: wide,
    }
    expected = [{WIDE: frames} for frames in golden.wide]
    narrow = zip(golden.sink, golden.neighbour, golden.dummy, strict=True)
    expected += [dict(zip(ROLE_NAMES, sets, strict=True)) for sets in narrow]
    found = []
    for chunk in run.iterate():
        found.append(held(run.denoise.cache, chunk.plan))
        for layer, head in all_heads():
            assert chunk.plan.memories[layer][head] == memories[chunk.plan.roles[layer][head]]
        assert (chunk.scores is not None) == (len(found) == len(golden.wide) + 1)
    assert found == expected


def test_what_queries_see_in_the_observed_chunk_and_behind_it():
    """METHODS: F 3, lc 1. a1 is scored as {0 | 1, 2 | 3, 4, 5}; a2 sees {0 | ..}, {5 | ..}, {3, 4, 5 | ..}."""
    seen: dict[tuple[int, bool], set] = {}

    class Looking(Watched):
        def __call__(self, x, sigma, context, step):
            frames, clean = step.cache.pass_frames, not bool(sigma.any())
            for layer, head in all_heads():
                regions = {r.name: tuple(sorted(r.frames)) for r in step.cache.regions(layer, head)}
                assert regions["current"] == tuple(frames)
                seen.setdefault((frames.start, clean), set()).add((regions["sink"], regions["recent"]))
            return super().__call__(x, sigma, context, step)

    Case(GivenRoles(), 12, denoise=Looking()).chunks()
    at = {0: {((), ())}, 3: {((0,), (1, 2))}}
    at |= {s: {((0,), ()), ((), (s - 1,)), ((), (s - 3, s - 2, s - 1))} for s in (6, 9)}
    assert seen == {(start, clean): sets for start, sets in at.items() for clean in (False, True)}


@pytest.mark.parametrize(
    ("frames", "chunk", "given"), [(3, 3, 0), (2, 3, 0), (2, 1, 0), (1, 1, 0), (4, 3, 1), (5, 3, 5)]
)
def test_a_clip_too_short_to_be_classified_keeps_the_window(frames: int, chunk: int, given: int):
    run = Case(DummyForcing(), frames, chunk, given=given)
    for result in run.iterate():
        assert result.scores is None
        assert {role for row in result.plan.roles for role in row} == {WIDE}
        assert result.peak_bytes == result.resident_bytes == result.plan.resident_bytes(run.priced)


@pytest.mark.parametrize(
    ("frames", "chunk", "given", "observe", "last"),
    [(6, 3, 0, 2, 1), (3, 1, 0, 3, 2), (5, 3, 2, 2, 1), (2, 3, 0, 1, 0)],
)
def test_an_observed_chunk_beyond_the_clip_is_refused(frames: int, chunk: int, given: int, observe: int, last: int):
    with pytest.raises(PlanError, match=f"of at most {last}, the clip's last chunk, got {observe}"):
        Case(DummyForcing(observe_chunk=observe), frames, chunk, given=given).chunks()
    if last:
        chunks = Case(DummyForcing(observe_chunk=last), frames, chunk, given=given).chunks()
        assert [c.scores is not None for c in chunks] == [False] * last + [True]


@pytest.mark.parametrize("policy", [GivenRoles(), DummyForcing(), DummyForcing(packed_frames=0, sink_frames=2)])
def test_chunks_up_to_the_observed_one_are_those_of_the_window(policy: DummyForcing):
    ours = latents(Case(policy).chunks())
    dense = latents(Case(Uniform(HeadMemory(policy.sink_frames, 3))).chunks())
    assert torch.equal(ours[:, :, :6], dense[:, :, :6])
    assert relative(ours[:, :, 6:], dense[:, :, 6:]) > 1e-3


# -- memory and calls ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Uniform(Policy):
    """One memory for all, or a whole plan outright."""

    memory: HeadMemory | HeadPlan
    name: ClassVar[str] = "uniform"

    def plan(self, setting):
        if isinstance(self.memory, HeadPlan):
            return self.memory
        return HeadPlan.uniform(setting.layers, setting.heads, self.memory, "any")


PRICED = {
    "lc 1": GivenRoles(),
    "observe 2": GivenRoles(observe_chunk=2),
    "bare dummies": GivenRoles(packed_frames=0),
    "two packed, two sinks": GivenRoles(packed_frames=2, sink_frames=2),
    "no dummy": GivenRoles(num_dummy=0),
    "all dummies": GivenRoles(num_dummy=LAYERS * HEADS),
    "all dummies, bare": GivenRoles(num_dummy=LAYERS * HEADS, packed_frames=0),
}


@pytest.mark.parametrize("case", PRICED)
@pytest.mark.parametrize("batch", [1, 2])
def test_bytes_are_as_priced_and_memory_is_freed_at_regrouping(case: str, batch: int):
    run = Case(PRICED[case], 13, batch=batch)
    chunks = run.chunks()
    observed = next(i for i, c in enumerate(chunks) if c.scores is not None)
    wide, narrow = chunks[0].plan, chunks[-1].plan
    for i, chunk in enumerate(chunks):
        plan = wide if i < observed else narrow
        assert chunk.plan == plan
        assert chunk.history_bytes == plan.history_bytes(run.priced, chunk.span.stop)
        assert chunk.resident_bytes == plan.resident_bytes(run.priced)
        peak = wide.repack_peak_bytes(run.priced, narrow) if i == observed else plan.resident_bytes(run.priced)
        assert chunk.peak_bytes == peak
    assert narrow.resident_bytes(run.priced) < wide.resident_bytes(run.priced)
    capacity = sum(narrow.cached_frames(13))
    before = [wide.history_bytes(run.priced, c.span.start) // run.priced.frame_bytes for c in chunks[: observed + 1]]
    full_wide = before[-1] == sum(wide.cached_frames(13))
    assert [c.window_full for c in chunks] == [False] * observed + [full_wide] + [True] * (len(chunks) - observed - 1)
    assert chunks[-1].history_bytes == capacity * run.priced.frame_bytes


def test_history_is_as_priced_also_right_after_regrouping_to_a_longer_window():
    """The price is an upper bound until the ring of a neighbour head, which lost the pinned frame, is full."""
    run = Case(GivenRoles(local_chunks=2), 6)
    last = run.chunks()[-1]
    neighbours = sum(row.count("neighbour") for row in last.plan.roles)
    assert last.plan.history_bytes(run.priced, 6) - last.history_bytes == neighbours * run.priced.frame_bytes > 0
    later = Case(GivenRoles(local_chunks=2), 9)
    last = later.chunks()[-1]
    assert last.history_bytes == last.plan.history_bytes(later.priced, 9)


def calls_per_pass(policy: Policy, frames: int = 12, chunk: int = 3) -> dict[int, set[int]]:
    """Self-attention calls of one layer, by the pass's first frame."""
    run, calls, counts = Case(policy, frames, chunk), [], {}

    def attend(q, k, v):
        calls.append(k.shape[1])
        return sdpa(q, k, v)

    def count(span, step):
        if calls:
            counts.setdefault(at[0], set()).add(len(calls))
        calls.clear()
        at[:] = [span.start]

    at: list[int] = []
    denoise = run.denoise
    inner = KVCache.__call__

    def only_first_layer(cache, layer, q, k, v):
        before = list(calls)
        out = inner(cache, layer, q, k, v)
        calls[:] = before + calls[len(before) :] if layer == 0 else before
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KVCache, "__call__", only_first_layer)
        patch.setattr("dummyforcing_core.models.wan._cross_attention", lambda attn, x, kv, attend: torch.zeros_like(x))
        list(rollout(replace(run.run, denoise=denoise, policy=policy, attend=attend, on_step=count)))
    return counts


@pytest.mark.parametrize(
    ("policy", "chunk", "narrow"),
    [
        (GivenRoles(), 3, 2),  # sink and dummy heads share one call
        (GivenRoles(local_chunks=2), 3, 2),
        (GivenRoles(packed_frames=2, sink_frames=2), 3, 2),
        (GivenRoles(packed_frames=2), 3, 3),  # three lengths
        (GivenRoles(packed_frames=0), 3, 3),
        (GivenRoles(packed_frames=3), 3, 2),  # dummy and neighbour heads share one
        (GivenRoles(), 1, 1),  # all lengths equal
        (GivenRoles(num_dummy=LAYERS * HEADS), 3, 1),
        (GivenRoles(num_dummy=0), 3, 2),
    ],
)
def test_heads_of_equal_length_share_one_attention_call(policy: DummyForcing, chunk: int, narrow: int):
    counts = calls_per_pass(policy, 4 * chunk, chunk)
    observed = 1 if chunk == 3 else 2
    assert {start: n for start, n in counts.items() if start <= observed * chunk} == {
        i * chunk: {1} for i in range(observed + 1)
    }
    assert {n for start, ns in counts.items() if start > observed * chunk for n in ns} == {narrow}


ROLE_TABLES = st.lists(st.sampled_from(ROLE_NAMES), min_size=HEADS, max_size=HEADS)


@settings(deadline=None, max_examples=30)
@given(
    ROLE_TABLES, st.integers(0, 2), st.integers(1, 2), st.integers(1, 2), st.sampled_from((1, 3)), st.integers(1, 2),
    st.integers(0, 99),
)  # fmt: skip
def test_packed_attention_equals_a_loop_over_heads_equals_masked_dense_attention(
    roles, packed, sink, local_chunks, chunk, observe, seed
):
    """Any mix of roles in a layer, empty groups and one-group layers among them; re-grouped behind chunk `observe`."""
    tokens, dim, clip = 2, 12, 5 * chunk
    shape = KVShape(1, 1, 2, dim, 4, clip, chunk)
    local = local_chunks * chunk
    memory = {"sink": HeadMemory(sink, 0), "neighbour": HeadMemory(0, local), "dummy": HeadMemory(0, packed)}
    wide = HeadPlan.uniform(1, HEADS, HeadMemory(sink, max(local, packed)), WIDE)
    narrow = HeadPlan((tuple(memory[r] for r in roles),), (tuple(roles),))
    cache, naive = KVCache(wide, shape, attend=reference), NaiveCache(wide, 1, 2)
    alone = [KVCache(HeadPlan(((m,),), ((WIDE,),)), replace(shape), attend=reference) for m in wide.memories[0]]
    g = torch.Generator().manual_seed(seed)
    for a in range(5):
        q, k, v = (torch.randn(1, chunk * tokens, HEADS, dim, generator=g) for _ in range(3))
        for one in (cache, *alone):
            one.begin(a * chunk, chunk)
        grouped = cache(0, q, k, v)
        looped = torch.cat([c(0, *(x[:, :, h : h + 1] for x in (q, k, v))) for h, c in enumerate(alone)], dim=2)
        torch.testing.assert_close(grouped, looped, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(grouped, naive.attend(0, q, k, v).float(), rtol=1e-4, atol=1e-4)
        naive.commit([(k, v)])
        for one in (cache, *alone):
            one.commit()
        if a == observe:
            cache.repack(narrow)
            naive.repack(narrow)
            for h, one in enumerate(alone):
                one.repack(HeadPlan(((narrow.memories[0][h],),), ((roles[h],),)))


def test_the_keys_of_sink_heads_stay_bit_for_bit():
    run, kept = Case(GivenRoles(), 15), []
    for chunk in run.iterate():
        if chunk.plan.roles[0][0] == "sink":
            kept.append([x.clone() for layer in range(LAYERS) for x in run.denoise.cache.export(layer, 0)[1:]])
        else:
            first = [x.clone() for layer in range(LAYERS) for x in run.denoise.cache.export(layer, 0)[1:]]
    assert len(kept) == 4
    for now in kept:
        for ours, before, wide in zip(now, kept[0], first, strict=True):
            assert torch.equal(ours, before)
            assert torch.equal(ours, wide[:, : ours.shape[1]])


# -- which heads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "dummies"),
    [({}, 4), ({"dummy_ratio": 0.25}, 2), ({"num_dummy": 3}, 3), ({"num_dummy": 0}, 0), ({"dummy_ratio": 1.0}, 8),
     ({"dummy_ratio": 0.0}, 0), ({"num_dummy": 1, "dummy_ratio": 1.0}, 1)],
)  # fmt: skip
def test_exactly_as_many_dummy_heads_as_asked_for(options: dict, dummies: int):
    run = Case(DummyForcing(**options), 9)
    chunk = run.chunks()[-1]
    assert sum(row.count("dummy") for row in chunk.plan.roles) == dummies
    assert torch.isfinite(chunk.latent).all()


def test_scores_are_what_the_clean_pass_of_the_observed_chunk_gives():
    run = Case(DummyForcing(), 9)
    chunks = run.chunks()
    scores = chunks[1].scores
    assert [c.scores is not None for c in chunks] == [False, True, False]
    assert scores.mass.std() > 0.01
    torch.testing.assert_close(scores.mass.sum(-1), torch.ones(LAYERS, HEADS))
    cache = run.run.new_cache()
    done = latents(chunks)
    replay(run.run, cache, done[:, :, :3])
    frame_masses: dict[tuple[int, int], list[float]] = {}

    def look(layer, heads, q, k, v, regions):
        weights = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()).div(q.shape[-1] ** 0.5).softmax(-1)
        by_name = {r.name: weights[..., r.start_token : r.stop_token].sum(-1).mean((0, 2)) for r in regions}
        for i, head in enumerate(heads):
            frame_masses[layer, head] = [float(by_name[name][i]) for name in ("sink", "recent", "current")]

    cache.begin(3, 3, look)
    with torch.inference_mode():
        run.denoise(done[:, :, 3:6], torch.zeros(1, 3), PROMPT, Step(cache))
    expected = torch.tensor([frame_masses[place] for place in all_heads()]).view(LAYERS, HEADS, 3)
    torch.testing.assert_close(scores.mass, expected, rtol=1e-4, atol=1e-5)


def test_the_plan_of_a_batch_comes_from_the_mean_over_its_items():
    together = Case(DummyForcing(), 9, batch=2, seed=10).chunks()[1]
    alone = [Case(DummyForcing(), 9, seed=10 + item).chunks()[1].scores.mass for item in range(2)]
    assert relative(alone[0], alone[1]) > 1e-3
    torch.testing.assert_close(together.scores.mass, sum(alone) / 2, rtol=1e-3, atol=1e-4)
    mean = DummyForcing(profile=HeadProfile(HeadScores(sum(alone) / 2)))
    assert together.plan.memories == Case(mean, 9).chunks()[0].plan.memories


def test_a_stride_scores_fewer_rows_and_says_about_the_same():
    exact, strided = (Case(DummyForcing(score_stride=n), 6).chunks()[1].scores.mass for n in (1, 2))
    assert not torch.equal(exact, strided)
    torch.testing.assert_close(strided, exact, rtol=0, atol=0.1)


# -- step caching beside it ------------------------------------------------------------------------------------------


def test_an_empty_skip_list_equals_off_bit_for_bit():
    off = Case(DummyForcing()).chunks()
    empty = Case(DummyForcing(), steps=StepCache.explicit([], SCHEDULE)).chunks()
    assert torch.equal(latents(empty), latents(off))


def test_skipping_changes_the_clip_and_only_clean_passes_fill_the_cache():
    run = Case(GivenRoles(), steps=StepCache.explicit([1], SCHEDULE))
    done = []
    for chunk in run.iterate():
        done.append(chunk.latent)
        if chunk.span.chunk > 1:
            continue
        wide = replace(run.run, denoise=WanDenoiser(MODEL), policy=Uniform(HeadMemory(1, 3)))
        rebuilt = wide.new_cache()
        replay(wide, rebuilt, torch.cat(done, dim=2))
        for layer, head in all_heads():
            ours, held = run.denoise.caches[0]().export(layer, head), rebuilt.export(layer, head)
            places = [held[0].index(frame) for frame in ours[0]]
            for mine, theirs in zip(ours[1:], held[1:], strict=True):
                assert torch.equal(mine.unflatten(1, (-1, 4)), theirs.unflatten(1, (-1, 4))[:, places])
    assert relative(torch.cat(done, dim=2), latents(Case(GivenRoles()).chunks())) > 1e-3
