"""The cache by example: Dummy Forcing's frame sets, refusals, memory while repacking, number of attention calls."""

import weakref

import pytest
import torch

from dummyforcing_core.errors import PlanError
from dummyforcing_core.kv import cache as cache_module
from dummyforcing_core.kv.attention import reference
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.group_buffer import GroupBuffer
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan, KVShape

SINK, DUMMY = HeadMemory(1, 0), HeadMemory(0, 1)


def neighbour(frames: int) -> HeadMemory:
    return HeadMemory(0, frames)


def shape_of(clip_frames: int, pass_frames: int = 3, **changes) -> KVShape:
    plain = {"batch": 1, "rows": 1, "cols": 2, "head_dim": 6, "element_bytes": 4}
    return KVShape(**{**plain, **changes}, clip_frames=clip_frames, pass_frames=pass_frames)


def plan_of(*rows: tuple[HeadMemory, ...]) -> HeadPlan:
    return HeadPlan(rows, tuple(("any",) * len(row) for row in rows))


def stage(cache: KVCache, start: int, frames: int) -> None:
    """One pass over all layers; every value names its frame: v = frame + head / 100."""
    shape, heads = cache.shape, cache.plan.heads
    cache.begin(start, frames)
    frame = torch.arange(start, start + frames).float().repeat_interleave(shape.frame_tokens)
    v = frame[None, :, None, None] + torch.arange(heads)[:, None] / 100
    v = v.expand(shape.batch, -1, heads, shape.head_dim)
    for layer in range(cache.plan.layers):
        cache(layer, torch.ones_like(v), torch.ones_like(v), v)


def write(cache: KVCache, start: int, frames: int) -> None:
    stage(cache, start, frames)
    cache.commit()


def held(cache: KVCache, layer: int = 0) -> list[list[int]]:
    """Frames of every head: the indices that the cache names, which must be those that the values carry."""
    result = []
    for head in range(cache.plan.heads):
        frames, _, v = cache.export(layer, head)
        carried = (v[0, :: cache.shape.frame_tokens, 0] - head / 100).round().int().tolist()
        assert frames == carried
        result.append(frames)
    return result


def seen(cache: KVCache, start: int, frames: int) -> list[dict[str, list[int]]]:
    """Frames that every head's queries see in a pass, by region."""
    stage(cache, start, frames)
    heads = range(cache.plan.heads)
    return [{region.name: sorted(region.frames) for region in cache.regions(0, head)} for head in heads]


# -- Dummy Forcing's frame sets (arXiv 2601.20499), chunks of 3, classified in the clean pass of chunk 1 ---------------


@pytest.mark.parametrize(
    "local_chunks, after_two_chunks, neighbour_sets",
    [
        (1, [0, 3, 4, 5], [[3, 4, 5], [6, 7, 8], [9, 10, 11]]),
        (2, [0, 1, 2, 3, 4, 5], [[1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8], [6, 7, 8, 9, 10, 11]]),
    ],
)
def test_dummy_forcings_frame_sets(local_chunks, after_two_chunks, neighbour_sets):
    widest = HeadMemory(1, 3 * local_chunks)
    cache = KVCache(plan_of((widest,) * 3), shape_of(clip_frames=21), attend=reference)
    write(cache, 0, 3)
    assert held(cache) == [[0, 1, 2]] * 3
    assert seen(cache, 3, 3) == [{"sink": [0], "recent": [1, 2], "current": [3, 4, 5]}] * 3
    cache.commit()
    assert held(cache) == [after_two_chunks] * 3
    cache.repack(plan_of((SINK, DUMMY, neighbour(3 * local_chunks))))
    for chunk, neighbours in zip((2, 3, 4), neighbour_sets, strict=True):
        start = 3 * chunk
        current = [start, start + 1, start + 2]
        assert seen(cache, start, 3) == [
            {"sink": [0], "recent": [], "current": current},
            {"sink": [], "recent": [start - 1], "current": current},
            {"sink": [], "recent": neighbours, "current": current},
        ]
        cache.commit()


