"""From per-clip values to rows, intervals and comparisons. Nothing is ranked unless a paired interval excludes 0."""

from collections.abc import Sequence

import numpy as np

from .study_policies import Entry

OURS = "profile, later chunks"
RANDOM = "random heads"
RESAMPLES = 4000
COVERAGE = 0.9

Values = dict[str, np.ndarray]


def interval(values: np.ndarray) -> tuple[float, float]:
    """Bootstrap interval over clips of the mean; clips that are nan do not count."""
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    chosen = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[chosen].mean(1), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def spread(values: np.ndarray) -> dict:
    """Mean and interval of one policy's clips."""
    low, high = interval(values)
    return {"mean": _mean(values), "low": _number(low), "high": _number(high)}


def difference(ours: np.ndarray, theirs: np.ndarray, lower_is_better: bool) -> dict:
    """Paired difference over clips, its interval, and a verdict on ours."""
    low, high = interval(ours - theirs)
    good, bad = (high < 0, low > 0) if lower_is_better else (low > 0, high < 0)
    verdict = "better" if good else "worse" if bad else "no difference"
    return {"difference": _mean(ours - theirs), "low": _number(low), "high": _number(high), "verdict": verdict}


def lower_is_better(metric: str) -> bool:
    return metric == "error"


def _mean(values: np.ndarray) -> float | None:
    """Over the clips that have a value; None if none has."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def _number(x: float) -> float | None:
    return None if np.isnan(x) else x


def summary(results: Sequence[dict], entries: Sequence[Entry]) -> dict:
    """Rows of named policies and of random draws, and all comparisons."""
    by_key = {result["key"]: result for result in results}
    done = [(entry, by_key[entry.key]) for entry in entries if entry.key in by_key]
    values = {key: _arrays(result) for key, result in by_key.items()}
    named = [(entry, result) for entry, result in done if entry.draw is None]
    draws: dict[tuple[str, float | None], list[str]] = {}
    for entry, result in done:
        if entry.draw is not None:
            draws.setdefault((entry.table, entry.ratio), []).append(result["key"])
    return {
        "rows": [_row(entry, result) for entry, result in named],
        "random": [_random_row(where, [by_key[key] for key in keys]) for where, keys in draws.items()],
        "comparisons": _comparisons([entry for entry, _ in named], values),
        "against_random": _against_random([entry for entry, _ in named], values, draws),
    }


def _arrays(result: dict) -> Values:
    return {name: np.array(numbers, dtype=float) for name, numbers in result["values"].items()}


def _row(entry: Entry, result: dict) -> dict:
    return {
        "table": entry.table,
        "kind": entry.kind,
        "ratio": entry.ratio,
        **{name: result[name] for name in ("frames", "bytes", "time")},
        "metrics": {name: spread(v) for name, v in _arrays(result).items()},
    }


def _random_row(where: tuple[str, float | None], results: Sequence[dict]) -> dict:
    """Mean, least and greatest of the draws' means over clips."""
    means = [{name: _mean(v) for name, v in _arrays(result).items()} for result in results]
    metrics = {}
    for name in means[0]:
        column = [m[name] for m in means if m[name] is not None] or [None]
        mean = None if None in column else sum(column) / len(column)
        metrics[name] = {"mean": mean, "min": min(column), "max": max(column)}
    table, ratio = where
    frames, size = (sum(r[name] for r in results) / len(results) for name in ("frames", "bytes"))
    return {"table": table, "ratio": ratio, "draws": len(results), "frames": frames, "bytes": size, "metrics": metrics}


def _comparisons(named: Sequence[Entry], values: dict[str, Values]) -> list[dict]:
    """The head-aware policy of every table against its neighbours there; packed against bare; each against dense."""
    found = []
    ours = [entry for entry in named if entry.kind == OURS]
    dense = [entry for entry in named if entry.kind == "full cache"]
    for entry in ours:
        rivals = [e for e in named if (e.table, e.ratio) == (entry.table, entry.ratio) and e is not entry]
        if entry.table == "packed":
            rivals += [e for e in ours if (e.table, e.ratio) == ("bare", entry.ratio)]
        for rival in rivals + dense:
            a, b = values[entry.key], values[rival.key]
            metrics = {name: difference(a[name], b[name], lower_is_better(name)) for name in a if name in b}
            kind = "without the packed frame" if rival.kind == OURS else rival.kind
            found.append({"table": entry.table, "ratio": entry.ratio, "against": kind, "metrics": metrics})
    return found


def _against_random(named: Sequence[Entry], values: dict[str, Values], draws: dict) -> list[dict]:
    """Every profile's choice against the draws of its table: how many it beats, and its distance from their mean."""
    found = []
    for entry in named:
        keys = draws.get((entry.table, entry.ratio), [])
        if not keys or not (entry.kind.startswith("profile") or entry.kind == "online"):
            continue
        ours, metrics = values[entry.key], {}
        for name in values[keys[0]]:
            theirs = np.stack([values[key][name] for key in keys])
            sign = 1 if lower_is_better(name) else -1
            beaten = sum(bool(np.nanmean(sign * (ours[name] - v)) < 0) for v in theirs)
            metrics[name] = difference(ours[name], theirs.mean(0), lower_is_better(name)) | {
                "beaten": beaten,
                "draws": len(keys),
            }
        found.append({"table": entry.table, "ratio": entry.ratio, "kind": entry.kind, "metrics": metrics})
    return found
