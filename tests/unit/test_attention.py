"""Every backend against attention written out in float64; choosing one and the reasons for not choosing one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dummyforcing_core.errors import BackendError
from dummyforcing_core.kv.attention import BACKENDS, Backend, attention, choose, reference

CPU = torch.device("cpu")
USABLE = [name for name, backend in BACKENDS.items() if backend.why_not(CPU, torch.float32, 32) is None]


def by_hand(q, k, v):
    out = torch.empty(q.shape, dtype=torch.float64)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            scores = q[b, :, h].double() @ k[b, :, h].double().T / q.shape[3] ** 0.5
            out[b, :, h] = torch.softmax(scores, dim=1) @ v[b, :, h].double()
    return out


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(USABLE),
    batch=st.integers(1, 3),
    queries=st.integers(1, 9),
    keys=st.integers(1, 40),
    heads=st.integers(1, 4),
    head_dim=st.sampled_from((6, 8, 32, 128)),
    sliced=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_every_backend_equals_attention_by_hand(name, batch, queries, keys, heads, head_dim, sliced, seed):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, queries, heads, head_dim, generator=generator)
    pad = 5 if sliced else 0  # the cache hands in slices of longer buffers
    k, v = (torch.randn(batch, keys + 2 * pad, heads, head_dim, generator=generator) for _ in range(2))
    k, v = k[:, pad : pad + keys], v[:, pad : pad + keys]
    assert batch == 1 or k.is_contiguous() != sliced
    out = BACKENDS[name].run(q, k, v)
    assert (out.shape, out.dtype) == (q.shape, q.dtype)
    torch.testing.assert_close(out.double(), by_hand(q, k, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", USABLE)
def test_heads_picked_out_of_a_wider_tensor(name):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, length, 5, 8, generator=generator)[:, :, 1:4] for length in (3, 7, 7))
    torch.testing.assert_close(BACKENDS[name].run(q, k, v).double(), by_hand(q, k, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", USABLE)
def test_half_precision_comes_back_in_half_precision_and_near(name):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, length, 2, 32, generator=generator).bfloat16() for length in (6, 30, 30))
    out = BACKENDS[name].run(q, k, v)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), by_hand(q, k, v), rtol=2e-2, atol=2e-2)


def test_large_scores_do_not_overflow():
    q = torch.full((1, 2, 1, 8), 100.0)
    k = torch.stack((q[:, 0], -q[:, 0]), dim=1)
    v = torch.tensor([1.0, 2.0])[None, :, None, None].expand(1, 2, 1, 8)
    for name in USABLE:
        torch.testing.assert_close(BACKENDS[name].run(q, k, v), torch.ones(1, 2, 1, 8))


def test_sdpa_and_the_reference_serve_everywhere():
    assert USABLE[-1] == "reference"
    assert {"sdpa", "reference"} <= set(USABLE)


@pytest.mark.parametrize("head_dim", [6, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_is_the_first_backend_that_fits(dtype, head_dim):
    first = next(b for b in BACKENDS.values() if b.why_not(CPU, dtype, head_dim) is None)
    assert choose("auto", CPU, dtype, head_dim) is first


def test_attention_runs_what_auto_picks(monkeypatch):
    marked = Backend("marked", "for this test", lambda q, k, v: reference(q, k, v) + 1)
    monkeypatch.setattr("dummyforcing_core.kv.attention.choose", lambda *arguments: marked)
    q, k, v = (torch.randn(1, 3, 2, 8) for _ in range(3))
    assert torch.equal(attention(q, k, v), reference(q, k, v) + 1)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(BackendError) as error:
        choose("flash9", CPU, torch.float32, 32)
    assert "'flash9'" in str(error.value)
    assert all(name in str(error.value) for name in ("auto", *BACKENDS))


@pytest.mark.parametrize("name, module", [("flash2", "flash_attn"), ("flash3", "flash_attn_interface")])
def test_a_backend_whose_module_is_absent_says_so(monkeypatch, name, module):
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted: None)
    with pytest.raises(BackendError, match=f"'{name}' cannot be used here: module {module} is not installed.*auto"):
        choose(name, CPU, torch.bfloat16, 128)


@pytest.mark.parametrize(
    "device, dtype, head_dim, capability, reason",
    [
        ("cpu", torch.bfloat16, 128, (9, 0), "needs a CUDA device, this is cpu"),
        ("cuda", torch.float32, 128, (9, 0), "needs bf16 or fp16, this is torch.float32"),
        ("cuda", torch.bfloat16, 512, (9, 0), "head_dim of at most 256, divisible by 8; this is 512"),
        ("cuda", torch.bfloat16, 12, (9, 0), "head_dim of at most 256, divisible by 8; this is 12"),
        ("cuda", torch.bfloat16, 128, (8, 0), r"compute capability 9.0 to 9.0, this is \(8, 0\)"),
        ("cuda", torch.bfloat16, 128, (12, 0), r"compute capability 9.0 to 9.0, this is \(12, 0\)"),
    ],
)
def test_flash3_says_why_it_cannot_serve(monkeypatch, device, dtype, head_dim, capability, reason):
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted: object())
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    choose.cache_clear()
    with pytest.raises(BackendError, match=reason):
        choose("flash3", torch.device(device), dtype, head_dim)


def test_flash3_serves_a_hopper_card(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted: object())
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    assert BACKENDS["flash3"].why_not(torch.device("cuda"), torch.bfloat16, 128) is None
