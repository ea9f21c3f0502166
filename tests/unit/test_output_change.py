"""Output change: against attention written out per memory, over a real cache and over a model's own projection."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dummyforcing_core.errors import PlanError
from dummyforcing_core.kv import lse, output_change
from dummyforcing_core.kv.cache import KVCache, Region
from dummyforcing_core.kv.lse import attention_with_lse
from dummyforcing_core.kv.output_change import ChangeObservation, OutputChange, gram_matrices, memory_options
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan, KVShape

HEADS, DIM, TOKENS = 3, 8, 2
OPTIONS = {
    "none": HeadMemory(0, 0),
    "newest": HeadMemory(0, 1),
    "first": HeadMemory(1, 0),
    "ends": HeadMemory(1, 2),
    "all": HeadMemory(0, None),
}


def tensors(seed: int, batch: int, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, n, HEADS, DIM, generator=g) for n in (queries, keys, keys))


def projection(seed: int = 0, bias: bool = True) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(HEADS * DIM, HEADS * DIM, bias)


def regions_of(current: int, sink: list[int], recent: list[int]) -> list[Region]:
    regions, token = [], 0
    for name, frames in (("current", list(range(100, 100 + current))), ("sink", sink), ("recent", recent)):
        stop = token + len(frames) * TOKENS
        regions.append(Region(name, tuple(frames), token, stop))
        token = stop
    return regions


def written_out(q: Tensor, k: Tensor, v: Tensor, frames: list[int], memory: HeadMemory, w: Tensor) -> Tensor:
    """The definition, in float64: (H,). frames: of every key frame, 100 and up the pass's own."""
    history = sorted(f for f in frames if f < 100)
    newest = history if memory.recent_frames is None else history[len(history) - memory.recent_frames :]
    kept = [f >= 100 or f < memory.sink_frames or f in newest for f in frames]
    mask = torch.tensor(kept).repeat_interleave(TOKENS)
    logits = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) / DIM**0.5

    def output(logits: Tensor) -> Tensor:
        return torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v.double())

    change = output(logits) - output(logits.masked_fill(~mask, float("-inf")))
    rows = w.double().T.unflatten(0, (HEADS, DIM))  # (H, D, dim)
    return torch.einsum("bqhd,hde->bqhe", change, rows).square().sum(-1).mean((0, 1)).sqrt()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 999),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 2),
    st.permutations(range(3, 8)),
    st.integers(0, 5),
)
def test_equals_attention_written_out(seed: int, batch: int, current: int, sink: int, ring: list, held: int) -> None:
    regions = regions_of(current, list(range(sink)), ring[:held])
    frames = [frame for region in regions for frame in region.frames]
    q, k, v = tensors(seed, batch, current * TOKENS, len(frames) * TOKENS)
    linear = projection(seed)
    seen = ChangeObservation(1, HEADS, OPTIONS, lambda layer, x: linear(x))
    with torch.inference_mode():
        seen(0, [1], q[:, :, 1:2], k[:, :, 1:2], v[:, :, 1:2], regions)
        seen(0, [2, 0], q[:, :, [2, 0]], k[:, :, [2, 0]], v[:, :, [2, 0]], regions)
    change = seen.result().change
    for i, memory in enumerate(OPTIONS.values()):
        expected = written_out(q, k, v, frames, memory, linear.weight.detach())
        torch.testing.assert_close(change[0, :, i], expected.float(), rtol=1e-4, atol=1e-5)


def test_what_keeps_all_changes_nothing() -> None:
    q, k, v = tensors(5, 1, 4, 12)
    linear = projection()
    seen = ChangeObservation(1, HEADS, OPTIONS, lambda layer, x: linear(x))
    seen(0, [0, 1, 2], q, k, v, regions_of(2, [0], [4, 3, 5]))
    change = seen.result().change[0]
    assert change[:, list(OPTIONS).index("all")].max() < 1e-6
    assert (change[:, list(OPTIONS).index("none")] > 1e-2).all()


