"""Random lives of takes: begun, torn, resumed, made longer, told otherwise, branched, pruned, decoded, in this process.

    python -m tests.fuzz.take_stories --stories 200 --seed 7        # lists what went wrong
    python -m tests.fuzz.take_stories --seed 7 --only 123           # one of them again

Whatever was done to a take, its latents are those of one `generate` with its length, seed and prompts; a branch by
another seed has its parent's first chunks. Story k of a seed is the same however many are told.
"""

import argparse
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from unittest import mock

import torch
from safetensors.torch import load_file

from dummyforcing_core.models import checkpoints
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.takes.take import LATENTS, MANIFEST, Take
from dummyforcing_core.text.demo_text import TEXT_DIM, TEXT_LEN
from tests.unit.conftest import _run

WORDS = ("a red circle", "a blue square", "a green triangle, lights off", "a red circle on the left")
POLICIES = (("--policy", "window"), ("--policy", "dummy"), ("--policy", "head_forcing"), ("--policy", "full"))
LONGEST = 33  # latent frames


@dataclass(frozen=True)
class Told:
    """What a take should be: its length in latent frames, its prompts, its seed; None for one that has two."""

    frames: int
    lines: tuple[tuple[int, str], ...]
    seed: int | None
    policy: tuple[str, ...]