def test_dummy_forcing_classified_one_chunk_later_never_saw_the_dropped_frames():
    cache = KVCache(plan_of((HeadMemory(1, 3),) * 3), shape_of(clip_frames=21), attend=reference)
    write(cache, 0, 3)
    write(cache, 3, 3)
    assert seen(cache, 6, 3) == [{"sink": [0], "recent": [3, 4, 5], "current": [6, 7, 8]}] * 3


def test_frame_wise_dummy_forcing():
    cache = KVCache(plan_of((HeadMemory(1, 1),) * 3), shape_of(clip_frames=9, pass_frames=1), attend=reference)
    write(cache, 0, 1)
    write(cache, 1, 1)
    cache.repack(plan_of((SINK, DUMMY, neighbour(1))))
    assert held(cache) == [[0], [1], [1]]
    write(cache, 2, 1)
    assert held(cache) == [[0], [2], [2]]


# -- rings, sinks, passes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "memory, passes, expected",
    [
        (HeadMemory(3, 6), [3] * 5, [0, 1, 2, 9, 10, 11, 12, 13, 14]),
        (HeadMemory(2, 2), [3, 3, 2], [0, 1, 6, 7]),
        (HeadMemory(2, 2), [1], [0]),
        (HeadMemory(4, 1), [3, 3], [0, 1, 2, 3, 5]),
        (HeadMemory(2, 0), [3, 3], [0, 1]),
        (HeadMemory(0, 0), [3, 3], []),
        (HeadMemory(0, 5), [3, 3, 3, 1], [5, 6, 7, 8, 9]),
        (HeadMemory(), [3, 3, 1], [0, 1, 2, 3, 4, 5, 6]),
        (HeadMemory(1, None), [3, 3, 1], [0, 1, 2, 3, 4, 5, 6]),
    ],
)
@pytest.mark.parametrize("positions", ["absolute", "rank"])
def test_first_frames_stay_and_the_newest_follow(memory, passes, expected, positions):
    memory = HeadMemory(memory.sink_frames, memory.recent_frames, positions)
    cache = KVCache(plan_of((memory,)), shape_of(clip_frames=15), attend=reference)
    start = 0
    for frames in passes:
        write(cache, start, frames)
        start += frames
    assert held(cache) == [expected]
    assert cache.committed_frames == start


def test_a_pass_may_be_longer_than_a_chunk_and_than_the_ring():
    cache = KVCache(plan_of((HeadMemory(1, 3), HeadMemory(0, 4))), shape_of(12, pass_frames=6), attend=reference)
    write(cache, 0, 2)
    write(cache, 2, 2)
    assert held(cache) == [[0, 1, 2, 3], [0, 1, 2, 3]]
    write(cache, 4, 6)
    assert held(cache) == [[0, 7, 8, 9], [6, 7, 8, 9]]
    write(cache, 10, 2)
    assert held(cache) == [[0, 9, 10, 11], [8, 9, 10, 11]]


@pytest.mark.parametrize("frames", [4, 0, -1])
def test_a_pass_outside_what_the_cache_was_made_for_is_refused(frames):
    cache = KVCache(plan_of((HeadMemory(),)), shape_of(9))
    with pytest.raises(PlanError, match=rf"1 to 3 frames, got {frames};"):
        cache.begin(0, frames)


def test_another_element_size_than_the_priced_one_is_refused():
    with pytest.raises(PlanError, match=r"4 bytes per element.*got torch.bfloat16"):
        KVCache(plan_of((HeadMemory(),)), shape_of(9), dtype=torch.bfloat16)


def test_an_abandoned_pass_leaves_no_trace():
    cache, clean = (KVCache(plan_of((HeadMemory(1, 3), SINK)), shape_of(9), attend=reference) for _ in range(2))
    write(cache, 0, 3)
    stage(cache, 3, 3)  # never committed
    stage(cache, 3, 2)
    cache.commit()
    write(clean, 0, 3)
    write(clean, 3, 2)
    assert held(cache) == held(clean) == [[0, 2, 3, 4], [0]]


