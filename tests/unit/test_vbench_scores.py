"""VBench's aggregates, against sums done by hand."""

import json
from pathlib import Path

import pytest

from dummyforcing_core.errors import OutputError
from dummyforcing_core.evaluation.vbench_scores import QUALITY, SEMANTIC, read_results, scores

EVERYTHING = QUALITY | SEMANTIC
OFFICIAL = [
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
    "object_class",
    "multiple_objects",
    "human_action",
    "color",
    "spatial_relationship",
    "scene",
    "temporal_style",
    "appearance_style",
    "overall_consistency",
]


def at(share: float) -> dict[str, float]:
    """Every dimension at a share of its range."""
    return {name: low + share * (high - low) for name, (low, high, _) in EVERYTHING.items()}


def test_the_sixteen_dimensions() -> None:
    assert sorted(EVERYTHING) == sorted(OFFICIAL)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_ends_of_the_ranges(share: float) -> None:
    found = scores(at(share))
    assert (found.quality, found.semantic, found.total) == pytest.approx((100 * share,) * 3)
    assert found.missing == ()


def test_weights_by_hand() -> None:
    base = at(0.5)
    whole = scores(base).total
    assert whole == pytest.approx(50)
    gains = {name: scores(base | {name: EVERYTHING[name][1]}).total - whole for name in EVERYTHING}
    # Half a range more: 6.5 weights in quality, which counts 4 of 5; 9 in semantic, 1 of 5.
    assert gains["aesthetic_quality"] == pytest.approx(50 / 6.5 * 0.8)
    assert gains["dynamic_degree"] == pytest.approx(25 / 6.5 * 0.8)
    assert gains["scene"] == pytest.approx(50 / 9 * 0.2)


def test_ranges_by_hand() -> None:
    plain = dict.fromkeys(EVERYTHING, 0.9)
    ranged = [(0.9 - 0.1462) / 0.8538, (0.9 - 0.2615) / 0.7385, (0.9 - 0.6293) / 0.3707, (0.9 - 0.706) / 0.2915]
    quality = [*ranged, 0.9 * 0.5, 0.9, 0.9]
    assert scores(plain).quality == pytest.approx(100 * sum(quality) / 6.5)
    semantic = [0.9] * 5 + [0.9 / 0.8222, 0.8991 / 0.2846, 0.9 / 0.364, 0.9 / 0.364]
    assert scores(plain).semantic == pytest.approx(100 * sum(semantic) / 9)


@pytest.mark.parametrize("name", ["scene", "dynamic_degree"])
def test_a_missing_dimension_is_no_zero(name: str) -> None:
    found = at(0.5)
    del found[name]
    result = scores(found)
    assert result.total is None
    assert result.missing == (name,)
    assert (result.quality is None) == (name in QUALITY)
    assert (result.semantic is None) == (name in SEMANTIC)


def test_result_files(tmp_path: Path) -> None:
    """As VBench writes them, one or many, later ones first; its leaderboard writes blanks for underscores."""
    one, two = tmp_path / "a_eval_results.json", tmp_path / "b_eval_results.json"
    one.write_text(json.dumps({"scene": [0.5, [{"video_path": "x", "video_results": 0.5}]]}), encoding="utf-8")
    two.write_text(json.dumps({"temporal style": [0.25, []], "scene": [0.75, []]}), encoding="utf-8")
    assert read_results([one, two]) == {"scene": 0.75, "temporal_style": 0.25}
    assert read_results([]) == {}


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"scene": 0.5}', '{"scene": []}', '{"scene": ["high"]}', '{"scene": null}']
)
def test_other_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OutputError, match="is no result of VBench"):
        read_results([path])
    with pytest.raises(OutputError, match=r"cannot read the results .*none\.json: no such file"):
        read_results([tmp_path / "none.json"])
