"""Given starts and named sizes on the command line."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dummyforcing_core.cli.common import size
from dummyforcing_core.geometry import SIZES
from dummyforcing_core.video import read_frames

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
        ({"latent": torch.zeros(1, 16, 3, 4, 6)}, r"\(1, 16, 3, 4, 6\).*\(1, 16, frames, 4, 4\)"),
        ({"latents": torch.zeros(1, 16, 3, 4, 4)}, 'no tensor "latent"'),
        ({"latent": torch.zeros(1, 16, 6, 4, 4)}, "6 latent frames, the clip has 6"),
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
