"""Checkpoints: every container, prefix and spelling gives the same model; every unusable file gives one clear line."""

import json
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dummyforcing_core.errors import CheckpointError, OutputError
from dummyforcing_core.models import checkpoints
from dummyforcing_core.models.checkpoints import convert_checkpoint, empty_model, load_model, save_model
from dummyforcing_core.models.metadata import guess_family
from dummyforcing_core.models.wan import CausalWan, WanConfig

TINY = WanConfig(dim=256, ffn_dim=64, num_heads=2, num_layers=2, text_dim=32, freq_dim=16)
State = dict[str, Tensor]


def make_model(seed: int = 0, config: WanConfig = TINY) -> CausalWan:
    torch.manual_seed(seed)
    return CausalWan(config)


@pytest.fixture(scope="module")
def state() -> State:
    return {name: tensor.clone() for name, tensor in make_model().state_dict().items()}


def assert_same(model: CausalWan, expected: State) -> None:
    got = model.state_dict()
    assert list(got) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name


def nest(state: State, container: str | None) -> dict:
    for name in reversed(container.split(".") if container else []):
        state = {name: state, "step": 7}
    return state


def fsdp_everywhere(name: str) -> str:
    return "model._fsdp_wrapped_module." + re.sub(r"(blocks\.\d+\.)", r"\1_fsdp_wrapped_module.", name)


