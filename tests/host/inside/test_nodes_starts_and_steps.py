"""Starts, lengths, batches and SIGMAS: what the Streaming Sampler and its SAMPLER make of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

EXACT = {"rtol": 0.0, "atol": 0.0}
CLOSE = {"rtol": 0.0, "atol": 2e-5}


def own_sigmas(part: Any, family: str) -> torch.Tensor:
    schedule = part("dummyforcing_core.models.families").get_family(family).schedule
    return torch.tensor([*schedule.sigmas, 0.0])


def test_a_seed_gives_the_same_clip_again_and_another_seed_another(clip: Any, ar_model: Any) -> None:
    model = ar_model()
    first = clip(model)
    torch.testing.assert_close(clip(model), first, **EXACT)
    torch.testing.assert_close(clip(ar_model()), first, **EXACT)
    assert (clip(model, seed=4) - first).abs().max() > 0.1
    assert clip(model, seed=2**64 - 1).isfinite().all()


def test_the_global_random_state_is_left_alone(clip: Any, ar_model: Any) -> None:
    model = ar_model()
    torch.manual_seed(7)
    wanted = torch.rand(4)
    torch.manual_seed(7)
    clip(model)
    assert torch.equal(torch.rand(4), wanted)


def test_chunks_do_not_depend_on_the_clips_length(clip: Any, ar_model: Any, canvas: Any) -> None:
    model = ar_model("longlive")
    long = clip(model, latent=canvas(13))
    for frames in (1, 2, 3, 5, 12):
        whole = frames // 3 * 3
        made = clip(model, latent=canvas(frames))
        assert made.shape[2] == frames
        torch.testing.assert_close(made[:, :, :whole], long[:, :, :whole], **CLOSE)


def test_items_of_a_batch_are_the_clips_of_the_next_seeds(clip: Any, ar_model: Any, canvas: Any) -> None:
    model = ar_model()
    both = clip(model, latent=canvas(batch=2))
    for item in range(2):
        torch.testing.assert_close(both[item : item + 1], clip(model, seed=3 + item), **CLOSE)


@pytest.mark.parametrize("node", ["EmptyHunyuanLatentVideo", "EmptyCosmosLatentVideo"])
def test_the_hosts_empty_latents_are_canvases(call: Any, clip: Any, ar_model: Any, node: str) -> None:
    latent = call(node, width=64, height=64, length=9, batch_size=1).outputs[0]
    assert not latent["samples"].any() and clip(ar_model(), latent=latent).isfinite().all()


@pytest.mark.parametrize("family", ["self_forcing", "causal_forcing_2step"])
def test_the_familys_own_levels_as_sigmas_change_nothing(
    clip: Any, ar_model: Any, part: Any, model_calls: list, family: str
) -> None:
    model = ar_model(family)
    without = clip(model)
    calls = len(model_calls)
    torch.testing.assert_close(clip(model, sigmas=own_sigmas(part, family)), without, **EXACT)
    assert len(model_calls) == 2 * calls


def test_the_first_chunk_of_a_two_step_model_has_four_steps(
    clip: Any, ar_model: Any, part: Any, model_calls: list, custom: Any, ours: Any
) -> None:
    clip(ar_model("causal_forcing_2step"))
    assert len(model_calls) == 5 + 6 * 3
    model_calls.clear()
    custom(ar_model("causal_forcing_2step"), ours, own_sigmas(part, "causal_forcing_2step"))
    assert len(model_calls) == 5 + 6 * 3
    model_calls.clear()
    clip(ar_model("causal_forcing_2step"), sigmas=torch.tensor([1.0, 0.5, 0.0]))  # the user's steps, everywhere
    assert len(model_calls) == 7 * 3


def test_a_start_is_kept_counts_in_the_length_and_steers_what_follows(clip: Any, ar_model: Any, canvas: Any) -> None:
    model = ar_model()
    draws = torch.Generator().manual_seed(0)
    made = {}
    for frames in (1, 3, 5):
        start = torch.randn(1, 16, frames, 8, 8, generator=draws)
        made[frames] = clip(model, start_latent={"samples": start})
        assert made[frames].shape[2] == 7
        torch.testing.assert_close(made[frames][:, :, :frames], start, **CLOSE)
    other = clip(model, start_latent={"samples": torch.randn(1, 16, 3, 8, 8, generator=draws)})
    assert (other[:, :, 3:] - made[3][:, :, 3:]).abs().max() > 1e-3


def test_going_on_from_a_clips_own_beginning_needs_its_frames_only(clip: Any, ar_model: Any) -> None:
    """One start for a whole batch is every item's, and a longer LATENT's frames are not tied to it."""
    model = ar_model()
    start = clip(model)[:, :, :3].clone()
    before = start.clone()
    both = clip(model, start_latent={"samples": start}, latent={"samples": torch.zeros(2, 16, 6, 8, 8)})
    assert both.shape == (2, 16, 6, 8, 8)
    torch.testing.assert_close(both[:, :, :3], start.expand(2, -1, -1, -1, -1), **CLOSE)
    assert (both[0, :, 3:] - both[1, :, 3:]).abs().max() > 1e-3
    assert torch.equal(start, before)


def test_custom_sampler_follows_its_latent_from_a_low_level(custom: Any, ours: Any, ar_model: Any, canvas: Any) -> None:
    """Video to video: the less noise, the closer to what came in; at level 1 it does not matter."""
    came = {"samples": torch.randn(1, 16, 6, 8, 8, generator=torch.Generator().manual_seed(1))}
    model = ar_model()

    def at(level: float) -> torch.Tensor:
        return custom(model, ours, torch.tensor([level, level / 2, 0.0]), came)

    def far(samples: torch.Tensor) -> float:
        return float((samples - came["samples"]).abs().mean())

    low, middle, high = at(0.02), at(0.4), at(1.0)
    assert far(low) < 0.5 * far(middle) < 0.5 * far(high)
    empty = custom(model, ours, torch.tensor([1.0, 0.5, 0.0]), canvas(6))
    torch.testing.assert_close(high, empty, **CLOSE)


def test_custom_sampler_repeats_with_its_seed(custom: Any, ours: Any, ar_model: Any, canvas: Any) -> None:
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    model = ar_model()
    first = custom(model, ours, sigmas, seed=1)
    torch.testing.assert_close(custom(model, ours, sigmas, seed=1), first, **EXACT)
    assert (custom(model, ours, sigmas, seed=2) - first).abs().max() > 0.1


def test_streaming_sampler_follows_its_latent_from_a_low_level(clip: Any, ar_model: Any, canvas: Any) -> None:
    """Noise alone, at a level below 1, is no state that a model was trained on."""
    came = {"samples": torch.randn(1, 16, 6, 8, 8, generator=torch.Generator().manual_seed(1))}
    far = [
        float((clip(ar_model(), latent=came, sigmas=torch.tensor([x, x / 2, 0.0])) - came["samples"]).abs().mean())
        for x in (0.02, 0.4)
    ]
    assert far[0] < 0.2 and far[0] < 0.5 * far[1]
    empty = clip(ar_model(), latent=canvas(6), sigmas=torch.tensor([0.02, 0.01, 0.0]))
    assert empty.isfinite().all() and (empty - came["samples"]).abs().mean() > 4 * far[0]
