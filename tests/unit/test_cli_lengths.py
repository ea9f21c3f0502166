"""A video has the size, length and rate that were asked for; what cannot be is said before a model is loaded."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dummyforcing_core.cli.time_left import LongRun
from dummyforcing_core.clips.video import read_frames
from tests.unit.refusals import assert_refused, files

av = pytest.importorskip("av")

TINY = "--prompt", "a red circle", "--size", "16x16", "--device", "cpu"
SCALE = 6  # of the demo's video


@pytest.fixture
def make(run, tiny_demo, tmp_path: Path):
    """make(words) -> (video, its report's conditions)"""

    def make(*words: object) -> tuple[Path, dict]:
        video, report = tmp_path / "c.mp4", tmp_path / "r.json"
        result = run("generate", *TINY, "--out", video, "--report", report, *words)
        assert result.code == 0, result.err
        return video, json.loads(report.read_text(encoding="utf-8"))["conditions"]

    return make


@pytest.mark.parametrize(
    ("fps", "exact", "frames"),
    [("16", 16, 32), ("24", 24, 48), ("25", 25, 50), ("30", 30, 60), ("23.976", Fraction(24000, 1001), 48)],
)
def test_seconds_are_seconds_of_the_video(make, fps: str, exact: Fraction, frames: int) -> None:
    video, conditions = make("--seconds", 2, "--fps", fps)
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.duration * stream.time_base) == (exact, frames / Fraction(exact))
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert times == [number / Fraction(exact) for number in range(frames)]
    assert (conditions["frames"], conditions["fps"]) == (frames, fps)
    assert conditions["length"] == ("2.002 s" if fps == "23.976" else "2 s")


@pytest.mark.parametrize(("fps", "switches"), [(16, [4]), (24, [6])])
def test_times_of_a_schedule_are_those_of_the_video(
    run, tiny_demo, tmp_path: Path, fps: int, switches: list[int]
) -> None:
    (tmp_path / "s.txt").write_text("0 | a red circle\n0:01 | a blue square\n", encoding="utf-8")
    video, report = tmp_path / "c.mp4", tmp_path / "r.json"
    words = "--schedule", tmp_path / "s.txt", "--size", "16x16", "--device", "cpu", "--seconds", 2.5, "--fps", fps
    result = run("generate", *words, "--out", video, "--report", report)
    assert (result.code, result.err.count("never used")) == (0, 0), result.err
    assert json.loads(report.read_text(encoding="utf-8"))["conditions"]["switches"] == switches


@pytest.mark.parametrize(("size", "made"), [("64x36", "64x48"), ("20x18", "32x32"), ("2x16", "16x16")])
def test_a_size_that_is_no_multiple_of_16_is_made_larger_and_cut(make, size: str, made: str) -> None:
    video, conditions = make("--frames", 5, "--size", size)
    width, height = map(int, size.split("x"))
    assert next(read_frames(video)).shape == (height * SCALE, width * SCALE, 3)
    assert (conditions["size"], conditions["made"]) == (size, f"{made}, 5 frames (2 latent)")


def test_compare_cuts_too(run, tiny_demo, tmp_path: Path) -> None:
    words = "--prompt", "x", "--size", "32x20", "--frames", 10, "--fps", "24", "--device", "cpu", "--out", tmp_path
    assert run("compare", *words).code == 0
    frames = list(read_frames(tmp_path / "window.mp4"))
    assert len(frames) == 10 and frames[0].shape == (20 * SCALE, 32 * SCALE, 3)
    with av.open(str(tmp_path / "side_by_side.mp4")) as container:
        assert container.streams.video[0].average_rate == 24


