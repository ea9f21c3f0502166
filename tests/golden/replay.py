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
from cases import Directory, Errors, block_loop, comfy_loop, constants, head_programming
from vae_case import vae_stream

Replay = Callable[[Directory, str], Errors]

# kind (first letter of the case) -> replay
REPLAYS: dict[str, Replay] = {
    **dict.fromkeys("ABCDF", block_loop),
    "E": head_programming,
    "G": comfy_loop,
    "H": vae_stream,
    "I": constants,
}


def replay(directory: Directory, case: str) -> dict:
    """The result line of one case."""
    kind = case[0]
    if kind not in REPLAYS:
        return {"case": case, "max_abs_err": None, "ok": None, "reason": f"cases of kind {kind} are not supported yet"}
    with torch.inference_mode():
        errors = REPLAYS[kind](directory, case)
    return {"case": case, "max_abs_err": errors.worst, "ok": errors.ok, "tensors": errors.by_tensor}


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
