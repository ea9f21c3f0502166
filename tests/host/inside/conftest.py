"""Fixtures for tests of the pack inside ComfyUI. The outer pytest reads this file too: no imports of the host here."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

HEADS, LAYERS, FRAMES, SIDE = 2, 2, 7, 8
"""The tiny transformer, and the clips that tests make of it: latent frames, latent rows and columns."""

FILES = {
    "self_forcing": "self_forcing_tiny.safetensors",
    "longlive": "longlive_tiny.safetensors",
    "causal_forcing_framewise": "causal_forcing_framewise_tiny.safetensors",
    "causal_forcing_2step": "causal_forcing_framewise_2step_tiny.safetensors",
}


@pytest.fixture(scope="session")
def part(pack: Any) -> Callable[[str], ModuleType]:
    """``part("nodes.host.session")``: a module of the pack, the very one that the host imported."""
    return lambda name: import_module(f"{pack.module.__name__}.{name}")


@pytest.fixture(scope="session")
def files(base: Path) -> Path:
    """models/diffusion_models with one tiny checkpoint per family of FILES, all of the same weights."""
    from tiny_models import write_wan

    folder = base / "models" / "diffusion_models"
    for name in FILES.values():
        write_wan(folder / name, causal=True, seed=0, heads=HEADS, layers=LAYERS)
    return folder


@pytest.fixture
def ar_model(call: Any, files: Path) -> Callable[..., Any]:
    """``ar_model("longlive", lora=...)``: a fresh MODEL of Load AR Model; also takes a file's name."""

    def load(name: str = "self_forcing", **inputs: Any) -> Any:
        return call("DummyForcingLoadARModel", model=FILES.get(name, name), **inputs).outputs[0]

    return load


@pytest.fixture(scope="session")
def canvas() -> Callable[..., dict[str, Any]]:
    """``canvas(frames=4)``: an empty LATENT."""

    def make(frames: int = FRAMES, batch: int = 1, height: int = SIDE, width: int = SIDE) -> dict[str, Any]:
        return {"samples": torch.zeros(batch, 16, frames, height, width)}

    return make


@pytest.fixture
def stream(call: Any, conditioning: Any, canvas: Any) -> Callable[..., Any]:
    """``stream(model, latent=...)``: the Streaming Sampler on one prompt and FRAMES frames, unless told otherwise."""

    def run(model: Any, **inputs: Any) -> Any:
        inputs = {"conditioning": conditioning(1), "latent": canvas(), "seed": 3, **inputs}
        return call("DummyForcingStreamingSampler", model=model, **inputs)

    return run


@pytest.fixture
def clip(stream: Any) -> Callable[..., torch.Tensor]:
    """Like ``stream``, but only the latents (B, 16, T, h, w)."""
    return lambda model, **inputs: stream(model, **inputs).outputs[0]["samples"]


@pytest.fixture
def custom(call: Any, conditioning: Any, canvas: Any) -> Callable[..., torch.Tensor]:
    """``custom(model, sampler, sigmas)``: SamplerCustomAdvanced with a Basic Guider; latents."""

    def run(
        model: Any, sampler: Any, sigmas: torch.Tensor, latent: Any = None, seed: int = 11, cond: Any = None
    ) -> Any:
        guider = call("BasicGuider", model=model, conditioning=cond or conditioning(1)).outputs[0]
        noise = call("RandomNoise", noise_seed=seed).outputs[0]
        done = call(
            "SamplerCustomAdvanced",
            noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent or canvas(),
        )  # fmt: skip
        return done.outputs[0]["samples"]

    return run


@pytest.fixture
def ours(call: Any) -> Any:
    """Our engine as a SAMPLER."""
    return call("DummyForcingSampler").outputs[0]


@pytest.fixture
def refused(part: Any) -> Callable[..., str]:
    """``refused(call, *words)``: that it raises an error of ours, one line that holds the words; the line."""
    own: type[Exception] = part("dummyforcing_core.errors").DummyForcingError

    def check(run: Callable[[], Any], *words: str) -> str:
        with pytest.raises(own) as caught:
            run()
        line = str(caught.value)
        assert "\n" not in line and 20 < len(line) < 500, line
        missing = [word for word in words if word.lower() not in line.lower()]
        assert not missing, f"{missing} not in: {line}"
        return line

    return check


@pytest.fixture
def model_calls(part: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every call of the transformer in this test, as (x, sigma, step) before it runs."""
    denoiser = part("dummyforcing_core.models.denoiser").WanDenoiser
    made: list[Any] = []
    velocity = denoiser.velocity

    def counted(self: Any, x: Any, sigma: Any, context: Any, step: Any) -> Any:
        made.append((tuple(x.shape), float(sigma.flatten()[0]), bool(step.output)))
        return velocity(self, x, sigma, context, step)

    monkeypatch.setattr(denoiser, "velocity", counted)
    yield made


@pytest.fixture
def outputs(base: Path) -> Callable[[], set[str]]:
    """The files of output/ by their names below it."""
    return lambda: {str(p.relative_to(base / "output")) for p in (base / "output").rglob("*") if p.is_file()}


@pytest.fixture
def collected() -> Callable[[], None]:
    """Collects garbage until nothing more is found."""

    def run() -> None:
        while gc.collect():
            pass

    return run
