"""VBench's sampling protocol: which clips, their names, seeds and ranks (Vchitect/VBench, prompts/README.md).

VBench finds clip i of a prompt as "{prompt}-{i}.mp4"; a rewritten ("extended") prompt may be sampled in its place, the
name keeps the original. Seeds come from the prompt's text, so that neither its place in a list nor the number of
processes changes a clip.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DummyForcingError, OutputError, shown

Suite = dict[str, str]  # prompt as VBench writes it -> text that is sampled

SAMPLES = 5  # per prompt; VBench asks for 25 for temporal flickering
NAME_BYTES = 255  # what common file systems allow
SEED_RULE = "numpy SeedSequence of (seed mod 2^32, seed >> 32, first 4 words of SHA-256(prompt), sample), one uint32"
FORBIDDEN = "/\0" if os.name != "nt" else '/\0\\<>:"|?*'


@dataclass(frozen=True)
class Sample:
    """One clip: the prompt that names it, the text that is sampled, and which of the prompt's clips it is."""

    prompt: str
    text: str
    index: int

    @property
    def file_name(self) -> str:
        """The name VBench looks for."""
        return f"{self.prompt}-{self.index}.mp4"

    def seed(self, base: int) -> int:
        """The clip's own seed, 0 .. 2^32 - 1 (`SEED_RULE`); a pure function of base seed, prompt and index."""
        words = np.frombuffer(hashlib.sha256(self.prompt.encode()).digest()[:16], "<u4").tolist()
        entropy = (base % 2**32, base // 2**32 % 2**32, *words, self.index)
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])


def pair_up(prompts: Sequence[str], extended: Sequence[str] | None, samples: int) -> Suite:
    """The suite of a prompt list and, line by line, its rewritten prompts. A prompt that comes again is left out.

    VBench's own lists repeat prompts across dimensions; one set of clips serves all of them.
    """
    if extended is not None and len(extended) != len(prompts):
        raise DummyForcingError(
            f"expected as many extended prompts as prompts, {len(prompts)}, got {len(extended)}; line k of one file "
            "belongs "
            "to line k of the other"
        )
    suite: Suite = {}
    for number, (prompt, text) in enumerate(zip(prompts, extended or prompts, strict=True), start=1):
        _check_name(prompt, number, samples)
        suite.setdefault(prompt, text)
    return suite


def _check_name(prompt: str, number: int, samples: int) -> None:
    bad = next((c for c in prompt if c in FORBIDDEN or ord(c) < 32), None)
    if bad is not None:
        raise OutputError(
            f"prompt {number} holds {bad!r}, which no file name can have, and VBench finds clips by their prompt: "
            f"'{shown(prompt)}'; write it without"
        )
    size = len(Sample(prompt, prompt, samples - 1).file_name.encode())
    if size > NAME_BYTES:
        raise OutputError(
            f"prompt {number} makes a file name of {size} bytes, {NAME_BYTES} is the most: '{shown(prompt)}'; name "
            "the short prompts with --prompts and the long ones with --extended"
        )


@dataclass(frozen=True)
class Shard:
    """This process among those that torchrun started; they share the prompts and never talk to each other."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> "Shard":
        """What torchrun says in RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE; alone if it says nothing."""
        if "RANK" not in env and "WORLD_SIZE" not in env:
            return cls()
        names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        said = {name: env.get(name, default) for name, default in names.items()}
        try:
            shard = cls(*(int(value) for value in said.values()))
        except ValueError:
            shard = cls(-1)
        if not (0 <= shard.rank < shard.world and 0 <= shard.local_rank < shard.local_world <= shard.world):
            text = ", ".join(f"{name}={value}" for name, value in said.items())
            raise DummyForcingError(
                f"expected RANK, WORLD_SIZE and LOCAL_RANK of torchrun, got {text}; start with torchrun, or unset "
                "RANK, WORLD_SIZE"
            )
        return shard

    def part(self, suite: Suite) -> Suite:
        """This rank's prompts: every world-th. A fixed share, whatever is sampled already, so no two ranks overlap."""
        return dict(list(suite.items())[self.rank :: self.world])

    def device_index(self, kind: str, asked_index: int | None, count: int) -> int | None:
        """Which of this machine's `count` accelerators of a kind serves this process; None: the only or asked one."""
        if self.local_world == 1:
            return asked_index
        if asked_index is not None:
            raise DummyForcingError(
                f"expected one device for each of {self.local_world} processes, got --device {kind}:{asked_index}; "
                "write "
                f"--device {kind}, each takes the one of its LOCAL_RANK"
            )
        if self.local_world > count:
            raise DummyForcingError(
                f"expected at most {count} processes for {count} {kind} devices, got {self.local_world}; start "
                "torchrun with "
                f"--nproc-per-node {count}, or use --device cpu"
            )
        return self.local_rank