CONTAINERS = [None, "generator_ema", "generator", "model", "state_dict", "state_dict.generator_ema", "model.generator"]
PREFIXES: dict[str, Callable[[str], str]] = {
    "none": lambda name: name,
    "model": lambda name: f"model.{name}",
    "comfy": lambda name: f"model.diffusion_model.{name}",
    "fsdp": lambda name: f"_fsdp_wrapped_module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "peft": lambda name: f"base_model.model.{name}",
    "fsdp everywhere": fsdp_everywhere,
    "pile": lambda name: f"_orig_mod.model.model._fsdp_wrapped_module.model.diffusion_model._orig_mod.{name}",
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_container_and_prefix_loads_the_same(tmp_path: Path, state: State, container: str, prefix: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save(nest({PREFIXES[prefix](name): tensor for name, tensor in state.items()}, container), path)
    loaded = load_model(path, "self_forcing")
    assert_same(loaded.model, state)
    assert loaded.info.container == container
    assert loaded.info.tensors == len(state) == 15 + 27 * TINY.num_layers
    assert loaded.info.fingerprint == own_fingerprint(state)


def own_fingerprint(state: State) -> str:
    return checkpoints.fingerprint(state, TINY)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_safetensors_with_every_prefix(tmp_path: Path, state: State, prefix: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({PREFIXES[prefix](name): tensor for name, tensor in state.items()}, path)
    loaded = load_model(path, "causal_forcing")
    assert_same(loaded.model, state)
    assert loaded.family.name == "causal_forcing"
    assert loaded.info.geometry == TINY
    assert loaded.info.fingerprint == own_fingerprint(state)


def test_model_is_ready_to_sample(tmp_path: Path, state: State) -> None:
    torch.save(OrderedDict(state), tmp_path / "m.pth")
    model = load_model(tmp_path / "m.pth", "self_forcing").model
    assert not model.training
    assert all(not p.is_meta and not p.requires_grad and p.is_contiguous() for p in model.parameters())


def test_ema_is_preferred_and_an_empty_one_is_passed_over(tmp_path: Path, state: State) -> None:
    other = {name: tensor + 1 for name, tensor in state.items()}
    path = tmp_path / "m.pt"
    torch.save({"generator": other, "generator_ema": state, "critic": other}, path)
    assert_same(load_model(path, "self_forcing").model, state)
    torch.save({"generator": other, "generator_ema": {}}, path)
    assert_same(load_model(path, "self_forcing").model, other)


def test_containers_flattened_into_names(tmp_path: Path, state: State) -> None:
    both = {f"generator.model.{name}": tensor + 1 for name, tensor in state.items()}
    both |= {f"generator_ema.model.{name}": tensor for name, tensor in state.items()}
    save_file(both, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors", "self_forcing")
    assert_same(loaded.model, state)
    assert loaded.info.container == "generator_ema"


def test_all_in_one_file(tmp_path: Path, state: State) -> None:
    merged = {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}
    merged |= {"first_stage_model.conv1.weight": torch.ones(2), "text_encoders.umt5xxl.shared.weight": torch.ones(2)}
    save_file(merged, tmp_path / "m.safetensors")
    assert_same(load_model(tmp_path / "m.safetensors", "self_forcing").model, state)


# Written out, not derived from the code's own table: this is the independent oracle.
TO_DIFFUSERS = (
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"^head\.head\.", "proj_out."),
    (r"^(blocks\.\d+)\.modulation$", r"\1.scale_shift_table"),
    (r"\.norm3\.", ".norm2."),
    (r"\.(self_attn|cross_attn)\.([qkv])\.", r".\1.to_\2."),
    (r"\.(self_attn|cross_attn)\.o\.", r".\1.to_out.0."),
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"\.ffn\.0\.", ".ffn.net.0.proj."),
    (r"\.ffn\.2\.", ".ffn.net.2."),
)


def diffusers(name: str) -> str:
    for pattern, replacement in TO_DIFFUSERS:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize("prefix", ["", "transformer.", "model._orig_mod."])
def test_diffusers_names_round_trip(tmp_path: Path, state: State, prefix: str) -> None:
    renamed = {prefix + diffusers(name): tensor for name, tensor in state.items()}
    assert prefix + "blocks.1.attn2.to_out.0.bias" in renamed
    assert prefix + "blocks.0.norm2.weight" in renamed
    save_file(renamed, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors", "self_forcing")
    assert_same(loaded.model, state)
    assert loaded.info.fingerprint == own_fingerprint(state)


def test_metadata_round_trip_with_heads_of_another_size(tmp_path: Path) -> None:
    config = WanConfig(
        dim=64,
        ffn_dim=96,
        num_heads=4,
        num_layers=2,
        text_dim=16,
        text_len=24,
        freq_dim=16,
        eps=1e-5,
    )
    model, path = make_model(1, config), tmp_path / "odd.safetensors"
    size = save_model(model, path, "causal_forcing_framewise")
    assert size == path.stat().st_size
    assert [file.name for file in tmp_path.iterdir()] == ["odd.safetensors"]
    loaded = load_model(path)
    assert loaded.family.name == "causal_forcing_framewise"
    assert loaded.info.geometry == loaded.model.config == config
    assert loaded.model.blocks[0].self_attn.num_heads == 4
    assert_same(loaded.model, model.state_dict())
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["config"]) == {"transformer": {"causal_ar": True}}
    assert json.loads(metadata["dummyforcing"])["family"] == "causal_forcing_framewise"
    assert json.loads(metadata["dummyforcing"])["geometry"]["num_heads"] == 4


def test_our_writer_agrees_with_the_safetensors_library(tmp_path: Path, state: State) -> None:
    save_model(make_model(), tmp_path / "m.safetensors", "self_forcing", torch.bfloat16)
    read = load_file(tmp_path / "m.safetensors")
    assert {name: tensor.dtype for name, tensor in read.items()} == dict.fromkeys(state, torch.bfloat16)
    assert all(torch.equal(read[name], tensor.bfloat16()) for name, tensor in state.items())


def test_mixed_dtypes_are_kept_and_written_aligned(tmp_path: Path) -> None:
    model = make_model().half()
    model.blocks[1].modulation.data = model.blocks[1].modulation.data.float()
    save_model(model, tmp_path / "m.safetensors", "self_forcing")
    read = load_file(tmp_path / "m.safetensors")
    assert read["blocks.1.modulation"].dtype == torch.float32
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items())
    loaded = load_model(tmp_path / "m.safetensors")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float16}


