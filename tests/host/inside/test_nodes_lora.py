"""LoRAs: stock ones on our MODEL, and an autoregressive checkpoint's own adapter in Load AR Model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

RANK, ALPHA = 4, 8.0
CHANGED = [f"blocks.{layer}.{name}" for layer in range(2) for name in ("self_attn.q", "self_attn.v", "ffn.0")]
CLOSE = {"rtol": 0.0, "atol": 5e-5}


@pytest.fixture(scope="session")
def updates(files: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Module -> (down, up): large enough to be seen, in every layer."""
    draws = torch.Generator().manual_seed(9)
    weights = load_file(files / "self_forcing_tiny.safetensors")
    shapes = {name: weights[f"{name}.weight"].shape for name in CHANGED}
    return {
        name: (torch.randn(RANK, inside, generator=draws) * 0.1, torch.randn(outside, RANK, generator=draws) * 0.1)
        for name, (outside, inside) in shapes.items()
    }


@pytest.fixture(scope="session")
def lora_files(base: Path, updates: dict[str, tuple[Tensor, Tensor]]) -> Callable[[str], str]:
    """The same adapter as "stock" (ComfyUI's names), "peft" (LongLive's names in a .pt) and "foreign"."""
    folder = base / "models" / "loras"
    stock: dict[str, Tensor] = {}
    peft: dict[str, Tensor] = {}
    for name, (down, up) in updates.items():
        stock |= {
            f"diffusion_model.{name}.lora_A.weight": down,
            f"diffusion_model.{name}.lora_B.weight": up,
            f"diffusion_model.{name}.alpha": torch.tensor(ALPHA),
        }
        peft |= {
            f"base_model.model.{name}.lora_A.default.weight": down,
            f"base_model.model.{name}.lora_B.default.weight": up * ALPHA / RANK,
        }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stock, folder / "stock.safetensors")
    torch.save({"generator_lora": peft}, folder / "peft.pt")
    torch.save(
        {"generator_lora": {k.replace("blocks.1", "blocks.7"): v for k, v in peft.items()}}, folder / "foreign.pt"
    )
    save_file({"double_blocks.0.img_attn.lora_down.weight": torch.zeros(4, 8)}, folder / "flux.safetensors")
    return lambda kind: next(folder.glob(f"{kind}.*")).name


@pytest.fixture(scope="session")
def merged(files: Path, updates: dict[str, tuple[Tensor, Tensor]]) -> Callable[[float], str]:
    """A checkpoint with the adapter in its weights, at a strength."""

    def write(strength: float) -> str:
        weights = load_file(files / "self_forcing_tiny.safetensors")
        for name, (down, up) in updates.items():
            weights[f"{name}.weight"] += strength * ALPHA / RANK * (up @ down)
        name = f"self_forcing_merged_{strength}.safetensors"
        save_file(weights, files / name)
        return name

    return write


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_a_stock_lora_changes_our_clip_as_merging_it_does(
    call: Any, clip: Any, ar_model: Any, lora_files: Any, merged: Any, strength: float
) -> None:
    plain = clip(ar_model())
    patched = call(
        "LoraLoaderModelOnly", model=ar_model(), lora_name=lora_files("stock"), strength_model=strength
    ).outputs[0]
    made = clip(patched)
    assert (made - plain).abs().max() > 0.05
    torch.testing.assert_close(made, clip(ar_model(merged(strength))), **CLOSE)


def test_our_settings_and_a_stock_lora_go_together_in_either_order(
    call: Any, clip: Any, ar_model: Any, lora_files: Any, merged: Any
) -> None:
    def dummies(model: Any) -> Any:
        return call("DummyForcingApplyDummyForcing", model=model).outputs[0]

    def lora(model: Any) -> Any:
        return call("LoraLoaderModelOnly", model=model, lora_name=lora_files("stock"), strength_model=1.0).outputs[0]

    wanted = clip(dummies(ar_model(merged(1.0))))
    for model in (dummies(lora(ar_model())), lora(dummies(ar_model()))):
        torch.testing.assert_close(clip(model), wanted, **CLOSE)


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_the_loaders_adapter_equals_the_cores_merge(
    clip: Any, ar_model: Any, lora_files: Any, part: Any, files: Path, base: Path, strength: float
) -> None:
    made = clip(ar_model(lora=lora_files("peft"), lora_strength=strength))
    adapter = part("dummyforcing_core.models.lora").Lora.read(base / "models/loras" / lora_files("peft"), strength)
    weights = load_file(files / "self_forcing_tiny.safetensors")
    save_file({name: adapter.merged(name, w) for name, w in weights.items()}, files / "self_forcing_core.safetensors")
    torch.testing.assert_close(made, clip(ar_model("self_forcing_core.safetensors")), **CLOSE)
    assert (made - clip(ar_model())).abs().max() > 0.01


def test_strength_0_and_none_are_no_adapter(clip: Any, ar_model: Any, lora_files: Any) -> None:
    plain = clip(ar_model())
    torch.testing.assert_close(clip(ar_model(lora=lora_files("peft"), lora_strength=0.0)), plain, rtol=0, atol=0)
    torch.testing.assert_close(clip(ar_model(lora="none", lora_strength=2.0)), plain, rtol=0, atol=0)


