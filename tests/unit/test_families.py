"""Noise levels of every family, against the table that the public code reads them from."""

import numpy as np
import pytest
import torch

from dummyforcing_core.errors import CheckpointError
from dummyforcing_core.models.families import FAMILIES, get_family
from dummyforcing_core.models.sources import SOURCES
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


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.missing])
def test_what_cannot_be_run_is_no_family(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"unknown model family '{name}'"):
        get_family(name)
