"""The demo codec: causal, streamable in any cut, faithful to the demo world."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.prompts import sample_clips
from demo.world import render
from dummyforcing_core.clips.demo_assets import load_demo_codec
from dummyforcing_core.errors import OutputError
from dummyforcing_core.vae.demo_codec import DemoCodec
from dummyforcing_core.vae.streaming import StreamingDecoder


@pytest.fixture(scope="module")
def codec() -> DemoCodec:
    return load_demo_codec()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    clips = sample_clips(3, 3, torch.Generator().manual_seed(8))
    return render(clips).transpose(1, 2)


@pytest.mark.parametrize(("height", "width", "frames"), [(64, 64, 9), (48, 80, 1), (16, 16, 5)])
def test_shapes(codec, height, width, frames):
    latents = codec.encode(torch.rand(2, 3, 4 * (frames - 1) + 1, height, width) * 2 - 1)
    assert latents.shape == (2, 16, frames, height // 8, width // 8)
    decoder = codec.decoder_stream()
    assert isinstance(decoder, StreamingDecoder)
    out = decoder.push(latents)
    assert out.shape == (2, 3, 4 * (frames - 1) + 1, height, width)
    assert out.min() >= -1 and out.max() <= 1
    assert decoder.flush().shape == (2, 3, 0, height, width)


def test_round_trip_is_faithful(codec, pixels):
    out = codec.decoder_stream().push(codec.encode(pixels))
    assert 10 * torch.log10(4 / (out - pixels).square().mean()) > 26
    assert (out - pixels).abs().mean() < 0.06


def test_latents_have_about_unit_variance(codec):
    pixels = render(sample_clips(24, 4, torch.Generator().manual_seed(9))).transpose(1, 2)
    assert 0.7 < codec.encode(pixels).std() < 1.3


def test_encoder_is_causal(codec, pixels):
    changed = pixels.clone()
    changed[:, :, 13:] = 0
    a, b = codec.encode(pixels), codec.encode(changed)
    assert torch.equal(a[:, :, :4], b[:, :, :4]) and not torch.equal(a[:, :, 4], b[:, :, 4])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_any_cut_gives_the_same_pixels(codec, pieces):
    latents = torch.randn(2, 16, sum(pieces), 4, 4, generator=torch.Generator().manual_seed(1))
    whole = codec.decoder_stream().push(latents)
    decoder = codec.decoder_stream()
    cut = torch.cat([*(decoder.push(piece) for piece in latents.split(pieces, 2)), decoder.flush()], 2)
    assert torch.equal(whole, cut)


def test_reset_starts_a_new_clip(codec):
    latents = torch.randn(1, 16, 2, 4, 4)
    decoder = codec.decoder_stream()
    first = decoder.push(latents)
    assert decoder.push(latents).shape[2] == 8
    decoder.reset()
    assert torch.equal(decoder.push(latents), first)


def test_bad_input_is_refused_with_what_to_do(codec):
    with pytest.raises(OutputError, match=r"8 frames of 64x64.*cut or pad"):
        codec.encode(torch.zeros(1, 3, 8, 64, 64))
    with pytest.raises(OutputError, match="1 frames of 40x64"):
        codec.encode(torch.zeros(1, 3, 1, 64, 40))
    decoder = codec.decoder_stream()
    decoder.push(torch.zeros(1, 16, 1, 4, 4))
    with pytest.raises(OutputError, match="reset"):
        decoder.push(torch.zeros(1, 16, 1, 8, 4))
