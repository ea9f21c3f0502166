"""The figures of reproduce.py as Markdown tables, published beside measured."""

from collections.abc import Sequence
from typing import Any

from dummyforcing_core.evaluation.profiling import PAPER_CURRENT_SHARE, PAPER_OVERLAP
from dummyforcing_core.evaluation.vbench_scores import QUALITY, SEMANTIC

# Setting and published totals, dense and Dummy Forcing; result files fill the first.
VBENCH = (("81 frames", "84.00", "83.90"), ("long context", "69.48", "69.38"), ("sliding window", "68.45", ""))
PUBLISHED_CLIP = (81, "7.92", "10.2")


def markdown(document: dict[str, Any]) -> str:
    """All tables."""
    lines = ["# The paper's tables on this machine", ""]
    lines += [f"- {name}: {value}" for name, value in document["conditions"].items()]
    lines += [f"- **{note}**" for note in document["notes"]]
    for part in (_speed, _whole_clip, _heads, _vbench):
        lines += ["", *part(document)]
    return "\n".join([*lines, ""])


def _speed(document: dict[str, Any]) -> list[str]:
    names = ["setting", "size", "latents", "published dense", "published DF", "ratio", "dense", "DF", "ratio"]
    lines = ["## Speed, DiT-only FPS (published: one H100)", ""]
    lines += _head(*names, "dense, last chunk", "DF, last chunk", "ratio", "K/V history ratio")
    for row in document["speed"]:
        dense, dummy = ((row[side] or {}) for side in ("dense", "dummy"))
        cells = [row["title"], row["size"], row["latents"], *row["published"], _published_ratio(*row["published"])]
        for key in ("clip_fps", "last_chunk_fps"):
            cells += [_number(dense.get(key)), _number(dummy.get(key)), _ratio(dummy.get(key), dense.get(key))]
        lines.append(_line([*cells, _ratio(dummy.get("history_bytes"), dense.get("history_bytes"))]))
    legend = "Ratios: Dummy Forcing (DF) to dense. TeaCache: step 2 (0 is the first) is skipped by name."
    return [*lines, "", f"{legend} Blank: not measured, or out of memory."]


def _whole_clip(document: dict[str, Any]) -> list[str]:
    whole = document["whole_clip"] or {"frames": "", "seconds": None, "fps": None}
    lines = ["## A whole clip under Dummy Forcing, decoded", "", *_head("", "frames", "seconds", "FPS")]
    lines.append(_line(["published", *PUBLISHED_CLIP]))
    return [*lines, _line(["here", whole["frames"], _number(whole["seconds"]), _number(whole["fps"])])]


def _heads(document: dict[str, Any]) -> list[str]:
    published = {"current share": PAPER_CURRENT_SHARE, **PAPER_OVERLAP}
    titles = {"current share": "heads with > 80 % of their mass on the current chunk"}
    lines = ["## Heads", "", *_head("", "published", "here")]
    for name, value in document["heads"].items():
        title = titles.get(name, f"overlap of dummy heads across {name}")
        lines.append(_line([title, _number(published[name]), _number(value)]))
    return lines


def _vbench(document: dict[str, Any]) -> list[str]:
    lines = ["## VBench, total score", "", *_head("setting", "published dense", "published DF", "dense", "DF")]
    for index, (title, *theirs) in enumerate(VBENCH):
        mine = [document["vbench"][side]["total"] for side in ("dense", "dummy")] if index == 0 else [None, None]
        lines.append(_line([title, *theirs, *map(_number, mine)]))
    for side, found in document["vbench"].items():
        if 0 < len(found["missing"]) < len(QUALITY) + len(SEMANTIC):
            lines += ["", f"{side}: no total without {', '.join(found['missing'])}"]
    return [*lines, "", "Scores need VBench's own networks: docs/vbench.md."]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _ratio(dummy: float | None, dense: float | None) -> str:
    return _number(dummy / dense) if dummy and dense else ""


def _published_ratio(dense: str, dummy: str) -> str:
    return f"{float(dummy) / float(dense):.2f}" if dummy and not dummy.startswith(">") else ""


def _head(*names: str) -> list[str]:
    return [_line(names), "|" + "---|" * len(names)]


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