# -- observers -------------------------------------------------------------------------------------------------------


class SeenKeys:
    """Keeps what every head's queries and keys were, and the regions that the cache named."""

    def __init__(self):
        self.seen: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor, list]] = {}

    def __call__(self, layer, heads, q, k, v, regions):
        for i, head in enumerate(heads):
            assert (layer, head) not in self.seen
            self.seen[layer, head] = q[:, :, i].clone(), k[:, :, i].clone(), regions


def test_an_observer_sees_every_heads_rotated_queries_and_keys_once_and_changes_nothing():
    row = (HeadMemory(1, 3), SINK, DUMMY, SINK, HeadMemory(1, 3, "rank"))
    generator = torch.Generator().manual_seed(0)
    inputs = [[torch.randn(2, 6, 5, 6, generator=generator) for _ in range(3)] for _ in range(6)]
    observed, plain = (KVCache(plan_of(row, row), shape_of(12, batch=2), attend=reference) for _ in range(2))
    for chunk in range(3):
        observer = SeenKeys()
        observed.begin(3 * chunk, 3, observer)
        plain.begin(3 * chunk, 3)
        for layer in range(2):
            q, k, v = inputs[2 * chunk + layer]
            out = observed(layer, q, k, v)
            assert torch.equal(out, plain(layer, q, k, v))
            for head in range(5):
                seen_q, seen_k, regions = observer.seen[layer, head]
                assert regions == observed.regions(layer, head)
                group = next(group for group in observed.layers[layer] if head in group.heads)
                values = group.views(3)[1][:, :, group.heads.index(head)]
                again = reference(*(x[:, :, None] for x in (seen_q, seen_k, values)))
                torch.testing.assert_close(again[:, :, 0], out[:, :, head])
        assert len(observer.seen) == 10
        observed.commit()
        plain.commit()


def test_the_next_pass_is_not_observed():
    observer = SeenKeys()
    cache = KVCache(plan_of((HeadMemory(),)), shape_of(12), attend=reference)
    x = torch.zeros(1, 6, 1, 6)
    cache.begin(0, 3, observer)
    cache(0, x, x, x)
    observer.seen.clear()
    cache.begin(0, 3)
    cache(0, x, x, x)
    assert observer.seen == {}


def test_a_cache_is_full_once_every_head_holds_as_much_as_it_ever_will():
    cache = KVCache(plan_of((HeadMemory(1, 4), SINK), (DUMMY, DUMMY)), shape_of(12), attend=reference)
    full = [cache.is_full]
    for start in (0, 3, 6):
        write(cache, start, 3)
        full.append(cache.is_full)
    assert full == [False, False, True, True]


# -- attention calls -------------------------------------------------------------------------------------------------


class CountedAttention:
    """The reference, and the (keys, heads) of every call."""

    def __init__(self):
        self.calls: list[tuple[int, int]] = []

    def __call__(self, q, k, v):
        self.calls.append((k.shape[1], k.shape[2]))
        return reference(q, k, v)


def test_sink_and_dummy_heads_share_one_call_per_layer():
    attend = CountedAttention()
    row = (SINK, DUMMY, neighbour(3), DUMMY, SINK, neighbour(3))
    cache = KVCache(plan_of(row, row), shape_of(12), attend=attend)
    write(cache, 0, 3)
    write(cache, 3, 3)
    attend.calls.clear()
    stage(cache, 6, 3)
    tokens = cache.shape.frame_tokens
    assert sorted(attend.calls) == sorted([((1 + 3) * tokens, 4), ((3 + 3) * tokens, 2)] * 2)


def test_they_also_share_it_after_a_repack():
    attend = CountedAttention()
    cache = KVCache(plan_of((HeadMemory(1, 3),) * 4), shape_of(12), attend=attend)
    write(cache, 0, 3)
    write(cache, 3, 3)
    cache.repack(plan_of((SINK, DUMMY, DUMMY, neighbour(3))))
    attend.calls.clear()
    stage(cache, 6, 3)
    assert sorted(call[1] for call in attend.calls) == [1, 3]


