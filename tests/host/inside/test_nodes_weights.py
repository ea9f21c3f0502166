"""NaN in weights and text: told before the first model call, whoever loaded them; searched once per model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

NAMES = ["patch_embedding.weight", "blocks.0.self_attn.k.weight", "blocks.1.cross_attn.norm_q.weight"]


def spoil(module: Any, name: str) -> None:
    with torch.inference_mode():
        module.get_parameter(name).data.view(-1)[-1] = float("nan")


@pytest.mark.parametrize("name", NAMES)
def test_load_ar_model_names_file_and_tensor(ar_model: Any, files: Path, refused: Any, name: str) -> None:
    weights = load_file(files / "self_forcing_tiny.safetensors")
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, files / "self_forcing_spoiled.safetensors")
    refused(lambda: ar_model("self_forcing_spoiled.safetensors"), "self_forcing_spoiled", f"{name} holds NaN")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_any_loader(stream: Any, ar_model: Any, refused: Any, model_calls: list, name: str) -> None:
    model = ar_model()
    spoil(model.model.diffusion_model, name)
    refused(lambda: stream(model), "self_forcing_tiny", f"{name} holds NaN")
    assert model_calls == []


def test_our_sampler(custom: Any, ours: Any, ar_model: Any, refused: Any) -> None:
    model = ar_model()
    spoil(model.model.diffusion_model, NAMES[0])
    refused(lambda: custom(model, ours, torch.tensor([1.0, 0.5, 0.0])), f"{NAMES[0]} holds NaN")


def test_a_vae(stream: Any, call: Any, ar_model: Any, refused: Any, model_calls: list, tiny_vae: Any) -> None:
    vae = call("VAELoader", vae_name="tiny_wan_vae.safetensors").outputs[0]
    spoil(vae.first_stage_model, "decoder.conv1.weight")
    refused(lambda: stream(ar_model(), vae=vae), "the VAE: decoder.conv1.weight holds NaN")
    assert model_calls == []
    assert stream(ar_model(), vae=tiny_vae).outputs[1]


def test_text(stream: Any, ar_model: Any, refused: Any, conditioning: Any, model_calls: list) -> None:
    text = conditioning(1)
    text[0][0][0, 3, 5] = float("inf")
    refused(lambda: stream(ar_model(), conditioning=text), "text features", "text encoder's file")
    assert model_calls == []


def test_a_lora_of_the_stock_loader(call: Any, stream: Any, ar_model: Any, base: Path, refused: Any) -> None:
    parts = {"lora_A": torch.ones(2, 256), "lora_B": torch.full((256, 2), float("nan"))}
    named = {f"diffusion_model.blocks.1.self_attn.q.{part}.weight": tensor for part, tensor in parts.items()}
    folder = base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(named, folder / "spoiled.safetensors")
    patched = call("LoraLoaderModelOnly", model=ar_model(), lora_name="spoiled.safetensors", strength_model=1.0)
    refused(lambda: stream(patched.outputs[0]), "LoRA", "blocks.1.self_attn.q.weight")
    refused(lambda: ar_model(lora="spoiled.safetensors"), "spoiled.safetensors", "holds NaN")


def test_a_model_is_searched_once(stream: Any, ar_model: Any, part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []
    monkeypatch.setattr(part("nodes.host.weights"), "check_loaded", lambda name, *tensors: searched.append(name))
    model = ar_model()
    stream(model)
    assert "blocks.0.self_attn.q.weight" in searched
    searched.clear()
    stream(model)
    stream(model.clone())
    assert searched == []
