"""What a command writes: no file that it reads, under a name that says what it is, found again in every message."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dummyforcing_core.__main__ import main
from dummyforcing_core.cli import compare as compare_command
from dummyforcing_core.errors import OutputError, harmless
from dummyforcing_core.files import json_text
from dummyforcing_core.models.checkpoints import read_checkpoint
from dummyforcing_core.policies.profile import HeadProfile
from tests.unit.owners import ROOT
from tests.unit.refusals import assert_refused, files

CLIP = "--size", "16x16", "--frames", "9", "--device", "cpu"
PROMPT = "--prompt", "a red circle"
LOADERS = ("generate.load", "compare.load", "demo.load_demo", "profile.load", "verify.verify", "vbench.load")
RAW = "a\x1b[31m\x9b2J"  # what would colour and clear a terminal


@pytest.fixture
def refused(run, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A command, in a folder with some inputs, that must end before it loads a model and leave all as it was."""
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n", encoding="utf-8")
    (tmp_path / "lines.jsonl").write_text('{"prompts": ["a red circle"]}\n', encoding="utf-8")
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in LOADERS:
        monkeypatch.setattr(f"dummyforcing_core.cli.{name}", lambda *_: pytest.fail("loaded a model"))

    def go(words: str, message: str) -> None:
        before = files(tmp_path)
        result = run(*(word.strip("'") for word in words.split()))
        assert_refused(result.code, result.err, message)
        assert files(tmp_path) == before
        assert {path.name for path in tmp_path.iterdir()} <= {*before, "d", "link"}

    return go


# -- inputs


@pytest.mark.parametrize(
    ("words", "option", "name"),
    [
        ("compare --prompt x --policies window,dummy --profile d/dummy.json --out d", "--profile", "dummy.json"),
        ("compare --prompt x --lora d/window.safetensors --out d", "--lora", "window.safetensors"),
        ("compare --prompt x --profile d/compare.json --out ./d/../d", "--profile", "compare.json"),
        ("generate --prompts prompts.txt --policy dummy --profile d/000_a_red_circle.json --out d", "--profile", "000"),
        ("generate --prompts prompts.txt --start-image d/001_a_blue_square.part.mp4 --out d", "--start-image", "001"),
        ("generate --schedule lines.jsonl --lora link --out d", "--lora", "000_a_red_circle.json"),
        ("vbench --prompts prompts.txt --profile d/manifest.json --policy dummy --out d", "--profile", "manifest"),
    ],
)
def test_a_folder_run_overwrites_no_input(refused, tmp_path: Path, words: str, option: str, name: str) -> None:
    for path in ("dummy.json", "window.safetensors", "compare.json", "000_a_red_circle.json", "manifest.json"):
        HeadProfile.assumed(2, 2).write(tmp_path / "d" / path, [])
    (tmp_path / "link").symlink_to("d/000_a_red_circle.json")
    refused(f"{words} {' '.join(CLIP)}", f"--out and {option} name the same file")


def test_nor_a_file_of_an_encoders_folder(refused, tmp_path: Path) -> None:
    (tmp_path / "d" / "config.json").write_bytes(b"{}")
    words = f"generate --prompt x --text-encoder d --out c.mp4 --report d/config.json {' '.join(CLIP)}"
    refused(words, "--text-encoder and --report name the same file")


def test_an_input_may_lie_in_the_folder_under_another_name(run, tiny_demo, tmp_path: Path) -> None:
    prompts = tmp_path / "d" / "prompts.txt"
    prompts.parent.mkdir()
    prompts.write_text("a red circle\n", encoding="utf-8")
    result = run("generate", *CLIP, "--prompts", prompts, "--out", prompts.parent)
    assert result.code == 0, result.err
    assert prompts.read_text(encoding="utf-8") == "a red circle\n"