class Story:
    """The takes of one story, and what each should be."""

    def __init__(self, folder: Path, draws: Random):
        self.folder, self.draws, self.takes = folder, draws, dict[str, Told]()
        self.log: list[str] = []
        self._parents: dict[str, tuple[str, int]] = {}

    def say(self, *words: object, code: int = 0) -> None:
        self.log.append(" ".join(map(str, words)))
        done = _run(*words)
        assert done.code == code, f"{self.log[-1]} ended with {done.code}: {done.err}"

    def begin(self) -> None:
        name, told = f"take{len(self.log)}", self._drawn()
        schedule = self._schedule(told.lines)
        words = ("generate", "--schedule", schedule, "--frames", pixels(told.frames), "--seed", told.seed, *told.policy)
        more = ("--snapshot-every", self.draws.randint(1, 3)) if self.draws.random() < 0.5 else ()
        self.say(*words, *more, "--take", self.folder / name, "--out", self.folder / "x.mp4")
        self.takes[name] = told

    def tear(self, name: str) -> None:
        """As a crash leaves it: any number of bytes of what is its own, and a manifest that is not finished."""
        latents = self.folder / name / LATENTS
        manifest = self.folder / name / MANIFEST
        manifest.write_text(manifest.read_text().replace('"finished": true', '"finished": false'))
        if latents.exists():
            with latents.open("r+b") as file:
                file.truncate(self.draws.randint(0, latents.stat().st_size))
        self.log.append(f"tear {name}")
        self._mend_branches(name)
        self.say("take", "resume", self.folder / name, "--out", self.folder / "x.mp4")

    def _mend_branches(self, name: str) -> None:
        """A branch that lost its parent's chunks says so, and is whole once they are back."""
        for child, (parent, chunks) in self._parents.items():
            if parent == name and child in self.takes and len(Take(self.folder / name).entries) < chunks:
                self.say("take", "check", self.folder / child, code=2)

    def lengthen(self, name: str) -> None:
        told = self.takes[name]
        frames = min(told.frames + self.draws.randint(1, 9), LONGEST)
        words = ["take", "continue", self.folder / name, "--frames", pixels(frames), "--out", self.folder / "x.mp4"]
        lines = told.lines
        if self.draws.random() < 0.5 and frames > told.frames and told.frames % 3 == 0:
            prompt = self.draws.choice(WORDS)
            words += ["--prompt", prompt]
            lines = (*[line for line in lines if line[0] < told.frames], (told.frames, prompt))
        self.say(*words)
        self.takes[name] = replace(told, frames=frames, lines=lines)

    def branch(self, name: str) -> None:
        told, new = self.takes[name], f"take{len(self.log)}_of_{name[:8]}"
        if told.frames < 3:  # no whole chunk
            self.say("take", "branch", self.folder / name, self.folder / new, "--from-chunk", 1, code=2)
            return
        chunks = self.draws.randint(1, told.frames // 3)
        words = ["take", "branch", self.folder / name, self.folder / new, "--from-chunk", chunks]
        made, seed = told, told.seed
        if self.draws.random() < 0.4:
            words += ["--seed", 99]
            seed = None
        if self.draws.random() < 0.5:
            prompt = self.draws.choice(WORDS)
            words += ["--prompt", prompt]
            made = replace(told, lines=(*[line for line in told.lines if line[0] < 3 * chunks], (3 * chunks, prompt)))
        self.say(*words, "--out", self.folder / "x.mp4")
        self.takes[new], self._parents[new] = replace(made, seed=seed), (name, chunks)

    def prune(self, name: str) -> None:
        self.say("take", "prune", self.folder / name, "--all", "--yes")
        if not (self.folder / name / MANIFEST).exists():
            del self.takes[name]
        else:
            self.say("take", "resume", self.folder / name, "--out", self.folder / "x.mp4")

    def decode(self, name: str) -> None:
        self.say("take", "decode", self.folder / name, "--out", self.folder / "d.mp4")
        self.say("take", "resume", self.folder / name, "--out", self.folder / "x.mp4")
        assert (self.folder / "d.mp4").read_bytes() == (self.folder / "x.mp4").read_bytes(), f"decode {name}"

    def check(self, name: str) -> None:
        """Against one `generate`, or its parent's first chunks."""
        take, told = Take(self.folder / name), self.takes[name]
        latents = torch.cat([take.latent(span) for span in take.spans], dim=2)
        assert take.manifest.finished and not take.missing and latents.shape[2] == told.frames, f"{name} is not whole"
        if told.seed is not None:
            expected = self._generated(told)
            assert torch.equal(latents, expected), f"{name} differs from one run of {told}"
        parent, chunks = self._parents.get(name, (None, 0))
        if parent in self.takes:
            shared = Take(self.folder / str(parent))
            for span in shared.spans[:chunks]:
                assert torch.equal(shared.latent(span), take.latent(span)), f"{name} and {parent} share chunk {span}"

    def tell(self) -> None:
        self.begin()
        for _ in range(self.draws.randint(2, 6)):
            name = self.draws.choice([*self.takes]) if self.takes else ""
            if not name:
                self.begin()
                continue
            self.draws.choice([self.tear, self.lengthen, self.lengthen, self.branch, self.prune, self.decode])(name)
        for name in self.takes:
            self.check(name)

    def _drawn(self) -> Told:
        frames = self.draws.randint(2, 15)
        starts = sorted({0, *(self.draws.randint(1, frames) for _ in range(self.draws.randint(0, 2)))})
        lines = tuple((start, self.draws.choice(WORDS)) for start in starts)
        return Told(frames, lines, self.draws.randint(0, 9), self.draws.choice(POLICIES))

    def _schedule(self, lines: Sequence[tuple[int, str]]) -> Path:
        path = self.folder / "schedule.txt"
        path.write_text("".join(f"{start / 4}s | {text}\n" for start, text in lines))
        return path

    def _generated(self, told: Told) -> torch.Tensor:
        words = ("generate", "--schedule", self._schedule(told.lines), "--frames", pixels(told.frames), *told.policy)
        out = ("--out", self.folder / "g.mp4", "--save-latents", self.folder / "g.safetensors")
        self.say(*words, "--seed", told.seed, *out)
        return load_file(self.folder / "g.safetensors")["latent"]


def pixels(frames: int) -> int:
    return 4 * frames - 3


def stories(seed: int, numbers: Sequence[int]) -> Iterator[str]:
    """What went wrong in each of these, if something did."""
    with tempfile.TemporaryDirectory() as place:
        model = Path(place) / "demo.safetensors"
        config = WanConfig(64, 64, num_heads=2, num_layers=2, text_dim=TEXT_DIM, text_len=TEXT_LEN, freq_dim=16)
        torch.manual_seed(0)
        checkpoints.save_model(CausalWan(config).requires_grad_(False), model, "demo")
        with mock.patch.object(checkpoints, "DEMO_PATH", model):
            for number in numbers:
                folder = Path(place) / "story"
                folder.mkdir()
                story = Story(folder, Random(f"{seed} {number}"))
                try:
                    story.tell()
                except Exception:
                    yield f"story {number} of seed {seed}\n" + "\n".join(story.log) + f"\n{traceback.format_exc()}"
                shutil.rmtree(folder)


def command(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    numbers = range(args.stories) if args.only is None else [args.only]
    wrong = 0
    for fault in stories(args.seed, numbers):
        wrong += 1
        print(fault)
    print(f"{len(numbers)} stories, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(command(sys.argv[1:]))
