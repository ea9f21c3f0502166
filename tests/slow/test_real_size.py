"""Real sizes: a whole 1.3B through the command line, and 14B as far as it goes without memory."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dummyforcing_core.clips.video import read_frames
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.plan import KVShape
from dummyforcing_core.models.checkpoints import empty_model
from dummyforcing_core.models.families import get_family
from dummyforcing_core.models.wan import WanConfig
from dummyforcing_core.policies import SlidingWindow
from dummyforcing_core.policies.base import Setting

ROOT = Path(__file__).parents[2]
GIB = 2**30
NEEDED_MEMORY, NEEDED_DISK = 8 * GIB, 6 * GIB
SMALL = WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30)  # 1.3B
LARGE = WanConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)  # 14B
BF16_BYTES = 2


def free_memory() -> int | None:
    """Bytes that could be taken without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def own_memory(pid: int) -> int | None:
    """Bytes a process holds that are not pages of a mapped file; None where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), None)


def random_weights(config: WanConfig) -> dict[str, torch.Tensor]:
    """Every tensor with memory of its own; the values are one block of noise over and over, drawing 1.4e9 is slow."""
    shapes = {name: tensor.shape for name, tensor in empty_model(config).state_dict().items()}
    most = max(shape.numel() for shape in shapes.values())
    noise = torch.randn(most, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    return {name: noise[: shape.numel()].reshape(shape).clone() for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory):
    """A 1.3B of random bf16 weights in Self-Forcing's container; deleted at the end."""
    folder = tmp_path_factory.mktemp("real_size")
    memory, disk = free_memory(), shutil.disk_usage(folder).free
    if disk < NEEDED_DISK or (memory is not None and memory < NEEDED_MEMORY):
        has = f"{'unknown' if memory is None else f'{memory / GIB:.1f} GiB'} of memory and {disk / GIB:.1f} GiB of disk"
        pytest.skip(f"NOT TESTED AT REAL SIZE: {has} are free, 8 and 6 GiB are needed")
    path = folder / "self_forcing_dmd.pt"
    weights = random_weights(SMALL)
    assert len(weights) == 825
    torch.save({"generator_ema": {f"model.{name}": tensor for name, tensor in weights.items()}}, path)
    del weights
    yield path
    path.unlink()


@pytest.mark.slow
def test_two_chunks_of_a_whole_1_3b(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = checkpoint.stat().st_size
    assert 2.8e9 < size < 2.9e9
    text, out = tmp_path / "text.safetensors", tmp_path / "out"
    save_file({"embedding": torch.randn(SMALL.text_len, SMALL.text_dim, dtype=torch.float32).bfloat16()}, text)
    command = [
        sys.executable, "-m", "dummyforcing_core", "generate", "--model", checkpoint, "--text-embedding", text,
        "--prompt", "random", "--frames", 21, "--size", "64x64", "--device", "cpu", "--dtype", "bf16",
        "--out", out / "clip.mp4", "--save-latents", out / "clip.safetensors", "--report", out / "clip.json",
    ]  # fmt: skip
    began, peak = time.perf_counter(), 0
    with open(tmp_path / "said.txt", "w+", encoding="utf-8") as said:
        env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin starve each other on a busy machine
        process = subprocess.Popen(
            [str(word) for word in command], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, env=env
        )
        try:
            while process.poll() is None:
                peak = max(peak, own_memory(process.pid) or 0)
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    output = (tmp_path / "said.txt").read_text(encoding="utf-8")
    assert process.returncode == 0, output
    seconds = time.perf_counter() - began

    assert sorted(path.name for path in out.iterdir()) == ["clip.json", "clip.mp4", "clip.safetensors"]
    assert [frame.shape for frame in read_frames(out / "clip.mp4")] == [(64, 64, 3)] * 21
    latent = load_file(out / "clip.safetensors")["latent"]
    assert latent.shape == (1, 16, 6, 8, 8)
    assert bool(latent.isfinite().all())
    assert latent.std() > 0

    report = json.loads((out / "clip.json").read_text(encoding="utf-8"))
    assert report["conditions"]["family"] == "self_forcing"  # from the file's name
    frame = 2 * 16 * SMALL.dim * BF16_BYTES * SMALL.num_layers  # K and V of 16 tokens in every layer
    assert report["memory"]["history_bytes"] == {"predicted": 6 * frame, "actual": 6 * frame}
    assert report["memory"]["resident_bytes"] == {"predicted": 9 * frame, "actual": 9 * frame}

    if peak:
        # Nothing to convert: the weights stay mapped, so the process's own memory is far less than the file.
        assert peak < size / 2
        line = f"1.3B, bf16, {size / GIB:.2f} GiB of weights mapped: peak {peak / GIB:.2f} GiB of its own memory"
        with capsys.disabled():
            print(f"\n{line}, {seconds:.0f} s", flush=True)


@pytest.mark.slow
def test_14b_on_the_meta_device() -> None:
    model = empty_model(LARGE)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert 14.0e9 < sum(parameter.numel() for parameter in model.parameters()) < 14.6e9
    assert len(model.state_dict()) == 15 + 27 * 40

    plan = SlidingWindow(12, 3).plan(Setting(40, 40, get_family("self_forcing"), 3, 240))
    shape = KVShape(batch=1, rows=30, cols=52, head_dim=128, element_bytes=BF16_BYTES, clip_frames=240, pass_frames=3)
    frame = 2 * (30 * 52) * 5120 * BF16_BYTES * 40  # K and V, 832x480, every layer: 1.28 GB per latent frame
    assert math.isclose(frame, 1.28e9, rel_tol=2e-3)
    assert plan.resident_bytes(shape) == 12 * frame
    assert plan.history_bytes(shape, 240) == 9 * frame
    assert plan.cached_frames(240) == [9] * 1600
    assert KVCache(plan, shape, "meta", torch.bfloat16).resident_bytes == 12 * frame
