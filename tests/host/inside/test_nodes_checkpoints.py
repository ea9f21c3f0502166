"""Checkpoint files as they are found: containers, fp8 in every form, and what is not an autoregressive Wan2.1 model."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CLOSE = {"rtol": 0.0, "atol": 5e-5}
LINEAR = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "ffn.0", "ffn.2")


class Weights(dict[str, Tensor]):
    """The tiny checkpoint's tensors."""


@pytest.fixture
def weights(files: Path) -> Weights:
    return Weights(load_file(files / "self_forcing_tiny.safetensors"))


@pytest.fixture
def saved(files: Path) -> Callable[..., str]:
    """``saved({name: tensor}, "x.safetensors")`` writes into models/diffusion_models; the name."""

    def write(tensors: Any, name: str = "self_forcing_x.safetensors", metadata: Any = None) -> str:
        if name.endswith(".pt"):
            torch.save(tensors, files / name)
        else:
            save_file({key: value.contiguous() for key, value in tensors.items()}, files / name, metadata)
        return name

    return write


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"generator_ema": {f"model.{k}": v for k, v in w.items()}, "generator": {"model.x": torch.zeros(1)}},
        lambda w: {"generator": {f"model._fsdp_wrapped_module.{k}": v for k, v in w.items()}},
        lambda w: dict(w),
        lambda w: {f"model.diffusion_model.{k}": v for k, v in w.items()},
    ],
    ids=["generator_ema", "fsdp", "bare", "comfy"],
)
def test_pt_files_of_the_authors_load_as_they_are(
    clip: Any, ar_model: Any, weights: Weights, saved: Any, wrap: Any
) -> None:
    made = clip(ar_model(saved(wrap(weights), "self_forcing_dmd.pt")))
    torch.testing.assert_close(made, clip(ar_model()), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["fp8_e4m3fn", "fp8_e5m2", "fp8_e4m3fn_fast"])
def test_fp8_weights_of_the_widget_sample_close_to_full_ones(
    clip: Any, ar_model: Any, dtype: str, weights: Weights, saved: Any
) -> None:
    kind = torch.float8_e5m2 if "e5m2" in dtype else torch.float8_e4m3fn
    model = ar_model(weight_dtype=dtype)
    assert model.model.get_dtype() == kind and model.model.get_dtype_inference() == torch.float32
    made, full = clip(model), clip(ar_model())
    rounded = {k: v if k.startswith("patch_embedding") else v.to(kind).float() for k, v in weights.items()}
    assert (made - full).abs().max() > 1e-3
    assert (made - full).abs().mean() < 0.35 * full.abs().mean()
    torch.testing.assert_close(made, clip(ar_model(saved(rounded))), **CLOSE)


def test_fp8_weights_halve_what_the_host_counts(ar_model: Any) -> None:
    assert ar_model(weight_dtype="fp8_e4m3fn").model_size() < 0.3 * ar_model().model_size()


def test_plain_fp8_files_load(clip: Any, ar_model: Any, weights: Weights, saved: Any) -> None:
    small = {k: v.to(torch.float8_e4m3fn) if v.ndim == 2 else v for k, v in weights.items()}
    made = clip(ar_model(saved(small)))
    rounded = clip(ar_model(saved({k: v.float() for k, v in small.items()}, "self_forcing_y.safetensors")))
    torch.testing.assert_close(made, rounded, **CLOSE)


