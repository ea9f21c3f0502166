"""Times clips of random weights under each row's policy, and what classifying the heads costs."""

import argparse
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch

from benchmarks.flops import chunk_flops
from benchmarks.rows import FAMILY, LONG_FRAMES, F, Row
from dummyforcing_core.cli.common import pick_device, pick_dtype
from dummyforcing_core.clips.report import ms_since
from dummyforcing_core.errors import DummyForcingError
from dummyforcing_core.geometry import TEMPORAL, LatentShape, Span
from dummyforcing_core.kv.attention import choose
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.plan import HeadPlan, KVShape
from dummyforcing_core.kv.scoring import MassFn, Observation, region_mass, region_mass_lse
from dummyforcing_core.loops.clip_memory import clean_pass
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import ChunkResult, Run, kv_shape, setting_of
from dummyforcing_core.models.denoiser import Step, WanDenoiser
from dummyforcing_core.models.stepcache import StepCache
from dummyforcing_core.models.wan import CausalWan
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Policy
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.transfer import wait_for

CLEAN = "clean pass"
LATE = 5  # chunks whose median stands for "late", and for "chunk 10"
T = TypeVar("T")


@dataclass
class Record:
    """What one row measured: `ms[round][chunk]` by the clock and in CPU time of this process.

    The rest is of the last chunk, the peak of the whole clip.
    """

    row: Row
    ms: list[list[float]] = field(default_factory=list)
    cpu_ms: list[list[float]] = field(default_factory=list)
    full: list[bool] = field(default_factory=list)
    last: ChunkResult | None = None
    peak_bytes: int = 0
    device_peak_bytes: int | None = None

    def begin_round(self) -> None:
        self.ms.append([])
        self.cpu_ms.append([])

    def add(self, result: ChunkResult, ms: float, cpu_ms: float) -> None:
        if len(self.ms) == 1:
            self.full.append(result.window_full)
        self.ms[-1].append(ms)
        self.cpu_ms[-1].append(cpu_ms)
        self.last, self.peak_bytes = result, max(self.peak_bytes, result.peak_bytes)

    def memory(self, last: ChunkResult, first_plan: HeadPlan, shape: KVShape) -> dict[str, Any]:
        """What the clip that ended with `last` was estimated at and took."""
        plan = last.plan
        same = first_plan == plan
        peak = plan.resident_bytes(shape) if same else first_plan.repack_peak_bytes(shape, plan)
        return {
            "history": {"predicted": plan.history_bytes(shape, last.span.stop), "actual": last.history_bytes},
            "resident": {"predicted": plan.resident_bytes(shape), "actual": last.resident_bytes},
            "peak": {"predicted": peak, "actual": self.peak_bytes},
            "device_peak": self.device_peak_bytes,
        }


