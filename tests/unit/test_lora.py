"""LoRA files in PEFT's names: read from any container, merged in float32, refused when they do not fit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dummyforcing_core.errors import CheckpointError
from dummyforcing_core.models.checkpoints import load_model, save_model
from dummyforcing_core.models.lora import Lora
from dummyforcing_core.models.wan import CausalWan, WanConfig

CONFIG = WanConfig(dim=256, ffn_dim=64, num_heads=2, num_layers=2, text_dim=16, text_len=4)
MODULES = ("blocks.0.self_attn.q", "blocks.1.ffn.0", "blocks.1.cross_attn.o")
RANK = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lora") / "longlive_base.safetensors"
    save_model(CausalWan(CONFIG), path, "longlive", torch.bfloat16)
    return path


def adapter(base: Path, prefix: str = "base_model.model.", leaf: str = "weight") -> dict[str, torch.Tensor]:
    """Random A and B for MODULES."""
    generator = torch.Generator().manual_seed(1)
    weights = dict(load_model(base).model.named_parameters())
    tensors = {}
    for module in MODULES:
        out, inside = weights[f"{module}.weight"].shape
        tensors[f"{prefix}{module}.lora_A.{leaf}"] = torch.randn(RANK, inside, generator=generator)
        tensors[f"{prefix}{module}.lora_B.{leaf}"] = torch.randn(out, RANK, generator=generator)
    return tensors


def write(path: Path, tensors: dict, container: str | None = None) -> Path:
    if path.suffix == ".pt":
        torch.save({container: tensors} if container else tensors, path)
    else:
        save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("name", "container", "prefix", "leaf"),
    [
        ("lora.pt", "generator_lora", "base_model.model.", "weight"),
        ("lora.pt", None, "base_model.model.", "default.weight"),
        ("lora.safetensors", None, "diffusion_model.", "weight"),
        ("lora.safetensors", None, "", "weight"),
    ],
)
@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_merging_adds_b_times_a_in_float32(base, tmp_path, name, container, prefix, leaf, strength):
    tensors = adapter(base, prefix, leaf)
    lora = Lora.read(write(tmp_path / name, tensors, container), strength)
    plain = dict(load_model(base, dtype=torch.bfloat16).model.named_parameters())
    merged = dict(load_model(base, dtype=torch.bfloat16, lora=lora).model.named_parameters())
    for key, weight in plain.items():
        module = key.removesuffix(".weight")
        if module not in MODULES:
            assert torch.equal(merged[key], weight)
            continue
        a, b = (tensors[f"{prefix}{module}.lora_{side}.{leaf}"] for side in "AB")
        assert torch.equal(merged[key], (weight.float() + strength * (b @ a)).bfloat16())
        assert not torch.equal(merged[key], weight)


def test_alpha_scales_by_alpha_over_rank(base, tmp_path):
    tensors = adapter(base)
    for module in MODULES:
        tensors[f"base_model.model.{module}.alpha"] = torch.tensor(8.0)
    lora = Lora.read(write(tmp_path / "lora.safetensors", tensors))
    assert {update.scale for update in lora.updates.values()} == {8.0 / RANK}


def wrong_module(tensors: dict) -> dict:
    return {key.replace("blocks.1", "blocks.7"): value for key, value in tensors.items()}


def wrong_width(tensors: dict) -> dict:
    return {key: value[:, :-1] if "lora_A" in key else value for key, value in tensors.items()}


def wrong_rank(tensors: dict) -> dict:
    return {key: value[:-1] if "lora_A" in key else value for key, value in tensors.items()}


def half(tensors: dict) -> dict:
    return {key: value for key, value in tensors.items() if "lora_A" in key}


def other_names(tensors: dict) -> dict:
    return {key.replace("lora_A", "lora_down"): value for key, value in tensors.items()}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wrong_module, r"changes blocks\.7\..*does not have"),
        (wrong_width, r"update of blocks\.0\.self_attn\.q\.weight is \(256, 255\).*\(256, 256\)"),
        (wrong_rank, r"\(3, 256\).*\(rank, in\)"),
        (half, r"A \(rank, in\) and B"),
        (other_names, "lora_down.*PEFT"),
    ],
)
def test_a_lora_that_does_not_fit_is_one_clear_error(base, tmp_path, spoil, message):
    path = write(tmp_path / "lora.safetensors", {k: v.contiguous() for k, v in spoil(adapter(base)).items()})
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(base, lora=Lora.read(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
