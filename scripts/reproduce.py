"""Fills the tables of Dummy Forcing (arXiv 2601.20499): what is published beside what this machine measures.

    python scripts/reproduce.py --model self_forcing_dmd.pt --text-encoder umt5_xxl.safetensors --vae vae.safetensors
    python scripts/reproduce.py                  # the bundled model at stand-in sizes: shows that the path works
    python scripts/reproduce.py --smoke          # and shorter clips, for a test

Writes reproduce.md and reproduce.json into --out. VBench's scores stay blank unless its result files are named.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from reproduce_tables import markdown

from dummyforcing_core.cli.common import add_run_arguments, load, pick_device, read_prompts, warn
from dummyforcing_core.cli.generate import make_clip
from dummyforcing_core.cli.verify import DEMO_PROMPTS, PROMPTS, RATIO, run_conditions, zero_text
from dummyforcing_core.clips.pipeline import Pipeline, is_demo
from dummyforcing_core.clips.render import Clip, Outputs
from dummyforcing_core.clips.report import RunReport
from dummyforcing_core.clips.script import Script
from dummyforcing_core.errors import DummyForcingError
from dummyforcing_core.evaluation.profiling import ProfilePlan, current_share, overlaps, take_samples
from dummyforcing_core.evaluation.vbench_scores import read_results, scores
from dummyforcing_core.files import make_folder, write_atomic
from dummyforcing_core.geometry import SIZES, LatentShape, made_size, pixel_frames
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.models.families import Family
from dummyforcing_core.models.stepcache import NO_STEPS, StepCache
from dummyforcing_core.policies import DummyForcing, Policy, SlidingWindow, own_policy
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.vae.streaming import LatentPreview

PAPER_SIZES = {name: made_size(*SIZES[name]) for name in ("480p", "720p", "1080p")}
STAND_INS = {"480p": (64, 64), "720p": (96, 96), "1080p": (128, 160)}  # 16, 36, 80 tokens: about the real ratios
LATENTS, SMOKE_LATENTS = 21, 12
HEAD_LATENTS = 12


@dataclass(frozen=True)
class Row:
    """One line of the speed table. Published FPS are DiT-only, on one H100.

    cached -- latent frames of history (None: all of the clip); the paper's 237 and 36 cached frames are pixel frames,
              60 and 9 latents, as its own FPS show
    """

    title: str
    size: str
    published: tuple[str, str]
    cached: int | None = None
    skips: bool = False
    dummy: bool = True


ROWS = (
    Row("480p", "480p", ("17.56", "24.30")),
    Row("480p, TeaCache", "480p", ("21.82", "> 30"), skips=True),
    Row("720p", "720p", ("5.6", "9.1")),
    Row("1080p", "1080p", ("1.3", "2.6")),
    Row("480p, 237 frames cached", "480p", ("9.36", "18.14"), cached=60),
    Row("480p, 36 frames cached (sliding window)", "480p", ("17.57", ""), cached=9, dummy=False),
)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line; sizes and lengths are the tables' own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_run_arguments(parser)
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt per line (default: three of its own)")
    parser.add_argument("--smoke", action="store_true", help="short clips; its figures mean nothing")
    parser.add_argument("--vbench-dense", type=Path, nargs="+", default=[], metavar="FILE", help="VBench's results")
    parser.add_argument("--vbench-dummy", type=Path, nargs="+", default=[], metavar="FILE", help="with Dummy Forcing")
    parser.add_argument("--out", type=Path, default=Path("out/reproduce"), metavar="DIR", help="folder to write")
    args = parser.parse_args(words)
    if any(value is not None for value in (args.size, args.frames, args.seconds)):
        parser.error("the tables have sizes and lengths of their own; leave --size and --frames out")
    return args


def main(words: Sequence[str] | None = None) -> int:
    """Measures, prints, writes. 0: done; 2: bad input, one line."""
    args = parse(words)
    try:
        document = reproduce(args)
        text = markdown(document)
        for name, content in (("reproduce.md", text), ("reproduce.json", json.dumps(document, indent=1) + "\n")):
            write_atomic(args.out / name, content.encode("utf-8"))
    except DummyForcingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    print(f"wrote {args.out / 'reproduce.md'} and reproduce.json")
    return 0


def reproduce(args: argparse.Namespace) -> dict[str, Any]:
    """Every figure, published and measured; None where nothing was measured."""
    make_folder(args.out)
    if not is_demo(args.model) and pick_device(args.device).type == "cpu":
        warn("a real checkpoint at the paper's sizes takes days on a CPU")
    results = {name: scores(read_results(getattr(args, f"vbench_{name}"))) for name in ("dense", "dummy")}
    demo = is_demo(args.model)
    texts = read_prompts(args.prompts) if args.prompts else list(DEMO_PROMPTS if demo else PROMPTS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        without_text = zero_text(args, folder)
        texts = texts[:1] if args.text_embedding else texts
        pipeline = load(args, texts)
        sizes = STAND_INS if demo else PAPER_SIZES
        bench = Bench(replace(pipeline, new_decoder=LatentPreview), texts[0], args.seed, args.smoke, sizes, folder)
        bench.warm_up()
        speed = [bench.row(row) for row in ROWS]
        decoded = demo or args.vae is not None
        whole = whole_clip(replace(bench, pipeline=pipeline)) if decoded else None
    notes = [
        *(["bundled demo model at stand-in sizes: these figures say nothing about the paper's"] if demo else []),
        *(["smoke run: clips and histories are shortened"] if args.smoke else []),
        *(["no text was given: all rows zero"] if without_text else []),
    ]
    return {
        "conditions": run_conditions(args, pipeline),
        "notes": notes,
        "speed": speed,
        "whole_clip": whole,
        "heads": heads(pipeline, texts, args.seed, sizes["480p"]),
        "vbench": {name: found.__dict__ | {"total": found.total} for name, found in results.items()},
    }


@dataclass(frozen=True)
class Bench:
    """Times clips of one model and prompt."""

    pipeline: Pipeline
    text: str
    seed: int
    smoke: bool
    sizes: dict[str, tuple[int, int]]
    folder: Path

    @property
    def family(self) -> Family:
        return self.pipeline.family

    def warm_up(self) -> None:
        """What only the first clip of a process pays."""
        self.run("480p", 3 * self.family.chunk_frames, DummyForcing(RATIO))

    def row(self, row: Row) -> dict[str, Any]:
        """The row with this machine's figures."""
        cached = row.cached and (min(row.cached, 6) if self.smoke else row.cached)
        latents = SMOKE_LATENTS if self.smoke else LATENTS
        dense: Policy = own_policy(self.family)
        dummy: Policy | None = DummyForcing(RATIO) if row.dummy else None
        if cached:
            chunk = self.family.chunk_frames
            latents = max(latents, cached + 2 * chunk)
            dense = SlidingWindow(cached + chunk, 0)
            dummy = dummy and DummyForcing(RATIO, local_chunks=cached // chunk)
        steps = StepCache.explicit([2], self.family.schedule) if row.skips and self._can_skip else NO_STEPS
        both = [self._figures(row, latents, policy, steps) for policy in (dense, dummy)]
        size = "{}x{}".format(*self.sizes[row.size])
        return {
            "title": row.title,
            "published": row.published,
            "size": size,
            "latents": latents,
            "cached": cached,
            "dense": both[0],
            "dummy": both[1],
        }

    @property
    def _can_skip(self) -> bool:
        return len(self.family.schedule.sigmas) > 2

    def _figures(self, row: Row, latents: int, policy: Policy | None, steps: StepCache) -> dict[str, float] | None:
        """FPS of a clip and of its last chunk, and K/V history; None where the row has no such clip."""
        if policy is None or (row.skips and not self._can_skip):
            return None
        try:
            report = self.run(row.size, latents, policy, steps)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None
        last = report.chunks[-1]
        return {
            "clip_fps": report.dit_fps,
            "last_chunk_fps": 1000 * last.pixel_frames / last.diffuse_ms,
            "history_bytes": float(report.memory["history_bytes"]["actual"] or 0),
        }

    def run(self, size: str, latents: int, policy: Policy, steps: StepCache = NO_STEPS) -> RunReport:
        """One clip's report."""
        shape = LatentShape.of_pixels(*self.sizes[size], pixel_frames(latents))
        clip = Clip(Script.constant(self.text), shape, self.seed, policy, steps)
        return make_clip(self.pipeline, clip, Outputs(self.folder / "clip.mp4"), verbose=False).report


def whole_clip(bench: Bench) -> dict[str, float]:
    """81 frames at 480p under Dummy Forcing from the first step to the last decoded frame."""
    report = bench.run("480p", SMOKE_LATENTS if bench.smoke else LATENTS, DummyForcing(RATIO))
    seconds = (report.total_ms - report.init_ms) / 1000
    return {"frames": report.pixel_frames, "seconds": seconds, "fps": report.pixel_frames / seconds}


def heads(pipeline: Pipeline, texts: Sequence[str], seed: int, size: tuple[int, int]) -> dict[str, float | None]:
    """Shares and overlaps of section 3."""
    prompts = [PromptSchedule.constant(pipeline.encode(text)) for text in texts]
    plan = ProfilePlan(prompts, [seed], LatentShape.of_pixels(*size, pixel_frames(HEAD_LATENTS)))
    samples = list(take_samples(pipeline.denoiser, pipeline.family, plan, pipeline.backend.run, pipeline.new_stills))
    model = pipeline.denoiser.geometry
    share = float(current_share(HeadScores.mean([sample.scores for sample in samples])).mean())
    return {"current share": share, **overlaps(samples, round(RATIO * model.layers * model.heads))}


if __name__ == "__main__":
    raise SystemExit(main())