@pytest.mark.parametrize(
    ("stored", "wanted", "got"),
    [
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float16, None, torch.float16),
        (torch.float32, None, torch.float32),
        (torch.float64, None, torch.float32),
        (torch.float8_e4m3fn, None, torch.float32),
        (torch.float8_e4m3fn, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.bfloat16),
    ],
)
def test_dtypes(tmp_path: Path, state: State, stored: torch.dtype, wanted: torch.dtype, got: torch.dtype) -> None:
    save_file({name: tensor.to(stored) for name, tensor in state.items()}, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors", "self_forcing", dtype=wanted)
    assert loaded.info.dtype == stored
    assert_same(loaded.model, {name: tensor.to(stored).to(got) for name, tensor in state.items()})


def test_fingerprint_tells_weights_apart_and_survives_widening(tmp_path: Path, state: State) -> None:
    half = {name: tensor.bfloat16() for name, tensor in state.items()}
    assert own_fingerprint(half) == own_fingerprint({name: tensor.float() for name, tensor in half.items()})
    assert own_fingerprint(state) != own_fingerprint(dict(make_model(1).state_dict()))
    touched = state | {"blocks.1.ffn.2.weight": state["blocks.1.ffn.2.weight"] * 1.01}
    assert own_fingerprint(touched) != own_fingerprint(state)
    assert checkpoints.fingerprint(state, replace(TINY, num_heads=4)) != own_fingerprint(state)


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        (WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30), 825),
        (WanConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40), 15 + 27 * 40),
    ],
)
def test_real_sizes_on_meta(config: WanConfig, tensors: int) -> None:
    model = empty_model(config)
    assert len(model.state_dict()) == tensors
    assert all(p.is_meta for p in model.parameters())
    assert checkpoints.geometry(model.state_dict()) == config


def test_loading_reads_through_the_map(tmp_path: Path) -> None:
    """A checkpoint with nothing to convert takes no memory of its own: its storage is not the process's to free."""
    model = make_model(config=replace(TINY, ffn_dim=4096))
    for path in (tmp_path / "m.safetensors", tmp_path / "m.pt"):
        save_model(model, path, "self_forcing") if path.suffix == ".safetensors" else torch.save(
            model.state_dict(), path
        )
        loaded = load_model(path, "self_forcing").model
        assert loaded.blocks[0].ffn[0].weight.untyped_storage().resizable() is False, path
        assert_same(loaded, model.state_dict())


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("checkpoints/self_forcing_dmd.pt", "self_forcing"),
        ("x/Self-Forcing-1.3B.safetensors", "self_forcing"),
        ("chunkwise/causal_forcing.pt", "causal_forcing"),
        ("framewise/causal_forcing.pt", "causal_forcing_framewise"),
        ("x/causal_forcing_chunkwise_bf16.safetensors", "causal_forcing"),
        ("x/wan_causal-forcing_frame-wise.safetensors", "causal_forcing_framewise"),
        ("x/framewise.safetensors", "causal_forcing_framewise"),
        ("x/causal_forcing.pt", None),  # both upstream files are called so
        ("causal-forcing++/framewise-2step.pt", "causal_forcing_2step"),
        ("causal-forcing++/framewise-1step.pt", "causal_forcing_1step"),
        ("x/causal_forcing_framewise_2_steps_bf16.safetensors", "causal_forcing_2step"),
        ("x/wan_lightx2v_2step.safetensors", None),
        ("models/longlive_base.pt", "longlive"),
        ("x/LongLive-2.0-5B.safetensors", None),
        ("x/self_forcing_framewise.pt", None),
        ("self_forcing/model.pt", None),
        ("x/wan2.1_t2v_1.3B_bf16.safetensors", None),
    ],
)
def test_family_from_the_file_name(path: str, family: str | None) -> None:
    assert guess_family(Path(path)) == family


def test_family_precedence(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "self_forcing_dmd.pt")
    assert load_model(tmp_path / "self_forcing_dmd.pt").family.name == "self_forcing"
    assert load_model(tmp_path / "self_forcing_dmd.pt", "causal_forcing").family.name == "causal_forcing"
    path = tmp_path / "self_forcing.safetensors"
    save_model(make_model(), path, "causal_forcing")
    assert load_model(path).family.name == "causal_forcing"
    with pytest.raises(CheckpointError, match=r"--family self_forcing contradicts .* says causal_forcing"):
        load_model(path, "self_forcing")


def refusal(path: Path, family: str | None = "self_forcing") -> str:
    """The one-line message that loading `path` ends with; it names the path first."""
    with pytest.raises(CheckpointError) as caught:
        load_model(path, family)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {name: tensor for name, tensor in state.items() if name not in names}


def plus(**tensors: Tensor) -> Callable[[State], State]:
    return lambda state: state | {name.replace("__", "."): tensor for name, tensor in tensors.items()}


def only(**shapes: tuple[int, ...]) -> Callable[[State], State]:
    return lambda state: {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


def stated(kind: str) -> Tensor:
    """ComfyUI's note beside a quantised weight."""
    return torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)


