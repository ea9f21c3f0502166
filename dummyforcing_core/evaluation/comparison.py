"""Policies side by side: the same prompts, seed and noise, one row of figures each and one video of all."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load

from ..clips.encoding import DEFAULT_ENCODING, Encoding
from ..clips.pipeline import Pipeline
from ..clips.render import Clip, clip_run, part_of, prompt_schedule
from ..clips.report import RunReport
from ..clips.video import VideoWriter, read_frames
from ..files import rename_whole, write_atomic
from ..kv.plan import HeadPlan
from ..loops.table import clip_kv_shape, pass_flops
from ..policies.base import Policy
from ..rates import OWN_RATE
from .teacher_forced import ChunkError, teacher_forced

_GAP = 12


@dataclass(frozen=True, eq=False)
class Row:
    """One policy of a comparison. Errors are against the first policy, teacher-forced along its clip.

    left_out -- of the first policy: the velocity error without each head (layers, heads), if that was asked for
    """

    policy: Policy
    plan: HeadPlan
    report: RunReport
    errors: Sequence[ChunkError]
    flops: int
    left_out: torch.Tensor | None = None

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def velocity_error(self) -> float:
        """Mean over the chunks that have a history."""
        values = [error.velocity for error in self.errors if error.span.start > 0]
        return sum(values) / len(values) if values else 0.0

    @property
    def head_error(self) -> torch.Tensor:
        """(layers, heads), mean over the chunks that have a history."""
        values = [error.heads for error in self.errors if error.span.start > 0]
        return torch.stack(values).mean(0) if values else torch.zeros(self.plan.layers, self.plan.heads)

    def to_dict(self) -> dict:
        """Everything measured, for JSON."""
        return {
            "policy": str(self.policy),
            "velocity_error": self.velocity_error,
            "velocity_error_per_chunk": [error.velocity for error in self.errors],
            "head_error": self.head_error.tolist(),
            "roles": [list(row) for row in self.plan.roles],
            "attention_flops_per_pass": self.flops,
            "report": json.loads(self.report.to_json()),
        } | ({} if self.left_out is None else {"leave_one_out": self.left_out.tolist()})


def compare_row(
    pipeline: Pipeline, clip: Clip, reference: Policy, latents: Path, plan: HeadPlan, report: RunReport
) -> Row:
    """Figures of `clip`'s policy against `reference` along the reference's saved latents."""
    model = pipeline.denoiser.geometry
    run = clip_run(pipeline, clip, prompt_schedule(pipeline, clip))
    errors = teacher_forced(run, finished_latents(latents, model.device), reference, pipeline.new_stills)
    shape = clip_kv_shape(model, clip.shape, pipeline.family)
    flops = pass_flops(plan, shape, pipeline.family, clip.shape.frames)
    return Row(clip.policy, plan, report, list(errors), flops)


def finished_latents(path: Path, device: torch.device) -> torch.Tensor:
    """A clip's saved latents (B, C, T, h, w)."""
    return load(path.read_bytes())["latent"].to(device)


def table(rows: Sequence[Row]) -> str:
    """The comparison as plain text; ratios are to the first row of the same run."""
    first = rows[0]
    header = (
        f"{'policy':<10}{'velocity':>10}{'heads':>8}{'history':>12}{'resident':>12}{'attention':>12}{'diffusion':>12}"
    )
    units = f"{'':<10}{'error':>10}{'error':>8}{'MiB':>12}{'MiB':>12}{'GFLOP':>12}{'ms':>12}"
    lines = [header, units]
    for row in rows:
        memory = row.report.memory
        history, resident = (float(memory[k]["actual"] or 0) / 2**20 for k in ("history_bytes", "resident_bytes"))
        lines.append(
            f"{row.name:<10}{row.velocity_error:>10.4f}{float(row.head_error.mean()):>8.4f}{history:>12.2f}"
            f"{resident:>12.2f}{row.flops / 1e9:>12.3f}{row.report.diffusion_ms:>12.1f}"
        )
        if row is not first:
            lines.append(f"{'':<10}{'':>18}{_ratio(row, first)}")
    return "\n".join([*lines, "attention: self-attention of one pass over the last chunk; diffusion: the whole clip"])


def _ratio(row: Row, first: Row) -> str:
    mine, theirs = (r.report.memory["history_bytes"]["actual"] or 0 for r in (row, first))
    time = row.report.diffusion_ms / first.report.diffusion_ms
    history = f"{mine / theirs:.2f}x history" if theirs else "no history to compare"
    return f"{history}, {row.flops / first.flops:.2f}x attention FLOPs, {time:.2f}x time of {first.name}"


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Writes every figure as JSON."""
    write_atomic(path, (json.dumps([row.to_dict() for row in rows], indent=1) + "\n").encode("utf-8"))


def side_by_side(
    videos: Sequence[Path], out: Path, fps: Fraction = OWN_RATE, encoding: Encoding = DEFAULT_ENCODING
) -> None:
    """One video of all, left to right, frame by frame; it gets its name when it is whole."""
    part = part_of(out)
    with contextlib.ExitStack() as stack:
        stack.callback(part.unlink, missing_ok=True)  # the clips are whole: what was joined of them is nothing to keep
        writer: VideoWriter | None = None
        for joined, _ in joined_frames([read_frames(video) for video in videos]):
            if writer is None:
                height, width = joined.shape[:2]
                writer = stack.enter_context(VideoWriter(part, width, height, fps, encoding))
            writer.write(joined[None])
        if writer is not None:
            writer.finish()
        rename_whole(part, out)


def joined_frames(
    clips: Sequence[Iterable[np.ndarray]],
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray | None, ...]]]:
    """Frames of all clips beside each other, (H, W, 3) uint8, and the frames they are made of.

    A clip that has ended holds its last frame (None in the tuple); lower ones stand on black.
    """
    last: list[np.ndarray] = []
    for frames in zip_longest(*clips):
        last = [frame if frame is not None else held for frame, held in zip_longest(frames, last)]
        height = max(frame.shape[0] for frame in last)
        gap = np.full((height, _GAP, 3), 24, np.uint8)
        padded = [np.pad(frame, ((0, height - frame.shape[0]), (0, 0), (0, 0))) for frame in last]
        yield np.concatenate([part for frame in padded for part in (frame, gap)][:-1], axis=1), frames
