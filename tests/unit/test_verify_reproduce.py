"""scripts/reproduce.py: the paper's tables filled by a stand-in of the bundled model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dummyforcing_core.evaluation.vbench_scores import QUALITY, SEMANTIC
from tests.unit.refusals import assert_refused

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        import reproduce

        yield reproduce


@pytest.fixture(scope="module")
def made(script, tiny_demo, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    """(reproduce.json, reproduce.md) of a smoke run with one set of VBench results, whole, and one that lacks some."""
    folder = tmp_path_factory.mktemp("reproduce")
    results = {name: [(low + high) / 2, []] for name, (low, high, _) in (QUALITY | SEMANTIC).items()}
    (folder / "dense.json").write_text(json.dumps(results), encoding="utf-8")
    del results["scene"]
    (folder / "dummy.json").write_text(json.dumps(results), encoding="utf-8")
    words = ["--smoke", "--device", "cpu", "--out", str(folder / "new" / "out")]
    words += ["--vbench-dense", str(folder / "dense.json"), "--vbench-dummy", str(folder / "dummy.json")]
    assert script.main(words) == 0
    out = folder / "new" / "out"
    document = json.loads((out / "reproduce.json").read_text(encoding="utf-8"))
    return document, (out / "reproduce.md").read_text(encoding="utf-8")


def cells(text: str, title: str) -> list[str]:
    row = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


# Published numbers, from the paper's tables; FPS dense, FPS Dummy Forcing.
PUBLISHED = {
    "480p": ["17.56", "24.30", "1.38"],
    "480p, TeaCache": ["21.82", "> 30", ""],
    "720p": ["5.6", "9.1", "1.62"],
    "1080p": ["1.3", "2.6", "2.00"],
    "480p, 237 frames cached": ["9.36", "18.14", "1.94"],
    "480p, 36 frames cached (sliding window)": ["17.57", "", ""],
}


@pytest.mark.parametrize("title", PUBLISHED)
def test_speed_rows(made, title: str) -> None:
    found = cells(made[1], title)
    assert found[3:6] == PUBLISHED[title]
    assert float(found[6]) > 0
    assert bool(found[7]) == bool(PUBLISHED[title][1])
    assert len(found) == 13


def test_every_table_has_rows_of_one_length(made) -> None:
    for block in made[1].split("\n\n"):
        lines = [line.count("|") for line in block.splitlines() if line.startswith("|")]
        assert len(set(lines)) <= 1


def test_heads_and_whole_clip(made) -> None:
    document, text = made
    assert [cells(text, f"overlap of dummy heads across {n}")[1] for n in ("AR steps", "timesteps", "prompts")] == [
        "0.92",
        "0.85",
        "0.76",
    ]
    assert cells(text, "published")[1:] == ["81", "7.92", "10.2"]
    assert document["whole_clip"]["frames"] == 45
    assert all(0 <= value <= 1 for value in document["heads"].values())


def test_scores_are_blank_unless_all_dimensions_are_there(made) -> None:
    document, text = made
    assert cells(text, "81 frames")[1:] == ["84.00", "83.90", "50.00", ""]
    assert cells(text, "long context")[1:] == ["69.48", "69.38", "", ""]
    assert "dummy: no total without scene" in text
    assert document["vbench"]["dummy"]["quality"] == pytest.approx(50)


def test_it_says_what_its_figures_are_worth(made) -> None:
    text = made[1]
    assert "these figures say nothing about the paper's" in text
    assert "smoke run" in text
    assert "cpu" in text


def test_dummy_forcing_keeps_less(made) -> None:
    for row in made[0]["speed"]:
        if row["dummy"] is not None:
            assert row["dummy"]["history_bytes"] < row["dense"]["history_bytes"]


def test_cached_frames_at_full_length(script, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """237 and 36 cached pixel frames are 60 and 9 latents of history, at every size and for both memories."""
    asked = []
    monkeypatch.setattr(script.Bench, "_figures", lambda self, row, *words: asked.append(words))
    bench = script.Bench(script.load(script.parse(["--device", "cpu"])), "", 0, False, script.STAND_INS, tmp_path)
    for row in script.ROWS:
        bench.row(row)
    lengths, policies, _ = zip(*asked, strict=True)
    assert lengths == (21,) * 8 + (66, 66, 21, 21)
    long_dense, long_dummy, short_dense, short_dummy = policies[8:]
    assert (long_dense.window_frames, long_dense.sink_frames) == (60 + 3, 0)
    assert (long_dummy.local_chunks, long_dummy.dummy_ratio) == (20, 0.5)
    assert (short_dense.window_frames, short_dense.sink_frames) == (9 + 3, 0)
    assert short_dummy is None
    assert all(policy.local_chunks == 1 for policy in policies[1:8:2])


def test_only_the_teacache_row_skips_a_step(script, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = []
    monkeypatch.setattr(
        script.Bench, "_figures", lambda self, row, latents, policy, steps: skipped.append(steps.skipped)
    )
    bench = script.Bench(script.load(script.parse(["--device", "cpu"])), "", 0, True, script.STAND_INS, tmp_path)
    for row in script.ROWS:
        bench.row(row)
    assert [sorted(steps) for steps in skipped] == [[], [], [2], [2], *[[]] * 8]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vbench-dense", "none.json"], "cannot read the results none.json: no such file"),
        (["--model", "none.pt"], "none.pt"),
    ],
)
def test_bad_input(script, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str) -> None:
    code = script.main([*words, "--device", "cpu", "--out", str(tmp_path)])
    assert_refused(code, capsys.readouterr().err, message)
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_the_tables(script, capsys: pytest.CaptureFixture) -> None:
    for words in (["--size", "480p"], ["--frames", "9"]):
        with pytest.raises(SystemExit, match="2"):
            script.main(words)
        assert "leave --size and --frames out" in capsys.readouterr().err


def test_it_runs_as_a_script() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert "--vbench-dense" in done.stdout