def peft(state: State) -> State:
    names = [f"base_model.model.{name[:-7]}" for name in state if name.endswith(".q.weight")]
    return {f"{name}.lora_{side}.weight": torch.zeros(2, 2) for name in names for side in "AB"}


BAD_TENSORS: dict[str, tuple[Callable[[State], State], str]] = {
    "one missing": (without("blocks.1.norm3.bias"), r"1 missing: blocks\.1\.norm3\.bias; 69 were expected"),
    "many missing": (
        lambda state: {n: t for n, t in state.items() if ".cross_attn." not in n},
        r"20 missing: blocks\.0\.cross_attn\.q\.weight, .* and 17 more",
    ),
    "a layer missing": (
        lambda state: {n: t for n, t in state.items() if not n.startswith("blocks.0.")},
        r"misses (blocks\.0\.ffn\.0\.weight|1 of 2 layers)",
    ),
    "layers missing": (
        lambda state: state | {"blocks.900000.self_attn.q.weight": torch.zeros(2)},
        r"misses 899998 of 900001 layers, the first is blocks\.2",
    ),
    "no head": (without("head.head.weight"), r"misses head\.head\.weight"),
    "surplus": (plus(blocks__0__extra__weight=torch.zeros(2)), r"1 surplus: blocks\.0\.extra\.weight"),
    "surplus top": (plus(whatever=torch.zeros(2)), r"1 surplus: whatever"),
    "odd block name": (plus(blocks__x__y=torch.zeros(2)), r"1 surplus: blocks\.x\.y"),
    "wrong shape": (
        plus(blocks__1__ffn__2__bias=torch.zeros(5)),
        r"1 of a wrong shape: blocks\.1\.ffn\.2\.bias \[5\] instead of \[256\]",
    ),
    "flattened patch": (
        plus(patch_embedding__weight=torch.zeros(256, 64)),
        r"patch_embedding.weight of shape \[256, 64\]",
    ),
    "empty tensor": (plus(head__head__weight=torch.zeros(0, 256)), r"head\.head\.weight of shape \[0, 256\]"),
    "integers": (
        lambda state: {name: tensor.to(torch.int8) for name, tensor in state.items()},
        r"69 of an unusable dtype \(quantised\?\): .*torch\.int8 and 66 more",
    ),
    "twice": (
        lambda state: state | {"model.head.modulation": state["head.modulation"]},
        r"both head\.modulation and model\.head\.modulation are head\.modulation",
    ),
    "PEFT LoRA": (peft, r"LoRA.*CausVid and lightx2v LoRAs.*bidirectional"),
    "kohya LoRA": (
        only(lora_unet_blocks_0_self_attn_q__lora_down__weight=(2, 2)),
        r"LoRA.*CausVid and lightx2v LoRAs.*bidirectional",
    ),
    "comfy LoRA": (
        only(diffusion_model__blocks__0__self_attn__q__lora_up__weight=(2, 2)),
        r"LoRA.*found diffusion_model\.blocks\.0",
    ),
    "SDXL": (
        only(model__diffusion_model__input_blocks__0__0__weight=(320, 4, 3, 3), first_stage_model__conv=(2,)),
        r"not a Wan checkpoint: it holds .*input_blocks",
    ),
    "empty": (lambda state: {}, r"bare tensors or one of generator_ema, .* was expected"),
    "i2v by name": (plus(img_emb__proj__0__weight=torch.zeros(2)), r"image-to-video model"),
    "i2v by diffusers name": (
        plus(condition_embedder__image_embedder__norm1__weight=torch.zeros(2)),
        r"image-to-video model",
    ),
    "i2v by channels": (plus(patch_embedding__weight=torch.zeros(256, 36, 1, 2, 2)), r"takes 36 channels and gives 16"),
    "8 channels": (
        lambda state: (
            state | {"patch_embedding.weight": torch.zeros(256, 8, 1, 2, 2), "head.head.weight": torch.zeros(32, 256)}
        ),
        r"latents of 8 channels .* 16 channels in patches",
    ),
    "other patches": (
        lambda state: (
            state | {"patch_embedding.weight": torch.zeros(256, 16, 1, 4, 4), "head.head.weight": torch.zeros(256, 256)}
        ),
        r"patches of \(1, 4, 4\)",
    ),
    "odd frequencies": (plus(time_embedding__0__weight=torch.zeros(256, 7)), r"times of 7 frequencies"),
    "VACE": (plus(vace_blocks__0__after_proj__weight=torch.zeros(2)), r"VACE"),
    "Wan2.2 5B": (
        lambda state: (
            state | {"patch_embedding.weight": torch.zeros(256, 48, 1, 2, 2), "head.head.weight": torch.zeros(192, 256)}
        ),
        r"Wan2\.2 5B's latents \(48 channels, dim 256\), as LongLive 2\.0 does",
    ),
    "scales per row": (
        plus(blocks__0__ffn__0__scale_weight=torch.ones(64, 1)),
        r"expected one scale above 0 for blocks\.0\.ffn\.0\.weight, got float32 \[64, 1\]; use the file inside ComfyUI",
    ),
    "scale 0": (
        plus(blocks__0__ffn__0__weight_scale=torch.tensor(0.0)),
        r"expected one scale above 0 .*, got float32 \[\], 0; ",
    ),
    "scale vast": (
        plus(blocks__0__ffn__0__weight_scale=torch.tensor(1e38)),
        r"one scale .*, got float32 \[\], 1e\+38",
    ),
    "scale NaN": (plus(blocks__0__ffn__0__weight_scale=torch.tensor(torch.nan)), r"expected one scale above 0"),
    "scale missing": (plus(blocks__0__ffn__0__comfy_quant=stated("float8_e4m3fn")), r"one scale above 0 .*, got none"),
    "nvfp4": (
        plus(blocks__0__ffn__0__comfy_quant=stated("nvfp4")),
        r"format other than float8: blocks\.0\.ffn\.0 \(nvfp4\); use the file inside ComfyUI",
    ),
    "comfy_quant of numbers": (
        plus(blocks__0__ffn__0__comfy_quant=torch.ones(1)),
        r"quantisation metadata is malformed",
    ),
}


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("case", BAD_TENSORS)
def test_bad_tensors(tmp_path: Path, state: State, case: str, suffix: str) -> None:
    change, pattern = BAD_TENSORS[case]
    path, target = tmp_path / f"bad.{suffix}", tmp_path / "out.safetensors"
    bad = {name: tensor.clone() for name, tensor in change(state).items()}
    save_file(bad, path) if suffix == "safetensors" else torch.save(bad, path)
    message = refusal(path)
    assert re.search(pattern, message), message
    with pytest.raises(CheckpointError):
        convert_checkpoint(path, target, "self_forcing")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_heads_that_do_not_fit(tmp_path: Path) -> None:
    model = make_model(config=replace(TINY, dim=192, num_heads=4))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    assert re.search(r"dim 192 does not split into 1 heads .* needs num_heads", refusal(tmp_path / "m.pt"))


