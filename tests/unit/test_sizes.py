"""Frames far larger than a family's training are refused before work, larger ones are spoken of; 1080p works."""

from pathlib import Path

import pytest

from dummyforcing_core.errors import OutputError
from dummyforcing_core.geometry import SIZES, made_size
from dummyforcing_core.models.families import FAMILIES
from dummyforcing_core.models.sizes import size_note

from .refusals import assert_refused, files

SELF_FORCING, DEMO = FAMILIES["self_forcing"], FAMILIES["demo"]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
@pytest.mark.parametrize("name", SIZES)
def test_every_named_size_can_be_made(family, name: str) -> None:
    for size in (SIZES[name], made_size(*SIZES[name])):
        note = size_note(*size, family)
        assert bool(note) is (size[0] * size[1] > 1.5 * family.trained_size[0] * family.trained_size[1])


def test_what_is_said_of_a_larger_one() -> None:
    assert size_note(832, 480, SELF_FORCING) == size_note(480, 832, SELF_FORCING) == ""
    assert size_note(1280, 720, SELF_FORCING).startswith(
        "1280x720 is 2.3 times the area that Self-Forcing 1.3B was trained on, 832x480"
    )
    assert "240 times" in size_note(1024, 960, DEMO)


@pytest.mark.parametrize(("family", "largest"), [(SELF_FORCING, (3328, 1920)), (DEMO, (1920, 1088))])
def test_what_is_too_large(family, largest: tuple[int, int]) -> None:
    width, height = largest
    assert size_note(width, height, family) and size_note(height, width, family)
    for size in ((width + 16, height), (height, width + 16), (4096, 4096), (16, 2**20)):
        with pytest.raises(OutputError, match=rf"no larger than {width}x{height} in all, got {size[0]}x{size[1]}"):
            size_note(*size, family)


@pytest.mark.parametrize("command", ["generate", "compare", "profile", "verify"])
def test_the_command_line_refuses_before_anything_is_loaded(
    run, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def load(*parts: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("dummyforcing_core.cli.common.load_pipeline", load)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle")
    words = {
        "generate": ("--prompt", "x", "--out", tmp_path / "c.mp4"),
        "compare": ("--prompt", "x", "--out", tmp_path),
        "profile": ("--prompts", prompts, "--out", tmp_path / "p.json"),
        "verify": (),
    }[command]
    result = run(command, *words, "--size", "4096x4096", "--device", "cpu")
    assert_refused(result.code, result.err, "4096 times the area that Bundled demo model")
    assert list(files(tmp_path)) == ["prompts.txt"]


def test_a_checkpoint_is_known_by_its_family(run, checkpoint: Path, embedding: Path, tmp_path: Path) -> None:
    words = ("--model", checkpoint, "--family", "causvid", "--text-embedding", embedding, "--prompt", "x", "--out")
    result = run("generate", *words, tmp_path / "c.mp4", "--size", "4096x2048")
    assert_refused(result.code, result.err, "the area that CausVid 1.3B was trained on, 832x480")


def test_a_warning_is_one_line_and_the_clip_is_made(run, tiny_demo, tmp_path: Path) -> None:
    words = "--prompt", "a red circle", "--frames", 1, "--device", "cpu", "--out", tmp_path / "c.mp4"
    result = run("generate", *words, "--size", "96x96")
    assert result.code == 0
    assert result.err.count("\n") == 1 and result.err.startswith("warning: 96x96 is 2.2 times the area")
    assert run("generate", *words, "--size", "96x64").err == ""
