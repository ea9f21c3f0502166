"""Colours survive a video: against BT.709's formula, and over several generations of the same clip."""

import io
from pathlib import Path

import numpy as np
import pytest

from dummyforcing_core.clips.colours import to_rgb, to_yuv
from dummyforcing_core.clips.encoding import CODECS, Encoding
from dummyforcing_core.clips.video import VideoWriter, clip_bytes, read_frames

av = pytest.importorskip("av")

HEIGHT, WIDTH = 240, 320
FULL, LIMITED = 2, 1
LUMA = (0.2126, 0.7152, 0.0722)


def picture() -> np.ndarray:
    """Soft shades of all colours with some grain, (240, 320, 3) uint8, like a photograph's."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    red = 120 + 80 * np.sin(x / 17) + 30 * np.cos(y / 9)
    green = 110 + 70 * np.sin(y / 13 + 1) + 30 * np.cos(x / 11)
    blue = 120 + 60 * np.sin((x + y) / 19) + 20 * np.cos(y / 5)
    shades = np.stack([red, green, blue], axis=-1)
    return (shades + np.random.default_rng(0).normal(0, 4, shades.shape)).clip(0, 255).astype(np.uint8)


def off(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean error of every channel."""
    return np.abs((got.astype(float) - wanted).mean(axis=(0, 1)))


def ycc(pixels: np.ndarray, colour_range: int) -> np.ndarray:
    """BT.709 by its formula, (H, W, 3) uint8."""
    luma = pixels @ LUMA
    chroma = [(pixels[..., 2] - luma) / 1.8556, (pixels[..., 0] - luma) / 1.5748]
    full = colour_range == FULL
    scale = (1, 1, 1) if full else (219 / 255, 224 / 255, 224 / 255)
    base = (0 if full else 16, 128, 128)
    return (np.stack([luma, *chroma], axis=-1) * scale + base).round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("colour_range", [FULL, LIMITED])
def test_reading_follows_the_formula(colour_range: int) -> None:
    wanted = picture()
    frame = av.VideoFrame(WIDTH, HEIGHT, "yuv444p")
    for plane, values in zip(frame.planes, np.moveaxis(ycc(wanted, colour_range), 2, 0), strict=True):
        plane.update(np.pad(values, ((0, 0), (0, plane.line_size - WIDTH))).tobytes())
    frame.colorspace, frame.color_range = 1, colour_range
    got = to_rgb(frame)
    assert off(got, wanted).max() < 0.1
    assert np.abs(got.astype(int) - wanted).max() <= 2  # of rounding to levels


def test_writing_follows_the_formula() -> None:
    """Luma is that of every pixel, chroma the mean of four."""
    frame = picture()
    yuv = to_yuv(av, frame).to_ndarray()
    wanted = ycc(frame, LIMITED).astype(float)
    assert np.abs(yuv[:HEIGHT] - wanted[..., 0]).max() <= 1
    means = wanted[..., 1:].reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 2).mean(axis=(1, 3))
    blue, red = yuv[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)
    assert max(np.abs(blue - means[..., 0]).mean(), np.abs(red - means[..., 1]).mean()) < 0.6


@pytest.mark.parametrize("codec", CODECS)
def test_a_video_is_as_bright_as_its_frames(tmp_path: Path, codec: str) -> None:
    wanted = picture()
    with VideoWriter(tmp_path / "clip.mp4", WIDTH, HEIGHT, encoding=Encoding(codec)) as video:
        video.write(wanted[None])
    assert off(next(read_frames(tmp_path / "clip.mp4")), wanted).max() < 0.2


@pytest.mark.parametrize("codec", CODECS)
def test_writing_and_reading_again_and_again_does_not_drift(tmp_path: Path, codec: str) -> None:
    wanted = frame = picture()
    for generation in range(5):
        path = tmp_path / f"{generation}.mp4"
        with VideoWriter(
            path, WIDTH, HEIGHT, encoding=Encoding(codec, crf=0)
        ) as video:  # lossless: what is left is the conversion
            video.write(frame[None])
        frame = next(read_frames(path))
        assert off(frame, wanted).max() < 0.1, generation


def test_a_preview_has_the_colours_of_the_file() -> None:
    wanted = picture()
    with av.open(io.BytesIO(clip_bytes(wanted[None], 16))) as container:
        context = container.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        frame = next(container.decode(video=0))
    assert off(to_rgb(frame), wanted).max() < 0.5  # it is coded coarsely
