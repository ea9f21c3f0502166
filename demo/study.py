"""Head policies at equal memory, on the same clips and noise: one command, one table.

python -m demo.study --out out/study     run again to go on; each policy and task is a line of results.jsonl
python -m demo.study --policies long --tasks "gap 10" "conflict, gap 10" "steady 40"     the kinds: study_tasks.py

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
from dummyforcing_core.models.families import DEMO, get_family
from dummyforcing_core.policies import Setting

from .study_measure import ceiling, errors, interval, measured
from .study_policies import LONG_CHUNKS, Entry, entries, long_entries
from .study_tasks import Task, take_profiles

SHORT, LONG = "short", "long"


@dataclass(frozen=True)
class Settings:
    """What every figure hangs on: a file of the demo family, how many clips, which ones, and those of the profiles."""

    model: str
    clips: int
    fresh: bool
    profile_clips: int


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO, help="the bundled model, or another file of its family")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--fresh", action="store_true", help="other clips and noise, to confirm what was chosen")
    parser.add_argument("--profile-clips", type=int, default=16, help="clips that heads are scored on (default: 16)")
    gaps = ["gap 3", "gap 0", "gap 6", "recoloured, gap 3"]
    parser.add_argument("--tasks", nargs="+", default=gaps, help="kind and chunks; random heads do the first alone")
    parser.add_argument("--errors", nargs="*", default=gaps[:1], metavar="TASK", help="with teacher-forced errors")
    parser.add_argument("--policies", choices=(SHORT, LONG), default=SHORT, help="of equal memory, or long ones")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="of the policies, e.g. 'full cache' 'window 6'")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.25, 0.5, 0.75], help="shares of dummy heads")
    parser.add_argument("--draws", type=int, default=10, help="random choices of heads per share (default: 10)")
    parser.add_argument("--batch", type=int, default=16, help="clips made at a time (default: 16)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of one thread each")
    parser.add_argument(
        "--out", type=Path, default=Path("out/study"), help="folder of results.jsonl and study_table.md"
    )
    return parser.parse_args(words)


@cache
def _model(name: str) -> WanDenoiser:
    return WanDenoiser((load_demo_model() if name == DEMO else load_model(name, DEMO)).model)


@cache
def _task(settings: Settings, name: str) -> Task:
    return Task.named(name, settings.clips, settings.fresh)


@torch.no_grad()
def chosen_entries(given: argparse.Namespace, settings: Settings) -> list[Entry]:
    """The policies, or those of the keys that are wanted."""
    denoise, family = _model(settings.model), get_family(DEMO)
    model, frames = denoise.geometry, family.chunk_frames
    setting = Setting(model.layers, model.heads, family, frames, (LONG_CHUNKS + 1) * frames)  # of the trained length
    profiles = take_profiles(denoise, settings.profile_clips)
    if given.policies == LONG:
        known = long_entries(setting, profiles)
    else:
        known = entries(setting, profiles, given.ratios, given.draws)
    by_key = {entry.key: entry for entry in known}
    if unknown := set(given.only or ()) - set(by_key):
        raise DummyForcingError(
            f"expected --only of {', '.join(by_key)}, got {', '.join(sorted(unknown))}; choose of them"
        )
    return [by_key[key] for key in given.only or by_key]


def _measure(settings: Settings, entry: Entry, name: str, batch: int, with_errors: bool) -> dict:
    """One row, in a process of one thread."""
    torch.set_num_threads(1)
    denoise, task = _model(settings.model), _task(settings, name)
    row = measured(denoise, load_demo_codec(), entry, task, batch)
    if with_errors:
        row["values"]["error"] = errors(denoise, entry, task)
    return row


def measure_all(given: argparse.Namespace, settings: Settings, log: Path) -> list[dict]:
    """A row for every policy and task; what is in the log, with its error if that is wanted, is not measured again."""
    identity = json.dumps(asdict(settings))
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    done = {(row["key"], row["task"]): row for row in map(json.loads, lines) if row["settings"] == identity}
    jobs = {
        (entry.key, name): (entry, name, given.batch, name in given.errors)
        for entry in chosen_entries(given, settings)
        for name in (given.tasks if entry.draw is None else given.tasks[:1])
    }
    left = [job for key, job in jobs.items() if key not in done or (job[3] and "error" not in done[key]["values"])]
    with log.open("a", encoding="utf-8") as file, ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        for number, job in enumerate(as_completed([pool.submit(_measure, settings, *job) for job in left]), 1):
            row = job.result() | {"settings": identity}
            done[row["key"], row["task"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"{number}/{len(left)}  {row['key']}; {row['task']}; {row['seconds']:.0f} s", flush=True)
    return [done[key] for key in jobs]


def table(rows: Sequence[dict], truth: dict[str, float]) -> str:
    """Markdown. Frames and KiB are of the first task. Brackets: 90 % bootstrap over clips; of random heads: least and
    greatest draw's mean."""
    names = list(dict.fromkeys(name for row in rows for name in _values(row)))
    lines = [f"| policy | frames | KiB | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for name, group in _grouped(rows):
        first = [row for row in group if row["task"] == group[0]["task"]]
        frames, size = (sum(row[what] for row in first) / len(first) for what in ("frames", "bytes"))
        cells = [_cell(one, [_values(row)[one] for row in group if one in _values(row)]) for one in names]
        lines.append(f"| {name} | {frames:.2f} | {size / 1024:.0f} | {' | '.join(cells)} |")
    cells = [f"{truth[name]:.2f}" if name in truth else "-" for name in names]
    return "\n".join([*lines, f"| the truth through the codec | - | - | {' | '.join(cells)} |"]) + "\n"


def _values(row: dict) -> dict[str, list[float]]:
    """A row's measures by the names of their columns."""
    return {f"{name}, {row['task']}": values for name, values in row["values"].items()}


def _grouped(rows: Sequence[dict]) -> Iterator[tuple[str, list[dict]]]:
    """Rows by name: random draws are one line."""
    for name in dict.fromkeys(row["name"] for row in rows):
        yield name, [row for row in rows if row["name"] == name]


def _cell(measure: str, draws: Sequence[Sequence[float]]) -> str:
    if not draws:
        return "-"
    digits = 4 if measure.startswith("error") else 2
    means = [float(np.nanmean(values)) for values in draws]
    low, high = interval(np.array(draws[0])) if len(draws) == 1 else (min(means), max(means))
    return f"{sum(means) / len(means):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main(words: Sequence[str] | None = None) -> None:
    given = parse(words)
    settings = Settings(given.model, given.clips, given.fresh, given.profile_clips)
    truth: dict[str, float] = {}
    for name in given.tasks:  # first: a name that is none must not wait
        truth |= ceiling(load_demo_codec(), _task(settings, name))
    make_folder(given.out)
    page = table(measure_all(given, settings, given.out / "results.jsonl"), truth)
    (given.out / "study_table.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
