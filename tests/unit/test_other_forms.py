"""Checkpoints in several files and GGUF: refused with the command that helps, and `convert` joins the files."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dummyforcing_core.errors import CheckpointError
from dummyforcing_core.models.checkpoints import load_model, read_checkpoint
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.models.weight_files import READERS

CONFIG = WanConfig(dim=256, ffn_dim=64, num_heads=2, num_layers=2, text_dim=32, freq_dim=16)
NAME = "diffusion_pytorch_model-0000{}-of-00003.safetensors"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(CausalWan(CONFIG).state_dict())


@pytest.fixture
def folder(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    """A pipeline's folder, its transformer in three files with an index."""
    shards = tmp_path / "my self_forcing model" / "transformer"
    shards.mkdir(parents=True)
    names = list(state)
    for number in range(3):
        save_file({name: state[name] for name in names[number::3]}, shards / NAME.format(number + 1))
    index = {"weight_map": {name: NAME.format(number % 3 + 1) for number, name in enumerate(names)}}
    (shards / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return shards.parent


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(path, "self_forcing")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "given",
    [".", "transformer", f"transformer/{NAME.format(2)}", "transformer/diffusion_pytorch_model.safetensors.index.json"],
)
def test_shards_are_refused_with_the_command_that_joins_them(run, folder: Path, state, given: str) -> None:
    message = refusal(folder / given)
    assert "this model lies in 3 files" in message
    command = message.rpartition("make one of them: ")[2]
    source = folder if given == "." else folder / "transformer"
    assert command == f"python -m dummyforcing_core convert '{source}' whole.safetensors"
    target = folder / "joined.safetensors"
    result = run("convert", folder / given, target, "--family", "self_forcing")
    assert result.code == 0, result.err
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(target).items())
    assert load_model(target).info.fingerprint == read_checkpoint(target).info.fingerprint


def test_an_incomplete_set_names_what_is_missing(run, folder: Path) -> None:
    (folder / "transformer" / NAME.format(2)).unlink()
    assert "misses 1 of 3 files (diffusion_pytorch_model-00002-of-00003)" in refusal(folder)
    result = run("convert", folder, folder / "x.safetensors", "--family", "self_forcing")
    assert result.code == 2 and "misses 1 of 3 files" in result.err


def test_two_sets_and_a_tensor_in_two_files_are_refused(run, folder: Path, state) -> None:
    shards = folder / "transformer"
    save_file({"a": torch.ones(1)}, shards / "other-00001-of-00002.safetensors")
    assert "several sets of shards" in refusal(folder)
    (shards / "other-00001-of-00002.safetensors").unlink()
    first = load_file(shards / NAME.format(1))
    save_file(first | dict(list(state.items())[1:2]), shards / NAME.format(1))
    result = run("convert", folder, folder / "x.safetensors", "--family", "self_forcing")
    assert result.code == 2 and "is in two of its files" in result.err
    (shards / NAME.format(1)).write_bytes(b"cut")
    result = run("convert", folder, folder / "x.safetensors", "--family", "self_forcing")
    assert result.code == 2 and f"{NAME.format(1)}: truncated" in result.err


