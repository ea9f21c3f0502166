"""The harness inside ComfyUI: packs load once, the tiny files are what the host believes them to be, nodes run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bootstrap import Pack, loaded_pack
from node_calls import Called
from safetensors.torch import load_file
from tiny_models import CAUSAL_WAN_FILE, VAE_FILE, vae_shapes, wan_shapes

Call = Callable[..., Called]


def test_the_probe_pack_is_loaded_as_the_host_names_it(probe: Pack, base: Path) -> None:
    assert set(probe.nodes) == {"HarnessConditioning", "HarnessPreview", "HarnessLoop"}
    assert probe.module.__name__.endswith("/custom_nodes/ComfyUI-Harness-Probe")
    nodes_module = sys.modules[f"{probe.module.__name__}.probe_nodes"]
    assert probe.nodes["HarnessPreview"].__module__ == nodes_module.__name__, "imported a second time"


def test_a_pack_that_is_not_there_is_an_error(base: Path) -> None:
    with pytest.raises(LookupError, match="did not load"):
        loaded_pack(base, "ComfyUI-Nothing")


def test_no_repository_folder_shadows_the_hosts_modules() -> None:
    import nodes

    assert "NODE_CLASS_MAPPINGS" in vars(nodes)
    assert not any((Path(entry) / "dummyforcing_core").is_dir() for entry in sys.path if entry)


@pytest.mark.parametrize("heads, layers", [(1, 1), (2, 3)])
def test_wan_shapes_are_those_of_the_hosts_model(heads: int, layers: int) -> None:
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    host = WanModel(
        "t2v", dim=128 * heads, ffn_dim=512, num_heads=heads, num_layers=layers, text_dim=4096,
        operations=comfy.ops.disable_weight_init, device="meta",
    )  # fmt: skip
    assert dict(wan_shapes(heads, layers)) == {name: tuple(one.shape) for name, one in host.state_dict().items()}


@pytest.mark.parametrize("dim", [4, 8, 96])
def test_vae_shapes_are_those_of_the_hosts_vae(dim: int) -> None:
    from comfy.ldm.wan.vae import WanVAE

    with torch.device("meta"):
        host = WanVAE(
            dim=dim, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
            temperal_downsample=[False, True, True], dropout=0.0,
        )  # fmt: skip
    assert dict(vae_shapes(dim)) == {name: tuple(one.shape) for name, one in host.state_dict().items()}


@pytest.mark.parametrize("causal, name", [(False, "WanModel"), (True, "CausalWanModel")])
def test_the_host_detects_the_tiny_transformer(tiny_model: Callable[[bool], Any], causal: bool, name: str) -> None:
    model = tiny_model(causal).model
    assert type(model.diffusion_model).__name__ == name
    assert (model.diffusion_model.num_heads, model.diffusion_model.num_layers) == (2, 2)
    assert model.model_sampling.shift == (5.0 if causal else 8.0)


def test_the_host_loads_every_weight_of_the_tiny_transformer(tiny_model: Callable[[bool], Any], base: Path) -> None:
    loaded = tiny_model(True).model.diffusion_model.state_dict()
    for name, written in load_file(base / "models" / "diffusion_models" / CAUSAL_WAN_FILE).items():
        torch.testing.assert_close(loaded[name].float().cpu(), written, rtol=1e-2, atol=1e-2)


def test_stock_causal_wan_samples_a_clip(tiny_model: Any, conditioning: Any, call: Call) -> None:
    latent = call("EmptyARVideoLatent", width=64, height=48, length=9).outputs[0]
    sampled = call(
        "SamplerCustom",
        model=tiny_model(True), add_noise=True, noise_seed=3, cfg=1.0,
        positive=conditioning(1), negative=conditioning(2),
        sampler=call("SamplerARVideo", num_frame_per_block=1).outputs[0],
        sigmas=torch.tensor([1.0, 0.8, 0.0]), latent_image=latent,
    ).outputs[0]["samples"]  # fmt: skip
    assert sampled.shape == (1, 16, 3, 6, 8)
    assert torch.isfinite(sampled).all() and 0.05 < sampled.std() < 20


def test_the_tiny_vae_decodes_and_encodes(tiny_vae: Any, call: Call, base: Path) -> None:
    assert (base / "models" / "vae" / VAE_FILE).stat().st_size < 5_000_000
    samples = torch.randn(1, 16, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    images = call("VAEDecode", vae=tiny_vae, samples={"samples": samples}).outputs[0]
    assert images.shape == (9, 48, 64, 3) and images.std() > 0.01
    again = call("VAEEncode", vae=tiny_vae, pixels=images).outputs[0]["samples"]
    assert again.shape == samples.shape and torch.isfinite(again).all()


def test_call_fills_defaults_and_hidden_values(probe: Pack, call: Call) -> None:
    called = call("HarnessPreview", unique_id="7:3")
    assert called.ui is not None
    (picture,) = called.ui["probe"]
    assert called.outputs == () and picture["type"] == "temp"
    assert call(probe.nodes["HarnessConditioning"], seed=4).outputs[0][0][0].shape == (1, 512, 4096)


def test_call_refuses_unknown_and_missing_inputs(call: Call) -> None:
    with pytest.raises(TypeError, match="no inputs"):
        call("HarnessPreview", step=1)
    with pytest.raises(TypeError, match="needs"):
        call("VAEDecode")


def test_call_locks_the_class_and_runs_without_gradients(call: Call) -> None:
    from comfy_api.latest import io

    class Careless(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> Any:
            return io.Schema(node_id="Careless", inputs=[], outputs=[io.Int.Output()])

        @classmethod
        def execute(cls) -> Any:
            assert torch.is_inference_mode_enabled()
            cls.remembered = 1

    with pytest.raises(AttributeError, match="Cannot modify"):
        call(Careless)


def test_an_error_in_a_node_reaches_the_test(call: Call) -> None:
    with pytest.raises(ValueError, match="told to fail"):
        call("HarnessPreview", fail=True)
