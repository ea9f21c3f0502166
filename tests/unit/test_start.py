"""Given starts and named sizes on the command line."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dummyforcing_core.cli.clip_arguments import size
from dummyforcing_core.clips.start import image_pixels, start_from_image
from dummyforcing_core.clips.video import read_frames
from dummyforcing_core.errors import OutputError
from dummyforcing_core.geometry import SIZES, LatentShape
from dummyforcing_core.vae.streaming import crop

PROMPT = ("--prompt", "a red circle")


def latents(path: Path) -> torch.Tensor:
    return load_file(path)["latent"]


def test_a_clip_goes_on_from_saved_latents(run, tiny_demo, tmp_path: Path):
    first, longer = tmp_path / "first.safetensors", tmp_path / "longer.safetensors"
    common = (*PROMPT, "--size", "32x32")
    assert run("generate", *common, "--frames", 21, "--out", tmp_path / "a.mp4", "--save-latents", first).code == 0
    start = ("--start-latents", first)
    result = run("generate", *common, *start, "--frames", 45, "--out", tmp_path / "b.mp4", "--save-latents", longer)
    assert result.code == 0, result.err
    assert latents(longer).shape[2] == 12
    assert torch.equal(latents(longer)[:, :, :6], latents(first))
    assert len(list(read_frames(tmp_path / "b.mp4"))) == 45


def test_an_image_is_the_first_frame(run, tiny_demo, tmp_path: Path):
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:, 24:72] = (200, 30, 30)  # what is left after cropping to a square
    Image.fromarray(picture).save(tmp_path / "start.png")
    saved = tmp_path / "clip.safetensors"
    out = ("--out", tmp_path / "clip.mp4", "--save-latents", saved)
    result = run("generate", *PROMPT, "--start-image", tmp_path / "start.png", "--frames", 17, *out)
    assert result.code == 0, result.err
    assert "start.png is 96x48, another shape than 64x64" in result.err
    assert latents(saved).shape[2] == 5
    middle = next(read_frames(tmp_path / "clip.mp4"))[100:280, 100:280].reshape(-1, 3).mean(0)
    assert np.abs(middle - (200, 30, 30)).max() < 40


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"latent": torch.zeros(1, 16, 3, 4, 6)}, r"\(1, 16, frames, 4, 4\).*\(1, 16, 3, 4, 6\)"),
        ({"latents": torch.zeros(1, 16, 3, 4, 4)}, 'no tensor "latent"'),
        ({"latent": torch.zeros(1, 16, 6, 4, 4)}, "start has 21 frames and counts in the clip's length, which is 21"),
    ],
)
def test_start_latents_that_do_not_fit(run, tiny_demo, tmp_path: Path, tensors, message):
    save_file(tensors, tmp_path / "start.safetensors")
    start = ("--start-latents", tmp_path / "start.safetensors")
    result = run("generate", *PROMPT, *start, "--size", "32x32", "--frames", 21, "--out", tmp_path / "clip.mp4")
    assert result.code == 2
    assert result.err.count("error: ") == 1
    assert re.search(message, result.err)
    assert not (tmp_path / "clip.mp4").exists()


def test_a_broken_image_and_a_model_without_encoder(run, tiny_demo, checkpoint, tiny_config, tmp_path: Path):
    (tmp_path / "no.png").write_bytes(b"no picture")
    image = ("--start-image", tmp_path / "no.png", "--out", tmp_path / "clip.mp4")
    assert "cannot read the image" in run("generate", *PROMPT, *image).err
    save_file({"text": torch.zeros(4, tiny_config.text_dim)}, tmp_path / "text.safetensors")
    model = ("--model", checkpoint, "--text-embedding", tmp_path / "text.safetensors", "--size", "32x32")
    assert "needs an encoder" in run("generate", *PROMPT, *model, "--family", "self_forcing", *image).err


def test_named_sizes_are_what_is_shown():
    assert size("1080p") == (1920, 1080)
    assert size("720P-portrait") == (720, 1280)
    assert all(name in SIZES for name in ("480p", "720p", "1080p", "480p-portrait"))


def test_1080_rows_are_made_of_1088(run, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SIZES, "1080p", (64, 40))  # the same rule on a size a test can afford: 48 rows, 40 shown
    saved = tmp_path / "clip.safetensors"
    out = ("--out", tmp_path / "clip.mp4", "--save-latents", saved)
    result = run("generate", *PROMPT, "--size", "1080p", "--frames", 5, *out)
    assert result.code == 0, result.err
    assert latents(saved).shape[3:] == (6, 8)
    assert next(read_frames(tmp_path / "clip.mp4")).shape == (40 * 6, 64 * 6, 3)


class Pixels:
    """A pipeline whose latents are the pixels themselves."""

    denoiser = SimpleNamespace(geometry=SimpleNamespace(device="cpu"))

    @staticmethod
    def encode_pixels(pixels: torch.Tensor) -> torch.Tensor:
        return pixels


def read(path: Path, shown: tuple[int, int] | None = None, warned: bool = False) -> np.ndarray:
    """(48, 64, 3) levels that the start frame of a 64x48 clip is made of; a warning must be expected."""
    told: list[str] = []
    pixels = start_from_image(image_pixels(path, LatentShape.of_pixels(64, 48, 5), told.append, shown), Pixels)
    assert bool(told) == warned, told
    return ((pixels[0, :, 0].permute(1, 2, 0) + 1) * 127.5).round().numpy()


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_a_photo_is_turned_as_it_was_held(tmp_path: Path, orientation: int, turn):
    stored = picture(*((64, 48) if orientation > 4 else (48, 64)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(read(tmp_path / "photo.png"), turn(stored))


@pytest.mark.parametrize(
    ("dtype", "white", "name"),
    [
        ("<u2", 65535, "grey.png"),
        ("<u2", 65535, "grey.tif"),
        (">u2", 65535, "grey.tif"),
        ("<i4", 65535, "grey.tif"),
        ("<f4", 1, "grey.tif"),
        ("<f4", 255, "grey.tif"),
    ],
)
def test_deep_greys_keep_their_levels(tmp_path: Path, dtype: str, white: int, name: str):
    levels = np.linspace(0, 255, 48 * 64).round().reshape(48, 64)
    Image.fromarray((levels / 255 * white).astype(dtype)).save(tmp_path / name)
    assert np.abs(read(tmp_path / name) - levels[..., None]).max() <= 1


def test_dark_deep_greys_stay_dark(tmp_path: Path):
    Image.fromarray(np.full((48, 64), 514, np.uint16)).save(tmp_path / "grey.png")
    assert set(read(tmp_path / "grey.png").ravel()) == {2.0}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_black(tmp_path: Path, mode: str):
    if mode == "P":
        image = Image.new("P", (64, 48), 1)
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.paste(0, (0, 0, 32, 48))
        image.save(tmp_path / "a.png", transparency=1)
        assert not read(tmp_path / "a.png").any()
        return
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:, 32:] = 128
    image = Image.new("RGBA", (64, 48), (255, 255, 255, 255))
    image.putalpha(Image.fromarray(alpha))
    image.convert(mode).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png")
    assert not found[:, :32].any()
    assert set(found[:, 32:].ravel()) == {128.0}


def test_an_image_too_large_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.fromarray(picture()).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(OutputError, match=r"cannot read the image .*large\.png"):
        read(tmp_path / "large.png")


@pytest.mark.parametrize(("width", "height"), [(64, 40), (60, 48), (60, 40)])
def test_an_image_of_the_shown_size_is_shown_as_it_is(tmp_path: Path, width: int, height: int):
    Image.fromarray(picture(height, width)).save(tmp_path / "a.png")
    made = read(tmp_path / "a.png", (width, height))
    shown = crop(torch.from_numpy(made).permute(2, 0, 1), width, height).permute(1, 2, 0).numpy()
    assert np.array_equal(shown, picture(height, width))
    assert (made[: (48 - height) // 2 + 1] == made[(48 - height) // 2]).all()
    assert (made[:, -((64 - width) // 2) - 1 :] == made[:, -((64 - width) // 2) - 1][:, None]).all()


def test_an_image_of_the_made_size_is_taken_whole(tmp_path: Path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png", (64, 40)), picture())


@pytest.mark.parametrize(("width", "height", "warned"), [(128, 80, False), (128, 96, True)])
def test_another_size_is_scaled_to_what_is_shown(tmp_path: Path, width: int, height: int, warned: bool):
    Image.new("RGB", (width, height), (9, 8, 7)).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png", (64, 40), warned) == (9, 8, 7)).all()


def test_generate_says_what_is_shown(run, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SIZES, "1080p", (64, 40))
    Image.fromarray(picture(40, 64)).save(tmp_path / "a.png")
    image = "--start-image", tmp_path / "a.png", "--out", tmp_path / "clip.mp4"
    result = run("generate", *PROMPT, "--size", "1080p", "--frames", 5, *image)
    assert result.code == 0, result.err
    assert "another shape" not in result.err
