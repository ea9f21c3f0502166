"""Replays recorded cases of public reference implementations through our engine.

    python tests/golden/replay.py DIR

One JSON line per case: {"case", "max_abs_err", "ok", ...}. ok is null where the feature does not exist yet.
Exits 1 if a case fails, 2 if DIR holds no case. The format is described in DIR's README.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from chunk_cases import chunk_loop
from formula_cases import constants, head_programming
from host_cases import comfy_loop
from recompute_cases import recompute_loop
from recorded import Case, Directory
from restart_cases import restart_loop
from rolling_cases import rolling_loop
from vae_case import vae_stream

Replay = Callable[[Case], None]

# kind (first letter of the case) -> replay
REPLAYS: dict[str, Replay] = {
    **dict.fromkeys("ABCDFM", chunk_loop),
    "E": head_programming,
    "G": comfy_loop,
    "H": vae_stream,
    "I": constants,
    "J": rolling_loop,
    "K": restart_loop,
    "L": recompute_loop,
}


def replay(directory: Directory, name: str) -> dict:
    """The result line of one case."""
    kind = name[0]
    if kind not in REPLAYS:
        return {"case": name, "max_abs_err": None, "ok": None, "reason": f"cases of kind {kind} are not supported yet"}
    case = Case(directory, name)
    with torch.inference_mode():
        REPLAYS[kind](case)
    return {"case": name, "max_abs_err": case.worst, "ok": case.ok, "tensors": case.errors}


def main(argv: list[str]) -> int:
    if len(argv) != 2 or not Path(argv[1]).is_dir():
        print("usage: python tests/golden/replay.py DIR", file=sys.stderr)
        return 2
    directory = Directory(Path(argv[1]))
    cases = directory.cases()
    if not cases:
        print(f"no golden case (NAME.json beside NAME.safetensors, with a 'case' entry) in {argv[1]}", file=sys.stderr)
        return 2
    failed = False
    for case in cases:
        try:
            line = replay(directory, case)
        except Exception as error:  # a crash in one case is that case's failure, the others still run
            line = {"case": case, "max_abs_err": None, "ok": False, "error": f"{type(error).__name__}: {error}"}
        failed |= line["ok"] is False
        print(json.dumps(line), flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
