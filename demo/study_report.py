"""The study as one page of Markdown. Every number comes from the figures."""

from collections.abc import Sequence

from .study_reading import limits, metrics_of, number, reading
from .study_statistics import COVERAGE, OURS, RANDOM

SYMBOLS = {"better": "+", "worse": "-", "no difference": "o"}
TABLES = {
    "uniform": ("Every head alike", ""),
    "packed": (
        "Dummy Forcing, packed",
        "Sink heads keep frame 0, neighbour heads the last chunk, dummy heads one packed frame.",
    ),
    "bare": ("Dummy Forcing without packing", "The same, but dummy heads keep nothing."),
    "rest full": ("Dummy heads lose their history, the rest stays full", ""),
    "long": (
        "Long context",
        "Neighbour heads reach back 6 chunks (the whole clip here); packed; profile taken under that window.",
    ),
}


def markdown(document: dict) -> str:
    """The page."""
    parts = [
        "# Head policies at equal memory",
        _conditions(document),
        "![Velocity error and recall against history frames per head](study.png)",
        _heads(document),
        *(_table(document, name, *text) for name, text in TABLES.items()),
        _verdicts(document),
        reading(document),
        limits(document),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _conditions(document: dict) -> str:
    c = document["conditions"]
    clips = f"{c['clips']} clips of {c['latent_frames']} latent frames"
    text = (
        f"Written by `python -m demo.study` on {c['date']}. Model {c['model']} ({c['family']}), fingerprint "
        f"`{c['fingerprint']}`, {c['dtype']}, {c['device']}, torch {c['torch']}; {clips}, {c['draws']} random draws; "
        f"{c['process_minutes']:.0f} process minutes for {c['policies']} policies.\n\n"
        "- **Same start.** All policies run on the same prompts and noise and from the same chunk 0, which no memory "
        "can change.\n"
        "- **Velocity error**: relative L2 against the full cache, teacher-forced along the full cache's own clip, "
        "mean over the denoising steps and over the chunks with a history.\n"
    )
    if c["world"]:
        text += (
            "- **Recall after a dark gap**: two lit chunks, then so many dark ones in which both shapes are grey, then "
            "two lit ones whose prompts do not name the colours; share of coloured pixels with a true colour in the "
            "chunk in which the light returns. The clips are "
            + ", ".join(str(c["chunk_frames"] * (4 + gap)) for gap in c["gaps"])
            + " latent frames long; the model was trained on up to 21.\n"
            "- **Shapes kept**: share of the visible shapes that are there in the last chunk, in colour and kind.\n"
        )
    else:
        text += "- Recall and object persistence need the synthetic world's truth and are left out for this model.\n"
    return text + (
        "- **Frames**: mean history frames per head while the last chunk is made; KiB: their keys and values in one "
        "clip. Windows in a block hold as many frames in all as its first row; where these are too few for first and "
        "recent frames in every head (below 2, or 4 with three first frames), some heads hold first frames alone.\n"
        "- **Time**: diffusion of one clip over the full cache's, alternating in one process. At 16 tokens per frame "
        "attention is a small part of the work: this column says what the bookkeeping costs, not what is saved.\n"
        f"- Brackets: {COVERAGE:.0%} bootstrap interval over clips; for random heads least .. greatest of the draws "
        "(dummy, sink and neighbour roles in equal numbers, shuffled over the model).\n"
        f"- Velocity error, frames, bytes and time are of the clips of {c['main_scene'].replace('_', ' ')}; an empty "
        "cell was not measured.\n"
        "- **Profile, later chunks**: scores averaged over all steps of chunks 2 and later; **first chunk**: the clean "
        "pass of chunk 1, the paper's choice; both from "
        f"{document['heads']['profile_clips']} other clips. **Online**: each clip alone, scored in its own chunk 1 and "
        "again at every prompt switch."
    )


def _heads(document: dict) -> str:
    h = document["heads"]
    overlaps = ", ".join(
        f"{name} {number('overlap', value)} (paper {h['paper_overlap'][name]:.2f})"
        for name, value in h["overlap_half"].items()
    )
    first = ", ".join(f"{number('overlap', value)} at {ratio}" for ratio, value in h["first_later_overlap"].items())
    layers = ", ".join(f"{share:.0%}" for share in h["current_share_by_layer"])
    mass = ", ".join(f"{name} {number('mass', value)}" for name, value in h["mean_mass"].items())
    roles = "; ".join(
        f"{ratio}: {_counts(counts['first'])} (first chunk), {_counts(counts['later'])} (later)"
        for ratio, counts in h["roles"].items()
    )
    return (
        "## Heads\n"
        f"{h['layers']} layers x {h['heads']} heads. Mean attention mass: {mass}. Heads with more than 80 % of their "
        f"mass on the current chunk: {h['current_share']:.0%} (paper: about {h['paper_current_share']:.0%}); by layer "
        f"{layers}. Overlap of the lower half between {overlaps}. Dummy heads that first-chunk and later-chunk "
        f"profiles agree on: {first}. Sink / neighbour / dummy heads at {roles}."
    )


def _counts(roles: dict[str, int]) -> str:
    return " / ".join(map(str, roles.values()))


def _table(document: dict, name: str, title: str, note: str) -> str:
    rows = [row for row in document["rows"] if row["table"] == name]
    if not rows:
        return ""
    columns = {m: text for m, text in metrics_of(document).items() if any(m in row["metrics"] for row in rows)}
    head = ["dummy heads"] * (name != "uniform") + ["policy", "frames", "KiB", *columns.values(), "time"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for ratio in dict.fromkeys(row["ratio"] for row in rows):
        block = [row for row in rows if row["ratio"] == ratio]
        chance = [row for row in document["random"] if (row["table"], row["ratio"]) == (name, ratio)]
        cells = [_cells(row, row["kind"], columns, ("low", "high")) for row in block]
        cells[1:1] = [_cells(row, f"{RANDOM}, {row['draws']} draws", columns, ("min", "max")) for row in chance]
        for i, row_cells in enumerate(cells):
            share = [] if ratio is None else [f"{ratio:.0%}" if i == 0 else ""]
            lines.append(f"| {' | '.join(share + row_cells)} |")
    if name == "uniform" and document.get("ceiling"):
        lines.append(f"| {' | '.join(_ceiling(document, columns))} |")
    return f"## {title}\n" + (f"{note}\n\n" if note else "\n") + "\n".join(lines)


def _cells(row: dict, label: str, columns: dict[str, str], ends: tuple[str, str]) -> list[str]:
    found = [label, f"{row['frames']:.2f}", f"{row['bytes'] / 1024:.0f}"]
    for metric in columns:
        m = row["metrics"].get(metric)
        found.append("-" if m is None else _spread(metric, [m["mean"], *(m[end] for end in ends)]))
    return [*found, f"{row['time']:.2f}" if "time" in row else "-"]


def _spread(metric: str, values: Sequence[float]) -> str:
    """mean [low, high]; one number where the ends are equal."""
    mean, low, high = (number(metric, value) for value in values)
    return mean if low == high else f"{mean} [{low}, {high}]"


def _ceiling(document: dict, columns: dict[str, str]) -> list[str]:
    values = [number(metric, document["ceiling"].get(metric)) for metric in columns]
    return ["the truth through the codec", "-", "-", *values, "-"]


def _verdicts(document: dict) -> str:
    """One line per rival: a symbol per share of dummy heads."""
    columns = metrics_of(document)
    lines = []
    for table, (title, _) in TABLES.items():
        rows = [row for row in document["comparisons"] if row["table"] == table]
        chance = [row for row in document["against_random"] if row["table"] == table and row["kind"] == OURS]
        groups = {f"{RANDOM}, mean of the draws": chance} if chance else {}
        for row in rows:
            groups.setdefault(row["against"], []).append(row)
        for rival, group in groups.items():
            cells = [_symbols(group, metric) for metric in columns]
            lines.append(f"| {title} | {rival} | {_ratios(group)} | {' | '.join(cells)} |")
    if not lines:
        return ""
    head = ["head-aware setting", "against", "at", *columns.values()]
    return "\n".join(
        [
            "## Where intervals separate",
            f"Head-aware here is the profile of later chunks. + better, - worse, o no difference found: whether the "
            f"{COVERAGE:.0%} interval of the paired difference over clips excludes 0, one symbol per share of dummy "
            "heads. No correction for the number of comparisons.",
            "",
            f"| {' | '.join(head)} |",
            "|---" * len(head) + "|",
            *lines,
        ]
    )


def _symbols(group: Sequence[dict], metric: str) -> str:
    found = [SYMBOLS[row["metrics"][metric]["verdict"]] if metric in row["metrics"] else " " for row in group]
    return f"`{' '.join(found)}`" if any(symbol != " " for symbol in found) else ""


def _ratios(group: Sequence[dict]) -> str:
    return ", ".join(f"{row['ratio']:.0%}" for row in group)
