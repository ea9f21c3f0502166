"""What the study's figures say and do not say, in sentences made from the figures."""

from collections.abc import Sequence

from .study_statistics import OURS

WORDS = {"better": "better at", "worse": "worse at", "no difference": "no difference found at"}


def metrics_of(document: dict) -> dict[str, str]:
    """Metric -> column title, in the order of the tables."""
    c = document["conditions"]
    titles = {"error": "velocity error"} | {f"recall_gap_{gap}": f"recall, gap {gap}" for gap in c["gaps"]}
    kept = {f"kept_{c['main_scene']}": f"shapes kept, {c['main_scene'].replace('_', ' ')}"}
    return titles | (kept if c["gaps"] else {})


def number(metric: str, x: float | None) -> str:
    """Four decimals for errors, two for shares."""
    if x is None or x != x:
        return "-"
    return f"{x:.4f}" if metric == "error" else f"{x:.2f}"


def reading(document: dict) -> str:
    """One bullet per question; the other columns are in the table of verdicts."""
    points = [
        _dial(document),
        _glance(document),
        *(_chance(document, table, name) for table, name in SETTINGS.items()),
        *(_rivals(document, table, name) for table, name in SETTINGS.items()),
        _pair(document, "Later-chunk profile against first-chunk profile", "profile, first chunk"),
        _pair(document, "Saved profile against online classification", "online"),
        _pair(document, "The packed frame, which costs bytes, against none", "without the packed frame"),
        _history(document),
        _disagreements(document),
    ]
    lines = [f"- {point}" for point in points if point]
    return "\n".join(["## What it says", *lines]) if lines else ""


def limits(document: dict) -> str:
    """What must not be read into it."""
    h, c = document["heads"], document["conditions"]
    world = "one synthetic world, " if c["world"] else ""
    return (
        "## What it does not say\n"
        f"{h['layers'] * h['heads']} heads, {world}one training seed, one set of {c['clips']} prompts and noises: the "
        "intervals cover clips, not models. Another checkpoint of the same recipe may choose and rank otherwise. "
        "Velocity errors are against a full cache, whose own clip is the yardstick, not the truth. Nothing here says "
        "how a large model's picture quality reacts, nor what a policy saves in time: for that see the benchmark."
    )


GLANCE_RATIOS = (0.25, 0.5)
SETTINGS = {
    "packed": "Dummy Forcing, packed",
    "bare": "Dummy Forcing without packing",
    "rest full": "Dummy heads bare, the rest full",
    "long": "Long context",
}


def _dial(document: dict) -> str:
    """What the full cache and plain windows remember."""
    rows = {row["kind"]: row for row in document["rows"] if row["table"] == "uniform"}
    gaps = document["conditions"]["gaps"]
    if "full cache" not in rows or not gaps:
        return ""

    def recall(row: dict) -> str:
        return " / ".join(number("recall", row["metrics"][f"recall_gap_{gap}"]["mean"]) for gap in gaps)

    windows = ", ".join(f"{kind} {recall(row)}" for kind, row in rows.items() if kind != "full cache")
    return (
        f"**The dial.** Recall after gaps {' / '.join(map(str, gaps))}: full cache {recall(rows['full cache'])}; "
        f"{windows}."
    )


def _glance(document: dict) -> str:
    """The main recall of every kind at the middle shares, side by side."""
    metric = f"recall_{document['conditions']['main_scene']}"
    if metric not in metrics_of(document):
        return ""
    parts = []
    for table, name in SETTINGS.items():
        for ratio in GLANCE_RATIOS:
            rows = [row for row in document["rows"] if (row["table"], row["ratio"]) == (table, ratio)]
            chance = [r for r in document["random"] if (r["table"], r["ratio"]) == (table, ratio)]
            shown = [f"{row['kind']} {number(metric, row['metrics'][metric]['mean'])}" for row in rows]
            for row in chance:
                if metric in row["metrics"]:
                    low, high = (number(metric, row["metrics"][metric][end]) for end in ("min", "max"))
                    shown.append(f"random heads {low} to {high}")
            if shown:
                parts.append(f"{name}, {ratio:.0%}, {rows[0]['frames']:.2f} frames per head: {', '.join(shown)}.")
    return f"**{metrics_of(document)[metric].capitalize()}, at a glance.** {' '.join(parts)}"


