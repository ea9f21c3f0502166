"""`compare`: one clip under several policies, its figures and the video of all."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dummyforcing_core.clips.video import read_frames
from tests.unit.refusals import assert_refused, files
from tests.unit.test_cli_policies import write_profile

GAP = 12
SMALL = "--size", "32x16", "--device", "cpu"  # two tokens per frame
WIDTH, HEIGHT = 32 * 6, 16 * 6  # a demo clip's pixels are enlarged for the screen


def compare(run, folder: Path, *words: object, frames: int = 45):
    result = run("compare", "--prompt", "a red circle", "--frames", frames, "--out", folder, *SMALL, *words)
    assert result.code == 0, result.err
    return result, json.loads((folder / "compare.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(run, tiny_demo, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("compare") / "new"
    return folder, *compare(run, folder)


def test_files(made) -> None:
    folder, result, _ = made
    names = {path.name for path in folder.iterdir()}
    clips = {f"{stem}.{suffix}" for stem in ("window", "dummy") for suffix in ("mp4", "png", "json")}
    assert names == clips | {"window.safetensors", "dummy_heads.png", "side_by_side.mp4", "compare.json"}
    assert "side_by_side.mp4" in result.out


def test_the_video_shows_both_clips_side_by_side(made) -> None:
    folder = made[0]
    joint, window, dummy = (list(read_frames(folder / f"{name}.mp4")) for name in ("side_by_side", "window", "dummy"))
    assert len(joint) == len(window) == len(dummy) == 45
    assert {frame.shape for frame in joint} == {(HEIGHT, 2 * WIDTH + GAP, 3)}
    for i in (0, 20, 44):
        for part, clip in ((joint[i][:, :WIDTH], window), (joint[i][:, WIDTH + GAP :], dummy)):
            assert np.abs(part.astype(int) - clip[i].astype(int)).mean() < 6  # encoded twice


def test_figures(made) -> None:
    window, dummy = made[2]
    for row in (window, dummy):
        assert len(row["velocity_error_per_chunk"]) == 4
        assert np.array(row["head_error"]).shape == (2, 2)
        assert np.array(row["roles"]).shape == (2, 2)
        assert row["attention_flops_per_pass"] > 0
        assert len(row["report"]["chunks"]) == 4
        assert row["report"]["conditions"]["seed"] == 0
    assert "SlidingWindow(window_frames=12, sink_frames=3)" in window["policy"] and "DummyForcing" in dummy["policy"]
    assert sum(role == "dummy" for row in dummy["roles"] for role in row) == 2


def test_the_reference_has_no_error_and_dummy_forcing_has_some_behind_the_observed_chunk(made) -> None:
    window, dummy = made[2]
    assert window["velocity_error"] == 0
    assert window["velocity_error_per_chunk"] == [0] * 4
    assert not np.any(window["head_error"])
    first, second, *rest = dummy["velocity_error_per_chunk"]
    assert first == 0
    assert second < 1e-4  # all frames are still in the window
    assert all(1e-4 < error < 1 for error in rest)
    assert dummy["velocity_error"] == pytest.approx((second + sum(rest)) / 3)
    assert np.all(np.array(dummy["head_error"]) > 0)


def test_dummy_forcing_holds_and_computes_less(made) -> None:
    window, dummy = made[2]
    frame = 2 * 2 * 32 * 4  # K and V of two tokens of one head, head_dim 32, float32
    held = sum({"sink": 1, "neighbour": 3, "dummy": 1}[role] for row in dummy["roles"] for role in row)
    for row, history in ((window, 4 * (12 - 3)), (dummy, held)):
        memory = row["report"]["memory"]
        assert memory["history_bytes"] == {"predicted": history * frame, "actual": history * frame}
    assert (
        dummy["report"]["memory"]["resident_bytes"]["actual"] < window["report"]["memory"]["resident_bytes"]["actual"]
    )
    # 6 queries a pass; keys of history and chunk, two tokens a frame
    one = 4 * (3 * 2) * 2 * 32
    assert window["attention_flops_per_pass"] == one * 4 * (9 + 3)
    assert dummy["attention_flops_per_pass"] == one * (held + 4 * 3)


def test_the_table_and_the_head_map(made) -> None:
    folder, result, rows = made
    lines = result.out.splitlines()
    assert any(line.startswith("window") for line in lines)
    assert any(line.startswith("dummy") for line in lines)
    ratio = rows[1]["attention_flops_per_pass"] / rows[0]["attention_flops_per_pass"]
    assert f"{ratio:.2f}x attention FLOPs" in result.out
    with Image.open(folder / "dummy_heads.png") as picture:
        assert picture.format == "PNG"
        assert picture.width >= 400


def test_three_policies_with_options_the_first_is_the_reference(run, tiny_demo, tmp_path: Path) -> None:
    words = "--policies", "dummy,window, full", "--num-dummy", 4, "--window", 6, "--sink", 1
    _, rows = compare(run, tmp_path, *words, frames=33)
    dummy, window, full = rows
    assert dummy["velocity_error"] == 0
    assert window["velocity_error"] > 0
    assert full["velocity_error"] > 0
    assert {role for row in dummy["roles"] for role in row} == {"dummy"}
    assert "window_frames=6" in window["policy"]
    frames = list(read_frames(tmp_path / "side_by_side.mp4"))
    assert {frame.shape for frame in frames} == {(HEIGHT, 3 * WIDTH + 2 * GAP, 3)}
    assert not (tmp_path / "dummy_heads.png").exists()  # one role has nothing to show


def test_a_policy_that_comes_twice_keeps_both_clips(run, tiny_demo, tmp_path: Path) -> None:
    _, rows = compare(run, tmp_path, "--policies", "full,full", frames=9)
    assert len(rows) == 2
    assert {"full.mp4", "full_1.mp4", "full.json", "full_1.json"} <= {path.name for path in tmp_path.iterdir()}
    first, second = (np.stack(list(read_frames(tmp_path / f"{stem}.mp4"))) for stem in ("full", "full_1"))
    assert np.array_equal(first, second)


def test_one_policy_alone(run, tiny_demo, tmp_path: Path) -> None:
    _, rows = compare(run, tmp_path, "--policies", "window", frames=9)
    assert [row["velocity_error"] for row in rows] == [0]


def test_a_clip_of_one_chunk_has_no_history_to_compare(run, tiny_demo, tmp_path: Path) -> None:
    result, rows = compare(run, tmp_path, frames=9)
    assert [row["velocity_error"] for row in rows] == [0, 0]
    assert "Traceback" not in result.err


def test_leaving_heads_out(run, tiny_demo, tmp_path: Path) -> None:
    result, rows = compare(run, tmp_path, "--policies", "full,window", "--leave-one-out")
    worth = np.array(rows[0]["leave_one_out"])
    assert worth.shape == (2, 2) and np.all((worth > 1e-5) & (worth < 1))
    assert "leave_one_out" not in rows[1]
    lines = result.out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("heads of full whose absence costs most"))
    assert lines[at - 1].startswith("wrote")
    places = [(int(layer), int(head), float(error)) for _, layer, _, head, error in map(str.split, lines[at + 1 :])]
    assert {place[:2] for place in places} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert [error for *_, error in places] == sorted((round(error, 4) for error in worth.flatten()), reverse=True)


def test_heads_of_a_saved_profile_are_left_out_where_they_hold_something(run, tiny_demo, tmp_path: Path) -> None:
    """A sink and a neighbour head per layer: what the neighbour holds is its newest chunk."""
    profile = write_profile(tmp_path / "p.json")
    words = "--policies", "dummy", "--profile", profile, "--num-dummy", 0, "--leave-one-out"
    worth = np.array(compare(run, tmp_path / "new", *words)[1][0]["leave_one_out"])
    assert np.all(worth[:, 0] > 1e-5) and not np.any(worth[:, 1])


def test_heads_that_hold_no_more_than_their_newest_chunk_are_worth_nothing(run, tiny_demo, tmp_path: Path) -> None:
    words = "--policies", "window", "--window", 6, "--sink", 0, "--leave-one-out"
    result, rows = compare(run, tmp_path, *words, frames=33)
    assert rows[0]["leave_one_out"] == [[0.0, 0.0], [0.0, 0.0]]
    assert "no head of window keeps more than its newest chunk" in result.out.splitlines()[-1]


def test_heads_of_a_policy_that_plans_anew_cannot_be_left_out(run, tiny_demo, tmp_path: Path) -> None:
    words = "--frames", 45, "--out", tmp_path / "new", *SMALL, "--policies", "dummy,window", "--leave-one-out"
    result = run("compare", "--prompt", "x", *words)
    assert_refused(result.code, result.err, "expected a reference with one plan for the whole clip, got 'dummy'")
    assert files(tmp_path) == {}


BAD_WORDS: dict[str, tuple[str, str]] = {
    "unknown policy": ("--policies full,nope", "unknown policy 'nope'"),
    "option of no chosen policy": ("--policies full,dummy --window 12", "--window: expected --policy window"),
    "dummy option without dummy": ("--policies full,window --num-dummy 1", "--num-dummy: expected --policy dummy"),
    "ratio outside 0..1": ("--dummy-ratio 2", "expected --dummy-ratio of 0 to 1, got 2"),
    "lc 0": ("--local-chunks 0", "expected --local-chunks of 1 or more, got 0"),
    "observe chunk 0": ("--observe-chunk 0", "expected --observe-chunk of 1 or more, got 0"),
    "missing profile": ("--profile {tmp}/none.json", "cannot read the head profile"),
    "bad size": ("--size 20x21", "even sides"),
    "out under a file": ("--out {tmp}/file/new", "cannot make the folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_words(run, tiny_demo, tmp_path: Path, case: str) -> None:
    words, message = BAD_WORDS[case]
    (tmp_path / "file").write_bytes(b"kept")
    words = words.replace("{tmp}", str(tmp_path)).split()
    result = run("compare", "--prompt", "x", "--frames", 21, "--out", tmp_path / "new", *SMALL, *words)
    assert result.code == 2, result.err
    assert result.err.splitlines()[-1].startswith("error: ")
    assert message in result.err
    assert "Traceback" not in result.err
    assert not list((tmp_path / "new").glob("*")) if (tmp_path / "new").is_dir() else True


@pytest.mark.parametrize("words", ["--num-dummy 99", "--observe-chunk 9", "--policies full,window --window 2"])
def test_plans_that_cannot_be(run, tiny_demo, tmp_path: Path, words: str) -> None:
    result = run("compare", "--prompt", "x", "--frames", 21, "--out", tmp_path, *SMALL, *words.split())
    assert result.code == 2
    assert result.err.splitlines()[-1].rsplit("\r", 1)[-1].startswith("error: ")


@pytest.mark.parametrize("words", ["--num-dummy 99", "--observe-chunk 9"])
def test_plans_that_cannot_be_leave_no_file(run, tiny_demo, tmp_path: Path, words: str) -> None:
    run("compare", "--prompt", "x", "--frames", 21, "--out", tmp_path, *SMALL, *words.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("policies", ["", ","])
def test_no_policy_at_all(run, tiny_demo, tmp_path: Path, policies: str) -> None:
    result = run("compare", "--prompt", "x", "--frames", 9, "--out", tmp_path, *SMALL, "--policies", policies)
    assert result.code == 2
