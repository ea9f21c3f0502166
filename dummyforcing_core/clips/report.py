"""Where the time and the memory of a run went: measured numbers in, derived numbers and a table out."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import shown
from ..files import json_text, write_atomic
from ..geometry import TEMPORAL
from ..loops.run import ChunkResult
from ..rates import fine_clock
from .bank_history import BankChange, held_text

_MEBIBYTE = 2**20
_WIDTH, _NAME_WIDTH = 64, 20
_LONGEST = 2000  # characters of one value, a whole story
_MEMORY_ROWS = (("history_bytes", "history"), ("resident_bytes", "resident"), ("peak_bytes", "peak"))


@dataclass(frozen=True)
class ChunkTiming:
    """One chunk. start_frame and frames count latent frames.

    window_full: the cache held all it ever will, so that later chunks cost the same.
    """

    index: int
    start_frame: int
    frames: int
    diffuse_ms: float
    decode_ms: float
    window_full: bool

    @property
    def pixel_frames(self) -> int:
        """The first latent frame of a clip gives one pixel frame, every later one four."""
        return TEMPORAL * self.frames - (TEMPORAL - 1 if self.start_frame == 0 and self.frames else 0)


@dataclass
class RunReport:
    """What one run measured. Everything else (totals, shares, FPS) is derived when asked for.

    conditions: what a reader needs to repeat it, in the order to print: model, family, policy, device, dtype, size,
        frames, seed, backend, versions, ...; any JSON values.
    init_ms: loading and warming up. first_frame_ms: from the start of the run to the first pixel frame.
    total_ms: from the start of the run to the closed file, so init, diffusion, decode and the rest.
    memory: {"history_bytes" | "resident_bytes" | "peak_bytes": {"predicted": bytes, "actual": bytes},
        "cached_frames": {"mean": latent frames per head, "max": ..., "context_ratio": mean / frames of the clip}}; what
        was not measured is left out or None.
    bank: what was held of the clip in a bank, one entry per change; empty if there was none.
    """

    conditions: dict[str, Any] = field(default_factory=dict)
    init_ms: float = 0.0
    chunks: list[ChunkTiming] = field(default_factory=list)
    total_ms: float = 0.0
    first_frame_ms: float = 0.0
    memory: dict[str, Mapping[str, float | None]] = field(default_factory=dict)
    bank: list[BankChange] = field(default_factory=list)

    def add_chunk(self, chunk: ChunkResult, diffuse_ms: float, decode_ms: float, since_start_ms: float) -> None:
        """The next chunk of the clip, whose first pixels were there `since_start_ms` after the run began."""
        self.first_frame_ms = self.first_frame_ms or since_start_ms
        span, full = chunk.span, chunk.window_full
        self.chunks.append(ChunkTiming(span.chunk, span.start, span.frames, diffuse_ms, decode_ms, full))

    @property
    def diffusion_ms(self) -> float:
        return sum(chunk.diffuse_ms for chunk in self.chunks)

    @property
    def decode_ms(self) -> float:
        return sum(chunk.decode_ms for chunk in self.chunks)

    @property
    def other_ms(self) -> float:
        """What is neither initialisation nor diffusion nor decode: writing the video, the table, the disk."""
        return max(0.0, self.total_ms - self.init_ms - self.diffusion_ms - self.decode_ms)

    @property
    def latent_frames(self) -> int:
        return sum(chunk.frames for chunk in self.chunks)

    @property
    def pixel_frames(self) -> int:
        """4 * (T - 1) + 1 for a clip of T latent frames that begins at frame 0."""
        return sum(chunk.pixel_frames for chunk in self.chunks)

    @property
    def dit_fps(self) -> float:
        """Pixel frames per second of diffusion alone, the "DiT-only" number of the papers; 0 if nothing ran."""
        return _per_second(self.pixel_frames, self.diffusion_ms)

    @property
    def end_to_end_fps(self) -> float:
        """Pixel frames per second of the whole run, initialisation included; 0 if nothing ran."""
        return _per_second(self.pixel_frames, self.total_ms)

    @property
    def steady_ms(self) -> float | None:
        """Mean diffusion time of the chunks whose window was full, in ms; None while there is none."""
        steady = [chunk.diffuse_ms for chunk in self.chunks if chunk.window_full]
        return sum(steady) / len(steady) if steady else None

    def percent(self, ms: float) -> float:
        """The share of a time in the whole run, in %."""
        return 100 * ms / self.total_ms if self.total_ms else 0.0

    def table(self) -> str:
        """The report as text, ready to print: no line is wider than 64 characters."""
        lines = [_rule("run"), *_pairs(self.conditions), _rule("time"), _row("", "ms", "% of total")]
        for name, ms in self._components():
            lines.append(_row(name, f"{ms:.1f}", f"{self.percent(ms):.1f}"))
        if self.chunks:
            lines += [_rule("chunks, share of diffusion"), *self._chunk_rows()]
        lines += [_rule("speed"), *_pairs(self._speed())]
        if self.memory:
            lines += [_rule("memory"), *self._memory_rows()]
        if self.bank:
            lines += [_rule("remembered"), *self._bank_rows()]
        return "\n".join([*lines, "-" * _WIDTH])

    def to_json(self) -> str:
        """The report as a JSON document: what was measured, and what follows from it under "derived"."""
        derived = {
            "latent_frames": self.latent_frames,
            "pixel_frames": self.pixel_frames,
            "diffusion_ms": self.diffusion_ms,
            "decode_ms": self.decode_ms,
            "other_ms": self.other_ms,
            "percent": {name: self.percent(ms) for name, ms in self._components()},
            "dit_fps": self.dit_fps,
            "end_to_end_fps": self.end_to_end_fps,
            "steady_chunk_ms": self.steady_ms,
        }
        document = {"format": "dummyforcing-report", "version": 1, **asdict(self), "derived": derived}
        return json_text(document, indent=2)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write to_json() as a file, whole or not at all; OutputError if it cannot be written."""
        write_atomic(path, self.to_json().encode("utf-8"))

    def _components(self) -> list[tuple[str, float]]:
        return [
            ("initialisation", self.init_ms),
            ("diffusion", self.diffusion_ms),
            ("decode", self.decode_ms),
            ("other", self.other_ms),
            ("total", self.total_ms),
        ]

    def _chunk_rows(self) -> list[str]:
        lines = [f"{'chunk':>5}{'latents':>11}{'diffuse ms':>13}{'share %':>11}{'decode ms':>12}{'window':>12}"]
        for chunk in self.chunks:
            span = f"{chunk.start_frame}..{chunk.start_frame + chunk.frames - 1}"
            share = 100 * chunk.diffuse_ms / self.diffusion_ms if self.diffusion_ms else 0.0
            window = "full" if chunk.window_full else "filling"
            lines.append(
                f"{chunk.index:>5}{span:>11}{chunk.diffuse_ms:>13.1f}{share:>11.1f}{chunk.decode_ms:>12.1f}{window:>12}"
            )
        return lines

    def _speed(self) -> dict[str, str]:
        speed = {
            "frames": f"{self.pixel_frames} ({self.latent_frames} latent)",
            "DiT-only": f"{self.dit_fps:.2f} FPS",
            "end to end": f"{self.end_to_end_fps:.2f} FPS",
            "first frame after": f"{self.first_frame_ms:.1f} ms",
        }
        if self.steady_ms is not None:
            speed["chunk, window full"] = f"{self.steady_ms:.1f} ms"
        return speed

    def _memory_rows(self) -> list[str]:
        lines = []
        sizes = [(label, self.memory[key]) for key, label in _MEMORY_ROWS if key in self.memory]
        if sizes:
            lines.append(_row("", "predicted", "actual"))
        for label, size in sizes:
            lines.append(_row(f"{label}, MiB", _mebibytes(size.get("predicted")), _mebibytes(size.get("actual"))))
        cached = self.memory.get("cached_frames")
        if cached is not None:
            mean, most = cached.get("mean"), cached.get("max")
            text = ", ".join(
                [*([f"mean {mean:.2f}"] if mean is not None else []), *([f"max {most:g}"] if most is not None else [])]
            )
            lines += _pairs({"cached latents": f"{text or '-'} per head"})
            ratio = cached.get("context_ratio")
            if ratio is not None:
                lines += _pairs({"context ratio": f"{ratio:.3f} of the clip, mean over heads"})
        return lines

    def _bank_rows(self) -> list[str]:
        lines = _pairs({"at the end": held_text(self.bank[-1].held)})
        for change in self.bank:
            lines += _pairs({f"from {fine_clock(change.seconds)} on": held_text(change.held)})
        return lines


def _per_second(frames: int, ms: float) -> float:
    return 1000 * frames / ms if ms else 0.0


def _mebibytes(count: float | None) -> str:
    return "-" if count is None else f"{count / _MEBIBYTE:.2f}"


def _rule(title: str) -> str:
    return f"-- {title} ".ljust(_WIDTH, "-")


def _row(name: str, first: str, second: str) -> str:
    return f"{name:<30}{first:>17}{second:>17}".rstrip()


def _pairs(values: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in values.items():
        first, *more = textwrap.wrap(_plain(value), _WIDTH - _NAME_WIDTH) or [""]
        lines.append(f"{name:<{_NAME_WIDTH - 1}} {first}".rstrip())
        lines += [" " * _NAME_WIDTH + line for line in more]
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    return "-" if value is None else shown(value, _LONGEST)


def ms_since(began: float) -> float:
    """Milliseconds since a time.perf_counter()."""
    return 1000 * (time.perf_counter() - began)
