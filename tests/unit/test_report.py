"""The run report: derived numbers against arithmetic by hand, the table, the file."""

import json

import pytest

from dummyforcing_core.clips.report import ChunkTiming, RunReport
from dummyforcing_core.errors import OutputError


def report() -> RunReport:
    """21 latent frames in 7 chunks: the first 400 ms, then 500 ms, decode 100 ms each; 5.2 s in all."""
    chunks = [ChunkTiming(i, 3 * i, 3, 400.0 if i == 0 else 500.0, 100.0, i >= 3) for i in range(7)]
    memory = {
        "history_bytes": {"predicted": 3 * 2**20, "actual": 3 * 2**20},
        "resident_bytes": {"predicted": 5 * 2**20, "actual": None},
        "cached_frames": {"mean": 6.5, "max": 9, "context_ratio": 0.31},
    }
    return RunReport(
        conditions={
            "model": "demo",
            "policy": "window 12, sink 3",
            "prompt": "ein Würfel",
            "versions": {"torch": "2.13.0"},
        },
        init_ms=1000.0,
        chunks=chunks,
        total_ms=5200.0,
        first_frame_ms=1510.0,
        memory=memory,
    )


def test_derived_numbers():
    run = report()
    assert (run.latent_frames, run.pixel_frames) == (21, 81)
    assert (run.diffusion_ms, run.decode_ms, run.other_ms) == (3400.0, 700.0, 100.0)
    assert run.dit_fps == pytest.approx(81 / 3.4)
    assert run.end_to_end_fps == pytest.approx(81 / 5.2)
    assert run.steady_ms == 500.0
    assert run.percent(run.diffusion_ms) == pytest.approx(100 * 3400 / 5200)
    assert sum(run.percent(ms) for ms in (run.init_ms, run.diffusion_ms, run.decode_ms, run.other_ms)) == pytest.approx(
        100
    )


def test_a_continued_clip_has_four_pixel_frames_for_each_latent():
    first, later = ChunkTiming(0, 0, 1, 1.0, 1.0, False), ChunkTiming(1, 1, 1, 1.0, 1.0, False)
    assert (first.pixel_frames, later.pixel_frames) == (1, 4)
    assert RunReport(chunks=[ChunkTiming(1, 3, 3, 1.0, 1.0, False)]).pixel_frames == 12
    assert RunReport(chunks=[ChunkTiming(0, 0, 120, 1.0, 1.0, False)]).pixel_frames == 477


def test_derived_numbers_follow_the_measured_ones():
    run = report()
    run.chunks.append(ChunkTiming(7, 21, 3, 600.0, 100.0, True))
    assert run.pixel_frames == 93
    assert run.diffusion_ms == 4000.0
    assert json.loads(run.to_json())["derived"]["pixel_frames"] == 93


def test_an_empty_run_divides_by_nothing():
    run = RunReport()
    assert (run.dit_fps, run.end_to_end_fps, run.percent(1.0), run.steady_ms) == (0.0, 0.0, 0.0, None)
    assert "total" in run.table()
    json.loads(run.to_json())


def test_table_shows_every_number_in_narrow_lines():
    table = report().table()
    lines = table.splitlines()
    assert max(map(len, lines)) <= 64
    rows = [line.split() for line in lines]
    assert ["diffusion", "3400.0", "65.4"] in rows
    assert ["total", "5200.0", "100.0"] in rows
    assert ["0", "0..2", "400.0", "11.8", "100.0", "filling"] in rows
    assert ["6", "18..20", "500.0", "14.7", "100.0", "full"] in rows
    assert ["history,", "MiB", "3.00", "3.00"] in rows
    assert ["resident,", "MiB", "5.00", "-"] in rows
    for text in (
        "23.82 FPS",
        "15.58 FPS",
        "1510.0 ms",
        "81 (21 latent)",
        "mean 6.50, max 9 per head",
        "0.310 of the clip",
    ):
        assert text in table
    assert "peak" not in table  # not measured, not shown


def test_a_long_prompt_is_wrapped():
    run = RunReport(conditions={"prompt": "a red ball rolls over the green floor " * 5, "seed": 7, "none": None})
    lines = run.table().splitlines()
    assert max(map(len, lines)) <= 64
    assert " ".join(" ".join(lines[1:7]).split()).count("red ball") == 5
    assert ["seed", "7"] in [line.split() for line in lines]


def test_json_holds_measured_and_derived_apart():
    document = json.loads(report().to_json())
    assert document["format"] == "dummyforcing-report" and document["version"] == 1
    assert document["conditions"]["prompt"] == "ein Würfel"
    assert document["chunks"][6] == {
        "index": 6,
        "start_frame": 18,
        "frames": 3,
        "diffuse_ms": 500.0,
        "decode_ms": 100.0,
        "window_full": True,
    }
    assert document["derived"]["dit_fps"] == pytest.approx(81 / 3.4)
    assert document["derived"]["percent"]["total"] == 100.0
    assert not set(document["derived"]) & (set(document) - {"derived"})


def test_write(tmp_path):
    path = tmp_path / "report.json"
    report().write(path)
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(report().to_json())
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    with pytest.raises(OutputError, match="folder does not exist"):
        report().write(tmp_path / "missing" / "report.json")