def _chance(document: dict, table: str, name: str) -> str:
    rows = [row for row in document["against_random"] if (row["table"], row["kind"]) == (table, OURS)]
    if not rows:
        return ""
    parts = []
    for metric, title in _judged(document).items():
        measured = [row for row in rows if metric in row["metrics"]]
        if measured:
            beaten = [f"{row['metrics'][metric]['beaten']} at {row['ratio']:.0%}" for row in measured]
            draws = measured[0]["metrics"][metric]["draws"]
            parts.append(f"{title} {_verdicts(measured, metric)}, ahead of {_and(beaten)} of {draws} draws")
    return f"**{name}, head-aware against the mean of random heads.** {'; '.join(parts)}."


def _rivals(document: dict, table: str, name: str) -> str:
    parts = []
    for kind in ("window", "first + window", "first 3 + window"):
        rows = _rows(document, table, kind)
        if rows:
            parts.append(f"Against {kind} in every head: {_both(document, rows)}.")
    return f"**{name}, against equal bytes.** {' '.join(parts)}" if parts else ""


def _pair(document: dict, title: str, kind: str) -> str:
    found = {name: _rows(document, table, kind) for table, name in SETTINGS.items()}
    parts = [f"{name}: {_both(document, rows)}." for name, rows in found.items() if rows]
    return f"**{title}.** {' '.join(parts)}" if parts else ""


def _history(document: dict) -> str:
    """The paper's claim: heads that do not use their history may lose it."""
    rows = _rows(document, "rest full", "full cache")
    metric = f"recall_{document['conditions']['main_scene']}"
    if not rows or metric not in rows[0]["metrics"]:
        return ""
    losses = ", ".join(
        f"{row['metrics'][metric]['difference']:+.2f} [{row['metrics'][metric]['low']:+.2f}, "
        f"{row['metrics'][metric]['high']:+.2f}] at {row['ratio']:.0%}"
        for row in rows
    )
    return (
        "**Taking the history of dummy heads only** (the paper: of 25 % of the heads for 0.26 % of quality) changes "
        f"{metrics_of(document)[metric]} against the full cache by {losses}."
    )


def _disagreements(document: dict) -> str:
    """Comparisons in which velocity error and recall rank two policies in opposite ways."""
    main, found = f"recall_{document['conditions']['main_scene']}", []
    if main not in metrics_of(document):
        return ""
    for row in document["comparisons"]:
        verdicts = {row["metrics"][metric]["verdict"] for metric in ("error", main) if metric in row["metrics"]}
        if verdicts == {"better", "worse"}:
            found.append(SETTINGS[row["table"]])
    listed = ", ".join(f"{name} {found.count(name)}" for name in SETTINGS.values() if name in found)
    total = len(document["comparisons"])
    return (
        f"**Velocity error and recall rank two policies in opposite ways** in {len(found)} of {total} rows: {listed}."
    )


def _rows(document: dict, table: str, against: str) -> list[dict]:
    return [row for row in document["comparisons"] if (row["table"], row["against"]) == (table, against)]


def _judged(document: dict) -> dict[str, str]:
    """The metrics that sentences name: velocity error, and recall after the main gap."""
    main = ("error", f"recall_{document['conditions']['main_scene']}")
    return {metric: title for metric, title in metrics_of(document).items() if metric in main}


def _both(document: dict, rows: Sequence[dict]) -> str:
    return "; ".join(f"{title} {_verdicts(rows, metric)}" for metric, title in _judged(document).items())


def _verdicts(rows: Sequence[dict], metric: str) -> str:
    """ "better at 10 and 25 %, worse at 50 %" """
    by_word: dict[str, list[str]] = {}
    for row in rows:
        by_word.setdefault(WORDS[row["metrics"][metric]["verdict"]], []).append(f"{row['ratio']:.0%}")
    return ", ".join(f"{word} {_and(ratios)}" for word, ratios in by_word.items())


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