def test_a_uniform_layer_is_one_call_over_all_heads_and_rank_heads_are_kept_apart():
    attend = CountedAttention()
    cache = KVCache(plan_of((HeadMemory(3, 6),) * 4), shape_of(12), attend=attend)
    write(cache, 0, 3)
    assert attend.calls == [(3 * 2, 4)]
    attend.calls.clear()
    cache = KVCache(plan_of((HeadMemory(1, 0), HeadMemory(1, 0, "rank"))), shape_of(12), attend=attend)
    write(cache, 0, 3)
    assert len(attend.calls) == 2


def test_storing_attends_to_nothing():
    attend = CountedAttention()
    cache = KVCache(plan_of((HeadMemory(),) * 2), shape_of(12), attend=attend)
    cache.begin(0, 3)
    x = torch.zeros(1, 6, 2, 6)
    cache.store(0, x, x)
    cache.commit()
    assert attend.calls == []
    assert cache.export(0, 1)[0] == [0, 1, 2]


# -- repack ----------------------------------------------------------------------------------------------------------


def filled(memory: HeadMemory, committed: int, clip_frames: int = 12) -> KVCache:
    cache = KVCache(plan_of((memory,)), shape_of(clip_frames, pass_frames=1), attend=reference)
    for frame in range(committed):
        write(cache, frame, 1)
    return cache


@pytest.mark.parametrize(
    "before, committed, after, expected, later",
    [
        (HeadMemory(1, 3), 6, HeadMemory(1, 0), [0], [0]),
        (HeadMemory(1, 3), 6, HeadMemory(0, 1), [5], [6]),
        (HeadMemory(1, 3), 6, HeadMemory(0, 3), [3, 4, 5], [4, 5, 6]),
        (HeadMemory(1, 3), 6, HeadMemory(0, 6), [3, 4, 5], [3, 4, 5, 6]),
        (HeadMemory(1, 3), 2, HeadMemory(0, 3), [1], [1, 2]),
        (HeadMemory(1, 3), 1, HeadMemory(0, 3), [], [1]),
        (HeadMemory(3, 2), 6, HeadMemory(1, 4), [0, 4, 5], [0, 4, 5, 6]),
        (HeadMemory(), 5, HeadMemory(2, 1), [0, 1, 4], [0, 1, 5]),
        (HeadMemory(1, 5), 5, HeadMemory(3, 1), [0, 1, 2, 4], [0, 1, 2, 5]),
        (HeadMemory(1, 5), 2, HeadMemory(3, 1), [0, 1], [0, 1, 2]),
        (HeadMemory(1, 3), 6, HeadMemory(0, 0), [], []),
        (HeadMemory(1, 3), 0, HeadMemory(2, 2), [], [0]),
    ],
)
def test_repack_keeps_the_frames_that_both_plans_want(before, committed, after, expected, later):
    cache = filled(before, committed)
    plan = plan_of((after,))
    cache.repack(plan)
    assert cache.plan is plan
    assert held(cache) == [expected]
    write(cache, committed, 1)
    assert held(cache) == [later]


@pytest.mark.parametrize(
    "before, committed, after",
    [
        (HeadMemory(0, 3), 6, HeadMemory(1, 0)),
        (HeadMemory(1, 3), 6, HeadMemory(2, 3)),
        (HeadMemory(1, 1), 3, HeadMemory(2, 1)),
    ],
)
def test_a_repack_that_needs_evicted_first_frames_is_refused(before, committed, after):
    cache = filled(before, committed)
    with pytest.raises(PlanError, match="first frames are gone; rebuild the cache by replay"):
        cache.repack(plan_of((after,)))


@pytest.mark.parametrize(
    "before, committed, after",
    [
        (HeadMemory(1, 0), 3, HeadMemory(2, 2)),
        (HeadMemory(0, 0), 3, HeadMemory(1, 0)),
        (HeadMemory(3, 0), 5, HeadMemory(5, 2)),
    ],
)
def test_a_head_without_a_ring_cannot_regain_first_frames_either(before, committed, after):
    with pytest.raises(PlanError):
        filled(before, committed).repack(plan_of((after,)))