BAD_METADATA: dict[str, tuple[str, str]] = {
    "not JSON": ("{", r"metadata entry 'dummyforcing' is malformed"),
    "not a dictionary": ("[1]", r"malformed"),
    "family not text": ('{"family": 3}', r"family is 3"),
    "zero heads": ('{"family": "self_forcing", "geometry": {"num_heads": 0}}', r"geometry has .*num_heads"),
    "text for a number": ('{"geometry": {"text_len": "many"}}', r"geometry has .*text_len"),
    "rows beyond all use": ('{"geometry": {"text_len": 10000000}}', r"geometry has .*text_len"),
    "odd patch": ('{"geometry": {"patch_size": 2}}', r"malformed"),
    "heads do not divide": ('{"geometry": {"num_heads": 3}}', r"dim 256 does not split into 3 heads"),
    "contradiction": ('{"geometry": {"dim": 512}}', r"metadata states dim 512 \(tensors: 256\)"),
    "unknown family": ('{"family": "from_the_future"}', r"unknown model family 'from_the_future'; known families: "),
}


@pytest.mark.parametrize("case", BAD_METADATA)
def test_bad_metadata(tmp_path: Path, state: State, case: str) -> None:
    text, pattern = BAD_METADATA[case]
    save_file(state, tmp_path / "m.safetensors", {"dummyforcing": text})
    message = refusal(tmp_path / "m.safetensors", None)
    assert re.search(pattern, message), message


