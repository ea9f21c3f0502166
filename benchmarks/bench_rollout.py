"""How fast a rollout is under each policy: random weights of any Wan geometry, all rows in one run, one JSON line.

    python benchmarks/bench_rollout.py                                      # a tiny model on the CPU, 2-3 minutes
    python benchmarks/bench_rollout.py --proof                              # exit 1 unless saved FLOPs are saved time
    python benchmarks/bench_rollout.py --geometry 1.3B --size 480p --save   # on a GPU
    python benchmarks/bench_rollout.py --geometry 1.3B --size 480p --chunks 1000 --rows "dummy 50"    # flat?

Time does not depend on what weights hold, but head roles and skipped steps do: here roles come from a synthetic
profile (drawn by seed, exact counts) and the skipped step is named, so that both are the same on every machine.
"""

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measure import Bench
from benchmarks.rows import FAMILY, LONG_FRAMES, Row, add_ratios, all_rows
from benchmarks.tables import report
from dummyforcing_core.cli.clip_arguments import size
from dummyforcing_core.errors import DummyForcingError
from dummyforcing_core.models.wan import WanConfig

GEOMETRIES = {
    "tiny": WanConfig(256, 1024, num_heads=4, num_layers=2, text_dim=64, text_len=64),
    "1.3B": WanConfig(1536, 8960, num_heads=12, num_layers=30),
    "14B": WanConfig(5120, 13824, num_heads=40, num_layers=40),
}
SIZES = {"480p": "832x480", "720p": "1280x720", "1080p": "1920x1088"}
PROOF = {"size": "512x512", "given": 18, "chunks": 4, "rounds": 2, "rows": "dense 21,dummy 25,dummy 50"}
PROOF_TOKENS, PROOF_ATTENTION, PROOF_SHARE = 1024, 0.8, 0.7
RESULTS = Path(__file__).parent / "results"


def geometry(text: str) -> WanConfig:
    """A preset's name, or its name and changes: "tiny,num_layers=4,ffn_dim=512"."""
    name, *changes = text.split(",")
    try:
        numbers: dict[str, Any] = {key: int(value) for key, value in (change.split("=") for change in changes)}
        config = replace(GEOMETRIES[name], **numbers)
    except (KeyError, TypeError, ValueError) as error:
        known = ", ".join(f.name for f in fields(WanConfig) if f.type is int)
        raise argparse.ArgumentTypeError(
            f"geometry {text!r} came; write {', '.join(GEOMETRIES)}, then changes such as num_layers=4 ({known})"
        ) from error
    if config.dim % config.num_heads or config.head_dim % 2:
        raise argparse.ArgumentTypeError(f"dim {config.dim} does not split into {config.num_heads} heads of even size")
    return config


def steps(text: str) -> tuple[int, ...]:
    """ "2,3" as (2, 3)."""
    return tuple(int(step) for step in text.split(",") if step)


def count(text: str) -> int:
    """A whole number from 1 up."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line; --proof changes defaults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--geometry", type=geometry, default="tiny", help=f"{', '.join(GEOMETRIES)}, or a preset with changes")
    add("--size", type=lambda text: size(SIZES.get(text, text)), default="256x256", help=f"WxH, {', '.join(SIZES)}")
    add("--device", default="cpu", help="cpu, cuda, ...; auto takes the first accelerator (default: cpu)")
    add("--dtype", help="bf16, fp16, fp32 (default: fp32 on a CPU, bf16 on a GPU)")
    add("--attention", default="auto", help="attention backend (default: auto)")
    add("--threads", type=count, default=1, help="CPU threads (default: 1)")
    add("--chunks", type=count, default=10, help="chunks of a clip (default: 10)")
    add("--long-chunks", type=count, default=4, help=f"chunks behind {LONG_FRAMES} given frames in the long rows")
    add("--given", type=int, default=0, help="latent frames given, so that a window is full at once (default: 0)")
    add("--warmup", type=int, default=1, help="chunks with a full window that do not count (default: 1)")
    add("--rounds", type=count, default=2, help="times the whole set is measured (default: 2)")
    add(
        "--skip-steps",
        type=steps,
        default="2",
        help="what TeaCache rows skip, 0 is first; empty: none (default: 2)",
    )
    add("--rows", help="names of the rows to measure, by comma (default: all)")
    add("--seed", type=int, default=0)
    add("--proof", action="store_true", help=f"{PROOF}; fails below {PROOF_SHARE} of the speed-up that FLOPs say")
    add("--save", nargs="?", type=Path, const=RESULTS, metavar="DIR", help="write the JSON there (default: results/)")
    first, _ = parser.parse_known_args(words)
    if first.proof:
        if first.rows:
            parser.error("--proof measures its own rows; leave --rows out")
        parser.set_defaults(**PROOF)
    return parser.parse_args(words)


def device_name(device: torch.device) -> str:
    """The name of the processor or GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text(encoding="utf-8")) if info.exists() else None
    return found[1].strip() if found and device.type == "cpu" else platform.processor() or platform.machine()


