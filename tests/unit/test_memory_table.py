"""The memory table of docs/troubleshooting.md, against the plans' own price and a sum by hand."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dummyforcing_core.geometry import SIZES, LatentShape
from dummyforcing_core.loops.run import kv_shape, setting_of
from dummyforcing_core.models.denoiser import ModelGeometry
from dummyforcing_core.models.families import get_family
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.policies import DummyForcing, Policy, SlidingWindow
from dummyforcing_core.policies.profile import HeadProfile

TROUBLE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
LAYERS, HEADS, HEAD_DIM, CHUNK = 30, 12, 128, 3


class Sized:
    """Self-Forcing 1.3B where pricing expects a denoiser."""

    geometry = ModelGeometry(LAYERS, HEADS, HEAD_DIM, 16, torch.device("cpu"), torch.bfloat16)


HALVES = HeadProfile.assumed(LAYERS, HEADS)
# Setting -> its policy, and by hand: mean frames per head, of history and chunk.
ROWS: dict[str, tuple[Policy, float]] = {
    "Apply Cache Window 21, 0 (as trained)": (SlidingWindow(21, 0), 21),
    "Apply Cache Window 12, 3": (SlidingWindow(12, 3), 12),
    "Apply Cache Window 6, 0": (SlidingWindow(6, 0), 6),
    "Apply Dummy Forcing, until the heads are scored": (DummyForcing(), 1 + 3 + CHUNK),
    "Apply Dummy Forcing, from then on, or with a saved profile": (
        DummyForcing(profile=HALVES),
        0.5 * 1 + 0.25 * 1 + 0.25 * 3 + CHUNK,
    ),
    "the same, dummy_ratio 0.75": (
        DummyForcing(dummy_ratio=0.75, profile=HALVES),
        0.75 * 1 + 0.125 * 1 + 0.125 * 3 + CHUNK,
    ),
    "local_chunks 20, until the heads are scored": (DummyForcing(local_chunks=20), 1 + 60 + CHUNK),
    "local_chunks 20, with a saved profile": (
        DummyForcing(local_chunks=20, profile=HALVES),
        0.5 * 1 + 0.25 * 1 + 0.25 * 60 + CHUNK,
    ),
}


def table_row(name: str) -> list[float]:
    found = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", TROUBLE.read_text(encoding="utf-8"), re.M)
    assert found, name
    return [float(cell) for cell in found[1].split("|")]


class TestMemoryTable:
    @pytest.mark.parametrize("name", ROWS)
    def test_row(self, name: str) -> None:
        policy, frames = ROWS[name]
        denoise: Any = Sized()
        family = get_family("self_forcing")
        for size, stated, tokens in zip(("480p", "720p", "1080p"), table_row(name), (1560, 3600, 8160), strict=True):
            width, height = (-(-side // 16) * 16 for side in SIZES[size])
            shape = LatentShape.of_pixels(width, height, 60 * 16 + 1)
            plan = policy.plan(setting_of(denoise.geometry, shape, family, 0))
            price = plan.resident_bytes(kv_shape(denoise.geometry, shape, family))
            assert stated == pytest.approx(price / 2**30, abs=0.006), (name, size)
            by_hand = LAYERS * HEADS * frames * tokens * HEAD_DIM * 2 * 2
            assert price == pytest.approx(by_hand, rel=0.01), (name, size)

    def test_every_row_is_checked(self) -> None:
        text = TROUBLE.read_text(encoding="utf-8")
        assert len(re.findall(r"^\|.*\| *\d+\.\d\d \|$", text, re.M)) == len(ROWS)

    def test_weights(self) -> None:
        with torch.device("meta"):
            model = CausalWan(WanConfig(dim=1536, ffn_dim=8960, num_heads=HEADS, num_layers=LAYERS))
        size = 2 * sum(parameter.numel() for parameter in model.parameters()) / 2**30
        assert f"weights take {size:.2f} GiB more" in " ".join(TROUBLE.read_text(encoding="utf-8").split())
