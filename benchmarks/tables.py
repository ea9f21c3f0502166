"""The rollout benchmark's figures as plain text."""

from collections.abc import Callable, Mapping
from typing import Any

Figures = Mapping[str, Any]
Column = Callable[[Figures], str]
NAME_WIDTH, SHOWN_CHUNKS = 24, 12


def _roles(row: Figures) -> str:
    return "/".join(str(row["roles"].get(role, 0)) for role in ("dummy", "sink", "neighbour"))


def _ratio(place: int, key: str) -> Column:
    """A figure against the first or second dense row of the same clip length."""

    def column(row: Figures) -> str:
        own = [row["against"].get(name) for name in row["references"]]
        value = own[place][key] if own[place] else None
        return "-" if value is None else f"{value:.2f}"

    return column


def _bytes(kind: str) -> Column:
    """Actual MiB; what was predicted beside it where that differs."""

    def column(row: Figures) -> str:
        actual, predicted = (row["bytes"][kind][which] for which in ("actual", "predicted"))
        return f"{actual / 2**20:.2f}" + ("" if actual == predicted else f" (said {predicted / 2**20:.2f})")

    return column


SPEED: dict[str, Column] = {
    "ms/chunk": lambda row: f"{row['steady_ms']:.1f}",
    "CPU ms": lambda row: f"{row['steady_cpu_ms']:.1f}" if row["steady_cpu_ms"] else "-",
    "FPS": lambda row: f"{row['fps']:.2f}",
    "attn GFLOP": lambda row: f"{row['flops']['self_attention'] / 1e9:.3g}",
    "GFLOP": lambda row: f"{row['flops']['total'] / 1e9:.3g}",
    "attn %": lambda row: f"{100 * row['flops']['attention_share']:.0f}",
    "TFLOP/s": lambda row: f"{row['tflops_per_s']:.3g}",
    "x dense": _ratio(0, "speedup"),
    "by FLOPs": _ratio(0, "expected"),
    "reached": _ratio(0, "of_expected"),
    "in CPU ms": _ratio(0, "cpu_of_expected"),
    "x window": _ratio(1, "speedup"),
    "by FLOPs ": _ratio(1, "expected"),
}
MEMORY: dict[str, Column] = {
    "dummy/sink/neighb.": _roles,
    "cached mean": lambda row: f"{row['cached_frames']['mean']:.2f}",
    "max": lambda row: f"{row['cached_frames']['max']}",
    "of clip": lambda row: f"{row['context_ratio']:.2f}",
    "history MiB": _bytes("history"),
    "resident": _bytes("resident"),
    "peak": _bytes("peak"),
    "GPU peak": lambda row: f"{row['bytes']['device_peak'] / 2**20:.0f}" if row["bytes"]["device_peak"] else "-",
    "x dense": _ratio(0, "history"),
    "late / chunk 10": lambda row: f"{row['late_over_chunk_10']:.3f}" if row["late_over_chunk_10"] else "-",
}


def _table(rows: list[Figures], columns: Mapping[str, Column]) -> list[str]:
    cells = [list(columns), *([column(row) for column in columns.values()] for row in rows)]
    widths = [2 + max(len(line[i]) for line in cells) for i in range(len(columns))]
    names = ["", *(row["row"] for row in rows)]
    return [
        f"{name:<{NAME_WIDTH}}" + "".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        for name, line in zip(names, cells, strict=True)
    ]


def _chunks(row: Figures) -> str:
    ms = [f"{value:.0f}" for value in row["chunk_ms"]]
    shown = ms if len(ms) <= SHOWN_CHUNKS else [*ms[: SHOWN_CHUNKS - 4], "...", *ms[-3:]]
    return f"{row['row']:<{NAME_WIDTH}}" + "".join(f"{value:>8}" for value in shown)


def report(document: Figures) -> str:
    """Speed, memory, ms by chunk, the cost of classifying, the proof."""
    rows = document["rows"]
    lines = ["", "Speed of a steady chunk (x dense, x window: against the first two rows of the same clip length)"]
    lines += _table(rows, SPEED)
    lines += [
        "",
        "Memory (history in latent frames per head; of clip: its mean over the clip's frames, the context ratio)",
        *_table(rows, MEMORY),
    ]
    lines += ["", "ms per chunk by index (rows with a given start: it is chunk 0)", *map(_chunks, rows)]
    lines += ["", "Classifying the heads once, in the observed chunk, ms"]
    lines += [f"{name:<{NAME_WIDTH + 8}}{ms:>10.2f}" for name, ms in document["classification_ms"].items()]
    if document["proof"]:
        lines += ["", f"Proof: {document['proof']}"]
    return "\n".join(lines)
