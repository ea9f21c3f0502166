"""The study as one picture: what a frame of history per head buys, in velocity error and in recall."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING

from .study_statistics import OURS

if TYPE_CHECKING:
    from PIL.Image import Image

PANEL, MARGIN, TOP, BOTTOM = (620, 500), 74, 46, 150
BACKGROUND, TEXT, GRID = (24, 24, 26), (205, 205, 210), (52, 52, 58)
FRAME_TICKS = (0.25, 0.5, 1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Series:
    """Rows of one look. shift: pixels to the side, so that ranges of equal frames stay apart."""

    title: str
    colour: tuple[int, int, int]
    table: str | None
    kinds: tuple[str, ...]
    line: bool = False
    shift: int = 0


SERIES = (
    Series("window", (125, 125, 135), None, ("window",), line=True),
    Series("first frame + window", (86, 150, 214), None, ("first + window",), line=True),
    Series("first 3 frames + window", (120, 205, 220), None, ("first 3 + window",), line=True),
    Series("Dummy Forcing, packed", (232, 134, 66), "packed", (OURS,)),
    Series("Dummy Forcing, not packed", (205, 92, 110), "bare", (OURS,)),
    Series("dummy heads bare, rest full", (104, 184, 118), "rest full", (OURS,)),
    Series("long context", (178, 130, 214), "long", (OURS,)),
)


@dataclass(frozen=True)
class Axis:
    """Values to pixels, linear or logarithmic."""

    low: float
    high: float
    first: int
    last: int
    log: bool

    def __call__(self, value: float) -> float:
        scale: Callable[[float], float] = log10 if self.log else float
        value = min(max(value, self.low), self.high)
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.first + share * (self.last - self.first)


def draw(document: dict) -> Image:
    """Velocity error against frames per head and, if there is a world, recall after the main gap."""
    from PIL import Image, ImageDraw, ImageFont

    metrics = ["error"] + [f"recall_{document['conditions']['main_scene']}"] * bool(document["conditions"]["gaps"])
    width, height = PANEL
    image = Image.new("RGB", (len(metrics) * (width + MARGIN) + 30, TOP + height + BOTTOM), BACKGROUND)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for i, metric in enumerate(metrics):
        _panel(pen, font, document, metric, MARGIN + i * (width + MARGIN))
    _legend(pen, font, MARGIN, TOP + height + 58)
    return image


def _panel(pen, font, document: dict, metric: str, left: int) -> None:
    width, height = PANEL
    x = Axis(0.2, 20, left, left + width, log=True)
    y, ticks, title = _vertical(document, metric)
    pen.text((left, TOP - 28), title, TEXT, font)
    for tick in FRAME_TICKS:
        pen.line((x(tick), TOP, x(tick), TOP + height), GRID)
        pen.text((x(tick), TOP + height + 6), f"{tick:g}", TEXT, font, anchor="ma")
    for tick in ticks:
        pen.line((left, y(tick), left + width, y(tick)), GRID)
        pen.text((left - 8, y(tick)), f"{tick:g}", TEXT, font, anchor="rm")
    pen.text((left + width / 2, TOP + height + 26), "history frames per head (log scale)", TEXT, font, anchor="ma")
    for series in SERIES:
        _plot(pen, document, metric, series, x, y)
    dense = next((row for row in document["rows"] if row["kind"] == "full cache"), None)
    if dense is not None and metric != "error":
        mean = y(dense["metrics"][metric]["mean"])
        for start in range(left, left + width, 12):
            pen.line((start, mean, start + 6, mean), TEXT)
        pen.text((left + 6, mean - 18), "full cache", TEXT, font)


def _vertical(document: dict, metric: str) -> tuple[Axis, Sequence[float], str]:
    height = PANEL[1]
    if metric != "error":
        ticks = [i / 10 for i in range(11)]
        return Axis(0, 1, TOP + height, TOP, log=False), ticks, f"{metric.replace('_', ' ')} dark chunks"
    values = [row["metrics"]["error"]["mean"] for row in document["rows"] + document["random"]]
    values = [value for value in values if value > 0] or [0.1]
    low, high = 10 ** int(log10(min(values)) - 1), max(values) * 1.5
    ticks = [base * 10**power for power in range(-6, 2) for base in (1, 2, 5)]
    axis = Axis(max(low, min(values) * 0.7), high, TOP + height, TOP, log=True)
    return axis, [tick for tick in ticks if axis.low <= tick <= axis.high], "teacher-forced velocity error (log scale)"


def _plot(pen, document: dict, metric: str, series: Series, x: Axis, y: Axis) -> None:
    """Means with their intervals; the range of the random draws as a thin bar beside."""
    rows = [r for r in document["rows"] if r["kind"].split(" ")[0] == "window" and r["table"] == "uniform"]
    rows = rows if series.kinds == ("window",) else []
    rows += [r for r in document["rows"] if r["kind"] in series.kinds and series.table in (None, r["table"])]
    rows = sorted((row for row in rows if row["frames"] > 0), key=lambda row: row["frames"])
    points = [(x(row["frames"]), y(row["metrics"][metric]["mean"]), row) for row in rows]
    if series.line and points:
        pen.line([(px, py) for px, py, _ in points], series.colour, 2)
    for px, py, row in points:
        m = row["metrics"][metric]
        pen.line((px, y(m["low"]), px, y(m["high"])), series.colour, 2)
        size = 3 if series.line else 6
        pen.ellipse((px - size, py - size, px + size, py + size), series.colour)
    for row in document["random"] if series.table else []:
        if row["table"] == series.table and row["frames"] > 0 and metric in row["metrics"]:
            m, px = row["metrics"][metric], x(row["frames"]) + 11
            for value in (m["min"], m["max"]):
                pen.line((px - 4, y(value), px + 4, y(value)), series.colour, 2)
            pen.line((px, y(m["min"]), px, y(m["max"])), series.colour, 1)
            pen.rectangle((px - 2, y(m["mean"]) - 2, px + 2, y(m["mean"]) + 2), series.colour)


def _legend(pen, font, left: int, top: int) -> None:
    for i, series in enumerate(SERIES):
        px, py = left + 270 * (i % 4), top + 24 * (i // 4)
        pen.ellipse((px, py + 3, px + 11, py + 14), series.colour)
        pen.text((px + 18, py), series.title, TEXT, font)
    note = "dots: head-aware, 90 % interval over clips; bars beside them: least, mean and greatest of the random draws"
    pen.text((left, top + 56), note, (150, 150, 156), font)
