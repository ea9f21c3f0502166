"""Files that cannot be read: every reader names the true cause in one line, and opens no pipe and no device."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dummyforcing_core.cli.common import read_prompts
from dummyforcing_core.clips.pipeline import is_demo
from dummyforcing_core.clips.script import Script
from dummyforcing_core.clips.start import image_pixels, start_from_latents
from dummyforcing_core.clips.text_features import _saved_features
from dummyforcing_core.errors import DummyForcingError
from dummyforcing_core.evaluation.vbench_scores import read_results
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.models.checkpoints import read_checkpoint
from dummyforcing_core.models.lora import Lora
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.reading import parse_json, unreadable
from dummyforcing_core.text.umt5_file import open_umt5
from dummyforcing_core.text.umt5_tokenizer import load_tokenizer
from dummyforcing_core.vae.tiny_vae_file import load_tiny_decoder
from dummyforcing_core.vae.wan_vae_file import load_wan_vae

SHAPE = LatentShape(1, 16, 3, 4, 4)


def read_image(path: Path) -> object:
    return image_pixels(path, SHAPE, lambda text: None)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "checkpoint": ("safetensors", lambda path: read_checkpoint(path, "self_forcing")),
    "checkpoint .pt": ("pt", lambda path: read_checkpoint(path, "self_forcing")),
    "lora": ("safetensors", Lora.read),
    "vae": ("pth", load_wan_vae),
    "tiny vae": ("pth", load_tiny_decoder),
    "umt5": ("safetensors", open_umt5),
    "tokenizer": ("json", lambda path: load_tokenizer(path.parent / "umt5.safetensors", path, None)),
    "spiece": ("model", lambda path: load_tokenizer(path.parent / "umt5.safetensors", path, None)),
    "text features": ("safetensors", lambda path: _saved_features(path, 512, 32)),
    "latents": ("safetensors", lambda path: start_from_latents(path, SHAPE)),
    "image": ("png", read_image),
    "profile": ("json", HeadProfile.read),
    "prompts": ("txt", read_prompts),
    "schedule": ("txt", Script.read),
    "schedule .jsonl": ("jsonl", Script.read),
    "VBench results": ("json", lambda path: read_results([path])),
}


@contextlib.contextmanager
def an_account_without_rights() -> Iterator[None]:
    """Root may read everything, so it becomes nobody for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def refusal(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(DummyForcingError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700 and "Errno" not in message
    return message


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_the_true_cause(tmp_path: Path, reader: str) -> None:
    suffix, read = READERS[reader]
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / f"lost.{suffix}").symlink_to("nowhere")
    (tmp_path / f"circle.{suffix}").symlink_to(f"circle.{suffix}")
    os.mkfifo(tmp_path / f"pipe.{suffix}")
    for name, cause in {
        f"none.{suffix}": "no such file",
        f"file/x.{suffix}": "a part of that path is a file",
        f"{'n' * 256}.{suffix}": "longer than the file system allows",
        f"lost.{suffix}": "a link that leads to no file",
        f"circle.{suffix}": "links lead in a circle",
        f"pipe.{suffix}": "a pipe",
    }.items():
        message = refusal(read, tmp_path / name)
        assert cause in message, message
        assert "corrupt" not in message


@pytest.mark.parametrize("reader", READERS)
def test_a_file_without_rights_is_called_so(open_folder: Path, reader: str) -> None:
    suffix, read = READERS[reader]
    closed = open_folder / "closed"
    closed.mkdir()
    for path in (open_folder / f"own.{suffix}", closed / f"x.{suffix}"):
        path.write_bytes(b"content")
    (open_folder / f"own.{suffix}").chmod(0)
    closed.chmod(0)
    try:
        with an_account_without_rights():
            for path in (open_folder / f"own.{suffix}", closed / f"x.{suffix}"):
                message = refusal(read, path)
                assert "may not read it or enter its folder" in message, message
            assert not is_demo(str(closed / "x.safetensors"))
            assert "may not read" in refusal(lambda path: open_umt5(path), closed)
            assert "may not read" in refusal(lambda path: read_checkpoint(path, "self_forcing"), closed)
    finally:
        closed.chmod(0o755)


@pytest.mark.parametrize("name", ["n" * 256, "x/" * 20 + "n" * 256])
def test_a_name_that_is_too_long_for_model_is_one_line(run, tmp_path: Path, name: str) -> None:
    result = run("generate", "--model", tmp_path / name, "--prompt", "x", "--out", tmp_path / "c.mp4")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "longer than" in result.err or "no such file" in result.err


def test_what_can_be_read_has_no_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("file")
    assert unreadable(tmp_path / "file") == unreadable(tmp_path / "link") == ""
    assert unreadable("nul\0byte").startswith("it cannot be read")
    assert unreadable("/dev/zero").startswith("this is a pipe, a socket or a device")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"a":' * 100_000, "NaN", "[Infinity]", "-Infinity", "9" * 5000, "1e999", "\0", "[1,]"],
)
def test_json_is_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not JSON") as caught:
        parse_json(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 120


def test_text_of_a_size_that_no_text_has_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "vast.txt").open("wb") as file:
        file.truncate(2**33)  # a hole: it takes no room
    for read in (read_prompts, Script.read):
        assert "8,589,934,592 bytes" in refusal(read, tmp_path / "vast.txt")
    with pytest.raises(DummyForcingError, match=r"byte 1 is no UTF-8 text"):
        (tmp_path / "latin.txt").write_bytes(b"B\xe4r")
        read_prompts(tmp_path / "latin.txt")


BAD_LATENTS = {
    "no frame": (torch.zeros(1, 16, 0, 4, 4), "its latent has no frame"),
    "whole numbers": (torch.zeros(1, 16, 1, 4, 4, dtype=torch.int32), "int32"),
    "NaN": (torch.full((1, 16, 1, 4, 4), torch.nan), "NaN"),
    "beyond float32": (torch.full((1, 16, 1, 4, 4), 1e300, dtype=torch.float64), "NaN or infinity"),
    "beyond any picture": (torch.full((1, 16, 1, 4, 4), 1e5), "its latents hold numbers up to 100000"),
    "another batch": (torch.zeros(2, 16, 1, 4, 4), r"(2, 16, 1, 4, 4)"),
}


@pytest.mark.parametrize("case", BAD_LATENTS)
def test_latents_are_checked_before_they_are_used(tmp_path: Path, case: str) -> None:
    latent, words = BAD_LATENTS[case]
    save_file({"latent": latent}, tmp_path / "latent.safetensors")
    assert words in refusal(lambda path: start_from_latents(path, SHAPE), tmp_path / "latent.safetensors")
