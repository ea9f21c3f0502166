"""Streaming decoders: frame counts, independence from the chunking, and pixels as bytes."""

import numpy as np
import pytest
import torch

from dummyforcing_core.errors import OutputError
from dummyforcing_core.vae.streaming import LatentPreview, StreamingDecoder, crop, to_uint8


def latents(frames: int, batch: int = 1, height: int = 4, width: int = 6) -> torch.Tensor:
    return torch.randn(batch, 16, frames, height, width, generator=torch.Generator().manual_seed(frames))


def test_preview_is_a_decoder():
    assert isinstance(LatentPreview(), StreamingDecoder)


@pytest.mark.parametrize("cuts", [(7,), (3, 3, 1), (1, 1, 1, 1, 1, 1, 1), (1, 0, 6)])
def test_the_pixels_do_not_depend_on_the_chunks(cuts):
    clip = latents(7, batch=2)
    whole = LatentPreview().push(clip)
    assert whole.shape == (2, 3, 4 * 6 + 1, 32, 48)
    decoder = LatentPreview()
    parts = [decoder.push(part) for part in clip.split(list(cuts), dim=2)] + [decoder.flush()]
    assert torch.equal(torch.cat(parts, dim=2), whole)


def test_reset_begins_a_new_clip():
    decoder = LatentPreview()
    assert decoder.flush().shape[2] == 0
    assert [decoder.push(latents(3)).shape[2] for _ in range(2)] == [9, 12]
    assert decoder.flush().shape == (1, 3, 0, 32, 48)
    decoder.reset()
    assert decoder.push(latents(3)).shape[2] == 9


def test_later_frames_are_shown_four_times():
    pixels = LatentPreview().push(latents(3))
    assert torch.equal(pixels[:, :, 1:5], pixels[:, :, 1:2].expand(-1, -1, 4, -1, -1))
    assert not torch.equal(pixels[:, :, 4], pixels[:, :, 5])


def test_colours_follow_the_linear_map():
    decoder = LatentPreview(mode="nearest")
    nothing = decoder.push(torch.zeros(1, 16, 1, 2, 2))
    assert nothing[0, :, 0, 0, 0].tolist() == pytest.approx([-0.1835, -0.0868, -0.3360], abs=1e-6)
    bright = torch.zeros(1, 16, 1, 2, 2, dtype=torch.float16)
    bright[0, 6, 0, 1, 0] = -2.0  # the channel that carries most of the (inverse) brightness
    pixels = decoder.push(bright)[0, :, 0]
    assert pixels.dtype == torch.float32
    expected = [-0.1835 + 2 * 0.3477, -0.0868 + 2 * 0.4059, -0.3360 + 2 * 0.2925]
    assert pixels[:, 8:, :8].amin(dim=(1, 2)).tolist() == pytest.approx(expected, abs=1e-3)
    assert torch.equal(pixels[:, :8], nothing[0, :, 0, :8])


def test_preview_stays_in_range_and_refuses_other_latents():
    pixels = LatentPreview().push(100 * latents(2))
    assert pixels.min() == -1 and pixels.max() == 1
    with pytest.raises(OutputError, match=r"\(1, 48, 2, 4, 4\)"):
        LatentPreview().push(torch.zeros(1, 48, 2, 4, 4))
    with pytest.raises(ValueError, match="bilinear or nearest"):
        LatentPreview(mode="cubic")


def test_to_uint8_rounds_clips_and_moves_channels_last():
    pixels = torch.tensor([-1.0, 0.0, 1.0, -3.0, 3.0, 0.5]).reshape(1, 1, 1, 2, 3).repeat(2, 3, 4, 1, 1)
    pixels[:, 1] = 1
    frames = to_uint8(pixels)
    assert isinstance(frames, np.ndarray) and frames.dtype == np.uint8 and frames.flags["C_CONTIGUOUS"]
    assert frames.shape == (2, 4, 2, 3, 3)
    assert frames[1, 3, :, :, 0].tolist() == [[0, 128, 255], [0, 255, 191]]
    assert (frames[..., 1] == 255).all()


def test_every_byte_survives_the_round_trip():
    levels = torch.arange(256, dtype=torch.float32)
    pixels = (levels / 127.5 - 1).reshape(1, 1, 1, 16, 16).repeat(1, 3, 1, 1, 1)
    assert to_uint8(pixels)[0, 0, :, :, 2].ravel().tolist() == list(range(256))


def test_to_uint8_crops_to_the_middle():
    pixels = torch.linspace(-1, 1, 40).view(8, 5).expand(1, 3, 2, 8, 5)
    assert torch.equal(crop(pixels, 3, 4)[0, 0, 0], pixels[0, 0, 0, 2:6, 1:4])
    assert to_uint8(pixels, (3, 4)).shape == (1, 2, 4, 3, 3)
    for size in ((5, 9), (6, 8), (0, 8)):
        with pytest.raises(OutputError, match="5x8"):
            to_uint8(pixels, size)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_an_error_not_a_black_frame(bad):
    pixels = torch.zeros(1, 3, 2, 4, 4)
    pixels[0, 1, 1, 2, 3] = bad
    with pytest.raises(OutputError, match="NaN or infinity"):
        to_uint8(pixels)


def test_no_frames_are_no_frames():
    assert to_uint8(torch.zeros(1, 3, 0, 4, 4)).shape == (1, 0, 4, 4, 3)
