"""Noise levels and the two formulas of flow matching."""

import pytest
import torch

from dummyforcing_core.errors import DummyForcingError
from dummyforcing_core.schedule import (
    Schedule,
    add_noise,
    nearest_sigma,
    per_frame,
    sigma_table,
    warp,
    x0_from_velocity,
)


def test_self_forcings_four_levels():
    schedule = Schedule.few_step()
    assert schedule.sigmas == pytest.approx((1, 0.9375, 0.8333333, 0.625), abs=1e-7)
    assert [1000 * sigma for sigma in schedule.sigmas] == pytest.approx([1000, 937.5, 833.3333, 625])
    assert len(schedule) == 4
    assert schedule.context_noise == 0


@pytest.mark.parametrize(
    "u, shift, sigma", [(0, 5, 0), (1, 5, 1), (0.5, 1, 0.5), (0.5, 5, 2.5 / 3), (0.25, 8, 2 / 2.75)]
)
def test_warp(u, shift, sigma):
    assert warp(u, shift) == pytest.approx(sigma)


def test_shift_one_leaves_the_step_list_as_it_is():
    assert Schedule.few_step((900, 100), shift=1).sigmas == pytest.approx((0.9, 0.1))


@pytest.mark.parametrize(
    "sigmas", [(), (0.5, 0.5), (0.5, 0.6), (1.0, 0.0), (1.1, 0.5), (0.5, -0.1), (float("nan"),), (float("nan"), 0.5)]
)
def test_levels_must_fall_strictly_within_zero_and_one(sigmas):
    with pytest.raises(DummyForcingError, match="cannot be sampled"):
        Schedule(sigmas)


@pytest.mark.parametrize("level", [-0.1, 1.5, float("nan")])
def test_a_context_noise_outside_zero_and_one_is_refused(level):
    with pytest.raises(DummyForcingError):
        Schedule((1.0,), context_noise=level)


def test_training_table_falls_from_one_and_holds_the_few_step_levels():
    table = sigma_table(5.0)
    assert (table.shape, table.dtype) == ((1000,), torch.float32)
    assert table[0] == 1
    assert float(table[-1]) == pytest.approx(warp(1 / 1000, 5.0))
    assert (table.diff() < 0).all()
    for step in (1000, 750, 500, 250):
        assert float(table[1000 - step]) == pytest.approx(warp(step / 1000, 5.0), abs=1e-6)


def test_nearest_sigma_equals_a_search_by_hand():
    table = sigma_table(5.0)
    timesteps = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) * 1000
    found = nearest_sigma(timesteps, table)
    assert found.shape == timesteps.shape
    for timestep, sigma in zip(timesteps.flatten().tolist(), found.flatten().tolist(), strict=True):
        assert sigma == min(table.tolist(), key=lambda entry: abs(1000 * entry - timestep))


@pytest.fixture
def latents():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 16, 3, 2, 2, generator=generator) for _ in range(2)]


def test_velocity_leads_back_to_the_clean_latents(latents):
    x0, noise = latents
    for sigma in (1.0, 0.625, torch.tensor([[1.0, 0.5, 0.25], [0.1, 0.2, 0.3]])):
        x = add_noise(x0, noise, sigma)
        torch.testing.assert_close(x0_from_velocity(x, noise - x0, sigma), x0)


def test_levels_per_frame_equal_one_call_per_frame(latents):
    x0, noise = latents
    sigma = torch.tensor([[1.0, 0.5, 0.25], [0.1, 0.2, 0.0]])
    mixed = add_noise(x0, noise, sigma)
    for b in range(2):
        for t in range(3):
            level = float(sigma[b, t])
            torch.testing.assert_close(mixed[b, :, t], (1 - level) * x0[b, :, t] + level * noise[b, :, t])


def test_the_ends_are_exact(latents):
    x0, noise = latents
    assert torch.equal(add_noise(x0, noise, 0.0), x0)
    assert torch.equal(add_noise(x0, noise, 1.0), noise)


def test_per_frame_takes_dtype_from_the_latents_and_leaves_numbers_alone(latents):
    level = per_frame(torch.ones(2, 3, dtype=torch.float64), latents[0])
    assert (level.shape, level.dtype) == ((2, 1, 3, 1, 1), torch.float32)
    assert per_frame(0.5, latents[0]) == 0.5
