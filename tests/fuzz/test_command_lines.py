"""Some random command lines; more by hand: python -m tests.fuzz.command_lines --cases 2000."""

import json
from pathlib import Path

import pytest

from dummyforcing_core.clips.video import VideoWriter
from tests.fuzz.command_lines import Case, World, failures, judged, make_case, make_world, outcome
from tests.unit.conftest import Result

SEED, CASES, PARTS = 11, 120, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("part", range(PARTS))
def test_command_lines_do_what_they_promise_or_are_refused_in_one_line(tmp_path: Path, part: int) -> None:
    wrong = [f"--seed {SEED} --only {number}: {case}\n{why}" for number, case, why in
             failures(tmp_path, SEED, range(part, CASES, PARTS))]  # fmt: skip
    assert not wrong, "\n\n".join(wrong)


def test_a_good_line_is_run(world: World, tmp_path: Path) -> None:
    """The fuzzer would prove nothing with lines that are refused anyway."""
    out = tmp_path / "out"
    words = ["generate", "--model", "demo", "--device", "cpu", "--size", "16x16", "--frames", "3", "--prompt", "x"]
    case = Case([*words, "--out", str(out / "c.mp4"), "--report", str(out / "r.json")], out)
    assert outcome(world, case) == ""
    assert sorted(path.name for path in out.iterdir()) == ["c.mp4", "r.json"]


def test_a_case_is_the_same_however_many_are_drawn(world: World, tmp_path: Path) -> None:
    first = [make_case(world, tmp_path, 3, number).words for number in range(5)]
    assert first[4] == make_case(world, tmp_path, 3, 4).words
    assert len({tuple(words) for words in first}) == 5


class TestJudge:
    """What it must not let pass."""

    def case(self, folder: Path, frames: int = 5, *words: str) -> Case:
        line = ["generate", "--model", "demo", "--family", "demo", "--size", "16x16", "--frames", str(frames)]
        return Case([*line, "--out", str(folder / "c.mp4"), *words], folder)

    def video(self, folder: Path, frames: int = 5, side: int = 96) -> None:
        import numpy as np

        with VideoWriter(folder / "c.mp4", side, side, 16) as writer:
            writer.write(np.zeros((frames, side, side, 3), np.uint8))

    def test_a_good_clip(self, tmp_path: Path) -> None:
        self.video(tmp_path)
        assert judged(self.case(tmp_path), Result(0, "", "warning: one line\n")) == ""

    @pytest.mark.parametrize(("frames", "side"), [(4, 96), (9, 96), (5, 80)])
    def test_another_clip(self, tmp_path: Path, frames: int, side: int) -> None:
        self.video(tmp_path, frames, side)
        assert f"{frames} frames of" in judged(self.case(tmp_path), Result(0, "", ""))

    def test_a_file_that_nobody_asked_for(self, tmp_path: Path) -> None:
        self.video(tmp_path)
        (tmp_path / "x.tmp").write_text("")
        assert "promised" in judged(self.case(tmp_path), Result(0, "", ""))

    def test_a_report_of_another_clip(self, tmp_path: Path) -> None:
        self.video(tmp_path)
        told = {"conditions": {"frames": 9, "family": "demo"}, "chunks": [{"frames": 3}]}
        (tmp_path / "r.json").write_text(json.dumps(told))
        assert "a report of" in judged(self.case(tmp_path, 5, "--report", str(tmp_path / "r.json")), Result(0, "", ""))

    @pytest.mark.parametrize(
        ("code", "err", "wrong"),
        [
            (2, "error: a line\n", ""),
            (2, "warning: one\nerror: a line\n", ""),
            (2, "", "refused without an error"),
            (2, "error: two\nlines\n", "no warning of one line"),
            (2, "Traceback\nerror: a line\n", "no warning of one line"),
            (0, "UserWarning: x\n", "no warning of one line"),
            (2, f"error: {'x' * 2000}\n", "characters"),
            (2, "error: \x1b[31mred\n", "control character"),
            (1, "", "exit 1"),
        ],
    )
    def test_what_is_said(self, tmp_path: Path, code: int, err: str, wrong: str) -> None:
        if not code:
            self.video(tmp_path)
        found = judged(self.case(tmp_path), Result(code, "", err))
        assert wrong in found and bool(wrong) is bool(found)

    def test_what_a_refused_line_leaves(self, tmp_path: Path) -> None:
        (tmp_path / "c.part.mp4").write_text("")
        assert "left ['c.part.mp4']" in judged(self.case(tmp_path), Result(2, "", "error: the disk is full\n"))
        named = "error: the disk is full; what was finished plays in c.part.mp4\n"
        assert judged(self.case(tmp_path), Result(2, "", named)) == ""
