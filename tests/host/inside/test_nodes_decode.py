"""Streamed decoding: the pixels of a whole decode however the latents were cut, and in tiles."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

EXACT = {"rtol": 0.0, "atol": 2e-5}
"""Of pixels in [-1, 1]: convolutions of another batch or another length round differently, by less than 1e-5."""


def random_latents(frames: int, batch: int = 1, height: int = 4, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(batch, 16, frames, height, width, generator=torch.Generator().manual_seed(seed))


def whole(vae: Any, latents: Tensor) -> Tensor:
    """The host's own decode of every item alone, (B, 3, F, H, W) in [-1, 1]."""
    with torch.inference_mode():
        items = [vae.decode(item[None]) for item in latents]
    return torch.cat(items).permute(0, 4, 1, 2, 3) * 2 - 1


def streamed(decoder: Any, latents: Tensor, cuts: list[int]) -> Tensor:
    assert sum(cuts) == latents.shape[2]
    with torch.inference_mode():
        return torch.cat([*(decoder.push(piece) for piece in latents.split(cuts, 2)), decoder.flush()], 2)


def random_cuts(frames: int, seed: int) -> list[int]:
    draw, cuts = random.Random(seed), []
    while frames:
        cuts.append(draw.randint(1, min(frames, 5)))
        frames -= cuts[-1]
    return cuts


def frames_of(path: Any, part: Any) -> np.ndarray:
    return np.stack(list(part("dummyforcing_core.clips.video").read_frames(Path(path))))


def difference(shown: np.ndarray, truth: np.ndarray) -> float:
    """Mean difference of frames (f, H, W, 3) in levels, over squares of 8 pixels: h264 keeps no finer noise."""
    levels = [torch.from_numpy(x.astype(np.float32).copy()).permute(0, 3, 1, 2) for x in (shown, truth)]
    small, wanted = (torch.nn.functional.avg_pool2d(level, 8) for level in levels)
    return float((small - wanted).abs().mean())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 9])
def test_any_cut_gives_the_whole_decode(part: Any, tiny_vae: Any, frames: int, batch: int) -> None:
    latents = random_latents(frames, batch)
    wanted = whole(tiny_vae, latents)
    assert wanted.std() > 0.02 and wanted.shape[2] == 4 * frames - 3
    for cuts in ([frames], [1] * frames, *(random_cuts(frames, seed) for seed in range(2))):
        got = streamed(part("nodes.host.decoder").stream_of(tiny_vae), latents, cuts)
        torch.testing.assert_close(got, wanted, **EXACT, msg=lambda text, cuts=cuts: f"cut {cuts}: {text}")


def test_a_stream_starts_anew_after_reset(part: Any, tiny_vae: Any) -> None:
    decoder, latents = part("nodes.host.decoder").stream_of(tiny_vae), random_latents(4)
    first = streamed(decoder, latents, [3, 1])
    decoder.reset()
    torch.testing.assert_close(streamed(decoder, latents, [1, 3]), first, **EXACT)
    decoder.reset()
    assert decoder.flush().shape[2] == 0


def test_tiles_that_hold_the_frame_change_nothing_and_smaller_ones_little(part: Any, tiny_vae: Any) -> None:
    stream_of, latents = part("nodes.host.decoder").stream_of, random_latents(4, 1, 10, 14)
    wanted = whole(tiny_vae, latents)
    torch.testing.assert_close(streamed(stream_of(tiny_vae, (32, 32)), latents, [3, 1]), wanted, **EXACT)
    tiled = streamed(stream_of(tiny_vae, (8, 8)), latents, [3, 1])
    assert tiled.shape == wanted.shape and tiled.isfinite().all()
    assert (tiled - wanted).abs().max() > 1e-4  # it did tile
    assert torch.corrcoef(torch.stack([tiled.flatten(), wanted.flatten()]))[0, 1] > 0.8
    torch.testing.assert_close(streamed(stream_of(tiny_vae, (8, 8)), latents, [1] * 4), tiled, **EXACT)


def test_latents_of_another_model_are_refused(part: Any, tiny_vae: Any, refused: Any) -> None:
    decoder = part("nodes.host.decoder").stream_of(tiny_vae)
    refused(lambda: decoder.push(torch.zeros(1, 48, 2, 6, 8)), "48", "VAE of the model")
    refused(lambda: decoder.push(torch.zeros(1, 16, 6, 8)), "(1, 16, 6, 8)")


def test_streaming_decode_writes_the_whole_decodes_frames(call: Any, part: Any, tiny_vae: Any) -> None:
    latents = random_latents(6, 2)
    done = call(
        "DummyForcingStreamingDecode", latent={"samples": latents}, vae=tiny_vae, fps=24, filename_prefix="d/pair"
    )
    videos = done.outputs[0]
    assert len(videos) == 2 and len(done.ui["images"]) == 2
    wanted = whole(tiny_vae, latents)
    for video, item in zip(videos, wanted, strict=True):
        assert video.get_dimensions() == (48, 32) and float(video.get_frame_rate()) == 24
        shown, truth = frames_of(video.get_stream_source(), part), ((item.permute(1, 2, 3, 0) + 1) * 127.5).numpy()
        assert shown.shape == truth.shape
        assert difference(shown, truth) < 4
        assert difference(shown[:, ::-1], truth) > 8 and difference(shown[::-1], truth) > 8


class OtherVAE:
    """A VAE whose past the host does not expose: it can decode a whole clip only."""

    first_stage_model = SimpleNamespace()
    latent_channels, vae_dtype, device = 16, torch.float32, torch.device("cpu")
    memory_used_decode = staticmethod(lambda shape, dtype: 1.0)

    def __init__(self, patcher: Any) -> None:
        self.patcher, self.decoded = patcher, []

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded.append(latents)
        frames = latents[:, :3].repeat_interleave(4, 2)[:, :, 3:].repeat_interleave(8, 3).repeat_interleave(8, 4)
        return frames.permute(0, 2, 3, 4, 1).sigmoid()


def test_other_vaes_decode_once_at_the_end(part: Any, tiny_vae: Any, stream: Any, ar_model: Any) -> None:
    vae = OtherVAE(tiny_vae.patcher)
    assert not part("nodes.host.decoder").streams(vae)
    done = stream(ar_model(), vae=vae, filename_prefix="other/vae")
    assert [tuple(latents.shape) for latents in vae.decoded] == [(1, 16, 7, 8, 8)]
    torch.testing.assert_close(vae.decoded[0], done.outputs[0]["samples"])
    shown, truth = frames_of(done.outputs[1][0].get_stream_source(), part), vae.decode(vae.decoded[0])[0].numpy() * 255
    assert shown.shape == (25, 64, 64, 3) and difference(shown, truth) < 4
