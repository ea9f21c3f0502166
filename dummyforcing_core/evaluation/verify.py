"""Checks of one checkpoint, each a line that says what was measured, what is expected, and a verdict.

PASS or FAIL where a threshold can be defended: damage, non-finite numbers, memory that is not what the plan estimated.
INFO where a figure is to be compared by a reader: a model that does not reach a paper's figure is not broken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..clips.report import RunReport
from ..errors import shown
from ..files import json_text
from ..kv.scoring import HeadScores
from ..models.scaled_fp8 import dequantised
from ..models.wan import WanConfig
from ..models.wan_geometry import size_of
from .comparison import Row
from .profiling import CURRENT_MASS, PAPER_CURRENT_SHARE, PAPER_OVERLAP, Sample, current_share, overlaps

Verdict = Literal["PASS", "FAIL", "INFO"]
FORMAT = "dummyforcing.verify"
VERSION = 1
MASS_TOLERANCE = 1e-3
WORST_VELOCITY_ERROR = 1.0  # relative L2: as far off as predicting nothing at all
SAME = 1e-3  # relative L2 of a computation repeated on one device; 0 where its kernels are deterministic


@dataclass(frozen=True)
class Check:
    """One line of the page."""

    name: str
    measured: str
    expected: str
    verdict: Verdict


@dataclass
class Page:
    """All checks of one checkpoint under stated conditions."""

    title: str
    conditions: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    def add(self, name: str, measured: str, expected: str = "", ok: bool | None = None) -> None:
        """A line; ok None makes it INFO."""
        self.checks.append(Check(name, measured, expected, "INFO" if ok is None else "PASS" if ok else "FAIL"))

    @property
    def verdict(self) -> Verdict:
        return "FAIL" if any(check.verdict == "FAIL" for check in self.checks) else "PASS"

    def summary(self) -> str:
        """The verdict and how many lines of each kind there are."""
        counts = [f"{sum(c.verdict == kind for c in self.checks)} {kind}" for kind in ("PASS", "FAIL", "INFO")]
        return f"{self.verdict}: {', '.join(counts)}"

    def text(self) -> str:
        """For a terminal."""
        width = max((len(check.name) for check in self.checks), default=0)
        lines = [f"{_line(self.title)}: {self.summary()}", ""]
        lines += [f"  {name}: {_line(value)}" for name, value in self.conditions.items()] + [""]
        for check in self.checks:
            label = "" if check.verdict == "INFO" else "expected: "
            expected = f"   ({label}{_line(check.expected)})" if check.expected else ""
            lines.append(f"{check.verdict}  {check.name:<{width}}  {_line(check.measured)}{expected}")
        return "\n".join(lines)

    def markdown(self) -> str:
        """For an issue or a forum."""
        lines = [f"# {_line(self.title)}: {self.verdict}", "", self.summary(), "", "| | |", "|---|---|"]
        lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in self.conditions.items()]
        lines += ["", "| check | measured | expected | |", "|---|---|---|---|"]
        lines += [f"| {_cell(c.name)} | {_cell(c.measured)} | {_cell(c.expected)} | {c.verdict} |" for c in self.checks]
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """For a program."""
        document = {"format": FORMAT, "version": VERSION, "verdict": self.verdict, **asdict(self)}
        return json_text(document, indent=1)


def _line(value: object) -> str:
    """What may come from a file or its name, on one line."""
    return shown(value, 2000)


def _cell(value: object) -> str:
    return _line(value).replace("|", "\\|")


def check_tensors(
    page: Page, tensors: Mapping[str, Tensor], config: WanConfig, scales: Mapping[str, Tensor] | None = None
) -> None:
    """Geometry and values; tensors under official names, complete (read_checkpoint saw to that), and their scales."""
    size = size_of(config)
    named = f"Wan2.1 {size}" if size else "a size of its own"
    numbers = sum(tensor.numel() for tensor in tensors.values())
    expected = 15 + 27 * config.num_layers
    page.add("tensors", f"{len(tensors)}, {numbers / 1e6:,.1f} M numbers", f"{expected}", len(tensors) == expected)
    page.add("geometry", f"{config.num_layers} layers x {config.num_heads} heads, dim {config.dim}: {named}")
    broken: list[str] = []
    empty: list[str] = []
    largest, where = 0.0, ""
    for name, tensor in tensors.items():
        low, high = (float(x) for x in torch.aminmax(dequantised(tensor.detach(), (scales or {}).get(name)).float()))
        peak = max(-low, high)
        if not (low > float("-inf") and high < float("inf")):  # also where both are NaN
            broken.append(name)
        elif tensor.ndim > 1 and peak == 0 and name.endswith(".weight"):
            empty.append(name)
        elif peak > largest:
            largest, where = peak, name
    page.add("NaN or infinity", _listed(broken), "in no tensor", not broken)
    page.add("empty matrices", _listed(empty), "none: a trained matrix is not all zeros", not empty)
    page.add("largest value", f"{largest:.4g} in {where}", "float16 ends at 65504")


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else "none"


def check_heads(page: Page, samples: Sequence[Sample], dummies: int) -> None:
    """What heads look at, and how stable the choice of `dummies` dummy heads is (arXiv 2601.20499, section 3)."""
    if not samples:
        page.add("attention scores", "none: no chunk had neighbour frames", "use more --frames")
        return
    scores = HeadScores.mean([sample.scores for sample in samples])
    sums = torch.stack([sample.scores.mass for sample in samples]).sum(-1)
    worst = float((sums - 1).abs().max())
    ok = bool(sums.isfinite().all()) and worst <= MASS_TOLERANCE
    page.add(
        "attention scores", f"{len(samples)} passes, sums off by {worst:.1e} at most", f"<= {MASS_TOLERANCE:g}", ok
    )
    if not ok:
        return
    share = float(current_share(scores).mean())
    page.add(
        f"heads with > {CURRENT_MASS:.0%} of mass on the current chunk",
        f"{share:.1%}",
        f"paper: ~{PAPER_CURRENT_SHARE:.0%}",
    )
    total = scores.mass.shape[0] * scores.mass.shape[1]
    chance = dummies / total
    for name, value in overlaps(samples, dummies).items():
        measured = "no pair to compare" if value is None else f"{value:.2f}"
        page.add(
            f"overlap of {dummies} dummy heads across {name}",
            measured,
            f"paper: {PAPER_OVERLAP[name]:.2f}, chance: {chance:.2f}",
        )


def check_costs(page: Page, dense: Row, dummy: Row, from_chunk: int, on_gpu: bool) -> None:
    """Error, memory and speed of Dummy Forcing beside the dense clip of the same prompt and noise.

    from_chunk -- chunks compared for speed: those after the heads were sorted
    """
    repeat = dense.velocity_error
    page.add(
        "dense against itself, teacher-forced",
        f"velocity error {repeat:.2e}",
        f"<= {SAME:g}: the measure is exact",
        repeat <= SAME,
    )
    error, heads = dummy.velocity_error, float(dummy.head_error.mean())
    page.add(
        "Dummy Forcing against dense, teacher-forced",
        f"velocity error {error:.4f}, head error {heads:.4f}",
        f"< {WORST_VELOCITY_ERROR:g}: the error of predicting nothing",
        error < WORST_VELOCITY_ERROR,
    )
    for title, row in (("dense", dense), ("Dummy Forcing", dummy)):
        check_bytes(page, title, row.report)
    mine, theirs = (float(row.report.memory["history_bytes"]["actual"] or 0) for row in (dummy, dense))
    if theirs:
        page.add("K/V history, Dummy Forcing against dense", f"{mine / theirs:.2f} x")
    first, second = (chunk_fps(row.report, from_chunk) for row in (dense, dummy))
    if first is not None and second is not None:
        absolute = f" ({first:.2f} -> {second:.2f} FPS DiT-only)" if on_gpu else ", on a CPU"
        page.add(
            "speed, Dummy Forcing against dense",
            f"{second / first:.2f} x{absolute}",
            "paper, 480p: 1.4 x (17.56 -> 24.30, H100)",
        )


def check_bytes(page: Page, title: str, report: RunReport) -> None:
    """Predicted and allocated K/V bytes must be one number."""
    sizes = {name: report.memory[f"{name}_bytes"] for name in ("history", "resident", "peak")}
    ok = all(size["predicted"] == size["actual"] for size in sizes.values())
    measured = ", ".join(f"{name} {int(size['actual'] or 0):,}" for name, size in sizes.items())
    wrong = ", ".join(f"{name} {int(size['predicted'] or 0):,}" for name, size in sizes.items())
    page.add(f"K/V bytes, {title}", measured, "as the plan estimated them" if ok else f"the plan's {wrong}", ok)


def chunk_fps(report: RunReport, from_chunk: int) -> float | None:
    """DiT-only FPS of the fastest chunk from ordinal `from_chunk` on, warm-up and first chunks aside."""
    chunks = [chunk for chunk in report.chunks if chunk.index >= from_chunk and chunk.diffuse_ms > 0]
    return max((1000 * chunk.pixel_frames / chunk.diffuse_ms for chunk in chunks), default=None)
