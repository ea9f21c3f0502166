"""Head policies at equal memory, on the same clips and noise: one command, one page of tables.

python -m demo.study --out docs

Other weights: `python -m demo.study --model FILE --text-embedding FILE --clips 8 --out out/study`; what needs the
synthetic world's truth is left out then. Finished policies are kept in --work, so that an interrupted run goes on.
"""

import argparse
import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path

import torch

from dummyforcing_core.cli.common import size
from dummyforcing_core.clips.contact_sheet import save_png
from dummyforcing_core.clips.render import device_name
from dummyforcing_core.files import make_folder

from .study_plot import draw
from .study_profiles import head_figures
from .study_report import markdown
from .study_statistics import summary
from .study_tasks import Settings, Work, entry_task, open_work, preparations, run


def parse(words: list[str] | None) -> tuple[Settings, Path, float | None]:
    """The options: settings, where the results go, and when to stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help='"demo" or a checkpoint file (default: demo)')
    parser.add_argument("--family", help="how the checkpoint was trained")
    parser.add_argument("--text-embedding", type=Path, metavar="FILE", help="text features; demo files need none")
    parser.add_argument("--size", type=size, metavar="WxH", help="pixels, for models other than the demo")
    parser.add_argument("--frames", type=int, default=81, help="pixel frames, likewise (default: 81)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", help="bf16, fp16, fp32 (default: bf16 on a GPU, fp32 on the CPU)")
    parser.add_argument("--attention", default="auto", help="attention backend (default: auto)")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--draws", type=int, default=10, help="random choices of heads per setting (default: 10)")
    parser.add_argument("--profile-clips", type=int, default=16, help="clips that heads are scored on (default: 16)")
    parser.add_argument("--gaps", type=int, nargs="+", default=[0, 3, 6], help="dark chunks (default: 0 3 6)")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.25, 0.5, 0.75], help="shares of dummy heads")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of one thread each")
    parser.add_argument("--work", type=Path, default=Path("out/study"), help="where finished parts are kept")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of study.md, .json, .png")
    parser.add_argument("--minutes", type=float, help="report what is finished after this time")
    given = vars(parser.parse_args(words))
    given |= {"gaps": tuple(sorted(given["gaps"])), "ratios": tuple(given["ratios"])}
    settings = Settings(**{name: given[name] for name in Settings.__dataclass_fields__})
    return settings, given["out"], given["minutes"]


def measure_all(work: Work, minutes: float | None) -> tuple[list[dict], float]:
    """What was measured of every policy, and the seconds that this run took of it."""
    began = time.monotonic()
    workers = work.settings.workers
    for done in run(preparations(work), workers):
        print(f"{time.monotonic() - began:5.0f} s  {done}", flush=True)
    log = work.folder / "results.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    results = {result["key"]: result for result in map(json.loads, lines)}
    keys = [entry.key for entry in work.entries()]
    tasks = [(entry_task, work.settings, i) for i, key in enumerate(keys) if key not in results]
    with log.open("a", encoding="utf-8") as file:
        for result in run(tasks, workers):
            results[result["key"]] = result
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(f"{time.monotonic() - began:5.0f} s  {len(results)}/{len(keys)}  {result['key']}", flush=True)
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                print("stopped by --minutes")
                break
    return [results[key] for key in keys if key in results], time.monotonic() - began


def conditions(work: Work, results: list[dict]) -> dict:
    """How the figures came about."""
    s, subject = work.settings, work.subject
    scene, geometry = work.scenes[work.main], subject.denoise.geometry
    threads = (
        f"CPU, {torch.get_num_threads()} thread" if geometry.device.type == "cpu" else device_name(geometry.device)
    )
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "model": subject.name,
        "family": subject.family.name,
        "fingerprint": subject.fingerprint,
        "device": threads,
        "dtype": str(geometry.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "world": subject.codec is not None,
        "clips": s.clips,
        "draws": s.draws,
        "ratios": list(s.ratios),
        "gaps": list(s.gaps) if subject.codec is not None else [],
        "main_scene": work.main,
        "latent_frames": scene.setting(subject).clip_frames,
        "chunk_frames": subject.family.chunk_frames,
        "policies": len(results),
        "process_minutes": sum(result["seconds"] for result in results) / 60,
    }


def main(words: list[str] | None = None) -> None:
    settings, out, minutes = parse(words)
    work = open_work(settings)
    make_folder(work.folder)
    make_folder(out)
    results, seconds = measure_all(work, minutes)
    document = {"conditions": conditions(work, results)}
    document["heads"] = head_figures(work.samples(1), work.profiles(), settings.ratios)
    document["ceiling"] = work.ceiling()
    document |= summary(results, work.entries())
    (out / "study.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (out / "study.md").write_text(markdown(document), encoding="utf-8")
    save_png(draw(document), out / "study.png")
    print(f"wrote {out / 'study.md'}, .json, .png in {seconds / 60:.1f} min")


if __name__ == "__main__":
    main()