# -- endings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("generate --prompt x --out c.mp4 --save-latents lat.txt", "expected --save-latents to end in .safetensors"),
        ("generate --prompt x --out c.mp4 --save-latents lat.txt", "write lat.safetensors"),
        ("generate --prompt x --out c.mp4 --report r.txt", "got r.txt; write r.json"),
        ("generate --prompt x --out c", "got c; write c.mp4"),
        ("generate --prompt x --out d", "got d; write d/name.mp4"),
        ("generate --prompts prompts.txt --out k.mp4", "got k.mp4, a file's name; write k"),
        ("generate --prompts prompts.txt --out ''", "expected a name, got ''"),
        ("generate --schedule lines.jsonl --out j.mp4", "expected --out to name a folder"),
        ("compare --prompt x --out k.MP4", "expected --out to name a folder"),
        ("compare --prompt x --out ''", "expected a name, got ''"),
        ("vbench --prompts prompts.txt --out k.json", "expected --out to name a folder"),
        ("profile --prompts prompts.txt --out p.txt", "got p.txt; write p.json"),
        ("profile --prompts prompts.txt --out p.json --picture p.xyz", "got p.xyz; write p.png"),
        ("verify --out v.txt", "got v.txt; write v.md"),
        ("verify --json v", "got v; write v.json"),
    ],
)
def test_a_name_says_what_is_written(refused, words: str, message: str) -> None:
    refused(f"{words} {' '.join(CLIP)}", message)


def test_nor_does_demo_make_a_folder_of_a_files_name(refused) -> None:
    refused("demo --out k.mp4", "expected --out to name a folder")


def test_a_folder_that_is_there_may_be_called_anything(run, tiny_demo, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n", encoding="utf-8")
    (tmp_path / "k.mp4").mkdir()
    assert run("generate", *CLIP, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "k.mp4").code == 0


@pytest.mark.parametrize("length", [232, 236, 240, 250, 255, 256, 300])
@pytest.mark.parametrize("option", ["--out", "--report", "--save-latents"])
def test_a_name_that_is_too_long_is_the_one_that_was_given(refused, length: int, option: str) -> None:
    ending = {"--out": ".mp4", "--report": ".json", "--save-latents": ".safetensors"}[option]
    name = "x" * (length - len(ending)) + ending
    words = "" if option == "--out" else "--out c.mp4"
    refused(f"generate --prompt x {' '.join(CLIP)} {words} {option} {name}", "the name is too long; choose a shorter")


# -- what names hold


def test_what_is_printed_moves_no_cursor(run, tiny_demo, tmp_path: Path) -> None:
    result = run("generate", *CLIP, *PROMPT, "--out", tmp_path / f"{RAW}.mp4")
    assert result.code == 0 and "a\\x1b[31m\\x9b2J.mp4" in result.out
    assert harmless(result.out) == result.out and harmless(result.err.replace("\r", "")) == result.err.replace("\r", "")
    assert (tmp_path / f"{RAW}.mp4").exists()


def test_everything_is_printed_in_one_place() -> None:
    found = [
        path.name
        for path in (ROOT / "dummyforcing_core").rglob("*.py")
        if " print(" in path.read_text(encoding="utf-8")
    ]
    assert found == ["terminal.py"]


@pytest.mark.parametrize("text", [RAW, "ck\udcff", "a\u202eb", "é 🎬 \u0301", "\x7f\u2028", "\U000e0041"])
def test_json_is_harmless_and_comes_back(text: str) -> None:
    written = json_text({"name": text}, indent=1)
    assert json.loads(written.encode("utf-8")) == {"name": text} and harmless(written) == written
    assert "é 🎬" in json_text("é 🎬")


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("command", ["generate", "verify", "convert", "compare", "vbench"])
def test_a_model_of_any_bytes(run, checkpoint: Path, embedding: Path, tmp_path: Path, kind: str, command: str) -> None:
    model = Path(os.fsdecode(os.fsencode(tmp_path) + b"/ck\xff." + kind.encode()))
    if kind == "pt":
        model.write_bytes(checkpoint.read_bytes())
    else:
        assert main(["convert", str(checkpoint), str(model), "--family", "self_forcing"]) == 0
    (tmp_path / "p.txt").write_text("a red circle\n", encoding="utf-8")
    words = {
        "generate": ["--prompt", "x", "--out", tmp_path / "c.mp4", "--report", tmp_path / "c.json"],
        "verify": ["--out", tmp_path / "v.md", "--json", tmp_path / "v.json"],
        "compare": ["--prompt", "x", "--out", tmp_path / "d"],
        "vbench": ["--prompts", tmp_path / "p.txt", "--samples", 1, "--out", tmp_path / "v"],
    }
    if command == "convert":
        result = run("convert", model, tmp_path / "out.safetensors", "--family", "self_forcing")
        assert read_checkpoint(tmp_path / "out.safetensors").info.tensors
    else:
        given = "--model", model, "--family", "self_forcing", "--text-embedding", embedding, *CLIP
        result = run(command, *given, *words[command])
    assert result.code == 0, result.err
    assert "\udcff" not in result.out + result.err


# -- what is measured stays


def test_compare_keeps_its_figures_if_the_joint_video_fails(
    run, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutputError("cannot write there: the disk is full; free some space")

    monkeypatch.setattr("dummyforcing_core.evaluation.comparison.rename_whole", full)
    result = run("compare", *CLIP, *PROMPT, "--out", tmp_path)
    assert_refused(result.code, result.err, "2 of 2 clips and their figures are in")
    assert len(json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))) == 2
    assert "velocity" in result.out and not list(tmp_path.glob("*.part*"))


