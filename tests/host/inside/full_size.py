"""A file of the full 1.3B shape, sampled by the nodes: its memory. ../test_full_size.py runs it in its own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import wan_shapes

GB = 10**9
HEADS, LAYERS, FFN = 12, 30, 8960


class PeakMemory:
    """The most anonymous memory of this process while it is open, in bytes: mapped files do not count."""

    def __enter__(self) -> PeakMemory:
        self.peak, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, anonymous_bytes())


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell RssAnon")


@pytest.fixture
def full_file(files: Path) -> Iterator[str]:
    """Random bf16 weights of Self-Forcing's shape, 2.8 GB; removed again."""
    path = files / "self_forcing_full.safetensors"
    draws = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in wan_shapes(HEADS, LAYERS, FFN):
        drawn = torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=draws)
        weights[name] = drawn.fill_(1) if "norm" in name and name.endswith("weight") else drawn
    save_file(weights, path)
    del weights
    try:
        yield path.name
    finally:
        path.unlink()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_full_shape_samples_in_the_memory_of_its_weights(
    ar_model: Any, stream: Any, call: Any, canvas: Any, full_file: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy.cli_args import args

    monkeypatch.setattr(args, "bf16_unet", True)  # as --bf16-unet: the CPU's default is float32
    before = anonymous_bytes()
    with PeakMemory() as memory:
        model = ar_model(full_file)
        assert model.model.get_dtype() == torch.bfloat16
        size = model.model_size()
        assert 2.7 * GB < size < 2.9 * GB
        dummies = call("DummyForcingApplyDummyForcing", model=model).outputs[0]
        done = stream(dummies, latent=canvas(6))
    latents = done.outputs[0]["samples"]
    assert latents.shape == (1, 16, 6, 8, 8) and latents.isfinite().all()
    used = memory.peak - before
    print(f"weights {size / GB:.2f} GB, peak {used / GB:.2f} GB")
    assert used < size + GB, f"{used / GB:.2f} GB for {size / GB:.2f} GB of weights"
