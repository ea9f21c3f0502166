"""Frame attention scores: against a softmax written out in float64, and what an observation collects of a pass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dummyforcing_core.errors import PlanError
from dummyforcing_core.kv import scoring
from dummyforcing_core.kv.cache import KVCache, Region
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan, KVShape
from dummyforcing_core.kv.scoring import HeadScores, Observation, region_mass, region_mass_lse

quick = settings(deadline=None, max_examples=40)


def softmax_mass(q: Tensor, k: Tensor, bounds) -> Tensor:
    """The definition: mean over batch and queries of the softmax weight on every token range; (H, regions)."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) / q.shape[-1] ** 0.5
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return torch.stack([weights[..., a:b].sum(-1).mean(dim=(0, 2)) for a, b in bounds], dim=-1)


def tensors(seed: int, batch: int, queries: int, keys: int, heads: int, dim: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    q = 2 * torch.randn(batch, queries, heads, dim, generator=g)
    return q, torch.randn(batch, keys, heads, dim, generator=g)


@st.composite
def cases(draw) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """q, k and three ranges that tile k's tokens, any of them but not all empty."""
    lengths = draw(st.tuples(*[st.integers(0, 9)] * 3).filter(any))
    stops = [sum(lengths[: i + 1]) for i in range(3)]
    sizes = [draw(st.integers(1, most)) for most in (3, 12)]
    q, k = tensors(draw(st.integers(0, 999)), *sizes, stops[-1], draw(st.integers(1, 4)), draw(st.sampled_from((2, 8))))
    return q, k, list(zip([0, *stops], stops, strict=False))


@quick
@given(cases())
def test_both_ways_equal_a_softmax_that_is_written_out(case) -> None:
    q, k, bounds = case
    expected = softmax_mass(q, k, bounds).float()
    for mass in (region_mass(q, k, bounds), region_mass_lse(q, k, bounds)):
        assert mass.shape == (q.shape[2], 3)
        torch.testing.assert_close(mass, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mass.sum(-1), torch.ones(q.shape[2]))
        empty = [i for i, (start, stop) in enumerate(bounds) if start == stop]
        assert not mass[:, empty].any()


@pytest.mark.parametrize("elements", [1, 7, 60, 10_000])
def test_slices_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    q, k = tensors(1, 2, 11, 9, 3, 8)
    bounds = [(0, 2), (2, 2), (2, 9)]
    whole = region_mass(q, k, bounds)
    monkeypatch.setattr(scoring, "SCORE_ELEMENTS", elements)
    torch.testing.assert_close(region_mass(q, k, bounds), whole, rtol=1e-6, atol=1e-7)


def test_slicing_bounds_what_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = tensors(1, 2, 40, 10, 3, 4)
    monkeypatch.setattr(scoring, "SCORE_ELEMENTS", 2 * 3 * 10 * 4)
    seen, softmax = [], Tensor.softmax
    monkeypatch.setattr(Tensor, "softmax", lambda x, *rest: seen.append(x.numel()) or softmax(x, *rest))
    region_mass(q, k, [(0, 10)])
    assert len(seen) == 10
    assert max(seen) <= scoring.SCORE_ELEMENTS


def test_the_mass_of_a_batch_is_the_mean_over_its_items() -> None:
    q, k = tensors(2, 3, 6, 8, 2, 8)
    bounds = [(0, 3), (3, 4), (4, 8)]
    alone = torch.stack([region_mass(q[i : i + 1], k[i : i + 1], bounds) for i in range(3)])
    assert (alone[0] - alone[1]).abs().max() > 1e-2
    for mass in (region_mass, region_mass_lse):
        torch.testing.assert_close(mass(q, k, bounds), alone.mean(0), rtol=1e-5, atol=1e-6)


def test_half_precision_is_scored_in_float32() -> None:
    q, k = (x.bfloat16() for x in tensors(3, 1, 6, 8, 2, 8))
    bounds = [(0, 1), (1, 5), (5, 8)]
    mass = region_mass(q, k, bounds)
    assert mass.dtype == torch.float32
    torch.testing.assert_close(mass, softmax_mass(q, k, bounds).float(), rtol=1e-5, atol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    q, k = tensors(4, 1, 3, 4, 1, 4)
    for mass in (region_mass(100 * q, 100 * k, [(0, 2), (2, 4)]), region_mass_lse(100 * q, 100 * k, [(0, 2), (2, 4)])):
        torch.testing.assert_close(mass.sum(-1), torch.ones(1))


def test_log_sum_exp_needs_ranges_that_tile_the_keys() -> None:
    q, k = tensors(5, 1, 3, 6, 1, 8)
    with pytest.raises(PlanError, match="all 6 keys"):
        region_mass_lse(q, k, [(0, 2), (4, 6)])


@pytest.mark.parametrize("device", ["meta"])
def test_log_sum_exp_refuses_what_has_no_such_kernel(device: str) -> None:
    q, k = (x.to(device) for x in tensors(6, 1, 3, 6, 1, 8))
    with pytest.raises(PlanError, match=f"use exact scoring on {device}"):
        region_mass_lse(q, k, [(0, 6)])


# -- scores as a value -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 2), (2, 3, 4), (1, 2, 3, 3), (0,)])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match=r"expected scores \(layers, heads, 3\)"):
        HeadScores(torch.zeros(shape))


def test_the_mean_of_scores() -> None:
    one, two = (HeadScores(torch.full((2, 2, 3), value)) for value in (0.25, 0.75))
    assert torch.equal(HeadScores.mean([one, two]).mass, torch.full((2, 2, 3), 0.5))
    assert torch.equal(HeadScores.mean([one]).mass, one.mass)


# -- observations ----------------------------------------------------------------------------------------------------


def regions_of(bounds) -> list[Region]:
    """In the order that a cache lays them out: current, sink, recent."""
    named = zip(("sink", "recent", "current"), bounds, strict=True)
    regions = [Region(name, (), start, stop) for name, (start, stop) in named]
    return [regions[2], regions[0], regions[1]]


def observed(observation: Observation, layers: int = 1) -> Tensor:
    bounds = [(2, 4), (4, 7), (0, 2)]
    for layer in range(layers):
        q, k = tensors(layer, 2, 10, 7, 3, 8)
        observation(layer, [1], q[:, :, 1:2], k[:, :, 1:2], k[:, :, 1:2], regions_of(bounds))
        observation(layer, [2, 0], q[:, :, [2, 0]], k[:, :, [2, 0]], k[:, :, [2, 0]], regions_of(bounds))
    return observation.result().mass


def expected(rows) -> Tensor:
    table = []
    for layer in range(2):
        q, k = tensors(layer, 2, 10, 7, 3, 8)
        table.append(softmax_mass(q[:, rows[layer]], k, [(2, 4), (4, 7), (0, 2)]))
    return torch.stack(table).float()


def test_masses_land_at_their_layer_and_head_in_the_order_sink_recent_current() -> None:
    mass = observed(Observation(2, 3), layers=2)
    assert (mass.shape, mass.dtype, mass.device.type) == ((2, 3, 3), torch.float32, "cpu")
    torch.testing.assert_close(mass, expected([range(10)] * 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride", [2, 3, 9, 50])
def test_a_stride_scores_every_so_many_rows_from_the_first(stride: int) -> None:
    rows = list(range(0, 10, stride))
    mass = observed(Observation(2, 3, stride=stride), layers=2)
    torch.testing.assert_close(mass, expected([rows] * 2), rtol=1e-5, atol=1e-6)


def test_given_rows_are_scored_instead_and_may_repeat_and_differ_by_layer() -> None:
    rows = torch.tensor([[0, 9, 4], [7, 7, 1]])
    mass = observed(Observation(2, 3, rows=rows), layers=2)
    torch.testing.assert_close(mass, expected(rows), rtol=1e-5, atol=1e-6)


def test_another_mass_function_may_be_named() -> None:
    exact, lse = (observed(Observation(2, 3, mass=mass), layers=2) for mass in (region_mass, region_mass_lse))
    torch.testing.assert_close(lse, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride", [0, -3])
def test_a_stride_below_one_is_refused(stride: int) -> None:
    with pytest.raises(PlanError, match=f"stride of 1 or more, got {stride}"):
        Observation(1, 1, stride=stride)


def test_unseen_layers_and_heads_are_refused() -> None:
    with pytest.raises(PlanError, match="layer 0 was not observed"):
        Observation(2, 3).result()
    with pytest.raises(PlanError, match="layer 1 was not observed"):
        observed(Observation(2, 3), layers=1)
    half = Observation(1, 3)
    q, k = tensors(0, 1, 4, 7, 2, 8)
    half(0, [0, 2], q, k, k, regions_of([(2, 4), (4, 7), (0, 2)]))
    with pytest.raises(PlanError, match="layer 0 was not observed"):
        half.result()


def test_regions_come_from_the_cache_also_where_its_ring_has_wrapped() -> None:
    """Sink 2 and recent 3 behind 10 frames: slots are no longer in temporal order, the masses must not care."""
    tokens, heads, dim, frames = 2, 3, 12, 12
    shape = KVShape(1, 1, 2, dim, 4, frames, 2)
    plan = HeadPlan.uniform(1, heads, HeadMemory(2, 3), "any")
    cache, seen = KVCache(plan, shape), {}
    for start in range(0, frames, 2):
        q, k = tensors(start, 1, 2 * tokens, 2 * tokens, heads, dim)
        observation = Observation(1, heads)

        def observe(layer, group, q, k, v, regions, observation=observation):
            places = {f: (r.name, r.start_token + i * tokens) for r in regions for i, f in enumerate(r.frames)}
            seen.update(q=q.clone(), k=k.clone(), frames=places)  # the cache will write over k
            observation(layer, group, q, k, v, regions)

        cache.begin(start, 2, observe)
        cache(0, q, k, k)
        cache.commit()
    slots = sorted(seen["frames"], key=lambda f: seen["frames"][f][1])
    assert slots == [10, 11, 0, 1, 8, 9, 7]
    assert {f: name for f, (name, _) in seen["frames"].items()} == {
        0: "sink", 1: "sink", 7: "recent", 8: "recent", 9: "recent", 10: "current", 11: "current",
    }  # fmt: skip
    per_frame = softmax_mass(seen["q"], seen["k"], [(at, at + tokens) for _, at in seen["frames"].values()])
    names = [name for name, _ in seen["frames"].values()]
    parts = [per_frame[:, [i for i, n in enumerate(names) if n == name]].sum(-1) for name in scoring.REGIONS]
    torch.testing.assert_close(observation.result().mass[0], torch.stack(parts, -1).float(), rtol=1e-5, atol=1e-6)