def conditions(bench: Bench) -> dict[str, Any]:
    """What a reader needs to repeat the run, in the order to print."""
    args = bench.args
    shape = bench.shape(3)
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": device_name(bench.device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": str(bench.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "attention": bench.backend.name,
        "geometry": asdict(bench.config),
        "size": "x".join(map(str, args.size)),
        "tokens_per_frame": shape.rows * shape.cols,
        "chunk_frames": FAMILY.chunk_frames,
        "sigmas": [round(sigma, 5) for sigma in bench.schedule.sigmas],
        "weights": f"random, seed {args.seed}",
        "roles": "synthetic profile by seed, exact counts, the rest half sink, half neighbour; online: classified",
        "TeaCache": f"skips steps {list(args.skip_steps)} (0 is first) by name: random weights give no pattern",
        "measured": f"{args.rounds} rounds, " + ("rows in turn" if bench.alone else "rows in turn chunk by chunk"),
        "steady": f"median of the chunks with a full window but the first {args.warmup}; FPS: of those, no VAE",
    }


def pick_rows(bench: Bench) -> list[Row]:
    """The rows that --rows names, in the table's order."""
    rows = {row.name: row for row in all_rows(bench.config, bench.args.skip_steps, bench.args.seed)}
    wanted = [name.strip() for name in bench.args.rows.split(",")] if bench.args.rows else list(rows)
    unknown = [name for name in wanted if name not in rows]
    if unknown:
        raise DummyForcingError(f"unknown rows {', '.join(unknown)}; known: {', '.join(rows)}")
    return [row for name, row in rows.items() if name in wanted]


def verdict(rows: list[dict[str, Any]], frame_tokens: int) -> dict[str, Any]:
    """Whether Dummy Forcing turns the FLOPs it saves into time, where attention is most of the work."""
    by_name = {row["row"]: row for row in rows}
    share = by_name["dense 21"]["flops"]["attention_share"]
    against = {name: row["against"]["dense 21"] for name, row in by_name.items() if row["policy"] == "dummy"}
    reached = {name: ratios["of_expected"] for name, ratios in against.items()}
    fit = frame_tokens >= PROOF_TOKENS and share >= PROOF_ATTENTION
    return {
        "tokens_per_frame": {"wanted": PROOF_TOKENS, "actual": frame_tokens},
        "attention_share": {"wanted": PROOF_ATTENTION, "actual": share},
        "of_expected_speedup": {"wanted": PROOF_SHARE, **reached},
        "of_expected_in_cpu_time": {name: ratios["cpu_of_expected"] for name, ratios in against.items()},
        "passed": fit and min(reached.values()) >= PROOF_SHARE,
    }


def save(document: dict[str, Any], folder: Path) -> None:
    """Writes <date>_<device>.json; the proof has its own."""
    about = document["conditions"]
    name = re.sub(r"[^a-z0-9]+", "-", about["device"].lower()).strip("-")
    path = folder / f"{about['date']}_{name}{'_proof' if document['proof'] else ''}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


def main(words: Sequence[str] | None = None) -> int:
    """Prints conditions, tables and, last, the JSON document. 1 if the proof fails, 2 for bad input."""
    args = parse(words)
    try:
        bench = Bench(args)
        rows = pick_rows(bench)
        document: dict[str, Any] = {"benchmark": "rollout", "version": 1, "conditions": conditions(bench)}
        for name, value in document["conditions"].items():
            print(f"{name:<18}{value}")
        document["rows"] = add_ratios(bench.measure(rows))
        document["classification_ms"] = bench.classification()
    except DummyForcingError as error:
        print(error, file=sys.stderr)
        return 2
    proof = verdict(document["rows"], document["conditions"]["tokens_per_frame"]) if args.proof else None
    document["proof"] = proof
    print(report(document))
    if args.save:
        save(document, args.save)
    print(json.dumps(document))
    return 0 if proof is None or proof["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
