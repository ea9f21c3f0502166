"""Fixtures of the command-line tests: tiny models that run in moments, and the command line in this process."""

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dummyforcing_core.__main__ import main
from dummyforcing_core.models import checkpoints
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.text.demo_text import TEXT_DIM, TEXT_LEN


@dataclass(frozen=True)
class Result:
    """What one command gave back."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


def _run(*words: object) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse leaves this way
            code = int(stop.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def run() -> Run:
    """run("generate", "--model", ...) -> Result, without a new process."""
    return _run


def _model(config: WanConfig) -> CausalWan:
    torch.manual_seed(0)
    return CausalWan(config)


@pytest.fixture(scope="module")
def tiny_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WanConfig]:
    """Puts a tiny untrained model in the bundled one's place; yields its geometry."""
    config = WanConfig(dim=64, ffn_dim=64, num_heads=2, num_layers=2, text_dim=TEXT_DIM, text_len=TEXT_LEN, freq_dim=16)
    path = tmp_path_factory.mktemp("demo") / "demo_model.safetensors"
    checkpoints.save_model(_model(config), path, "demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "DEMO_PATH", path)
        yield config


@pytest.fixture(scope="session")
def tiny_config() -> WanConfig:
    """Geometry of `checkpoint`."""
    return WanConfig(dim=256, ffn_dim=64, num_heads=2, num_layers=2, text_dim=32, freq_dim=16)


@pytest.fixture(scope="session")
def checkpoint(tiny_config: WanConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint file in Self-Forcing's container."""
    path = tmp_path_factory.mktemp("checkpoint") / "weights.pt"
    state = _model(tiny_config).state_dict()
    torch.save({"generator_ema": {f"model.{name}": tensor for name, tensor in state.items()}}, path)
    return path


@pytest.fixture(scope="session")
def embedding(tiny_config: WanConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text features for `checkpoint`: 7 rows."""
    path = tmp_path_factory.mktemp("text") / "prompt.safetensors"
    rows = torch.randn(7, tiny_config.text_dim, generator=torch.Generator().manual_seed(0))
    save_file({"embedding": rows}, path)
    return path
