"""VBench's aggregate scores from its own result files (Vchitect/VBench, scripts/constant.py, read 2026-03-23).

A dimension is mapped from [low, high] to [0, 1]; quality and semantic scores are weighted means, and the total weighs
them 4 to 1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError, shown
from ..reading import parse_json, read_text

# dimension -> (low, high, weight)
QUALITY: dict[str, tuple[float, float, float]] = {
    "subject_consistency": (0.1462, 1.0, 1),
    "background_consistency": (0.2615, 1.0, 1),
    "temporal_flickering": (0.6293, 1.0, 1),
    "motion_smoothness": (0.706, 0.9975, 1),
    "dynamic_degree": (0.0, 1.0, 0.5),
    "aesthetic_quality": (0.0, 1.0, 1),
    "imaging_quality": (0.0, 1.0, 1),
}
SEMANTIC: dict[str, tuple[float, float, float]] = {
    "object_class": (0.0, 1.0, 1),
    "multiple_objects": (0.0, 1.0, 1),
    "human_action": (0.0, 1.0, 1),
    "color": (0.0, 1.0, 1),
    "spatial_relationship": (0.0, 1.0, 1),
    "scene": (0.0, 0.8222, 1),
    "appearance_style": (0.0009, 0.2855, 1),
    "temporal_style": (0.0, 0.364, 1),
    "overall_consistency": (0.0, 0.364, 1),
}
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4, 1


@dataclass(frozen=True)
class Scores:
    """In percent, as the leaderboard prints them; None where a dimension is missing."""

    quality: float | None
    semantic: float | None
    missing: tuple[str, ...]

    @property
    def total(self) -> float | None:
        if self.quality is None or self.semantic is None:
            return None
        whole = QUALITY_WEIGHT * self.quality + SEMANTIC_WEIGHT * self.semantic
        return whole / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)


def scores(found: Mapping[str, float]) -> Scores:
    """Aggregates of raw dimension scores. A missing dimension is no zero: it leaves its aggregate out."""
    missing = tuple(name for name in (*QUALITY, *SEMANTIC) if name not in found)
    return Scores(_aggregate(found, QUALITY), _aggregate(found, SEMANTIC), missing)


def _aggregate(found: Mapping[str, float], table: Mapping[str, tuple[float, float, float]]) -> float | None:
    if any(name not in found for name in table):
        return None
    parts = [weight * (found[name] - low) / (high - low) for name, (low, high, weight) in table.items()]
    return 100 * sum(parts) / sum(weight for _, _, weight in table.values())


def read_results(paths: Iterable[Path]) -> dict[str, float]:
    """Raw scores by dimension from VBench's *_eval_results.json files: {dimension: [score, clips]}."""
    found: dict[str, float] = {}
    for path in paths:
        try:
            document = parse_json(read_text(path, "results", OutputError))
            read = {str(name).replace(" ", "_"): float(value[0]) for name, value in document.items()}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            raise OutputError(
                f"{shown(path, 200)} is no result of VBench ({shown(error)}); give "
                f"its *_eval_results.json: {{dimension: [score, ...]}}"
            ) from error
        found |= read
    return found
