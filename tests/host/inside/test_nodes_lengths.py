"""Seconds are those of the video, at any rate, size and loop; what cannot be is said before the model runs."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch

CUSTOM = {"preset": "custom", "orientation": "landscape", "batch_size": 1}


@pytest.fixture
def size(call: Any) -> Any:
    """``size(seconds, width, height)``: what Clip Size makes."""
    return lambda seconds, width=64, height=64, **more: call(
        "DummyForcingClipSize", **CUSTOM, seconds=seconds, width=width, height=height, **more
    ).outputs[0]


def seen(video: Any) -> tuple[int, Fraction, int, int]:
    """(frames, rate, width, height) of a VIDEO's file."""
    with av.open(str(Path(video.get_stream_source()))) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(video=0))
        return frames, Fraction(stream.average_rate), stream.width, stream.height


@pytest.mark.parametrize(
    ("fps", "rate", "frames"),
    [(16, 16, 24), (24, 24, 36), (25, 25, 38), (30.0, 30, 45), (23.976, Fraction(24000, 1001), 36)],
)
def test_the_seconds_of_clip_size_hold_at_any_rate(
    stream: Any, ar_model: Any, size: Any, tiny_vae: Any, fps: float, rate: Fraction, frames: int
) -> None:
    done = stream(ar_model(), latent=size(1.5), vae=tiny_vae, fps=fps, filename_prefix="rate/clip")
    assert seen(done.outputs[1][0]) == (frames, rate, 64, 64)
    assert f"frames              {frames}\n" in done.outputs[2] and "length" in done.outputs[2]


def test_a_size_that_is_no_multiple_of_16_is_made_larger_and_cut(
    call: Any, stream: Any, ar_model: Any, size: Any, tiny_vae: Any
) -> None:
    done = stream(ar_model(), latent=size(0.5, 72, 50), vae=tiny_vae, filename_prefix="size/clip")
    latent = done.outputs[0]
    assert latent["samples"].shape[2:] == (3, 8, 10)
    assert seen(done.outputs[1][0]) == (8, 16, 72, 50)
    assert "made                80x64, 9 frames (3 latent)" in done.outputs[2]
    again = call("DummyForcingStreamingDecode", latent=latent, vae=tiny_vae, fps=16, filename_prefix="size/again")
    assert seen(again.outputs[0][0]) == (8, 16, 72, 50)
    changed = {**latent, "samples": latent["samples"][:, :, :2]}  # by another node: what was said of it is void
    again = call("DummyForcingStreamingDecode", latent=changed, vae=tiny_vae, fps=16, filename_prefix="size/cut")
    assert seen(again.outputs[0][0]) == (5, 16, 80, 64)


def test_a_stock_canvas_of_odd_latent_rows_is_shown_as_it_is(stream: Any, ar_model: Any, tiny_vae: Any) -> None:
    latent = {"samples": torch.zeros(1, 16, 3, 7, 8)}
    start = {"samples": torch.randn(1, 16, 1, 7, 8)}
    done = stream(ar_model(), latent=latent, start_latent=start, vae=tiny_vae, filename_prefix="stock/clip")
    assert seen(done.outputs[1][0]) == (9, 16, 64, 56)
    assert done.outputs[0]["samples"].shape[2:] == (3, 8, 8)


@pytest.mark.parametrize("family", ["rolling_forcing", "causal_forcing_long"])
def test_rolling_windows_make_what_fits_and_the_video_shows_what_was_asked_for(
    call: Any, stream: Any, size: Any, tiny_vae: Any, family: str
) -> None:
    model = call("DummyForcingLoadARModel", model="self_forcing_tiny.safetensors", family=family).outputs[0]
    done = stream(model, latent=size(2.0), vae=tiny_vae, filename_prefix="rolling/clip")
    frames, *_ = seen(done.outputs[1][0])
    made = done.outputs[0]["samples"].shape[2]
    assert frames == 32 and made >= 9 and made % 3 == 0
    assert f"made                64x64, {4 * made - 3} frames ({made} latent)" in done.outputs[2]


def test_the_stock_sampler_gets_back_the_shape_that_it_gave(call: Any, part: Any, conditioning: Any) -> None:
    import comfy.samplers

    inputs = {"model": "self_forcing_tiny.safetensors", "family": "rolling_forcing"}
    guider = comfy.samplers.CFGGuider(call("DummyForcingLoadARModel", **inputs).outputs[0])
    guider.inner_set_conds({"positive": conditioning(1)})
    guider.set_cfg(1.0)
    family = part("dummyforcing_core.models.families").get_family("rolling_forcing")
    sigmas = part("nodes.host.sigmas").sigmas_of(family.schedule)
    latent = torch.zeros(1, 16, 16, 7, 8)
    told: list[torch.Size] = []
    sampler = part("nodes.host.chunks").full_clip_sampler()
    made = guider.sample(
        torch.randn(latent.shape), latent, sampler, sigmas, seed=0,
        callback=lambda step, x0, x, total: told.append(x0.shape),
    )  # fmt: skip
    assert made.shape == latent.shape and bool(made.isfinite().all())
    assert told[-1] == latent.shape


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((5.0, 65, 64), "even sides"),
        ((3600.0, 8192, 8192), "the latents of this clip would take"),
        ((0.0, 64, 64), "above 0 seconds"),
    ],
)
def test_what_cannot_be_a_clip_is_one_line(size: Any, refused: Any, given: tuple, words: str) -> None:
    refused(lambda: size(*given), words)


def test_a_rate_that_is_none_is_one_line(stream: Any, ar_model: Any, refused: Any, model_calls: list) -> None:
    refused(lambda: stream(ar_model(), fps=0), "expected frames per second")
    assert model_calls == []


def test_a_start_for_rolling_windows_is_refused_before_the_model_runs(
    call: Any, stream: Any, size: Any, refused: Any, model_calls: list
) -> None:
    inputs = {"model": "self_forcing_tiny.safetensors", "family": "rolling_forcing"}
    model = call("DummyForcingLoadARModel", **inputs).outputs[0]
    start = {"samples": torch.ones(1, 16, 1, 8, 8)}
    refused(lambda: stream(model, latent=size(4.0), start_latent=start), "expected no given start")
    assert model_calls == []
