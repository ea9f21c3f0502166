"""Takes whose files were damaged anywhere: refused in one line, or gone on with to the bits of one that was not.

python -m tests.unit.take_damage FOLDER --model FILE --each 40     # of every file; prints one JSON line
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from dummyforcing_core.__main__ import main
from dummyforcing_core.models import checkpoints
from dummyforcing_core.takes.take import LATENTS, MANIFEST, Take
from tests.unit.take_faults import CLIP, forked

FILES = (MANIFEST, LATENTS, "prompts.take", "kv.take", "events.jsonl", "pictures/00001.jpg")
TELLS = (LATENTS,)  # a damage there is told of, whatever becomes of it
DAMAGES: dict[str, Callable[[bytearray, int], bytearray]] = {
    "a bit flipped": lambda data, at: data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :],
    "cut there": lambda data, at: data[:at],
    "zeros from there": lambda data, at: data[:at] + bytes(len(data) - at),
    "a hole of zeros": lambda data, at: data[:at] + bytes(len(data[at : at + 64])) + data[at + 64 :],
    "bytes lost": lambda data, at: data[:at] + data[at + 7 :],
    "bytes twice": lambda data, at: data[: at + 9] + data[at:],
}


def generate(folder: Path) -> tuple[int, str]:
    """The clip; its exit code and what it said."""
    files = ("--take", folder / "take", "--out", folder / "clip.mp4")
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = main(["generate", *CLIP, *map(str, files)])
    return code, said.getvalue()


def latents(folder: Path) -> torch.Tensor:
    take = Take(folder)
    return torch.cat([take.latent(span) for span in take.spans], dim=2)


def outcome(there: Path, whole: Path, tells: bool) -> str:
    """What became of a damaged take: "refused", "made whole"; else what is wrong."""
    code, said = generate(there)
    lines = said.splitlines()
    if code == 2 and sum(line.startswith("error:") for line in lines) == 1 and max(map(len, lines)) < 1500:
        return "refused"
    if code:
        return f"wrong: exit {code}: {said}"
    if tells and "not whole" not in said:
        return "wrong: nothing was said"
    if (there / "clip.mp4").read_bytes() != (whole / "clip.mp4").read_bytes():
        return "wrong: another video"
    same = torch.equal(latents(there / "take"), latents(whole / "take")) and not Take(there / "take").missing
    return "made whole" if same else "wrong: other latents"


def run(folder: Path, each: int, seed: int) -> dict[str, Any]:
    """Damages every file at `each` places, every one in another way; how often what became of it."""
    whole, there, told = folder / "whole", folder / "there", folder / "told"
    whole.mkdir()
    assert generate(whole)[0] == 0
    places, found, wrong = random.Random(seed), Counter[str](), list[str]()
    for name in FILES:
        for number in range(each):
            kind = list(DAMAGES)[number % len(DAMAGES)]
            shutil.copytree(whole, there)
            data = bytearray((there / "take" / name).read_bytes())
            at = places.randrange(len(data))
            damaged = DAMAGES[kind](data, at)
            (there / "take" / name).write_bytes(damaged)
            if damaged != data:

                def work(tells: bool = name in TELLS) -> int:
                    told.write_text(outcome(there, whole, tells))
                    return 0

                assert forked(work) == 0, f"{name} at {at}: {kind}"
                became = told.read_text()
                found[f"{name} {became.partition(':')[0]}"] += 1
                wrong += [f"{name} at {at}, {kind}: {became}"] if became.startswith("wrong") else []
            shutil.rmtree(there)
    return {"tried": sum(found.values()), "found": dict(sorted(found.items())), "wrong": wrong}


def command(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="stands in for the bundled one")
    parser.add_argument("--each", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    checkpoints.DEMO_PATH = args.model
    print(json.dumps(run(args.folder, args.each, args.seed)))
    return 0


if __name__ == "__main__":
    raise SystemExit(command(sys.argv[1:]))
