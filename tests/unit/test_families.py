"""Noise levels of every family, against the table that the public code reads them from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dummyforcing_core.errors import CheckpointError
from dummyforcing_core.models import wan_geometry
from dummyforcing_core.models.catalogue import SOURCES
from dummyforcing_core.models.families import FAMILIES, get_family
from dummyforcing_core.models.wan import WanConfig
from dummyforcing_core.models.wan_geometry import size_mismatch
from dummyforcing_core.schedule import nearest_sigma, sigma_table


def upstream_sigmas(steps: tuple[int, ...], shift: float) -> np.ndarray:
    """Entry 1000 - step of 1000 levels from 1 down, made in float32 as the public scheduler makes them."""
    u = np.linspace(1, 0, 1001, dtype=np.float32)[:-1]
    s = np.float32(shift)
    table = s * u / (1 + (s - 1) * u)
    return table[[1000 - step for step in steps]]


WARPED = [name for name, family in FAMILIES.items() if family.warped]


@pytest.mark.parametrize("name", WARPED)
def test_warped_steps_are_the_entries_of_the_public_table(name: str) -> None:
    family = get_family(name)
    ours = np.array(family.schedule.sigmas)
    np.testing.assert_allclose(ours, upstream_sigmas(family.steps, family.shift), rtol=0, atol=2e-7)
    first = upstream_sigmas(family.first_steps or family.steps, family.shift)
    np.testing.assert_allclose(family.schedule.levels(first=True), first, rtol=0, atol=2e-7)
    assert family.schedule.context_noise == 0


@pytest.mark.parametrize("name", WARPED)
def test_looking_a_timestep_up_gives_the_level_itself(name: str) -> None:
    """The public code hands over a timestep and takes the nearest level; for warped steps that changes nothing."""
    family = get_family(name)
    sigmas = torch.tensor(family.schedule.sigmas)
    found = nearest_sigma(1000 * sigmas, sigma_table(family.shift))
    assert torch.allclose(found, sigmas, rtol=0, atol=2e-7)


def test_the_oracle_knows_the_published_levels() -> None:
    np.testing.assert_allclose(upstream_sigmas((1000, 750, 500, 250), 5), [1, 15 / 16, 5 / 6, 5 / 8], atol=1e-6)
    np.testing.assert_allclose(upstream_sigmas((1000, 500), 5), [1, 5 / 6], atol=1e-6)
    rolling = [1, 0.952381, 0.8823529, 0.7692308, 0.5555556]
    np.testing.assert_allclose(upstream_sigmas((1000, 800, 600, 400, 200), 5), rolling, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.missing])
def test_what_cannot_be_run_is_no_family(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"unknown model family '{name}'"):
        get_family(name)


SMALL = WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30)
LARGE = WanConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_of_another_size_than_its_familys_is_doubted(name: str) -> None:
    family = get_family(name)
    doubts = {size: size_mismatch(config, family) for size, config in (("1.3B", SMALL), ("14B", LARGE))}
    for size, doubt in doubts.items():
        assert bool(doubt) is (size != family.size)
        if doubt:
            assert f"Wan2.1 {size}" in doubt and family.title in doubt
    assert not size_mismatch(replace(SMALL, num_layers=4), family)  # neither: a model of somebody's own


def test_the_command_line_says_so_and_goes_on(
    run, checkpoint: Path, embedding: Path, tiny_config: WanConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = tiny_config
    monkeypatch.setitem(wan_geometry.SIZES, (c.dim, c.ffn_dim, c.num_heads, c.num_layers), "14B")
    words = "--size", "16x16", "--frames", 9, "--device", "cpu", "--text-embedding", embedding
    result = run("generate", "--model", checkpoint, "--family", "self_forcing", "--prompt", "x", *words,
                 "--out", tmp_path / "x.mp4")  # fmt: skip
    assert result.code == 0
    assert "warning: the file is a Wan2.1 14B, which Self-Forcing 1.3B is not" in result.err
    page = run("verify", "--model", checkpoint, "--family", "self_forcing", *words)
    assert page.code == 0
    assert "which Self-Forcing 1.3B is not" in next(line for line in page.out.splitlines() if "INFO  family" in line)