class TestRollingWindows:
    """Whole chunks and a full window are made, the video shows what was asked for."""

    @pytest.fixture
    def words(self, checkpoint: Path, embedding: Path) -> list[object]:
        return [
            "generate", "--model", checkpoint, "--family", "rolling_forcing", "--text-embedding", embedding, "--prompt",
            "x", "--size", "16x16", "--device", "cpu",
        ]  # fmt: skip

    @pytest.mark.parametrize(("length", "frames", "latents"), [(["--seconds", 4.5], 72, 21), (["--frames", 9], 9, 15)])
    def test_any_length(self, run, words, tmp_path: Path, length: list[object], frames: int, latents: int) -> None:
        out = "--out", tmp_path / "c.mp4", "--save-latents", tmp_path / "l.safetensors", "--report", tmp_path / "r.json"
        result = run(*words, *length, *out)
        assert result.code == 0, result.err
        assert len(list(read_frames(tmp_path / "c.mp4"))) == frames
        assert load_file(tmp_path / "l.safetensors")["latent"].shape[2] == latents
        conditions = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["conditions"]
        assert conditions["frames"] == frames
        assert conditions["made"] == f"16x16, {4 * latents - 3} frames ({latents} latent)"

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--skip-steps", 2], "expected no steps to skip"),
            (["--start-latents", "{tmp}/l.safetensors"], "expected no given start"),
            (["--policy", "window", "--window", 24, "--sink", 3], "fits 21 attended frames"),
        ],
    )
    def test_refusals(self, run, words, unloadable, tmp_path: Path, more: list[object], message: str) -> None:
        save_file({"latent": torch.zeros(1, 16, 3, 2, 2)}, tmp_path / "l.safetensors")
        more = [str(word).replace("{tmp}", str(tmp_path)) for word in more]
        result = run(*words, "--frames", 81, *more, "--out", tmp_path / "c.mp4")
        assert_refused(result.code, result.err, message)
        assert list(files(tmp_path)) == ["l.safetensors"]


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint may be loaded."""
    monkeypatch.setattr("dummyforcing_core.cli.common.load_pipeline", lambda *_: pytest.fail("loaded a model"))


REFUSED = {
    "frames": ("--frames 1000000000", "expected at most 4194301 frames (73 hours at 16 fps), got 1000000000"),
    "frames that no number holds": ("--frames 99999999999999999999999", "expected a whole number of at most 19 digits"),
    "keys and values": ("--frames 4000000 --policy full --size 64x64", "keys and values of this clip would take"),
    "latents that are kept": ("--frames 4000000 --save-latents {tmp}/l.safetensors --size 64x80", "this clip would"),
    "size": ("--size 99999999x16", "expected even sides from 2 to 8192 pixels"),
    "seconds": ("--seconds 0", "expected a length above 0 seconds, got 0"),
    "seconds, negative": ("--seconds -1", "expected a length above 0 seconds, got -1"),
    "seconds, none": ("--seconds nan", "expected a length above 0 seconds, got nan"),
    "seconds, endless": ("--seconds inf", "expected a length above 0 seconds, got inf"),
    "both lengths": ("--seconds 1 --frames 9", "not allowed with argument"),
    "no rate": ("--fps 0", "expected frames per second from 0.01 to 240, got 0"),
    "a negative rate": ("--fps -24", "expected frames per second"),
    "a rate in words": ("--fps film", "expected frames per second"),
    "a rate over nothing": ("--fps 24/0", "expected frames per second"),
    "a window too short": ("--policy window --window 4 --sink 3", "expected a window of at least 6 frames"),
    "a step there is not": ("--skip-steps 9", "expected steps to skip from 1 to 3, got 9"),
    "a start that is none": ("--start-image {tmp}/none.png", "cannot read the image"),
    "latents that are none": ("--start-latents {tmp}/none", "no such file; check the path"),
    "a backend": ("--attention nope", "known: auto"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_arguments_alone_tell_costs_no_load(
    run, tiny_demo, unloadable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    for module in ("main_memory_bytes", "device_memory_bytes"):
        monkeypatch.setattr(f"dummyforcing_core.cli.preflight.{module}", lambda *_: 2**30)
    words, message = REFUSED[case]
    result = run("generate", *TINY, "--out", tmp_path / "c.mp4", *words.replace("{tmp}", str(tmp_path)).split())
    assert_refused(result.code, result.err, message)
    assert result.err.count("\n") == 1
    assert files(tmp_path) == {}


@pytest.mark.parametrize("command", ["profile", "vbench"])
def test_too_many_clips(run, unloadable, tmp_path: Path, command: str) -> None:
    (tmp_path / "p.txt").write_text("a cat\n", encoding="utf-8")
    count = {"profile": "--seeds", "vbench": "--samples"}[command]
    result = run(command, "--prompts", tmp_path / "p.txt", "--out", tmp_path / "out", count, 1_000_000_000)
    assert_refused(result.code, result.err, f"prompts times {count}, got 1000000000")


@pytest.mark.parametrize(("seconds_per_call", "said"), [(1.0, 0), (10.0, 1)])
def test_a_run_of_hours_is_said_to_be_one_after_its_first_chunk(seconds_per_call: float, said: int) -> None:
    lines: list[str] = []
    now = iter(range(1000))
    run = LongRun(1000, lines.append, clock=lambda: 5 * seconds_per_call * next(now))
    for call in range(20):
        run.call(call // 5)
        assert len(lines) == (said if call >= 5 else 0)
    assert not said or "about 2.8 hours here (1000 model calls)" in lines[0]


@pytest.mark.parametrize(
    "words",
    [("--frames", "9" * 200), ("--seed", "9" * 200), ("--seconds", "1e300"), ("--offload", "9" * 200),
     ("--window", "9" * 200), ("--fps", "1e99999999"), ("--fps", "1e-99999999"), ("--skip-steps", "9" * 200)],
)  # fmt: skip
def test_numbers_beyond_all_use_are_named_in_a_few_digits(run, tmp_path: Path, words: tuple[str, str]) -> None:
    result = run("generate", *TINY, "--out", tmp_path / "c.mp4", *words)
    assert_refused(result.code, result.err, "expected")
    assert "9" * 50 not in result.err
