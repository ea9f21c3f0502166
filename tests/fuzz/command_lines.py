"""Random command lines over small random models, in this process. What each must come to is in `judged`.

    python -m tests.fuzz.command_lines --cases 2000 --seed 7          # stops at nothing, lists what went wrong
    python -m tests.fuzz.command_lines --seed 7 --only 1234           # one of them again

Case k of a seed is the same however many are run.
"""

import argparse
import contextlib
import json
import math
import re
import shlex
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dummyforcing_core.clips.video import read_frames
from dummyforcing_core.geometry import latent_frames, pixel_frames
from dummyforcing_core.models import checkpoints
from dummyforcing_core.models.families import DEMO, FAMILIES
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.text.demo_text import TEXT_DIM, TEXT_LEN
from tests.unit.conftest import Result, _run

SIZE = 32, 16
LONGEST_MESSAGE = 700  # characters of an error
SECONDS = 60  # of a case: no clip here takes two
LONG = ("head_forcing", "head_budget")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
JUNK = ("", "nan", "inf", "-1", "1e99", "0x10", "٣", "½", "a\nb", "--", "%s", "-0", "1,,2", "9" * 30, "🎬", "\x1b[31m")

Words = list[str]


@dataclass(frozen=True)
class World:
    """The files that command lines name: all lie in `folder`, which no command may change."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / {
            "model": "model.pt", "text": "text.safetensors", "image": "image.png", "wide": "wide.png",
            "start": "start.safetensors", "other": "other.safetensors", "prompts": "prompts.txt",
            "one_prompt": "one.txt", "schedule": "schedule.txt", "late": "late.txt", "wrong": "wrong.txt",
            "lines": "lines.jsonl", "absent": "absent.json",
        }[name]  # fmt: skip


def make_world(folder: Path) -> World:
    """Writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    world, draws = World(folder), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    config = WanConfig(dim=256, ffn_dim=64, num_heads=2, num_layers=2, text_dim=32, freq_dim=16)
    torch.save({"generator_ema": {f"model.{k}": v for k, v in CausalWan(config).state_dict().items()}}, world.model)
    save_file({"embedding": torch.randn(7, 32, generator=draws)}, world.text)
    demo = WanConfig(dim=64, ffn_dim=64, num_heads=2, num_layers=2, text_dim=TEXT_DIM, text_len=TEXT_LEN, freq_dim=16)
    checkpoints.save_model(CausalWan(demo), folder / "demo.safetensors", DEMO)
    width, height = SIZE
    save_file({"latent": torch.randn(1, 16, 3, height // 8, width // 8, generator=draws)}, world.start)
    save_file({"latent": torch.randn(1, 16, 2, 4, 4, generator=draws)}, world.other)
    Image.fromarray(np.full((height, width, 3), 200, np.uint8)).save(world.image)
    Image.fromarray(np.full((9, 70), 30, np.uint8)).save(world.wide)
    world.prompts.write_text("a red circle\n# no prompt\na blue square\n", encoding="utf-8")
    world.one_prompt.write_text("a red circle\n", encoding="utf-8")
    world.schedule.write_text("0:00 | a red circle\n0:01 | a blue square\n", encoding="utf-8")
    world.late.write_text("0:00 | a red circle\n9:00 | a blue square\n", encoding="utf-8")
    world.wrong.write_text("0:05 | a red circle\nand a square\n", encoding="utf-8")
    world.lines.write_text('{"prompts": ["a red circle", "a blue square"]}\n', encoding="utf-8")
    return world


@dataclass(frozen=True)
class Case:
    """One command line, and the folder that it writes to."""

    words: Words
    out: Path

    def __str__(self) -> str:
        return f"python -m dummyforcing_core {shlex.join(self.words)}"

    @property
    def frames(self) -> int:
        """That the video is to have."""
        if "--seconds" not in self.words:
            return int(self.value("--frames"))
        fps = {"23.976": 24000 / 1001, "30000/1001": 30000 / 1001}.get(rate := self.value("--fps", "16")) or float(rate)
        return max(1, math.ceil(round(float(self.value("--seconds")) * fps, 6)))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the video; the demo's is enlarged."""
        width, height = re.split("[x*]", self.value("--size"))
        scale = 6 if DEMO in (self.value("--model"), self.value("--family")) else 1
        return scale * int(width), scale * int(height)

    def value(self, flag: str, otherwise: Any = None) -> Any:
        return self.words[self.words.index(flag) + 1] if flag in self.words else otherwise


class Draw:
    """Random choices of one case. A bold one takes now and then what should be refused."""

    def __init__(self, seed: int, number: int):
        self.random = Random(f"{seed}/{number}")
        self.bold = self.random.random() < 0.4

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def one(self, good: Sequence[Any], bad: Sequence[Any] = ()) -> Any:
        return self.random.choice(bad if bad and self.bold and self.chance(0.12) else good)

    def maybe(self, share: float, flag: str, good: Sequence[Any], bad: Sequence[Any] = ()) -> Words:
        """The flag with one of these values, or nothing."""
        return [flag, str(self.one(good, bad))] if self.chance(share) else []


def make_case(world: World, out: Path, seed: int, number: int) -> Case:
    """Case `number` of a seed."""
    draw = Draw(seed, number)
    command = draw.random.choices(("generate", "compare", "profile"), (12, 2, 1))[0]
    demo = draw.chance(0.4)
    words = [command, *(["--model", DEMO] if demo else _checkpoint(draw, world)), *_run_words(draw)]
    words += {"generate": _generate, "compare": _compare, "profile": _profile}[command](draw, world, out, demo)
    if draw.bold and draw.chance(0.3):
        at = draw.one([i for i, word in enumerate(words) if word.startswith("--") and word not in UNTOUCHED])
        words[at + 1] = draw.one(JUNK)
    return Case(words, out)


# Any text names a file, and a count of a thousand million would be an order that takes hours: neither is a fault.
UNTOUCHED = ("--frames", "--seeds", "--out", "--report", "--save-latents", "--picture", "--prompts", "--prompt")


def _checkpoint(draw: Draw, world: World) -> Words:
    families = [name for name in FAMILIES if name != DEMO]
    words = ["--model", str(world.model), "--family", draw.one(families, (DEMO, "nobody"))]
    return [*words, *([] if draw.one((False,), (True,)) else ["--text-embedding", str(world.text)])]


def _run_words(draw: Draw) -> Words:
    sizes = ("32x16",) * 6 + ("16x16", "48x32", "16*32", "30x22", "34x2")
    bad_sizes = ("101x64", "0x16", "4096x4096", "1080q", "16x16x16")
    return [
        *("--device", "cpu", "--size", draw.one(sizes, bad_sizes)),
        *(_length(draw)),
        *draw.maybe(0.3, "--seed", (0, 7, -1, 2**32, 2**63 - 1), (2**64, -(2**63) - 1)),
        *draw.maybe(0.3, "--dtype", ("fp32", "bf16", "fp16"), ("fp8", "")),
        *draw.maybe(0.2, "--attention", ("auto", "sdpa", "reference"), ("flash2", "none")),
        *(draw.maybe(0.3, "--offload", ("0", "1", "2"), ("3", "-1")) if draw.bold else ()),
        *(draw.maybe(0.05, "--vae-tile", ("4x4", "3x3")) if draw.bold else ()),
        *(draw.maybe(0.05, "--lora-strength", ("0.5",)) if draw.bold else ()),
    ]


def _length(draw: Draw) -> Words:
    words = draw.maybe(0.3, "--fps", (16, 24, 25, 30, "23.976", "30000/1001", 8), (0, -1, "nan", 10**6))
    if draw.chance(0.2):
        return ["--seconds", str(draw.one((0.1, 0.5, 1, 1.3, 2), (0, -1, "inf", 1e-9))), *words]
    return ["--frames", str(draw.one((*range(1, 34), 45, 49, 57, 61, 69, 73, 81, 97), (0, -4))), *words]


def _policy(draw: Draw, world: World) -> Words:
    """--policy with options of its own, seldom with those of another."""
    name = draw.one(("", "full", "window", "window", "dummy", "dummy", *LONG, *LONG), ("none", "forcing_kv"))
    words = ["--policy", name] if name else []
    owners = [name or "window", *draw.one(([],), (["window", "dummy"],))]
    return words + [word for owner in dict.fromkeys(owners) for word in _options(draw, world, owner)]


def _options(draw: Draw, world: World, policy: str) -> Words:
    if policy == "window":
        words = draw.maybe(0.4, "--window", (6, 9, 12, 21), (2, 0, -3))
        words += draw.maybe(0.2, "--positions", ("absolute", "rank", "end"), ("last",))
        words += draw.maybe(0.2, "--keep-at-switch", (0, 1, "all"), (-1, "none"))
        return words + draw.maybe(0.4, "--sink", (0, 1, 3), (6, 40, -2))
    if policy in LONG:
        return _long_options(draw, policy)
    if policy != "dummy":
        return []
    return [
        *draw.maybe(0.3, "--sink", (0, 1, 3), (40, -2)),
        *draw.maybe(0.3, "--dummy-ratio", (0, 0.25, 0.5, 1), (1.5, "nan")),
        *(draw.maybe(0.3, "--num-dummy", (0, 1, 4), (5, -1)) if draw.bold else ()),
        *draw.maybe(0.2, "--local-chunks", (1, 2, 9), (0,)),
        *draw.maybe(0.2, "--packed-frames", (0, 1, 2), (9, -1)),
        *draw.maybe(0.2, "--observe-chunk", (1, 2, 3), (0, 30)),
        *draw.maybe(0.2, "--reclassify", (1, 2, "never"), (0, "switch")),
        *draw.maybe(0.2, "--score-stride", (1, 2, 7), (0,)),
        *draw.maybe(0.2, "--cost", ("mass", "output_change"), ("money",)),
        *(draw.maybe(0.1, "--profile", (world.absent, world.image)) if draw.bold else ()),
    ]


def _long_options(draw: Draw, policy: str) -> Words:
    words = [
        *draw.maybe(0.3, "--bank-chunks", (0, 1, 2, 3), (40, -1)),
        *draw.maybe(0.2, "--observe-chunk", (2, 3), (0, 1, 30)),
        *draw.maybe(0.2, "--observe-step", (0, 1, 9), (-1,)),
        *draw.maybe(0.2, "--reclassify", (1, 2, "never"), (0, "switch")),
    ]
    if policy == "head_budget":
        return words + draw.one(
            ([], ["--budget-frames", "2.5"], ["--budget-gb", "1"], ["--speedup", "1.5"]),
            (
                ["--budget-gb", "0"],
                ["--budget-frames", "inf"],
                ["--speedup", "99"],
                ["--budget-gb", "1", "--speedup", "2"],
            ),
        )
    return [
        *words,
        *draw.maybe(0.3, "--memory-ratio", (0, 0.2, 1), (1.5, "nan")),
        *draw.maybe(0.3, "--anchor-ratio", (0, 0.5, 1), (-1,)),
        *draw.maybe(0.3, "--local-frames", (0, 1, 3), (-1, "all")),
        *draw.maybe(0.3, "--memory-sink", (0, 1), (40, -1)),
        *draw.maybe(0.3, "--bank-rule", ("episode_end", "key_novelty", "every"), ("newest",)),
        *draw.maybe(0.3, "--novelty", (0, 0.1, "the rule's"), (3, "nan")),
        *draw.maybe(0.3, "--positions", ("absolute", "rank", "end"), ("last",)),
        *draw.maybe(0.3, "--roles-by", ("mass", "output_change"), ("looks",)),
    ]


def _generate(draw: Draw, world: World, out: Path, demo: bool) -> Words:
    words, folder = _text(draw, world, demo)
    if draw.chance(0.3):
        starts = (("--start-latents", world.start), *([("--start-image", world.image)] if demo else []))
        flag, path = draw.one(starts, (("--start-latents", world.other), ("--start-image", world.wide)))
        words += [flag, str(path)]
    words += _policy(draw, world)
    if draw.chance(0.5):
        words += draw.maybe(0.5, "--skip-steps", ("1", "2", "1,2"), ("0", "9", "3,3", ""))
    else:
        words += draw.maybe(0.5, "--teacache", (0, 0.1, 0.3, 5), (-1, "nan"))
    if draw.bold or "--teacache" in words:
        words += draw.maybe(0.1, "--teacache-signal", ("e", "e0"), ("x",))
        words += draw.maybe(0.1, "--teacache-coefficients", ("1,0", "2"), ("nan", "x"))
    if folder:
        return [*words, "--out", str(out / "clips")]
    words += ["--out", str(out / draw.one(("c.mp4",), ("c.gif", "c")))]
    words += draw.maybe(0.7, "--report", (out / "r.json",), (world.folder, out / "c.mp4"))
    return [*words, *draw.maybe(0.7, "--save-latents", (out / "l.safetensors",), (out / "c.mp4", out / "c.part.mp4"))]


def _text(draw: Draw, world: World, demo: bool) -> tuple[Words, bool]:
    """What the clip shows, and whether it is one of several in a folder. A checkpoint has one saved text."""
    kinds = ("--prompt", "--prompt", "--prompts", "--schedule", "--schedule") if demo else ("--prompt",)
    kind = draw.one(kinds, ("--schedule", ""))
    if kind == "--prompt":
        return [kind, draw.one(("a red circle", "zebra", "é" * 300), ("",))], False
    if kind != "--schedule":
        return [kind, str(world.prompts)] if kind else [], kind != ""
    path = draw.one((world.schedule, world.schedule, world.late, world.lines), (world.wrong, world.image))
    words = [kind, str(path), *draw.maybe(0.4, "--blend-chunks", (0, 1, 3, 50), (-1,))]
    if path == world.lines:
        return [*words, "--switch-frames", draw.one(("3", "4"), ("3,6", "0", "90"))], True
    return words + (draw.maybe(0.1, "--switch-frames", ("3",)) if draw.bold else []), False


def _compare(draw: Draw, world: World, out: Path, demo: bool) -> Words:
    lists = ("window,dummy", "full", "dummy,dummy", "full,window,dummy")
    words = ["--prompt", "a red circle", "--out", str(out / "compared")]
    names = draw.one(lists, ("", "none"))
    return [*words, "--policies", names, *_options(draw, world, names.rpartition(",")[2])]


def _profile(draw: Draw, world: World, out: Path, demo: bool) -> Words:
    prompts = world.prompts if demo else world.one_prompt
    words = [
        "--prompts",
        str(prompts),
        "--out",
        str(out / "p.json"),
        *draw.maybe(0.3, "--local-chunks", (1, 2, 9), (0,)),
    ]
    words += draw.maybe(0.3, "--picture", (out / "p.png",), (out / "p.json",))
    return [*words, *draw.maybe(0.3, "--seeds", (1, 2), (0,))]


class TooLong(Exception):
    """A case that did not end."""


def outcome(world: World, case: Case) -> str:
    """Runs it; what is wrong with what came of it, "" if nothing is."""
    shutil.rmtree(case.out, ignore_errors=True)
    case.out.mkdir(parents=True)
    with mock.patch.object(checkpoints, "DEMO_PATH", world.folder / "demo.safetensors"), _limited():
        try:
            result = _run(*case.words)
        except BaseException:
            return f"an exception: {traceback.format_exc()}"
    wrong = judged(case, result)
    return f"{wrong}\nexit {result.code}\n{result.err}" if wrong else ""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*signal_and_frame: object) -> None:
        raise TooLong(f"{SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judged(case: Case, result: Result) -> str:
    """What is wrong; "" for a line that did what it promised, or was refused in one line and left nothing."""
    *before, last = [line.rsplit("\r", 1)[-1] for line in result.err.removesuffix("\n").split("\n")]
    refused = result.code == 2 and last.startswith("error: ")
    said = before if refused else [*before, last] if last else before
    if odd := [line for line in said if not line.startswith("warning: ")]:
        return f"no warning of one line: {odd}"
    if CONTROL.search(result.err.replace("\r", "")):
        return "a control character reaches the terminal"
    left = sorted(path.relative_to(case.out).as_posix() for path in case.out.rglob("*") if path.is_file())
    if result.code == 2:
        return _refused(last, refused, [name for name in left if name not in result.err])
    if result.code:
        return f"exit {result.code}"
    check = {"generate": _generated, "compare": _compared, "profile": _profiled}[case.words[0]]
    return check(case, left)


def _refused(last: str, refused: bool, left: list[str]) -> str:
    if not refused:
        return "refused without an error"
    if len(last) > LONGEST_MESSAGE:
        return f"an error of {len(last)} characters"
    return f"refused, and left {left}" if left else ""


def _generated(case: Case, left: list[str]) -> str:
    if Path(case.value("--out")).suffix != ".mp4":
        videos = [name for name in left if name.endswith(".mp4")]
        reports = [name.replace(".mp4", ".json") for name in videos]
        if not videos or left != sorted([*videos, *reports]):
            return f"a folder with {left}"
        pairs = zip(videos, reports, strict=True)
        return next((w for pair in pairs if (w := _clip(case, *(case.out / name for name in pair)))), "")
    flags = ("--out", "--report", "--save-latents")
    promised = [Path(case.value(flag)) for flag in flags if flag in case.words]
    if left != sorted(path.name for path in promised):
        return f"promised {promised}, left {left}"
    report = case.value("--report")
    wrong = _clip(case, Path(case.value("--out")), report and Path(report))
    return wrong or (_latents(case) if "--save-latents" in case.words else "")


def _clip(case: Case, video: Path, report: Path | None) -> str:
    """Of one video, played from end to end, and the report beside it."""
    shapes = [frame.shape for frame in read_frames(video)]
    frames, (width, height) = len(shapes), case.size
    if frames != case.frames or set(shapes) != {(height, width, 3)}:
        return f"{frames} frames of {set(shapes)}, {case.frames} of {height} x {width} were asked for"
    if report is None:
        return ""
    told = json.loads(report.read_text(encoding="utf-8"))
    made = pixel_frames(sum(chunk["frames"] for chunk in told["chunks"]))
    families = {case.value("--family", DEMO)}
    if told["conditions"]["frames"] != frames or made < frames or told["conditions"]["family"] not in families:
        return f"a report of {told['conditions']} with {made} frames; the video has {frames}"
    return ""


def _latents(case: Case) -> str:
    (name, latent), *others = load_file(case.value("--save-latents")).items()
    length = latent_frames(case.frames)
    if others or name != "latent" or latent.shape[2] < length or not latent.isfinite().all():
        return f"latents {name} {tuple(latent.shape)}, {length} frames of finite numbers were expected"
    return ""


def _compared(case: Case, left: list[str]) -> str:
    names = [name for name in case.value("--policies", "window,dummy").split(",") if name]
    rows = json.loads((case.out / "compared" / "compare.json").read_text(encoding="utf-8"))
    videos = [name for name in left if name.endswith(".mp4")]
    if len(rows["rows"] if isinstance(rows, dict) else rows) != len(names) or len(videos) != len(names) + 1:
        return f"{names} gave {left}"
    clips = [name for name in videos if "side_by_side" not in name]
    return next((wrong for name in clips if (wrong := _clip(case, case.out / name, None))), "")


def _profiled(case: Case, left: list[str]) -> str:
    promised = [Path(case.value(flag)).name for flag in ("--out", "--picture") if flag in case.words]
    return "" if left == sorted(promised) else f"promised {promised}, left {left}"


def failures(folder: Path, seed: int, numbers: range) -> Iterator[tuple[int, Case, str]]:
    """(number, case, what went wrong) of those cases that failed."""
    world = make_world(folder / "inputs")
    for number in numbers:
        case = make_case(world, folder / "out", seed, number)
        if wrong := outcome(world, case):
            yield number, case, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Random command lines.")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this case alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    numbers = range(args.cases) if args.only is None else range(args.only, args.only + 1)
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, case, wrong in failures(Path(folder), args.seed, numbers):
            count += 1
            print(f"--seed {args.seed} --only {number}: {case}\n{wrong}\n", flush=True)
    print(f"{count} of {len(numbers)} cases failed")
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main())