def quantised(weights: Weights, form: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Weights with one float32 scale per Linear in one of the forms that the host reads."""
    tensors, layers = dict(weights), {}
    for name in [k.removesuffix(".weight") for k in weights if any(k.endswith(f"{part}.weight") for part in LINEAR)]:
        weight = tensors[f"{name}.weight"]
        scale = weight.abs().max() / 448
        tensors[f"{name}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
        layers[name] = {"format": "float8_e4m3fn"}
        tensors[f"{name}.{'scale_weight' if form == 'scaled_fp8' else 'weight_scale'}"] = scale
        if form == "comfy_quant":
            tensors[f"{name}.comfy_quant"] = torch.tensor(list(json.dumps(layers[name]).encode()), dtype=torch.uint8)
    if form == "scaled_fp8":
        tensors["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    return tensors, {"_quantization_metadata": json.dumps({"layers": layers})} if form == "metadata" else None


@pytest.mark.parametrize("form", ["scaled_fp8", "comfy_quant", "metadata"])
def test_scaled_fp8_files_sample_close_to_full_ones(
    clip: Any, ar_model: Any, call: Any, weights: Weights, saved: Any, form: str
) -> None:
    tensors, metadata = quantised(weights, form)
    name = saved(tensors, f"self_forcing_{form}.safetensors", metadata)
    full = clip(ar_model())
    made = clip(ar_model(name))
    assert (made - full).abs().max() > 1e-4
    assert (made - full).abs().mean() < 0.1 * full.abs().mean()
    stock = call("UNETLoader", unet_name=name, weight_dtype="default").outputs[0]
    torch.testing.assert_close(clip(stock), made, **CLOSE)


def lora_names(weights: Weights) -> dict[str, Tensor]:
    return {f"blocks.0.self_attn.q.lora_{side}.weight": torch.zeros(4, 4) for side in "AB"}


def with_image_channels(weights: Weights) -> dict[str, Tensor]:
    patch = weights["patch_embedding.weight"]
    return {**weights, "patch_embedding.weight": torch.cat([patch, patch, patch[:, :4]], 1)}


def of_wan_2_2(weights: Weights) -> dict[str, Tensor]:
    """48 latent channels, as Wan2.2 5B and LongLive 2.0 have."""
    patch, head = weights["patch_embedding.weight"], weights["head.head.weight"]
    wide = {"patch_embedding.weight": torch.cat([patch] * 3, 1), "head.head.weight": torch.cat([head] * 3)}
    return {**weights, **wide, "head.head.bias": torch.zeros(192)}


@pytest.mark.parametrize(
    "spoil, words",
    [
        (of_wan_2_2, ["Wan2.2 5B", "LongLive 2.0", "48 channels"]),
        (lora_names, ["LoRA"]),
        (with_image_channels, ["36", "image-to-video"]),
        (lambda w: {k: v for k, v in w.items() if not k.startswith("blocks.0.")}, ["blocks.0"]),
        (lambda w: {k: v for k, v in w.items() if k != "blocks.1.ffn.2.bias"}, ["blocks.1.ffn.2.bias"]),
        (lambda w: {**w, "blocks.1.ffn.2.bias": torch.zeros(7)}, ["blocks.1.ffn.2.bias"]),
        (lambda w: {"conv_in.weight": torch.zeros(4, 4)}, ["wan"]),
        (lambda w: {**w, "vace_blocks.0.before_proj.weight": torch.zeros(256, 256)}, ["vace"]),
        (lambda w: {**w, "img_emb.proj.1.weight": torch.zeros(256, 1280)}, ["image-to-video"]),
    ],
    ids=["wan 2.2", "lora", "i2v", "half", "one missing", "one wrong", "sd", "vace", "clip vision"],
)
def test_other_files_are_refused_in_one_line_with_their_name(
    ar_model: Any, weights: Weights, saved: Any, refused: Any, spoil: Any, words: list[str]
) -> None:
    name = saved(spoil(weights), "self_forcing_spoiled.safetensors")
    refused(lambda: ar_model(name), "self_forcing_spoiled", *words)


def test_a_file_that_does_not_tell_its_family_is_refused_and_the_widget_helps(
    ar_model: Any, weights: Weights, saved: Any, refused: Any, clip: Any
) -> None:
    name = saved(weights, "neutral.safetensors")
    line = refused(lambda: ar_model(name), "neutral.safetensors", "self_forcing", "longlive")
    assert "--" not in line and "demo" not in line, "a node has no command line, and another node has the demo"
    torch.testing.assert_close(clip(ar_model(name, family="self_forcing")), clip(ar_model()), rtol=0, atol=0)


def test_a_family_against_the_files_word_is_refused(ar_model: Any, weights: Weights, saved: Any, refused: Any) -> None:
    entry = {"dummyforcing": json.dumps({"family": "longlive"})}
    name = saved(weights, "stated.safetensors", entry)
    assert "--" not in refused(lambda: ar_model(name, family="self_forcing"), "stated", "longlive", "self_forcing")


def test_the_demo_models_file_is_sent_to_its_own_node(ar_model: Any, files: Path, part: Any, refused: Any) -> None:
    """Its heads are smaller than those that the host infers."""
    (files / "demo_copy.safetensors").write_bytes(part("dummyforcing_core.models.checkpoints").DEMO_PATH.read_bytes())
    refused(lambda: ar_model("demo_copy.safetensors"), "Load Demo Model")


def test_files_that_would_run_code_are_refused(ar_model: Any, files: Path, refused: Any) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (files / "attacked",)

    with (files / "self_forcing_evil.pt").open("wb") as file:
        pickle.dump({"generator": Attack()}, file)
    refused(lambda: ar_model("self_forcing_evil.pt"), "self_forcing_evil.pt")
    torch.save({"generator": Attack()}, files / "self_forcing_evil.pt")
    refused(lambda: ar_model("self_forcing_evil.pt"), "self_forcing_evil.pt")
    assert not (files / "attacked").exists()


@pytest.mark.parametrize("size", [0, 7, 40_000])
def test_damaged_files_are_refused(ar_model: Any, files: Path, refused: Any, size: int) -> None:
    whole = (files / "self_forcing_tiny.safetensors").read_bytes()
    (files / "self_forcing_cut.safetensors").write_bytes(whole[:size])
    refused(lambda: ar_model("self_forcing_cut.safetensors"), "self_forcing_cut.safetensors", "download")


def test_only_files_that_can_be_read_are_listed(part: Any, files: Path) -> None:
    unreadable = ("m.gguf", "m.bin", "m.pkl", "m-00001-of-00002.safetensors")
    for name in (*unreadable, "listed.ckpt", "listed.sft", "listed.PT"):
        (files / name).write_bytes(b"x")
    listed = part("nodes.host.files").model_names("diffusion_models")
    assert "self_forcing_tiny.safetensors" in listed and not set(unreadable) & set(listed)
    assert {"listed.ckpt", "listed.sft", "listed.PT"} <= set(listed)
    for name in (*unreadable, "listed.ckpt", "listed.sft", "listed.PT"):
        (files / name).unlink()


def test_one_of_several_files_is_refused_with_the_command_that_joins_them(
    ar_model: Any, weights: Weights, saved: Any, refused: Any, files: Path
) -> None:
    half = len(weights) // 2
    names = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name, part_of in zip(names, (list(weights.items())[:half], list(weights.items())[half:]), strict=True):
        saved(dict(part_of), name)
    refused(lambda: ar_model(names[0]), names[0], "2 files", f"convert {files}")
    for name in names:
        (files / name).unlink()


def test_an_ordinary_model_is_refused_and_its_name_told(call: Any, stream: Any, tiny_model: Any, refused: Any) -> None:
    line = refused(lambda: stream(tiny_model()), "tiny_wan", "bidirectional", "Load AR Model")
    assert "\n" not in line
    ordinary = call("DummyForcingApplyDummyForcing", model=tiny_model()).outputs[0]  # settings fit any Wan2.1 t2v
    refused(lambda: stream(ordinary), "bidirectional")


def test_weights_that_are_mostly_offloaded_sample_the_same(
    clip: Any, ar_model: Any, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's own weight streaming: every Linear casts its weight on the way in, as with little VRAM."""
    wanted = clip(ar_model())
    model = ar_model().clone(disable_dynamic=True)
    model.load(torch.device("cpu"), lowvram_model_memory=100_000, force_patch_weights=False, full_load=False)
    linear = model.model.diffusion_model.blocks[0].self_attn.q
    assert linear.comfy_cast_weights
    torch.testing.assert_close(clip(model), wanted, **CLOSE)