def test_a_folder_with_one_file_says_which(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    assert "give the file in it" in refusal(tmp_path)
    assert "diffusion_pytorch_model.safetensors" in refusal(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "this is a folder; give a file" in refusal(tmp_path / "empty")


def test_gguf_is_refused_with_the_command_that_converts_it(run, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "self_forcing.gguf"
    assert "no such file" in refusal(path)
    path.write_bytes(b"GGUF")
    assert f"pip install gguf; python -m dummyforcing_core convert {path} whole.safetensors" in refusal(path)
    monkeypatch.setitem(sys.modules, "gguf", None)
    result = run("convert", path, tmp_path / "x.safetensors")
    assert result.code == 2 and "pip install gguf" in result.err


def test_gguf_is_converted(run, tmp_path: Path, state) -> None:
    gguf = pytest.importorskip("gguf")
    path, wanted = tmp_path / "self_forcing.gguf", {}
    writer = gguf.GGUFWriter(path, "wan")
    for name, tensor in state.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if tensor.ndim == 2 and tensor.shape[1] % 32 == 0 else None
        if tensor.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
        array = tensor.flatten(0, -4).numpy() if tensor.ndim > 4 else tensor.numpy()
        data = array if kind is None else gguf.quants.quantize(array, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        wanted[name] = tensor if kind is None else torch.from_numpy(gguf.quants.dequantize(data, kind)).bfloat16()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    result = run("convert", path, tmp_path / "whole.safetensors", "--dtype", "fp32")
    assert result.code == 0, result.err
    made = load_model(tmp_path / "whole.safetensors").model.state_dict()
    for name, tensor in wanted.items():
        assert torch.equal(made[name], tensor.float()), name
    path.write_bytes(path.read_bytes()[:5000])
    result = run("convert", path, tmp_path / "x.safetensors")
    assert result.code == 2 and "truncated, corrupt or not a .gguf file" in result.err


@pytest.mark.parametrize("suffix", READERS)
def test_every_type_that_is_listed_loads(tmp_path: Path, state, suffix: str) -> None:
    path = tmp_path / f"self_forcing_dmd{suffix}"
    save_file(state, path) if suffix in (".safetensors", ".sft") else torch.save(state, path)
    loaded = load_model(path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())


FORMS = ("scale_weight", "comfy_quant", "header", "bytes")


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("form", FORMS)
def test_scaled_float8_is_multiplied_out_in_float32(tmp_path: Path, run, state, form: str, prefix: str) -> None:
    stored, wanted, texts, layers = {}, {}, {}, {}
    for name, tensor in state.items():
        module = prefix + name.removesuffix(".weight")
        if ".self_attn." not in name or tensor.ndim != 2:
            stored[prefix + name] = wanted[name] = tensor
            continue
        scale = tensor.abs().max() / 448
        small = (tensor / scale).to(torch.float8_e4m3fn)
        wanted[name] = small.float() * scale
        stored[prefix + name] = small.view(torch.uint8) if form == "bytes" else small
        leaf = "scale_weight" if form == "scale_weight" else "weight_scale"
        stored[f"{module}.{leaf}"], layers[module] = scale, {"format": "float8_e4m3fn"}
        stored[f"{module}.input_scale"] = torch.tensor(2.0)  # of activations: not of the weights
        if form in ("comfy_quant", "bytes"):
            text = json.dumps(layers[module]).encode()
            stored[f"{module}.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
    if form == "scale_weight":
        stored[f"{prefix}scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    if form == "header":
        texts["_quantization_metadata"] = json.dumps({"layers": layers})
    path = tmp_path / "self_forcing_fp8.safetensors"
    save_file(stored, path, texts)
    loaded = load_model(path, dtype=torch.float32)
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    save_file(wanted, tmp_path / "plain.safetensors")
    assert loaded.info.fingerprint == load_model(tmp_path / "plain.safetensors", "self_forcing").info.fingerprint
    assert run("convert", path, tmp_path / "out.safetensors", "--dtype", "fp32").code == 0
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in load_file(tmp_path / "out.safetensors").items())


def test_tensors_other_than_dense_ones_are_refused_before_they_are_used(tmp_path: Path, state) -> None:
    name = "blocks.0.self_attn.q.weight"
    cases = {
        "sparse_coo": torch.eye(256).to_sparse(),
        "repeat fewer": torch.zeros(1).expand(10**6, 10**6),
        "without data": torch.zeros(2, device="meta"),
        "complex": torch.zeros(2, dtype=torch.complex64).conj(),
    }
    for words, tensor in cases.items():
        torch.save(state | {name: tensor}, tmp_path / "m.pt")
        assert words in refusal(tmp_path / "m.pt")
        torch.save(
            {"generator_ema": {"model": state | {name: tensor}}},
            tmp_path / "m.pt",
            _use_new_zipfile_serialization=False,
        )
        assert words in refusal(tmp_path / "m.pt")


def test_dictionaries_without_end_are_refused(tmp_path: Path) -> None:
    endless: dict = {}
    endless["model"] = endless
    many: dict = {"x": torch.zeros(1)}
    for _ in range(7):
        many = {str(number): many for number in range(30)}
    deep: dict = {}
    for _ in range(200):
        deep = {"model": deep}
    for tree in (endless, many, deep):
        torch.save(tree, tmp_path / "m.pt")
        assert "nests dictionaries deeper than 8" in refusal(tmp_path / "m.pt")
