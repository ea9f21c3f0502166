"""LoRA files in PEFT's names: read from any container, merged in float32, refused when they do not fit."""

from collections.abc import Callable
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


@pytest.mark.parametrize("alpha", [10**400, "many", None, [8.0]])
def test_an_alpha_that_is_no_number_is_named(base, tmp_path, alpha):
    tensors = adapter(base) | {f"base_model.model.{MODULES[0]}.alpha": alpha}
    torch.save({"state_dict": tensors}, tmp_path / "lora.pt")
    with pytest.raises(CheckpointError, match=r"alpha is .*one number was expected"):
        Lora.read(tmp_path / "lora.pt")


@pytest.mark.parametrize("alpha", [8, 8.0, "8", torch.tensor(8), torch.tensor(8.0)])
def test_an_alpha_may_be_any_number(base, tmp_path, alpha):
    tensors = adapter(base)
    for module in MODULES:
        tensors[f"base_model.model.{module}.alpha"] = alpha
    torch.save(tensors, tmp_path / "lora.pt")
    assert {update.scale for update in Lora.read(tmp_path / "lora.pt").updates.values()} == {8.0 / RANK}


def test_a_lora_too_large_for_the_dtype_is_the_one_to_blame(base, tmp_path):
    tensors = {name: 1e3 * tensor.float() for name, tensor in adapter(base).items()}
    lora = Lora.read(write(tmp_path / "lora.safetensors", tensors), strength=1e6)
    with pytest.raises(CheckpointError, match=r"lora\.safetensors: makes .* too large for float16"):
        load_model(base, dtype=torch.float16, lora=lora)


def wrong_module(tensors: dict) -> dict:
    return {key.replace("blocks.1", "blocks.7"): value for key, value in tensors.items()}


def wrong_width(tensors: dict) -> dict:
    return {key: value[:, :-1] if "lora_A" in key else value for key, value in tensors.items()}


def wrong_rank(tensors: dict) -> dict:
    return {key: value[:-1] if "lora_A" in key else value for key, value in tensors.items()}


def half(tensors: dict) -> dict:
    return {key: value for key, value in tensors.items() if "lora_A" in key}


def vast(tensors: dict) -> dict:
    """Small on disk, 160 GB once multiplied."""
    name = "blocks.0.self_attn.q.lora_{}.weight"
    return {name.format("A"): torch.ones(1, 200_000), name.format("B"): torch.ones(200_000, 1)}


def alphas(tensors: dict) -> dict:
    return tensors | {"base_model.model.blocks.0.self_attn.q.alpha": torch.ones(3)}


def no_alpha(tensors: dict) -> dict:
    return tensors | {"base_model.model.blocks.0.self_attn.q.alpha": torch.zeros(())}


def not_finite(tensors: dict) -> dict:
    return tensors | {"base_model.model.blocks.0.self_attn.q.alpha": torch.tensor(torch.inf)}


def whole_numbers(tensors: dict) -> dict:
    return {key: value.to(torch.int8) for key, value in tensors.items()}


def twice(tensors: dict) -> dict:
    return tensors | {key.removeprefix("base_model.model."): value.clone() for key, value in tensors.items()}


def no_rank(tensors: dict) -> dict:
    return {key: value[:0] if "lora_A" in key else value[:, :0] for key, value in tensors.items()}


