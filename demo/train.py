"""Trains the demo model by teacher forcing; always ends annealed after --minutes of wall time.

    python -m demo.train --minutes 88 --out out/train --export dummyforcing_core/assets/demo_model.safetensors

Run it again with the same --out to resume. Each of --processes works on one thread; the gradients
are averaged. A step is a batch of whole clips (clean history and two noisy copies of every chunk)
and a batch of first chunks, which have to be made from the prompt alone and are the harder part.
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dummyforcing_core.clips.demo_assets import load_demo_codec
from dummyforcing_core.models.checkpoints import load_model, save_model

from .loss import Batch, held_out_errors, loss_of
from .model import new_model
from .optimizer import make_optimizers

EMA = 0.998


@dataclass(frozen=True)
class Settings:
    minutes: float
    warm_share: float
    processes: int
    seed: int
    muon_lr: float
    adam_lr: float
    out: Path
    export: Path
    drift_share: float
    start: Path | None = None


def batches(warm: bool) -> list[Batch]:
    """The batches of a step: short clips and many first chunks at first, whole clips after that."""
    if warm:
        return [Batch(24, 1, 1), Batch(4, 3, 2)]
    return [Batch(8, 1, 1), Batch(3, 7, 2)]


class Trainer:
    """One process: model, average of its weights, optimizers, and the clock that drives the schedule."""

    def __init__(self, rank: int, settings: Settings) -> None:
        self.rank, self.settings = rank, settings
        self.codec = load_demo_codec()
        self.model, self.average = new_model(settings.seed), new_model(settings.seed)
        if settings.start is not None:
            weights = load_model(settings.start, "demo", dtype=torch.float32).model.state_dict()
            self.model.load_state_dict(weights)
            self.average.load_state_dict(weights)
        self.optimizers = make_optimizers(self.model, settings.muon_lr, settings.adam_lr)
        self.base_lrs = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.step, self.spent_s = 0, 0.0
        self.checkpoint = settings.out / "checkpoint.pt"
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.spent_s = state["step"], state["spent_s"]

    def run(self) -> None:
        budget_s = 60 * self.settings.minutes
        clock, reported_s, saved_s, losses = time.monotonic(), -1e9, self.spent_s, []
        while self.spent_s < budget_s:
            losses.append(self.train_step(self.spent_s / budget_s))
            now = time.monotonic()
            self.spent_s += self.mean_over_processes(now - clock)
            clock = now
            if self.rank == 0 and self.spent_s - reported_s > 120:
                errors = " ".join(f"{e:.3f}" for e in held_out_errors(self.average, self.codec))
                print(
                    f"{self.spent_s / 60:.1f} min  step {self.step}  loss {sum(losses) / len(losses):.4f}  "
                    f"held-out x0 error at sigma 1 per chunk: {errors}",
                    flush=True,
                )
                reported_s, losses = self.spent_s, []
            if self.rank == 0 and self.spent_s - saved_s > 240:
                self.save()
                saved_s = self.spent_s
        if self.rank == 0:
            self.save()
            export = self.settings.export
            export.parent.mkdir(parents=True, exist_ok=True)
            save_model(self.average, export, "demo", torch.float16)
            print(f"wrote {export} after {self.spent_s / 60:.1f} min and {self.step} steps", flush=True)

    def train_step(self, progress: float) -> float:
        scale = min(1.0, (self.step + 1) / 100) * max(1 - progress, 0.0) ** 0.8
        for optimizer, lrs in zip(self.optimizers, self.base_lrs, strict=True):
            optimizer.zero_grad()
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * scale
        generator = torch.Generator().manual_seed(
            (self.settings.seed * 1_000_003 + self.step) * self.settings.processes + self.rank
        )
        total = 0.0
        drift = 0.5 if progress > 1 - self.settings.drift_share else 0.0
        for batch in batches(warm=progress < self.settings.warm_share):
            loss = loss_of(self.model, self.codec, batch, generator, drift)
            (loss / 2).backward()
            total += float(loss.detach()) / 2
        self.average_gradients()
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        decay = min(EMA, (1 + self.step) / (10 + self.step))
        for ours, theirs in zip(self.average.parameters(), self.model.parameters(), strict=True):
            ours.data.lerp_(theirs.data, 1 - decay)
        return total

    def average_gradients(self) -> None:
        gradients = [p.grad for p in self.model.parameters()]
        if self.settings.processes > 1:
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat)
            flat /= self.settings.processes
            for g, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                g.copy_(part.view_as(g))
        norm = torch.nn.utils.get_total_norm(gradients)
        for g in gradients:
            g.mul_(min(1.0, 2.0 / float(norm)))

    def mean_over_processes(self, seconds: float) -> float:
        """The same clock in every process, so that all follow one schedule."""
        if self.settings.processes == 1:
            return seconds
        value = torch.tensor([seconds], dtype=torch.float64)
        dist.all_reduce(value)
        return float(value) / self.settings.processes

    def save(self) -> None:
        self.settings.out.mkdir(parents=True, exist_ok=True)
        part = self.checkpoint.with_suffix(".part")
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizers": [o.state_dict() for o in self.optimizers],
                "step": self.step,
                "spent_s": self.spent_s,
            },
            part,
        )
        part.replace(self.checkpoint)


def worker(rank: int, settings: Settings, store: str) -> None:
    torch.set_num_threads(1)
    if settings.processes > 1:
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=settings.processes)
    Trainer(rank, settings).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=88.0, help="wall time, resumed time included")
    parser.add_argument("--warm-share", type=float, default=0.12, help="first part of the run, on short clips")
    parser.add_argument("--drift-share", type=float, default=0.77, help="last part, with the model's own history")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to begin with, in place of random ones")
    parser.add_argument("--out", type=Path, default=Path("out/train"))
    parser.add_argument("--export", type=Path, default=Path("dummyforcing_core/assets/demo_model.safetensors"))
    settings = Settings(**vars(parser.parse_args()))
    settings.out.mkdir(parents=True, exist_ok=True)
    meeting = settings.out.resolve() / f"meeting-{os.getpid()}"
    mp.spawn(worker, (settings, f"file://{meeting}"), settings.processes)
    meeting.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