@pytest.mark.parametrize("kind, words", [("foreign", "blocks.7"), ("flux", "double_blocks")])
def test_an_adapter_of_another_model_is_refused(
    ar_model: Any, lora_files: Any, refused: Any, kind: str, words: str
) -> None:
    line = refused(lambda: ar_model(lora=lora_files(kind)), words)
    assert lora_files(kind) in line


def test_an_adapter_of_other_widths_is_refused(
    ar_model: Any, lora_files: Any, refused: Any, base: Path, updates: Any
) -> None:
    wide = {}
    for name in updates:
        wide[f"{name}.lora_A.weight"], wide[f"{name}.lora_B.weight"] = torch.zeros(4, 5120), torch.zeros(5120, 4)
    torch.save({"generator_lora": wide}, base / "models" / "loras" / "wide.pt")
    line = refused(lambda: ar_model(lora="wide.pt"), "wide.pt", "5120")
    assert line.startswith("wide.pt"), "the folder would fill the message"


def test_other_spellings_and_whole_differences_are_read(
    clip: Any, ar_model: Any, lora_files: Any, updates: Any, files: Path, base: Path
) -> None:
    """As kohya and Kijai write them; the host's own loader leaves the modulation's difference out."""
    weights, lora = load_file(files / "self_forcing_tiny.safetensors"), {}
    for name, (down, up) in updates.items():
        flat = f"lora_unet_{name.replace('.', '_')}"
        lora |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(ALPHA)}
        weights[f"{name}.weight"] += ALPHA / RANK * (up @ down)
    for spelling, name in {
        "blocks.1.diff_m": "blocks.1.modulation",
        "blocks.0.norm3.diff": "blocks.0.norm3.weight",
        "blocks.1.ffn.2.diff_b": "blocks.1.ffn.2.bias",
        "head.diff_m": "head.modulation",
    }.items():
        lora[f"diffusion_model.{spelling}"] = change = torch.full(weights[name].shape, 0.125)
        weights[name] += change
    save_file(lora, base / "models" / "loras" / "kohya.safetensors")
    save_file(weights, files / "self_forcing_kohya.safetensors")
    made = clip(ar_model(lora="kohya.safetensors"))
    torch.testing.assert_close(made, clip(ar_model("self_forcing_kohya.safetensors")), **CLOSE)


@pytest.mark.parametrize("form", ["scaled file", "widget"])
def test_an_adapter_on_float8_weights_is_not_rounded_to_float8(
    clip: Any, ar_model: Any, lora_files: Any, updates: Any, files: Path, base: Path, form: str
) -> None:
    """It is so small that most of it lies below the steps of the weights."""
    weights = load_file(files / "self_forcing_tiny.safetensors")
    stored, full, lora = {}, {}, {}
    for name, tensor in weights.items():
        small = not name.startswith("patch_embedding") if form == "widget" else name.removesuffix(".weight") in updates
        scale = tensor.abs().max() / 448 if small and form != "widget" else torch.tensor(1.0)
        stored[name] = (tensor / scale).to(torch.float8_e4m3fn) if small else tensor
        full[name] = stored[name].float() * scale
        if small and form != "widget":
            stored[f"{name.removesuffix('.weight')}.scale_weight"] = scale
    stored["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    for name, (down, up) in updates.items():
        lora |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up / 20}
    save_file(lora, base / "models" / "loras" / "small.safetensors")
    save_file(stored, files / "self_forcing_stored.safetensors")
    save_file(full, files / "self_forcing_full.safetensors")
    plain = clip(ar_model("self_forcing_full.safetensors"))
    merged = {
        **full,
        **{f"{name}.weight": full[f"{name}.weight"] + up @ down / 20 for name, (down, up) in updates.items()},
    }
    save_file(merged, files / "self_forcing_full.safetensors")
    wanted = clip(ar_model("self_forcing_full.safetensors"))
    if form == "widget":
        made = clip(ar_model(weight_dtype="fp8_e4m3fn", lora="small.safetensors"))
    else:
        made = clip(ar_model("self_forcing_stored.safetensors", lora="small.safetensors"))
    assert (made - wanted).norm() < 0.01 * (wanted - plain).norm()


def test_the_adapter_stays_when_the_host_loads_the_model_again(clip: Any, ar_model: Any, lora_files: Any) -> None:
    """Nodes such as TorchCompileModel ask for a second, non-dynamic copy by cached_patcher_init."""
    model = ar_model(lora=lora_files("peft"))
    load, arguments = model.cached_patcher_init
    fresh = load(*arguments, disable_dynamic=True)
    assert type(fresh).__name__ == "ModelPatcher"
    copied = model.clone(disable_dynamic=True)
    torch.testing.assert_close(clip(copied), clip(model), **CLOSE)


def test_unloading_gives_the_plain_weights_back(call: Any, clip: Any, ar_model: Any, lora_files: Any) -> None:
    import comfy.model_management

    model = ar_model()
    before = clip(model)
    patched = call("LoraLoaderModelOnly", model=model, lora_name=lora_files("stock"), strength_model=1.0).outputs[0]
    changed = clip(patched)
    torch.testing.assert_close(clip(model), before, **CLOSE)
    comfy.model_management.unload_all_models()
    torch.testing.assert_close(clip(patched), changed, **CLOSE)
    torch.testing.assert_close(clip(model), before, **CLOSE)
