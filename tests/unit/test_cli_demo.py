"""`demo`: one word; a clip, the same under Dummy Forcing and Head Forcing, and all side by side."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dummyforcing_core.cli import demo
from dummyforcing_core.clips.video import read_frames
from dummyforcing_core.geometry import latent_frames
from dummyforcing_core.models.families import get_family
from dummyforcing_core.text.demo_text import encode_prompt

CLIP = ["demo.json", "demo.mp4", "demo.png", "demo.safetensors"]
OTHERS = [f"{name}_forcing.{ending}" for name in ("dummy", "head") for ending in ("json", "mp4", "png")]
MAPS = ["dummy_forcing_heads.png", "head_forcing_heads.png"]
FILES = sorted([*CLIP, *OTHERS, *MAPS, "compare.json", "side_by_side.mp4"])


@pytest.fixture(scope="module")
def made(run, tiny_demo, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("demo") / "new" / "out"
    return folder, run("demo", "--out", folder, "--device", "cpu")


def test_writes_video_sheet_and_report(made) -> None:
    folder, result = made
    assert result.code == 0, result.err
    assert sorted(path.name for path in folder.iterdir()) == FILES
    frames = list(read_frames(folder / "demo.mp4"))
    assert len(frames) == 81
    assert frames[0].shape == (64 * 6, 64 * 6, 3)
    with Image.open(folder / "demo.png") as sheet:
        sheet.load()
        assert sheet.width > 7 * 64  # seven columns, one per chunk
        assert sheet.height > 3 * 64
    report = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    assert report["conditions"]["frames"] == 81
    assert [chunk["frames"] for chunk in report["chunks"]] == [3] * 7
    assert report["memory"]["history_bytes"]["predicted"] == report["memory"]["history_bytes"]["actual"] > 0


def test_prints_the_report_and_the_paths(made) -> None:
    folder, result = made
    for words in ("DiT-only", "first frame after", "cached latents", f"wrote {folder / 'demo.mp4'}", "demo.png"):
        assert words in result.out
    assert "warning" not in result.err


def test_the_story_has_a_prompt_per_chunk_in_the_worlds_own_words() -> None:
    chunk = get_family("demo").chunk_frames
    assert len(demo.STORY) * chunk == latent_frames(demo.FRAMES)
    assert [unknown for prompt in demo.STORY for unknown in encode_prompt(prompt)[1]] == []


def test_the_light_goes_out_and_comes_back_without_a_colour_named_again() -> None:
    lights = [encode_prompt(prompt)[0][0, -1] for prompt in demo.STORY]
    assert [bool((light != lights[0]).any()) for light in lights] == [False, False, True, True, True, False, False]
    assert not any(colour in prompt for prompt in demo.STORY[2:] for colour in ("red", "blue"))


def test_default_folder_and_seed(run, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DEMO_SIZE", (16, 16))
    monkeypatch.setattr(demo, "FRAMES", 9)
    monkeypatch.chdir(tmp_path)
    videos = []
    for seed in (0, 0, 1):
        assert run("demo", "--seed", seed).code == 0
        made = {path.name for path in (tmp_path / "out").iterdir()}
        assert made == set(FILES) - set(MAPS)  # one chunk: too short to classify heads
        videos.append((tmp_path / "out" / "demo.mp4").read_bytes())
    assert videos[0] == videos[1] != videos[2]


@pytest.mark.parametrize(("words", "message"), [(("--device", "warp"), "warp"), (("--out", "FILE/out"), "FILE")])
def test_bad_input(run, tiny_demo, tmp_path: Path, words: tuple, message: str) -> None:
    (tmp_path / "FILE").write_bytes(b"")
    result = run("demo", "--out", tmp_path / "out", *(w.replace("FILE", str(tmp_path / "FILE")) for w in words))
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert message in result.err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "FILE"]
