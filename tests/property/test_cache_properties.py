"""The cache against a naive memory that keeps everything, over random plans, chunk lengths and shapes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dummyforcing_core.errors import PlanError
from dummyforcing_core.kv.attention import AttentionFn, reference, sdpa
from dummyforcing_core.kv.bank import Every
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan, KVShape
from tests.property.oracle import NaiveCache, NaiveHead

RULE = Every(1)  # what is marked is drawn, rules have tests of their own
quick = settings(deadline=None, max_examples=40)


@dataclass(frozen=True)
class Scenario:
    """A clip: its plan, chunk lengths, passes per chunk (the last is the clean one) and optional later plans."""

    plan: HeadPlan
    shape: KVShape
    chunks: tuple[int, ...]
    passes: int
    seed: int
    replans: tuple[HeadPlan | None, ...] = ()
    marked: tuple[frozenset[int], ...] = ()  # as every chunk is committed


def memories(positions: st.SearchStrategy[str]) -> st.SearchStrategy[HeadMemory]:
    anything = st.tuples(st.integers(0, 3), st.one_of(st.integers(0, 5), st.none()))
    of_equal_size = st.sampled_from(((1, 0), (0, 1), (3, 0), (0, 3), (1, 2), (2, 1)))  # these share a buffer

    def memory(counts: tuple[int, int | None], positions: str, bank: int) -> HeadMemory:
        sink, recent = counts
        reach = (40 if recent is None else 18) if positions == "end" else 0  # the shorter one is soon too short
        return HeadMemory(sink, recent, positions, bank if recent else 0, reach)

    return st.builds(memory, st.one_of(anything, of_equal_size), positions, st.sampled_from((0, 0, 1, 3)))


def plans(layers: int, heads: int, memory: st.SearchStrategy[HeadMemory]) -> st.SearchStrategy[HeadPlan]:
    row = st.lists(memory, min_size=heads, max_size=heads).map(tuple)
    table = st.lists(row, min_size=layers, max_size=layers).map(tuple)
    return table.map(lambda rows: HeadPlan(rows, (("any",) * heads,) * layers, bank=RULE))


@st.composite
def scenarios(draw, replanned: bool = False) -> Scenario:
    layers, heads = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    plan = draw(plans(layers, heads, memories(st.sampled_from(("absolute", "rank", "end")))))
    chunk = draw(st.integers(1, 4))
    chunks = (chunk,) * draw(st.integers(1, 5)) + (draw(st.integers(1, chunk)),)
    rows, cols = draw(st.sampled_from(((1, 2), (2, 2), (1, 1), (2, 1))))
    shape = KVShape(
        batch=draw(st.integers(1, 2)),
        rows=rows,
        cols=cols,
        head_dim=draw(st.sampled_from((6, 8, 32))),
        element_bytes=4,
        clip_frames=sum(chunks) + draw(st.integers(0, 2)),
        pass_frames=chunk + draw(st.integers(0, 2)),
    )
    other = st.one_of(st.none(), plans(layers, heads, memories(st.just("absolute"))))
    replans = tuple(draw(st.lists(other, min_size=len(chunks), max_size=len(chunks)))) if replanned else ()
    some = st.frozensets(st.integers(0, sum(chunks)), max_size=8)
    marked = tuple(draw(st.lists(some, min_size=len(chunks), max_size=len(chunks))))
    return Scenario(plan, shape, chunks, draw(st.integers(1, 3)), draw(st.integers(0, 2**20)), replans, marked)


@dataclass(frozen=True)
class Moment:
    """The state just after a pass, or just after a commit or repack ("between")."""

    kind: str
    cache: KVCache
    naive: NaiveCache
    plan: HeadPlan
    outputs: tuple[tuple[Tensor, Tensor], ...] = ()


def drawn_qkv(shape: KVShape, heads: int, frames: int, generator: torch.Generator) -> list[Tensor]:
    size = (shape.batch, frames * shape.frame_tokens, heads, shape.head_dim)
    return [torch.randn(size, generator=generator) for _ in range(3)]


def reachable(plan: HeadPlan, naive: NaiveCache) -> HeadPlan:
    """`plan` with the positions that heads have, and without the sinks that they have lost."""
    rows = []
    for heads, wanted in zip(naive.heads, plan.memories, strict=True):
        row = []
        for head, memory in zip(heads, wanted, strict=True):
            sink = memory.sink_frames if head.can_become(memory, naive.committed) else 0
            own = head.memory
            memory = replace(memory, sink_frames=sink, positions=own.positions, range_frames=own.range_frames)
            row.append(memory)
        rows.append(tuple(row))
    return HeadPlan(tuple(rows), plan.roles, bank=RULE)


def resolved(plan: HeadPlan, clip_frames: int) -> HeadPlan:
    """The plan in counts that a clip of this length has room for."""
    return replace(plan, memories=tuple(tuple(memory.within(clip_frames) for memory in row) for row in plan.memories))


def play(scenario: Scenario, attend: AttentionFn = reference) -> Iterator[Moment]:
    """Runs cache and naive memory side by side on the same random tensors."""
    plan, shape = scenario.plan, scenario.shape
    cache = KVCache(plan, shape, attend=attend)
    naive = NaiveCache(resolved(plan, shape.clip_frames), shape.rows, shape.cols, shape.pass_frames)
    generator = torch.Generator().manual_seed(scenario.seed)
    for chunk, frames in enumerate(scenario.chunks):
        cache.begin(naive.committed, frames)
        for _ in range(scenario.passes):
            qkv = [drawn_qkv(shape, plan.heads, frames, generator) for _ in range(plan.layers)]
            outputs = tuple((cache(layer, *x), naive.attend(layer, *x)) for layer, x in enumerate(qkv))
            yield Moment("pass", cache, naive, plan, outputs)
        cache.marked = naive.marked = scenario.marked[chunk]
        cache.commit()
        naive.commit([(k, v) for _, k, v in qkv])
        yield Moment("between", cache, naive, plan)
        if scenario.replans and scenario.replans[chunk]:
            plan = reachable(scenario.replans[chunk], naive)
            cache.repack(plan)
            naive.repack(resolved(plan, shape.clip_frames))
            yield Moment("between", cache, naive, plan)


def every_head(plan: HeadPlan) -> list[tuple[int, int]]:
    return [(layer, head) for layer in range(plan.layers) for head in range(plan.heads)]


def check_outputs(moment: Moment) -> None:
    for ours, theirs in moment.outputs:
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


def check_contents(moment: Moment) -> None:
    for layer, head in every_head(moment.plan):
        frames, k, v = moment.cache.export(layer, head)
        assert frames == moment.naive.held(layer, head)
        if moment.naive.committed == 0:
            assert k.numel() == v.numel() == 0
            continue
        expected_k, expected_v = moment.naive.stored(layer, head)
        assert torch.equal(v.double(), expected_v), "values are stored bit for bit"
        torch.testing.assert_close(k.double(), expected_k, rtol=1e-5, atol=1e-5)


@quick
@given(scenarios(), st.sampled_from((reference, sdpa)))
def test_every_pass_equals_dense_attention_over_the_frames_a_head_may_see(scenario, attend):
    for moment in play(scenario, attend):
        check_outputs(moment)


@quick
@given(scenarios())
def test_every_head_holds_exactly_its_frames_in_temporal_order(scenario):
    for moment in play(scenario):
        check_contents(moment)


@quick
@given(scenarios(replanned=True))
def test_repacked_heads_see_and_hold_what_was_left_to_them(scenario):
    for moment in play(scenario):
        check_outputs(moment)
        check_contents(moment)


@quick
@given(scenarios(replanned=True))
def test_noisy_passes_leave_committed_history_bit_identical(scenario):
    committed: list[Tensor] = []
    for moment in play(replace(scenario, passes=3)):
        held = [x for layer, head in every_head(moment.plan) for x in moment.cache.export(layer, head)[1:]]
        if moment.kind == "pass" and committed:
            assert all(torch.equal(now, before) for now, before in zip(held, committed, strict=True))
        committed = [x.clone() for x in held]


@quick
@given(scenarios())
def test_bytes_equal_the_plans_price_at_every_moment(scenario):
    for moment in play(scenario):
        cache, plan, shape = moment.cache, moment.plan, scenario.shape
        assert cache.resident_bytes == plan.resident_bytes(shape)
        assert cache.history_bytes <= plan.history_bytes(shape, moment.naive.committed)
        if not plan.bank_frames:  # a bank fills when there is something to keep
            assert cache.history_bytes == plan.history_bytes(shape, moment.naive.committed)
        for layer, groups in enumerate(cache.layers):
            assert sum(group.resident_bytes for group in groups) == plan.layer_bytes(shape, layer)
        buffers = {x.data_ptr(): x for groups in cache.layers for g in groups for x in (g.k, g.v, g.raw_k)}
        assert sum(x.untyped_storage().nbytes() for x in buffers.values()) == plan.resident_bytes(shape)


@quick
@given(scenarios(replanned=True))
def test_bytes_after_repacks_are_the_new_plans_and_history_never_above_its_price(scenario):
    for moment in play(scenario):
        cache, naive = moment.cache, moment.naive
        held = sum(len(naive.held(layer, head)) for layer, head in every_head(moment.plan))
        assert cache.resident_bytes == moment.plan.resident_bytes(scenario.shape)
        assert cache.history_bytes == held * scenario.shape.frame_bytes
        assert cache.history_bytes <= moment.plan.history_bytes(scenario.shape, naive.committed)


@quick
@given(scenarios(replanned=True))
def test_regions_tile_the_live_view_and_name_its_frames(scenario):
    shape = scenario.shape
    for moment in play(scenario):
        cache, naive = moment.cache, moment.naive
        now = range(naive.committed, naive.committed + len(cache.pass_frames))
        assert moment.kind == "between" or len(now) > 0
        for layer, head in every_head(moment.plan):
            group = next(group for group in cache.layers[layer] if head in group.heads)
            _, v = group.views(len(now))
            regions = cache.regions(layer, head)
            assert [region.name for region in regions[:2]] == ["current", "sink"]
            assert {region.name for region in regions[2:]} <= {"bank", "recent"}
            edges = [0, *(region.stop_token for region in regions)]
            assert [region.start_token for region in regions] == edges[:-1]
            assert edges[-1] == v.shape[1]
            current, sink, *rest = regions
            named = {name: [f for r in rest if r.name == name for f in r.frames] for name in ("bank", "recent")}
            assert current.frames == tuple(now)
            assert list(sink.frames) == naive.heads[layer][head].pinned(naive.committed)
            assert sorted(named["recent"]) == naive.heads[layer][head].recent(naive.committed)
            assert sorted(named["bank"]) == naive.heads[layer][head].banked
            i = group.heads.index(head)
            for region in (sink, *rest):
                shown = v[:, region.start_token : region.stop_token, i].split(shape.frame_tokens, dim=1)
                assert len(region.frames) == 0 or len(shown) == len(region.frames)
                for frame, values in zip(region.frames, shown, strict=False):
                    assert torch.equal(values.double(), naive.v[layer][frame][:, :, head])


@quick
@given(scenarios())
def test_grouped_heads_equal_a_loop_over_caches_of_one_head(scenario):
    plan, shape = scenario.plan, scenario.shape
    grouped = KVCache(plan, shape, attend=reference)
    alone = [
        [KVCache(HeadPlan(((memory,),), (("any",),), bank=RULE), shape, attend=reference) for memory in row]
        for row in plan.memories
    ]
    generator = torch.Generator().manual_seed(scenario.seed)
    start = 0
    for frames, marked in zip(scenario.chunks, scenario.marked, strict=True):
        for cache in (grouped, *(cache for row in alone for cache in row)):
            cache.begin(start, frames)
            cache.marked = marked
        for layer in range(plan.layers):
            qkv = drawn_qkv(shape, plan.heads, frames, generator)
            together = grouped(layer, *qkv)
            one_by_one = [alone[layer][h](0, *(x[:, :, h : h + 1] for x in qkv)) for h in range(plan.heads)]
            torch.testing.assert_close(together, torch.cat(one_by_one, dim=2), rtol=1e-5, atol=1e-6)
        for cache in (grouped, *(cache for row in alone for cache in row)):
            cache.commit()
        start += frames


@quick
@given(scenarios(), st.integers(0, 3))
def test_a_plan_that_covers_the_clip_equals_full_attention(scenario, sink):
    plan, shape = scenario.plan, scenario.shape
    sink = min(sink, shape.clip_frames)
    full = HeadPlan.uniform(plan.layers, plan.heads, HeadMemory(), "full")
    cover = HeadPlan.uniform(plan.layers, plan.heads, HeadMemory(sink, shape.clip_frames - sink), "cover")
    caches = [KVCache(cover, shape, attend=sdpa), KVCache(full, shape, attend=sdpa)]
    generator = torch.Generator().manual_seed(scenario.seed)
    start = 0
    every_k, every_v = [[] for _ in range(plan.layers)], [[] for _ in range(plan.layers)]
    for frames in scenario.chunks:
        for cache in caches:
            cache.begin(start, frames)
        for layer in range(plan.layers):
            q, k, v = drawn_qkv(shape, plan.heads, frames, generator)
            covered, dense = (cache(layer, q, k, v) for cache in caches)
            assert torch.equal(covered, dense)
            every_k[layer].append(k)
            every_v[layer].append(v)
            naive = NaiveCache(HeadPlan.uniform(1, plan.heads, HeadMemory(), "full"), shape.rows, shape.cols)
            for earlier in zip(every_k[layer][:-1], every_v[layer][:-1], strict=True):
                naive.commit([earlier])
            torch.testing.assert_close(dense.double(), naive.attend(0, q, k, v), rtol=1e-4, atol=1e-5)
        for cache in caches:
            cache.commit()
        start += frames


@quick
@given(scenarios())
def test_a_clean_pass_that_only_stores_commits_the_same_bits(scenario):
    plan, shape = scenario.plan, scenario.shape
    called, stored = KVCache(plan, shape, attend=reference), KVCache(plan, shape, attend=reference)
    generator = torch.Generator().manual_seed(scenario.seed)
    start = 0
    for frames in scenario.chunks:
        called.begin(start, frames)
        stored.begin(start, frames)
        for layer in range(plan.layers):
            q, k, v = drawn_qkv(shape, plan.heads, frames, generator)
            noise = drawn_qkv(shape, plan.heads, frames, generator)
            stored(layer, *noise)  # what an earlier noisy pass left in `current` must not survive
            called(layer, q, k, v)
            stored.store(layer, k, v)
        called.commit()
        stored.commit()
        start += frames
        for layer, head in every_head(plan):
            ours, theirs = stored.export(layer, head), called.export(layer, head)
            assert ours[0] == theirs[0]
            assert torch.equal(ours[1], theirs[1])
            assert torch.equal(ours[2], theirs[2])


@quick
@given(
    memories(st.just("absolute")).filter(lambda m: m.recent_frames is None or m.recent_frames > 0),
    memories(st.just("absolute")),
    st.integers(1, 9),
)
def test_repack_refuses_a_sink_exactly_when_one_of_its_frames_is_lost(before, after, committed):
    """Of heads that have a ring; those without one are in the unit tests."""
    shape = KVShape(batch=1, rows=1, cols=1, head_dim=6, element_bytes=4, clip_frames=12, pass_frames=1)
    before, after = before.within(12), after.within(12)
    cache, naive = KVCache(HeadPlan(((before,),), (("any",),), bank=RULE), shape), NaiveHead(before)
    x = torch.zeros(1, 1, 1, 6)
    for frame in range(committed):
        cache.begin(frame, 1)
        cache.store(0, x, x)
        cache.commit()
        naive.settle(frame + 1)
    plan = HeadPlan(((after,),), (("any",),), bank=RULE)
    if naive.can_become(after, committed):
        cache.repack(plan)
        naive.become(after, committed)
        assert cache.export(0, 0)[0] == naive.visible(committed)
    else:
        with pytest.raises(PlanError, match="first frames are gone"):
            cache.repack(plan)
