"""--codec and --crf: what is written, what is refused before a model is loaded, and what a folder remembers."""

import json
from pathlib import Path

import pytest

from dummyforcing_core.clips.video import frame_count
from tests.unit.refusals import assert_refused, files

av = pytest.importorskip("av")

CLIP = "--size", "16x16", "--frames", 9, "--device", "cpu"


def codec_of(path: Path) -> str:
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.codec.canonical_name


def test_a_clip_and_its_report(run, tiny_demo, tmp_path: Path) -> None:
    sizes = []
    for crf in (1, 60):
        out = "--out", tmp_path / f"{crf}.mp4", "--report", tmp_path / "r.json"
        result = run("generate", "--prompt", "x", *CLIP, *out, "--codec", "av1", "--crf", crf)
        assert result.code == 0, result.err
        assert codec_of(tmp_path / f"{crf}.mp4") == "av1" and frame_count(tmp_path / f"{crf}.mp4") == 9
        assert json.loads((tmp_path / "r.json").read_text("utf-8"))["conditions"]["codec"] == f"av1, crf {crf}"
        sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def test_a_comparison_is_all_of_one_codec(run, tiny_demo, tmp_path: Path) -> None:
    result = run("compare", "--prompt", "x", *CLIP, "--out", tmp_path, "--codec", "av1")
    assert result.code == 0, result.err
    videos = sorted(tmp_path.glob("*.mp4"))
    assert [codec_of(video) for video in videos] == ["av1"] * 3


@pytest.mark.parametrize("command", ["generate", "compare", "vbench"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--codec vp9", "expected codec h264 or av1, got 'vp9'"),
        ("--crf 52", "expected crf 0 (lossless) to 51 (worst) for h264, got 52"),
        ("--codec av1 --crf 64", "to 63 (worst) for av1, got 64"),
        ("--crf 1.5", "expected a whole number"),
        ("--codec av1 --model c.safetensors --size 30x64", "at least 32 pixels for av1, got 30x64"),
    ],
)
def test_what_no_encoder_has_is_refused_before_any_work(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: str, message: str
) -> None:
    monkeypatch.setattr("dummyforcing_core.cli.common.load_pipeline", lambda *_: pytest.fail("loaded a model"))
    (tmp_path / "p.txt").write_text("x\n", encoding="utf-8")
    text = ("--prompts", tmp_path / "p.txt") if command == "vbench" else ("--prompt", "x")
    out = tmp_path / ("c.mp4" if command == "generate" else "out")
    result = run(command, *text, "--device", "cpu", "--out", out, *words.split())
    assert_refused(result.code, result.err, message)
    assert list(files(tmp_path)) == ["p.txt"]


@pytest.mark.parametrize("command", ["generate", "vbench"])
def test_a_folder_is_not_gone_on_with_in_another_codec(run, tiny_demo, tmp_path: Path, command: str) -> None:
    (tmp_path / "p.txt").write_text("a red circle\n", encoding="utf-8")
    more = ("--samples", 1) if command == "vbench" else ()
    words = command, "--prompts", tmp_path / "p.txt", *CLIP, *more, "--out", tmp_path / "out"
    assert run(*words, "--crf", 20).code == 0
    before = files(tmp_path)
    for other in (("--crf", 21), ("--crf", 20, "--codec", "av1")):
        result = run(*words, *other)
        assert_refused(result.code, result.err, "h264, crf 20")
        assert files(tmp_path) == before
    assert run(*words, "--crf", 20).code == 0
    assert files(tmp_path) == before