def test_the_projection_is_called_and_its_bias_does_not_count() -> None:
    with torch.inference_mode():
        linear, x = projection(3), torch.randn(5, HEADS * DIM)
        grams = gram_matrices(linear, HEADS, DIM, x)
        for head, gram in enumerate(grams):
            alone = torch.zeros_like(x)
            span = slice(head * DIM, (head + 1) * DIM)
            alone[:, span] = x[:, span]
            expected = (linear(alone) - linear.bias).square().sum(-1)
            torch.testing.assert_close(((x[:, span] @ gram) * x[:, span]).sum(-1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("elements", [1, 50, 10**6])
def test_slices_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    q, k, v = tensors(1, 2, 6, 14)
    linear, regions = projection(), regions_of(3, [0], [3, 4, 5])

    def change() -> Tensor:
        seen = ChangeObservation(1, HEADS, OPTIONS, lambda layer, x: linear(x))
        seen(0, [0, 1, 2], q, k, v, regions)
        return seen.result().change

    whole = change()
    monkeypatch.setattr(output_change, "SLICE_ELEMENTS", elements)
    torch.testing.assert_close(change(), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("logits", [1, 40, 10**6])
def test_without_a_fused_kernel_it_is_written_out_in_slices(monkeypatch: pytest.MonkeyPatch, logits: int) -> None:
    q, k, v = tensors(2, 2, 7, 9)
    out, total = attention_with_lse(q, k, v)
    expected = torch.einsum("bqhd,bkhd->bhqk", q, k) / DIM**0.5
    torch.testing.assert_close(total, expected.logsumexp(-1), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(lse, "fuses", lambda q: False)
    monkeypatch.setattr(lse, "LOGITS", logits)
    for a, b in zip(attention_with_lse(q, k, v), (out, total), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("capability", "hip", "dtype", "fused"),
    [
        ((8, 0), None, torch.bfloat16, True),
        ((9, 0), None, torch.float16, True),
        ((7, 5), None, torch.float16, False),
        ((9, 0), None, torch.float32, False),
        ((9, 4), "6.2", torch.bfloat16, False),
    ],
)
def test_flash_kernels_are_asked_where_torch_has_them(
    monkeypatch: pytest.MonkeyPatch, capability: tuple, hip: str | None, dtype: torch.dtype, fused: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert lse.fuses(SimpleNamespace(device=torch.device("cuda"), dtype=dtype)) is fused


def test_over_a_cache_whose_ring_has_wrapped() -> None:
    """A head that keeps one frame changes by what its own cache would give it: the oracle is a second cache."""
    wide, narrow = HeadMemory(1, 4), HeadMemory(0, 1)
    shape = KVShape(1, 1, TOKENS, DIM, 4, 40, 2)
    caches = [KVCache(HeadPlan.uniform(1, HEADS, memory, "x"), shape) for memory in (wide, narrow)]
    g = torch.Generator().manual_seed(7)
    linear, outs = projection(bias=False), []
    seen = ChangeObservation(1, HEADS, {"newest": narrow}, lambda layer, x: linear(x))
    for chunk in range(5):
        q, k, v = (torch.randn(1, 2 * TOKENS, HEADS, DIM, generator=g) for _ in range(3))
        outs = []
        for cache in caches:
            last = chunk == 4 and cache is caches[0]
            cache.begin(2 * chunk, 2, seen if last else None)
            outs.append(cache(0, q, k, v))
            cache.commit()
    rows = linear.weight.T.unflatten(0, (HEADS, DIM))
    projected = torch.einsum("bqhd,hde->bqhe", outs[0] - outs[1], rows)
    expected = projected.square().sum(-1).mean((0, 1)).sqrt()
    torch.testing.assert_close(seen.result().change[0, :, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_pass_that_was_not_whole_is_refused() -> None:
    linear = projection()
    seen = ChangeObservation(2, HEADS, OPTIONS, lambda layer, x: linear(x))
    q, k, v = tensors(1, 1, 2, 4)
    seen(0, [0, 1, 2], q, k, v, regions_of(1, [], [3]))
    with pytest.raises(PlanError, match="layer 1 was not observed"):
        seen.result()


def test_changes_of_another_shape_are_refused_and_means_are_taken() -> None:
    options = memory_options(3)
    first = OutputChange(options, torch.zeros(2, HEADS, len(options)))
    second = replace(first, change=torch.ones(2, HEADS, len(options)))
    assert (OutputChange.mean([first, second]).change == 0.5).all()
    with pytest.raises(PlanError, match=r"expected changes \(layers, heads, 5\), got shape \(2, 3\)"):
        OutputChange(options, torch.zeros(2, 3))
