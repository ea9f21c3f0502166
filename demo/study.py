"""Head policies at equal memory, on the same clips and noise: one command, one table.

python -m demo.study --out out/study        run again to go on; each finished policy is a line of results.jsonl

docs/study.md was written from an earlier run of the same policies; what a new one says is written by a person.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from dummyforcing_core.clips.demo_assets import load_demo_codec
from dummyforcing_core.errors import DummyForcingError
from dummyforcing_core.files import make_folder
from dummyforcing_core.models.checkpoints import load_demo_model, load_model
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import DEMO
from dummyforcing_core.policies import Full

from .study_measure import ceiling, interval, measured
from .study_policies import Entry, entries
from .study_tasks import Task, take_profiles


@dataclass(frozen=True)
class Settings:
    """What is measured: a file of the demo family, how many clips of every gap, which shares of dummy heads."""

    model: str
    clips: int
    draws: int
    profile_clips: int
    gaps: tuple[int, ...]
    recoloured: tuple[int, ...]
    ratios: tuple[float, ...]


def parse(words: Sequence[str] | None) -> tuple[Settings, int, Path, list[str] | None]:
    """Settings, number of processes, folder, and the policies' keys if not all are wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO, help="the bundled model, or another file of its family")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--draws", type=int, default=10, help="random choices of heads per share (default: 10)")
    parser.add_argument("--profile-clips", type=int, default=16, help="clips that heads are scored on (default: 16)")
    parser.add_argument("--gaps", type=int, nargs="+", default=[3, 0, 6], help="dark chunks; errors are of the first")
    parser.add_argument("--recoloured", type=int, nargs="*", default=[3], help="likewise, after a change of colours")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="of the policies, e.g. 'full cache' 'window 6'")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.25, 0.5, 0.75], help="shares of dummy heads")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of one thread each")
    parser.add_argument(
        "--out", type=Path, default=Path("out/study"), help="folder of results.jsonl and study_table.md"
    )
    given = vars(parser.parse_args(words))
    workers, out, only = given.pop("workers"), given.pop("out"), given.pop("only")
    settings = Settings(**{name: tuple(x) if isinstance(x, list) else x for name, x in given.items()})
    return settings, workers, out, only


@cache
def _model(name: str) -> WanDenoiser:
    return WanDenoiser((load_demo_model() if name == DEMO else load_model(name, DEMO)).model)


@cache
def _tasks(settings: Settings) -> tuple[Task, ...]:
    plain = [Task.of_gap(settings.clips, gap) for gap in settings.gaps]
    return (*plain, *(Task.recoloured(settings.clips, gap) for gap in settings.recoloured))


@cache
@torch.no_grad()
def _entries(settings: Settings) -> list[Entry]:
    """Every policy; the same in every process."""
    denoise, first = _model(settings.model), _tasks(settings)[0]
    setting = first.run(denoise, 0, Full()).setting
    profiles = take_profiles(denoise, settings.profile_clips, setting.clip_frames // setting.chunk_frames)
    return entries(setting, profiles, settings.ratios, settings.draws)


def _measure(settings: Settings, number: int) -> dict:
    """One row, in a process of one thread."""
    torch.set_num_threads(1)
    return measured(_model(settings.model), load_demo_codec(), _entries(settings)[number], _tasks(settings))


def measure_all(settings: Settings, workers: int, log: Path, only: Sequence[str] | None = None) -> list[dict]:
    """A row for every policy, or for those of these keys; what is in the log is not measured again."""
    identity = json.dumps(asdict(settings))
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    done = {row["key"]: row for row in map(json.loads, lines) if row["settings"] == identity}
    known = [entry.key for entry in _entries(settings)]
    keys = known if only is None else list(only)
    if unknown := set(keys) - set(known):
        raise DummyForcingError(
            f"expected --only of {', '.join(known)}, got {', '.join(sorted(unknown))}; choose of them"
        )
    left = [known.index(key) for key in keys if key not in done]
    with log.open("a", encoding="utf-8") as file, ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for job in as_completed([pool.submit(_measure, settings, number) for number in left]):
            row = job.result() | {"settings": identity}
            done[row["key"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"{len(done)}/{len(keys)}  {row['key']}", flush=True)
    return [done[key] for key in keys]


def table(rows: Sequence[dict], truth: dict[str, float]) -> str:
    """Markdown. Brackets: 90 % bootstrap over clips; of random heads: least and greatest draw's mean."""
    names = list(rows[0]["values"])
    lines = [f"| policy | frames | KiB | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for name, group in _grouped(rows):
        frames, size = (sum(row[what] for row in group) / len(group) for what in ("frames", "bytes"))
        found = [row["values"] for row in group]
        cells = [_cell(measure, [values[measure] for values in found if measure in values]) for measure in names]
        lines.append(f"| {name} | {frames:.2f} | {size / 1024:.0f} | {' | '.join(cells)} |")
    cells = [f"{truth[name]:.2f}" if name in truth else "-" for name in names]
    return "\n".join([*lines, f"| the truth through the codec | - | - | {' | '.join(cells)} |"]) + "\n"


def _grouped(rows: Sequence[dict]) -> Iterator[tuple[str, list[dict]]]:
    """Rows by name: random draws are one line."""
    for name in dict.fromkeys(row["name"] for row in rows):
        yield name, [row for row in rows if row["name"] == name]


def _cell(measure: str, draws: Sequence[Sequence[float]]) -> str:
    if not draws:
        return "-"
    digits = 4 if measure == "error" else 2
    means = [float(np.nanmean(values)) for values in draws]
    low, high = interval(np.array(draws[0])) if len(draws) == 1 else (min(means), max(means))
    return f"{sum(means) / len(means):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main(words: Sequence[str] | None = None) -> None:
    settings, workers, out, only = parse(words)
    make_folder(out)
    rows = measure_all(settings, workers, out / "results.jsonl", only)
    truth: dict[str, float] = {}
    for task in _tasks(settings):
        truth |= ceiling(load_demo_codec(), task)
    page = table(rows, truth)
    (out / "study_table.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
