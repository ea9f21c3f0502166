"""The convert and doctor commands, called as the command line calls them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dummyforcing_core.__main__ import build_parser
from dummyforcing_core.cli import doctor
from dummyforcing_core.errors import CheckpointError, DummyForcingError, OutputError
from dummyforcing_core.kv.attention import BACKENDS
from dummyforcing_core.models.checkpoints import load_model
from dummyforcing_core.models.wan import CausalWan, WanConfig

TINY = WanConfig(dim=256, ffn_dim=64, num_heads=2, num_layers=1, text_dim=32, freq_dim=16)


def call(*words: str) -> int:
    args = build_parser(words).parse_args(words)
    code: int = args.run(args)
    return code


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "weights.pt"
    state = CausalWan(TINY).state_dict()
    torch.save({"generator": {f"model._fsdp_wrapped_module.{name}": t for name, t in state.items()}}, path)
    return path


def test_converts_and_says_what_it_did(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = source.with_name("out.safetensors")
    assert call("convert", str(source), str(target), "--family", "self_forcing", "--dtype", "bf16") == 0
    said = capsys.readouterr().out
    before, after = load_model(source, "self_forcing"), load_model(target)
    for word in ("generator", "42 tensors", "float32", "Self-Forcing", "1 layers x 2 heads of 128", "MiB", "bf16"):
        assert word in said
    assert before.info.fingerprint in said
    assert after.family.name == "self_forcing"
    assert after.info.geometry == TINY
    assert after.info.dtype == torch.bfloat16
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(after.model.state_dict()[name], tensor.bfloat16()), name
    with safe_open(target, "pt") as file:
        assert json.loads(file.metadata()["config"])["transformer"]["causal_ar"] is True


def test_keeps_the_stored_dtype_and_the_fingerprint(source: Path) -> None:
    target = source.with_name("out.safetensors")
    call("convert", str(source), str(target), "--family", "causal_forcing")
    assert load_model(target).info.fingerprint == load_model(source, "causal_forcing").info.fingerprint


def test_plain_fp8_becomes_bf16(source: Path) -> None:
    state = load_model(source, "self_forcing").model.state_dict()
    fp8, target = source.with_name("fp8.pt"), source.with_name("out.safetensors")
    torch.save({name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}, fp8)
    call("convert", str(fp8), str(target), "--family", "self_forcing")
    assert load_model(target).info.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("target", "more", "error", "message"),
    [
        ("out.pt", (), CheckpointError, r"must end in \.safetensors"),
        ("out.safetensors", (), CheckpointError, r"pass --family with one of"),
        ("out.safetensors", ("--family", "nope"), CheckpointError, r"unknown model family 'nope'; known families"),
        ("out.safetensors", ("--dtype", "int3"), DummyForcingError, r"unknown dtype 'int3'; known dtypes: bf16, fp16"),
        ("no/where/out.safetensors", ("--family", "self_forcing"), OutputError, r"the folder does not exist"),
    ],
)
def test_bad_requests_write_nothing(
    source: Path, target: str, more: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call("convert", str(source), str(source.parent / target), *more)
    assert [file.name for file in source.parent.iterdir()] == [source.name]


def test_never_overwrites_its_source(source: Path) -> None:
    first = source.with_name("a.safetensors")
    call("convert", str(source), str(first), "--family", "self_forcing")
    before = first.read_bytes()
    around = first.parent / "folder" / ".." / first.name
    (first.parent / "folder").mkdir()
    for target in (first, around):
        with pytest.raises(CheckpointError, match="source and target are the same file"):
            call("convert", str(first), str(target), "--dtype", "bf16")
    assert first.read_bytes() == before


def test_doctor_reports_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("torch" in line and torch.__version__ in line for line in lines)
    cpu = lines[next(i for i, line in enumerate(lines) if line.startswith("cpu: ")) :]
    for name in BACKENDS:
        assert sum(f" {name} " in line for line in cpu) >= 2, name
    assert any("sdpa" in line and "chosen" in line for line in cpu)
    assert any("flash2" in line and "no: " in line for line in cpu)


def test_a_missing_package_is_reported_not_raised() -> None:
    assert "not usable" in doctor.version("no_such_package_here")