def test_a_dropped_sink_cannot_be_regained_over_two_repacks():
    cache = filled(HeadMemory(1, 3), committed=1)
    cache.repack(plan_of((DUMMY,)))
    assert held(cache) == [[]]
    with pytest.raises(PlanError):
        cache.repack(plan_of((HeadMemory(1, 2),)))


def test_repack_to_another_geometry_or_position_rule_is_refused():
    cache = filled(HeadMemory(1, 3), committed=2)
    with pytest.raises(PlanError, match=r"1 layers x 2 heads.*1 x 1"):
        cache.repack(plan_of((SINK, SINK)))
    with pytest.raises(PlanError, match="positions; rebuild the cache by replay"):
        cache.repack(plan_of((HeadMemory(1, 3, "rank"),)))


def test_a_refused_repack_leaves_the_cache_as_it_was():
    cache = KVCache(plan_of((HeadMemory(1, 3),), (HeadMemory(0, 3),)), shape_of(12), attend=reference)
    write(cache, 0, 3)
    write(cache, 3, 3)
    with pytest.raises(PlanError):
        cache.repack(plan_of((SINK,), (SINK,)))
    assert [held(cache, 0), held(cache, 1)] == [[[0, 3, 4, 5]], [[3, 4, 5]]]
    assert cache.resident_bytes == cache.plan.resident_bytes(cache.shape)


@pytest.mark.parametrize("positions", ["absolute", "rank"])
def test_repack_peak_is_what_is_really_allocated_layer_by_layer(monkeypatch, positions):
    alive: weakref.WeakSet[GroupBuffer] = weakref.WeakSet()
    allocated: list[int] = []

    class TrackedBuffer(GroupBuffer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            alive.add(self)
            allocated.append(sum(buffer.resident_bytes for buffer in alive))

    monkeypatch.setattr(cache_module, "GroupBuffer", TrackedBuffer)
    wide, narrow = HeadMemory(1, 6, positions), HeadMemory(0, 1, positions)
    before = plan_of(*[(wide, wide, narrow)] * 4)
    after = plan_of((narrow, wide, narrow), (HeadMemory(0, 9, positions),) * 3, (narrow,) * 3, (wide, narrow, narrow))
    cache = KVCache(before, shape_of(12), attend=reference)
    assert max(allocated) == cache.resident_bytes == before.resident_bytes(cache.shape)
    for start in (0, 3, 6):
        write(cache, start, 3)
    allocated.clear()
    cache.repack(after)
    assert max(allocated) == before.repack_peak_bytes(cache.shape, after) == cache.take_peak_bytes()
    assert cache.take_peak_bytes() == cache.resident_bytes, "a peak is reported once"
    assert max(allocated) < before.resident_bytes(cache.shape) + after.resident_bytes(cache.shape)
    assert sum(buffer.resident_bytes for buffer in alive) == after.resident_bytes(cache.shape)


def test_contents_survive_a_repack_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    cache = KVCache(plan_of((HeadMemory(1, 6), HeadMemory(1, 6, "rank"))), shape_of(12, batch=2), attend=reference)
    for start in (0, 3, 6):
        cache.begin(start, 3)
        cache(0, *(torch.randn(2, 6, 2, 6, generator=generator) for _ in range(3)))
        cache.commit()
    before = [cache.export(0, head) for head in range(2)]
    assert before[0][0] == before[1][0] == [0, 3, 4, 5, 6, 7, 8]
    cache.repack(plan_of((HeadMemory(0, 2), HeadMemory(1, 2, "rank"))))
    for head, expected in ((0, [7, 8]), (1, [0, 7, 8])):
        frames, k, v = cache.export(0, head)
        assert frames == expected
        old_frames, old_k, old_v = before[head]
        keep = torch.tensor([f in expected for f in old_frames]).repeat_interleave(cache.shape.frame_tokens)
        assert torch.equal(k, old_k[:, keep])
        assert torch.equal(v, old_v[:, keep])
