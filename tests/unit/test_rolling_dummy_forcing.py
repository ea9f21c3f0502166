"""Dummy Forcing in Rolling Forcing's loop: what each role sees, and when heads are looked at."""

import gc
import weakref
from dataclasses import replace
from itertools import groupby

import pytest
import torch
from torch import Tensor

from dummyforcing_core.clips.memory_use import MemoryUse
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan
from dummyforcing_core.kv.rolling_cache import RollingCache
from dummyforcing_core.loops.rolling import rolling
from dummyforcing_core.loops.run import kv_shape
from dummyforcing_core.policies import DummyForcing
from dummyforcing_core.prompts import PromptSchedule
from tests.unit.rolling_runs import (
    PLANS,
    ROLES,
    ROLLING,
    Call,
    Recorder,
    Seen,
    Told,
    calls_of,
    cleans,
    profile,
    prompt,
    run_of,
    seen,
    windows,
)


def by_role(call: Call, layer: int = 0) -> dict[str, Seen]:
    table: dict[str, Seen] = {}
    for head, role in enumerate(ROLES):
        assert table.setdefault(role, call.history(head, layer)) == call.history(head, layer)
    return table


def test_what_each_role_sees_with_a_profile() -> None:
    """Beside the window: f0 in front of it, or the newest frame, or the last chunk. Clean passes: the same, as far as
    the family's own clean pass reaches, at true places."""
    calls = calls_of(run_of(33, policy=DummyForcing(profile=profile(2)), recorder=Recorder(4, 2)))
    for call in windows(calls):
        a = call.start
        if a == 0:
            assert set(map(len, call.seen.values())) == {0}
            continue
        for layer in range(2):
            assert by_role(call, layer) == {
                "sink": {0: a - 1},
                "dummy": {a - 1: a - 1},
                "neighbour": {a - 3: a - 3, a - 2: a - 2, a - 1: a - 1},
            }
        assert call.attention_calls == 2 * 2, "sink and dummy heads share a call"
    for call in cleans(calls)[1:]:
        a = call.start
        expected = {"sink": {0: 0} if a <= 18 else {}, "dummy": {a - 1: a - 1}, "neighbour": seen(a - 3, a - 2, a - 1)}
        assert by_role(call) == expected


def test_neighbours_of_many_chunks_give_way_to_the_window() -> None:
    policy = DummyForcing(profile=profile(1), local_chunks=4)
    by_start = {call.start: call for call in windows(calls_of(run_of(36, policy=policy, recorder=Recorder(4))))}
    assert list(by_role(by_start[21])["neighbour"]) == list(range(15, 21))  # q 15: 6 are left of 21
    assert list(by_role(by_start[27])["neighbour"]) == list(range(15, 27))  # q 9


def test_heads_are_scored_in_the_last_window_of_the_first_chunk_with_neighbours() -> None:
    policy = Told(dummy_ratio=0.5)
    run = run_of(27, policy=policy, recorder=Recorder(4, 2))
    chunks = list(rolling(run))
    assert [chunk.span.chunk for chunk in chunks if chunk.scores is not None] == [1]
    assert policy.asked == list(range(9)), "once for every chunk"
    regions = {"current": tuple(range(3, 18)), "sink": (0,), "recent": (1, 2)}
    assert policy.seen == [(layer, (0, 1, 2, 3), regions) for layer in range(2)]
    assert set(chunks[0].plan.roles[0]) == {"unclassified"} and chunks[1].plan.roles == (ROLES, ROLES)
    calls = {call.start: call for call in windows(run.denoise.calls)}
    assert [call.history(head) for call in [calls[3]] for head in range(4)] == [{0: 0, 1: 1, 2: 2}] * 4
    assert by_role(calls[6]) == {"sink": {0: 5}, "dummy": {5: 5}, "neighbour": seen(3, 4, 5)}


@pytest.mark.parametrize("reason", ["every third chunk", "a new prompt"])
def test_heads_are_scored_again_over_the_sink_and_the_newest(reason: str) -> None:
    policy, switch = Told(dummy_ratio=0.5, reclassify_chunks=9), [(30, prompt(1))]
    if reason == "a new prompt":
        policy = Told(dummy_ratio=0.5)
    else:
        switch = []
    run = run_of(45, policy=policy, prompts=PromptSchedule(((0, prompt(0)), *switch)), recorder=Recorder(4))
    chunks = list(rolling(run))
    assert [chunk.span.chunk for chunk in chunks if chunk.scores is not None] == [1, 10]
    assert [dict(regions) for _, _, regions in policy.seen] == [
        {"current": tuple(range(3, 18)), "sink": (0,), "recent": (1, 2)},
        {"current": tuple(range(30, 45)), "sink": (0,), "recent": (26, 27, 28, 29)},
    ]
    replayed = [call.start for call in cleans(run.denoise.calls)]
    order = [start for start, _ in groupby(replayed)]
    assert order == [*range(0, 30, 3), 0, 24, 27, *range(30, 45, 3)]