def test_unknown_families(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "m.pt")
    message = refusal(tmp_path / "m.pt", None)
    assert re.search(r"pass --family with one of causal_forcing, .*self_forcing", message)
    with pytest.raises(CheckpointError, match=r"unknown model family 'nope'; known families: .*self_forcing"):
        load_model(tmp_path / "m.pt", "nope")


class Payload:
    """Something that only unpickling code could rebuild."""


BAD_FILES: dict[str, tuple[str, Callable[[Path, State], object], str]] = {
    "missing": ("m.safetensors", lambda path, state: None, r"no such file"),
    "folder": ("m.pt", lambda path, state: path.mkdir(), r"this is a folder"),
    "other type": ("m.onnx", lambda path, state: path.write_bytes(b"x"), r"file type '\.onnx' is not readable"),
    "gguf": ("m.gguf", lambda path, state: path.write_bytes(b"GGUF"), r"this is GGUF"),
    "no type": ("model", lambda path, state: path.write_bytes(b"1"), r"file type '\(none\)'"),
    "empty safetensors": (
        "m.safetensors",
        lambda path, state: path.write_bytes(b""),
        r"truncated, corrupt .*\(0 bytes",
    ),
    "empty pt": ("m.pt", lambda path, state: path.write_bytes(b""), r"truncated, corrupt .*\(0 bytes"),
    "web page": (
        "m.safetensors",
        lambda path, state: path.write_bytes(b"<!doctype html>" * 9),
        r"not a \.safetensors file",
    ),
    "web page pt": ("m.pt", lambda path, state: path.write_bytes(b"<!doctype html>" * 9), r"not a \.pt file"),
    "one tensor": ("m.pt", lambda path, state: torch.save(torch.ones(2), path), r"holds one Tensor"),
    "no container": (
        "m.pt",
        lambda path, state: torch.save({"ema": state, "step": 3}, path),
        r"holds ema, step, bare tensors or one of generator_ema",
    ),
    "LoRA container": (
        "m.pt",
        lambda path, state: torch.save({"generator_lora": peft(state)}, path),
        r"LoRA.*found generator_lora\.base_model",
    ),
    "pickled code": (
        "m.pt",
        lambda path, state: torch.save({"model": state, "args": Payload()}, path),
        r"needs the Python object \S*Payload.*state_dict\(\) alone or get a \.safetensors",
    ),
    "pickled code, old format": (
        "m.pt",
        lambda path, state: torch.save({"model": state, "args": Payload()}, path, _use_new_zipfile_serialization=False),
        r"needs the Python object \S*Payload",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path: Path, state: State, case: str) -> None:
    name, write, pattern = BAD_FILES[case]
    write(tmp_path / name, state)
    message = refusal(tmp_path / name)
    assert re.search(pattern, message), message


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["m.safetensors", "zip.pt", "old.pt"])
def test_truncated_files(tmp_path: Path, state: State, kind: str, share: float) -> None:
    path = tmp_path / kind
    if kind == "m.safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip.pt")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "truncated, corrupt or not a" in refusal(path)


def test_old_torch_format(tmp_path: Path, state: State) -> None:
    torch.save({"generator": state}, tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    assert_same(load_model(tmp_path / "m.pt", "self_forcing").model, state)


def test_saving_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    with pytest.raises(CheckpointError, match=r"must end in \.safetensors"):
        save_model(model, tmp_path / "m.pt", "self_forcing")
    with pytest.raises(CheckpointError, match="unknown model family"):
        save_model(model, tmp_path / "m.safetensors", "nope")
    with pytest.raises(CheckpointError, match=r"cannot write torch\.float64"):
        save_model(model, tmp_path / "m.safetensors", "self_forcing", torch.float64)
    with pytest.raises(OutputError, match=r"cannot be written .*bytes in a writable folder are needed"):
        save_model(model, tmp_path / "nowhere" / "m.safetensors", "self_forcing")
    (tmp_path / "kept.safetensors").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_model(model, tmp_path / "kept.safetensors", "self_forcing")
    assert [file.name for file in tmp_path.iterdir()] == ["kept.safetensors"]
    assert (tmp_path / "kept.safetensors").read_bytes() == b"old"


def test_demo_model_loads_from_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "demo_model.safetensors"
    save_model(make_model(), path, "demo", torch.float16)
    monkeypatch.setattr(checkpoints, "DEMO_PATH", path)
    loaded = checkpoints.load_demo_model()
    assert loaded.family.name == "demo"
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