class Bench:
    """One model of random weights on one device, and the clips made with it."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.config = args, args.geometry
        self.device = pick_device(args.device)
        self.dtype = pick_dtype(args.dtype, self.device)
        if self.device.type == "cpu":
            torch.set_num_threads(args.threads)
        self.backend = choose(args.attention, self.device, self.dtype, self.config.head_dim)
        torch.manual_seed(args.seed)
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        with torch.device(self.device):
            self.denoiser = WanDenoiser(CausalWan(self.config).eval().requires_grad_(False))
            text = torch.randn(1, self.config.text_len, self.config.text_dim)
        torch.set_default_dtype(before)
        self.prompts = PromptSchedule.constant(text)
        self.schedule = FAMILY.schedule
        self.alone = self.device.type != "cpu"  # rows one after another, so that each has its own peak

    def shape(self, frames: int) -> LatentShape:
        width, height = self.args.size
        return replace(LatentShape.of_pixels(width, height, 1, channels=self.config.in_dim), frames=frames)

    def noise(self, shape: LatentShape) -> SeededNoise:
        return SeededNoise(self.args.seed, shape, F, self.device)

    def clip(self, row: Row, given: int, chunks: int) -> Iterator[ChunkResult]:
        """A clip of `given` latent frames of noise and `chunks` chunks."""
        run = self.run(self.shape(given + F * chunks), row.policy)
        start = self.noise(self.shape(given))(0, Span(0, 0, F)).repeat(1, 1, -(-given // F), 1, 1)[:, :, :given]
        steps = StepCache.explicit(row.skip, self.schedule)
        return rollout(replace(run, start=start if given else None, steps=steps))

    def run(self, shape: LatentShape, policy: Policy) -> Run:
        """What is sampled of a clip without a start."""
        noise, attend = self.noise(shape), self.backend.run
        return Run(self.denoiser, shape, self.schedule, self.prompts, policy, FAMILY, noise, attend=attend)

    def timed(self, work: Callable[[], T]) -> tuple[T, float]:
        """The result and its milliseconds, the device's queue empty before and after."""
        wait_for(self.device)
        began = time.perf_counter()
        result = work()
        wait_for(self.device)
        return result, ms_since(began)

    def lane(self, records: Sequence[Record], given: int, chunks: int) -> None:
        """One clip of each, chunk by chunk in turn, so that a machine's drift hits all alike."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        clips = [(record, self.clip(record.row, given, chunks)) for record in records]
        for record in records:
            record.begin_round()
        for _ in range(chunks + bool(given)):
            for record, clip in clips:
                cpu = time.process_time()
                result, ms = self.timed(partial(next, clip))
                record.add(result, ms, 1000 * (time.process_time() - cpu))
        for record in records:
            if record.last is None or not record.last.latent.isfinite().all():
                raise DummyForcingError(
                    f"row {record.row.name!r} made latents that are not finite; take another --seed"
                )
            if self.device.type == "cuda":
                record.device_peak_bytes = torch.cuda.max_memory_allocated(self.device)

    def measure(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """All rows, `--rounds` times over."""
        lengths = {"base": (self.args.given, self.args.chunks), "long": (LONG_FRAMES, self.args.long_chunks)}
        records = [Record(row) for row in rows if self.fits(row, *lengths[row.group])]
        lanes: list[list[Record]] = [[record] for record in records]
        if not self.alone:
            lanes = [group for name in lengths if (group := [record for record in records if record.row.group == name])]
        for number in range(self.args.rounds):
            for lane in lanes:
                _, ms = self.timed(partial(self.lane, lane, *lengths[lane[0].row.group]))
                names = ", ".join(record.row.name for record in lane)
                print(f"round {number + 1} of {self.args.rounds}: {ms / 1000:.1f} s, {names}", file=sys.stderr)
        return [self.summary(record, *lengths[record.row.group]) for record in records]

    def fits(self, row: Row, given: int, chunks: int) -> bool:
        """Whether the device has room for this row's cache, by its price; says so if not."""
        if self.device.type != "cuda":
            return True
        plan, shape = self.planned(row, given, chunks)
        price = plan.resident_bytes(shape)
        free, _ = torch.cuda.mem_get_info(self.device)
        if price > free:
            sizes = f"its cache takes {price / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
            print(f"{row.name} left out: {sizes}", file=sys.stderr)
        return price <= free

    def planned(self, row: Row, given: int, chunks: int) -> tuple[HeadPlan, KVShape]:
        """What the row's clip is laid out by at first, and what turns plans into its bytes."""
        clip, model = self.shape(given + F * chunks), self.denoiser.geometry
        return row.policy.plan(setting_of(model, clip, FAMILY, given)), kv_shape(model, clip, FAMILY)

    def summary(self, record: Record, given: int, chunks: int) -> dict[str, Any]:
        """Every figure of one row; times are medians."""
        row, last = record.row, record.last
        full = [chunk for chunk, is_full in enumerate(record.full) if is_full][self.args.warmup :]
        if last is None or not full:
            raise DummyForcingError(f"row {row.name!r} has no steady chunk in {chunks} chunks; raise --chunks")
        first_plan, shape = self.planned(row, given, chunks)
        held = last.plan.cached_frames(shape.clip_frames)
        flops = chunk_flops(self.config, last.plan, shape, last.span.start, len(self.schedule), len(row.skip))
        times = self.times(record, full)
        return {
            "row": row.name,
            "group": row.group,
            "policy": row.policy.name,
            "skipped_steps": list(row.skip),
            "roles": dict(Counter(role for roles in last.plan.roles for role in roles)),
            "cached_frames": {"mean": statistics.mean(held), "max": max(held)},
            "context_ratio": statistics.mean(held) / shape.clip_frames,
            "given_frames": given,
            **times,
            "flops": {**asdict(flops), "total": flops.total, "attention_share": flops.attention_share},
            "tflops_per_s": flops.total / times["steady_ms"] / 1e9,
            "bytes": record.memory(last, first_plan, shape),
        }

    def times(self, record: Record, full: list[int]) -> dict[str, Any]:
        """Of all chunks, and of those in `full`, whose window was full."""
        chunk_ms = [statistics.median(ms) for ms in zip(*record.ms, strict=True)]
        samples, cpu = ([ms[chunk] for ms in rounds for chunk in full] for rounds in (record.ms, record.cpu_ms))
        steady = statistics.median(samples)
        flat = full[0] <= 10 and len(chunk_ms) >= 10 + 2 * LATE
        early, late = chunk_ms[10 : 10 + LATE], chunk_ms[-LATE:]
        return {
            "chunk_ms": chunk_ms,
            "steady_chunks": full,
            "steady_ms": steady,
            "steady_cpu_ms": statistics.median(cpu) if self.device.type == "cpu" else None,
            "steady_ms_quartiles": statistics.quantiles(samples, n=4) if len(samples) > 1 else [steady] * 3,
            "fps": 1000 * TEMPORAL * F / steady,
            "late_over_chunk_10": statistics.median(late) / statistics.median(early) if flat else None,
        }

    @torch.inference_mode()
    def classification(self) -> dict[str, float]:
        """What the observed chunk does once, in ms, medians; the last lines: what classifying adds to the chunk."""
        policy = DummyForcing(0.5)
        run = self.run(self.shape(2 * F), policy)
        setting, noise, context, levels = run.setting, run.noise, self.prompts.at(0), torch.zeros(1, F)
        first, second = run.spans
        x = noise(0, second)
        times: dict[str, list[float]] = defaultdict(list)

        def record(name: str, work: Callable[[], T]) -> T:
            result, ms = self.timed(work)
            times[name].append(ms)
            return result

        def read(cache: KVCache, name: str, output: bool = True, seen: Observation | None = None) -> None:
            cache.begin(second.start, F, seen)
            record(name, partial(self.denoiser, x, levels, context, Step(cache, output)))

        for _ in range(1 + max(3, self.args.rounds)):  # the first warms up
            cache = run.new_cache()
            clean_pass(run, cache, first, noise(0, first), context)
            record("noise of a chunk", lambda: [noise(step, second) for step in range(len(self.schedule))])
            read(cache, CLEAN, output=False)
            read(cache, "clean pass with output")
            for name, mass in self.scorings().items():
                seen = Observation(setting.layers, setting.heads, mass=mass)
                read(cache, f"{name} scores", seen=seen)
            scores = record("scores to the host", seen.result)
            plan = record("head programming", partial(policy.replan, scores, setting))
            cache.commit()
            record("repack", partial(cache.repack, plan))
        ms = {name: statistics.median(values[1:]) for name, values in times.items()}
        rest = ms["scores to the host"] + ms["head programming"] + ms["repack"] - ms[CLEAN]
        return ms | {f"added by {name} scores": ms[f"{name} scores"] + rest for name in self.scorings()}

    def scorings(self) -> dict[str, MassFn]:
        """Ways to score: the policy's own, and from log-sum-exp where fused attention gives it."""
        fused = self.device.type == "cpu" or (self.device.type == "cuda" and self.dtype != torch.float32)
        return {"log-sum-exp": region_mass_lse, "exact": region_mass} if fused else {"exact": region_mass}