def test_a_second_look_never_holds_two_caches() -> None:
    caches: list[weakref.ref[RollingCache] | None] = []
    alive: list[int] = []
    policy = Told(dummy_ratio=0.5, reclassify_chunks=3)
    policy.looks.append(lambda: alive.append(len({id(ref()) for ref in caches if ref and ref() is not None})))
    run = run_of(27, policy=policy, recorder=Recorder(4))
    list(rolling(replace(run, on_step=lambda span, step: caches.append(run.denoise.cache))))
    assert alive == [1, 0, 0], "first over the cache there is, then the old one has gone before the new one fills"


@pytest.mark.parametrize("name, kept", [("full", []), ("dummy, profile", []), ("dummy, scored", [0, 10])])
def test_which_latents_are_kept(name: str, kept: list[int]) -> None:
    """Only what re-scoring would read: the sink's chunk and the newest."""
    run = run_of(39, policy=PLANS[name], recorder=Recorder(4, 2))
    chunks, latents = rolling(run), []
    for _ in range(12):
        latents.append(weakref.ref(next(chunks).latent))
    gc.collect()
    assert [k for k, latent in enumerate(latents[:11]) if latent() is not None] == kept
    next(chunks)


def test_on_output_sees_every_layer() -> None:
    run = run_of(15)
    shape = kv_shape(run.denoise.geometry, run.shape, ROLLING)
    cache = RollingCache(HeadPlan.uniform(2, 3, HeadMemory(1, 3), "any"), replace(shape, head_dim=6), 21)
    told: list[tuple[int, Tensor]] = []
    cache.on_output = lambda layer, out: told.append((layer, out))
    q = torch.randn(1, 15 * shape.frame_tokens, 3, 6)
    cache.begin_window(0, 15)
    outs = [cache(layer, q, q, q) for layer in range(2)]
    assert [layer for layer, _ in told] == [0, 1]
    assert all(torch.equal(mine, out) for (_, mine), out in zip(told, outs, strict=True))


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("batch", [1, 2])
def test_bytes_are_the_price(name: str, batch: int) -> None:
    run = run_of(36, policy=PLANS[name], batch=batch, recorder=Recorder(4, 2))
    priced = kv_shape(run.denoise.geometry, run.shape, run.family)
    use = MemoryUse(priced)
    for chunk in rolling(run):
        assert run.denoise.cache is not None
        cache = run.denoise.cache()
        assert cache is not None
        tensors = [x for layer in cache.layers for group in layer for x in (group.k, group.v)]
        assert sum(x.untyped_storage().nbytes() for x in tensors) == chunk.resident_bytes
        assert chunk.resident_bytes == chunk.plan.resident_bytes(priced)
        held = [len(cache.export(layer, head)[0]) for layer in range(2) for head in range(4)]
        assert chunk.history_bytes == sum(held) * priced.frame_bytes
        assert chunk.history_bytes <= chunk.plan.history_bytes(priced, chunk.span.stop)
        use.add(chunk)
    assert use.actual_peak == use.predicted_peak
    assert use.rows()["history_bytes"]["actual"] == use.rows()["history_bytes"]["predicted"]


def test_the_family_holds_24_frames_like_the_public_cache() -> None:
    run = run_of(60, recorder=Recorder(1, 1))
    chunks = list(rolling(run))
    frame = kv_shape(run.denoise.geometry, run.shape, run.family).frame_bytes
    assert chunks[-1].resident_bytes == 24 * frame and chunks[-1].history_bytes == 21 * frame
    assert [chunk.window_full for chunk in chunks] == [False] * 7 + [True] * 13


def test_what_half_dummies_save_at_the_real_models_head_count() -> None:
    """30 layers of 12 heads, 180 dummies, 90 sink and 90 neighbour heads; keys per query and frame, one chunk on."""
    roles = ("sink", "dummy", "neighbour", "dummy") * 3
    run = {
        "full": run_of(39, size=(2, 2), recorder=Recorder(12, 30)),
        "dummy": run_of(39, size=(2, 2), recorder=Recorder(12, 30), policy=DummyForcing(profile=profile(30, roles))),
    }
    work = {}
    for name, clip in run.items():
        calls = calls_of(clip)
        window = next(call for call in windows(calls) if call.start == 24)
        clean = next(call for call in cleans(calls) if call.start == 24)
        keys = {
            "window": sum(15 * (15 + len(history)) for history in window.seen.values()),
            # the last layer of a clean pass only stores
            "clean": sum(3 * (3 + len(history)) for history in clean.seen.values()),
        }
        work[name] = keys["window"] / 360, keys["clean"] / 348
    assert work == {"full": (315, 63), "dummy": (15 * 16.5, 3 * 4.25)}