def beside(name: str, *shape: int) -> Callable[[dict], dict]:
    return lambda tensors: tensors | {name: torch.ones(shape)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wrong_module, r"changes blocks\.7\..*does not have"),
        (wrong_width, r"update of blocks\.0\.self_attn\.q\.weight is \(256, 255\).*\(256, 256\)"),
        (wrong_rank, r"\(3, 256\).*\(rank, in\)"),
        (half, r"down \(A\) of \(rank, in\) and up \(B\)"),
        (vast, r"is \(200000, 200000\), the model's weight \(256, 256\)"),
        (alphas, r"alpha of blocks\.0\.self_attn\.q\.weight is \(3,\), one number"),
        (no_alpha, r"alpha of blocks\.0\.self_attn\.q\.weight is 0"),
        (not_finite, "alpha holds NaN or infinite"),
        (whole_numbers, r"torch\.int8, floating point"),
        (twice, "second update"),
        (no_rank, r"\(0, 256\).*\(rank, in\)"),
        (lambda tensors: {}, "no tensor of a LoRA"),
        (beside("blocks.0.self_attn.q.dora_scale", 256), r"dora_scale is a DoRA; expected lora_A and lora_B"),
        (beside("lora_te_text_model_encoder_layers_0_q.lora_up.weight", 4, 4), "the text encoder"),
        (beside("lora_unet_blocks_0_self_attn_k.hada_w1_a", 4, 4), "LyCORIS adapter other than LoRA"),
        (beside("blocks.0.self_attn.q.lora_B.bias", 256), "lora_B.bias is no update known here"),
        (beside("blocks.0.self_attn.k.reshape_weight", 2), "reshape_weight is no update known here; expected"),
        (beside("blocks.0.self_attn.k.diff_b", 7), r"bias is \(7,\), the model's weight \(256,\)"),
        (beside("blocks.0.cross_attn.k_img.diff", 256, 256), r"changes blocks\.0\.cross_attn\.k_img\.weight"),
        (beside("x" * 5000, 1), r"x \.\.\. x+ is no update"),
    ],
)
def test_a_lora_that_does_not_fit_is_one_clear_error(base, tmp_path, spoil, message):
    path = write(tmp_path / "lora.safetensors", {k: v.contiguous() for k, v in spoil(adapter(base)).items()})
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(base, lora=Lora.read(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


# Module names, written out by hand.
KOHYA = ("blocks_0_self_attn_q", "blocks_1_ffn_0", "blocks_1_cross_attn_o")
DIFFUSERS = ("blocks.0.attn1.to_q", "blocks.1.ffn.net.0.proj", "blocks.1.attn2.to_out.0")
DOWN_UP = (".lora_down.weight", ".lora_up.weight")
SPELLINGS = {
    "down and up": ("{}", MODULES, DOWN_UP),
    "comfy": ("diffusion_model.{}", MODULES, DOWN_UP),
    "kohya": ("lora_unet_{}", KOHYA, DOWN_UP),
    "kohya, two lines": ("lora_unet__{}", KOHYA, DOWN_UP),
    "kohya, no prefix": ("{}", KOHYA, DOWN_UP),
    "kohya of diffusers": ("lora_unet_{}", tuple(name.replace(".", "_") for name in DIFFUSERS), DOWN_UP),
    "lycoris": ("lycoris_{}", KOHYA, DOWN_UP),
    "diffusers": ("transformer.{}", DIFFUSERS, (".lora_A.weight", ".lora_B.weight")),
    "diffusers, adapter": ("base_model.model.{}", DIFFUSERS, (".lora_A.my-style.weight", ".lora_B.my-style.weight")),
    "old diffusers": ("transformer.{}", DIFFUSERS, (".lora.down.weight", ".lora.up.weight")),
    "bare": ("{}", MODULES, (".lora_A", ".lora_B")),
}


@pytest.mark.parametrize("alpha", [None, 2.0])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_lora(base: Path, tmp_path: Path, spelling: str, alpha: float | None) -> None:
    form, modules, leaves = SPELLINGS[spelling]
    plain, tensors = adapter(base, ""), {}
    for official, module in zip(MODULES, modules, strict=True):
        for side, leaf in zip("AB", leaves, strict=True):
            tensors[form.format(module) + leaf] = plain[f"{official}.lora_{side}.weight"]
        if alpha is not None:
            tensors[form.format(module) + ".alpha"] = torch.tensor(alpha)
    weights = {name: tensor.float() for name, tensor in load_model(base).model.state_dict().items()}
    lora = Lora.read(write(tmp_path / "lora.safetensors", tensors))
    made = load_model(base, dtype=torch.float32, lora=lora).model.state_dict()
    for module in MODULES:
        low, high = (plain[f"{module}.lora_{side}.weight"] for side in "AB")
        weights[f"{module}.weight"] += (1.0 if alpha is None else alpha / RANK) * (high @ low)
    for name, tensor in weights.items():
        torch.testing.assert_close(made[name], tensor, rtol=1e-6, atol=1e-6)


def test_whole_differences_reach_weights_biases_and_modulation(base: Path, tmp_path: Path) -> None:
    changed = {
        "diffusion_model.blocks.0.norm3.diff": "blocks.0.norm3.weight",
        "diffusion_model.blocks.1.self_attn.k.diff_b": "blocks.1.self_attn.k.bias",
        "diffusion_model.blocks.1.diff_m": "blocks.1.modulation",
        "diffusion_model.head.diff_m": "head.modulation",
        "lora_unet_head_head.diff_b": "head.head.bias",
        "lora_unet_patch_embedding.diff": "patch_embedding.weight",
    }
    plain = {name: tensor.float() for name, tensor in load_model(base).model.state_dict().items()}
    tensors = {spelling: torch.full(plain[name].shape, 0.25) for spelling, name in changed.items()}
    lora = Lora.read(write(tmp_path / "lora.safetensors", tensors), 2.0)
    made = load_model(base, dtype=torch.float32, lora=lora).model.state_dict()
    for name, tensor in plain.items():
        assert torch.equal(made[name], tensor + 0.5 if name in changed.values() else tensor), name


def test_a_convolutions_update_is_of_its_flat_weight(base: Path, tmp_path: Path) -> None:
    low, high = torch.randn(RANK, 16, 1, 2, 2), torch.randn(256, RANK, 1, 1, 1)
    tensors = {"patch_embedding.lora_down.weight": low, "patch_embedding.lora_up.weight": high}
    lora = Lora.read(write(tmp_path / "lora.safetensors", tensors))
    plain, made = load_model(base, dtype=torch.float32), load_model(base, dtype=torch.float32, lora=lora)
    wanted = torch.einsum("or,rcthw->octhw", high[:, :, 0, 0, 0], low)
    got = made.model.patch_embedding.weight - plain.model.patch_embedding.weight
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_sum_with_a_float8_weight_is_rounded_once(
    base: Path, tmp_path: Path, dtype: torch.dtype, scaled: bool
) -> None:
    """An adapter below the file's steps is not lost: it is added to the widened weight."""
    weights = {name: tensor.float() for name, tensor in load_model(base).model.state_dict().items()}
    small, full = {}, {}
    for name, tensor in weights.items():
        scale = tensor.abs().max() / 448 if scaled and f"{name}".removesuffix(".weight") in MODULES else None
        small[name] = (tensor if scale is None else tensor / scale).to(torch.float8_e4m3fn)
        full[name] = small[name].float()
        if scale is not None:
            small[f"{name.removesuffix('.weight')}.scale_weight"] = scale
            full[name] *= scale
    save_file(small, tmp_path / "longlive_fp8.safetensors")
    tensors = {name: 0.01 * tensor for name, tensor in adapter(base).items()}
    lora = Lora.read(write(tmp_path / "lora.safetensors", tensors))
    made = load_model(tmp_path / "longlive_fp8.safetensors", dtype=dtype, lora=lora).model.state_dict()
    for name, tensor in full.items():
        if (module := name.removesuffix(".weight")) in MODULES:
            low, high = (tensors[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
            tensor += high @ low
        assert torch.equal(made[name], tensor.to(dtype)), name