def test_and_those_of_the_clips_before_one_that_fails(
    run, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = compare_command.make_clip

    def second_fails(pipeline, clip, outputs, verbose=True):
        if outputs.video.stem != "window":
            raise OutputError("cannot write there: the disk is full; free some space")
        return make(pipeline, clip, outputs, verbose)

    monkeypatch.setattr(compare_command, "make_clip", second_fails)
    result = run("compare", *CLIP, *PROMPT, "--out", tmp_path)
    assert_refused(result.code, result.err, "1 of 2 clips and their figures are in")
    assert len(json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device there")
def test_verify_writes_its_page_before_it_is_printed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dummyforcing_core", "verify", *CLIP, "--out", str(tmp_path / "v.md")]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 2 and "cannot write the output" in done.stderr
    assert (tmp_path / "v.md").read_text(encoding="utf-8").startswith("# Verification of demo")


# -- convert


@pytest.fixture
def shards(checkpoint: Path, tmp_path: Path) -> Path:
    """A folder with a model in two shards, and their index."""
    folder = tmp_path / "sh"
    folder.mkdir()
    tensors = {name: tensor.clone() for name, tensor in read_checkpoint(checkpoint, "self_forcing").tensors.items()}
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        save_file(
            {name: tensors[name] for name in part},
            folder / f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors",
        )
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text("{}", encoding="utf-8")
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    return folder


ONE, TWO = (f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("", ONE), ("", TWO), (ONE, TWO), (TWO, ONE), (ONE, ONE), ("", f"../link/{ONE}"),
        ("diffusion_pytorch_model.safetensors.index.json", TWO), ("", "x-00001-of-00001.safetensors"),
    ],
)  # fmt: skip
def test_convert_spares_every_file_of_its_source(run, shards: Path, source: str, target: str) -> None:
    shards.with_name("link").symlink_to("sh")
    before = files(shards)
    result = run("convert", shards / source, shards / target, "--family", "self_forcing")
    assert_refused(result.code, result.err, "source and target are the same file")
    assert files(shards) == before


def test_convert_may_write_beside_its_source(run, shards: Path) -> None:
    before = files(shards)
    assert run("convert", shards, shards / "whole.safetensors", "--family", "self_forcing").code == 0
    assert files(shards).keys() - before.keys() == {"whole.safetensors"}
    assert before.items() <= files(shards).items()
