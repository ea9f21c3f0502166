"""Decoding that runs out of memory goes on in tiles, and the video has every frame, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

HEIGHT, WIDTH = 4, 6


def latents_of(frames: int) -> Tensor:
    return torch.randn(1, 16, frames, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def video(part: Any, tiny_vae: Any) -> Callable[..., np.ndarray]:
    """``video(latents, cuts)``: the frames of the file that ClipOutput makes of them."""

    def make(latents: Tensor, cuts: list[int]) -> np.ndarray:
        shape = part("dummyforcing_core.geometry").LatentShape(*latents.shape)
        shown = part("nodes.host.shown").shown_of({"samples": latents})
        encoding = part("dummyforcing_core.clips.encoding").Encoding()
        hidden = SimpleNamespace(prompt=None, extra_pnginfo={})
        to = part("nodes.host.files").Destination(16, "oom/clip", encoding, hidden)
        output = part("nodes.host.clip_output").ClipOutput(tiny_vae, shape, shown, to)
        with torch.inference_mode(), output:
            for piece in latents.split(cuts, 2):
                output.add(piece)
            output.finish()
        return np.stack(list(part("dummyforcing_core.clips.video").read_frames(Path(output.files[0].path))))

    return make


@pytest.fixture
def fails_at(part: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """``fails_at("push", 3)``: that method of the stream runs out of memory at its third call; each call's tiles."""
    import comfy.model_management

    stream = part("nodes.host.wan_stream").HostWanStream

    def use(method: str, *failing: int) -> list[Any]:
        real, calls = getattr(stream, method), []

        def run(self: Any, *args: Any) -> Tensor:
            calls.append(self._tile)
            if len(calls) in failing:
                self._held = None  # as far as a real one gets before it fails
                raise comfy.model_management.OOM_EXCEPTION("out of memory")
            return real(self, *args)

        monkeypatch.setattr(stream, method, run)
        return calls

    return use


@pytest.mark.parametrize("cuts", [[1] * 6, [2] * 3, [3, 3], [4, 2], [1, 3, 2]])
def test_going_on_in_a_tile_that_holds_the_frame_gives_the_same_video(
    video: Any, fails_at: Any, cuts: list[int], caplog: Any
) -> None:
    latents = latents_of(6)
    wanted = video(latents, cuts)
    assert wanted.shape == (21, 8 * HEIGHT, 8 * WIDTH, 3)
    calls = fails_at("push", len(cuts))
    assert np.abs(video(latents, cuts).astype(int) - wanted).max() <= 1
    assert set(calls[len(cuts) :]) == {(32, 32)} and "in tiles" in caplog.text


@pytest.mark.parametrize("from_last", [1, 2])
@pytest.mark.parametrize("piece", [1, 2, 3, 4])
def test_a_failure_late_in_a_long_clip_neither_repeats_nor_loses_frames(
    video: Any, fails_at: Any, part: Any, monkeypatch: pytest.MonkeyPatch, piece: int, from_last: int
) -> None:
    """Only the newest latents are kept for a second try: the tiles must hold back what the stream held back."""
    monkeypatch.setattr(part("nodes.host.clip_output"), "LOOKBACK_FRAMES", 4)
    cuts = [piece] * (11 // piece) + [11 % piece] * bool(11 % piece)
    calls = fails_at("push", len(cuts) + 1 - from_last)
    assert len(video(latents_of(11), cuts)) == 41
    assert (32, 32) in calls


def test_a_failure_in_the_frame_that_was_held_back(video: Any, fails_at: Any) -> None:
    wanted = video(latents_of(6), [5, 1])
    calls = fails_at("flush", 1)
    assert np.abs(video(latents_of(6), [5, 1]).astype(int) - wanted).max() <= 1
    assert calls == [None, (32, 32)]


def test_a_failure_in_tiles_too_is_told_and_what_was_made_plays(
    video: Any, fails_at: Any, outputs: Any, caplog: Any, base: Path, part: Any
) -> None:
    import comfy.model_management

    calls = fails_at("push", 3, 4)
    before = outputs()
    with pytest.raises(comfy.model_management.OOM_EXCEPTION):
        video(latents_of(9), [3, 3, 3])
    (left,) = outputs() - before
    assert left.endswith(".part.mp4") and Path(left).name in caplog.text
    assert len(list(part("dummyforcing_core.clips.video").read_frames(base / "output" / left))) == 21
    assert calls == [None, None, None, (32, 32)]


def test_other_errors_are_not_taken_for_a_full_memory(video: Any, part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, calls = part("nodes.host.wan_stream").HostWanStream, []

    def broken(self: Any, latents: Tensor) -> Tensor:
        calls.append(self._tile)
        raise RuntimeError("a convolution broke")

    monkeypatch.setattr(stream, "push", broken)
    with pytest.raises(RuntimeError, match="convolution"):
        video(latents_of(2), [2])
    assert calls == [None]


def test_a_real_memory_failure_inside_the_decoder_is_survived(
    video: Any, part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the stream's own method but a layer deep in the host's decoder fails, with the caches half written."""
    import comfy.ldm.wan.vae
    import comfy.model_management

    wanted = video(latents_of(6), [3, 3])
    real, calls = comfy.ldm.wan.vae.RMS_norm.forward, []

    def failing(self: Any, x: Tensor) -> Tensor:
        calls.append(x.shape)
        if len(calls) == 70:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")
        return real(self, x)

    monkeypatch.setattr(comfy.ldm.wan.vae.RMS_norm, "forward", failing)
    got = video(latents_of(6), [3, 3])
    assert len(calls) > 140
    assert np.abs(got.astype(int) - wanted).max() <= 1
