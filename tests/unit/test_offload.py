"""Weights that rest in host memory: the same results, and a device that only ever holds what it must.

The device of these tests is torch's "meta": it computes shapes only, and refuses any tensor that lies elsewhere.
"""

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dummyforcing_core.errors import DummyForcingError
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan, KVShape
from dummyforcing_core.loops.recompute import recompute
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models.checkpoints import empty_model, load_model, save_model
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.models.offload import OffloadedLinear, offload_blocks, resident_bytes
from dummyforcing_core.models.wan import CausalWan, WanConfig, forward, text_kv
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule

CONFIG = WanConfig(dim=64, ffn_dim=96, num_heads=2, num_layers=3, text_dim=8, freq_dim=16)
FAMILY = Family("tiny", "Tiny", "tests", window_frames=6, trained_frames=999, sink_frames=1)


@pytest.fixture
def model() -> CausalWan:
    torch.manual_seed(0)
    return CausalWan(CONFIG).requires_grad_(False).eval()


def linears(model: CausalWan, start: int = 0) -> list[nn.Linear]:
    return [m for block in model.blocks[start:] for m in block.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("loop", [rollout, recompute])
def test_a_clip_is_the_same_to_the_last_bit(model: CausalWan, loop) -> None:
    shape, schedule = LatentShape(1, 16, 9, 4, 4), Schedule((1.0, 0.6))
    prompts = PromptSchedule.constant(torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(1)))
    offloaded = copy.deepcopy(model)
    offload_blocks(offloaded, "cpu", resident_blocks=1)
    run = Run(WanDenoiser(model), shape, schedule, prompts, DummyForcing(), FAMILY, SeededNoise(0, shape, 3))
    runs = run, replace(run, denoise=WanDenoiser(offloaded))
    clips = [torch.cat([chunk.latent for chunk in loop(one)], dim=2) for one in runs]
    assert torch.equal(*clips)


class Traffic(TorchDispatchMode):
    """Addresses of all that is copied from the CPU to the meta device, rotary tables included."""

    def __init__(self) -> None:
        super().__init__()
        self.copied: Counter[int] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and (args[0].device.type, out.device.type) == ("cpu", "meta"):
            self.copied[args[0].data_ptr()] += 1
        return out


def meta_pass(model: CausalWan) -> Tensor:
    """One whole pass with everything but the offloaded weights on the device."""
    cache = KVCache(HeadPlan.uniform(3, 2, HeadMemory(), "full"), KVShape(1, 2, 2, 32, 4, 3, 3), "meta")
    cache.begin(0, 3)
    time = torch.zeros(1, 3, 64, device="meta"), torch.zeros(1, 3, 6, 64, device="meta")
    text = text_kv(model, torch.zeros(1, 5, 8, device="meta"))
    out = forward(model, torch.zeros(1, 16, 3, 4, 4, device="meta"), time, text, cache)
    assert out is not None
    return out


@pytest.mark.parametrize("resident", [0, 1, 3])
def test_every_layer_computes_on_the_device(model: CausalWan, resident: int) -> None:
    offload_blocks(model, "meta", resident)
    at_rest = linears(model, resident)
    assert {id(p) for p in model.parameters() if p.device.type == "cpu"} == {
        id(p) for layer in at_rest for p in layer.parameters()
    }
    with Traffic() as traffic:
        out = meta_pass(model)
    assert out.device.type == "meta" and tuple(out.shape) == (1, 16, 3, 4, 4)
    counts = [traffic.copied[p.data_ptr()] for layer in at_rest for p in layer.parameters()]
    assert counts == [1] * (20 * (3 - resident)), "each offloaded weight and bias comes over once in a pass"
    assert all(layer.weight.device.type == "cpu" for layer in at_rest)


def test_without_offload_the_device_refuses_what_lies_elsewhere(model: CausalWan) -> None:
    """That the test above can fail."""
    for layer in linears(model):
        assert type(layer) is nn.Linear
    offload_blocks(model, "meta")
    model.blocks[2].modulation = nn.Parameter(torch.zeros(1, 6, 64), requires_grad=False)
    model.blocks[1].norm3.to_empty(device="cpu")
    with pytest.raises((RuntimeError, NotImplementedError)):
        meta_pass(model)


def test_weights_stay_where_they_were_loaded(model: CausalWan, tmp_path: Path) -> None:
    """No second copy: a file mapped by the loader stays mapped."""
    path = tmp_path / "model.safetensors"
    save_model(model, path, "self_forcing")
    loaded = load_model(path).model
    before = [layer.weight.data_ptr() for layer in linears(loaded)]
    offload_blocks(loaded, "cpu")
    assert [layer.weight.data_ptr() for layer in linears(loaded)] == before
    assert all(isinstance(layer, OffloadedLinear) for layer in linears(loaded))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert WanDenoiser(loaded).geometry == WanDenoiser(model).geometry


def test_the_denoiser_samples_on_the_device(model: CausalWan) -> None:
    offload_blocks(model, "meta")
    assert WanDenoiser(model).geometry.device == torch.device("meta")


@pytest.mark.parametrize("count", [-1, 4])
def test_impossible_counts_are_refused_before_anything_moves(model: CausalWan, count: int) -> None:
    with pytest.raises(DummyForcingError, match="expected 0 to 3 resident blocks"):
        offload_blocks(model, "meta", count)
    assert all(p.device.type == "cpu" for p in model.parameters())


@pytest.mark.parametrize("resident", [0, 2, 3])
def test_what_the_device_must_hold(model: CausalWan, resident: int) -> None:
    priced = resident_bytes(model, resident)
    largest = max((4 * sum(p.numel() for p in layer.parameters()) for layer in linears(model, resident)), default=0)
    offload_blocks(model, "meta", resident)
    assert priced == 4 * sum(p.numel() for p in model.parameters() if p.is_meta) + largest


def test_a_14b_model_fits_beside_its_cache() -> None:
    """All of it in bf16 28.6 GB; offloaded, 0.61 GB stay."""
    config = WanConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)
    whole = empty_model(config).to(torch.bfloat16)
    assert sum(2 * p.numel() for p in whole.parameters()) / 1e9 == pytest.approx(28.58, abs=0.02)
    assert resident_bytes(whole) / 1e9 == pytest.approx(0.612, abs=0.001)
