"""What is known of a run before its model is loaded, and everything that is refused by it."""

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from ..clips.pipeline import check_demo_family
from ..errors import DummyForcingError, OutputError
from ..geometry import SPATIAL, LatentShape
from ..kv.attention import choose
from ..loops.run import setting_of
from ..loops.table import clip_kv_shape, early_plan, kv_peak_bytes
from ..machine import device_memory_bytes, main_memory_bytes
from ..models import checkpoints
from ..models.checkpoints import read_checkpoint
from ..models.denoiser import ModelGeometry
from ..models.families import DEMO, Family
from ..models.sizes import size_note
from ..models.stepcache import NO_STEPS, StepCache
from ..policies import Policy
from .common import pick_device, pick_dtype

GIB = 2**30
CHUNK_BYTES = 1024  # of lists and figures that a run keeps per chunk
COPIES = 3  # of what is joined and written at the end


@dataclass(frozen=True)
class Known:
    """What a checkpoint's file says without being loaded."""

    family: Family
    fingerprint: str
    geometry: ModelGeometry


def known_model(args: argparse.Namespace) -> Known:
    """The model that the run arguments name. CheckpointError if the file is none, DummyForcingError for a device,
    dtype or attention backend that cannot be used."""
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    if args.model == DEMO:
        check_demo_family(args.family)
        weights = read_checkpoint(checkpoints.DEMO_PATH, DEMO)
    else:
        weights = read_checkpoint(Path(args.model), args.family)
    config = weights.info.geometry
    geometry = ModelGeometry(
        config.num_layers, config.num_heads, config.dim // config.num_heads, config.in_dim, device, dtype
    )
    choose(args.attention, device, dtype, geometry.head_dim)
    return Known(weights.family, weights.info.fingerprint, geometry)


@dataclass(frozen=True)
class Wanted:
    """A clip as far as its cost goes.

    steps        -- to be skipped, as far as that is known without the model
    switches     -- of its prompt
    keeps        -- whether its latents are kept until it is done
    """

    shape: LatentShape
    policy: Policy
    steps: StepCache = NO_STEPS
    given_frames: int = 0
    switches: int = 0
    keeps: bool = False


def check_run(known: Known, wanted: Wanted) -> None:
    """Refuses, in one line each, sizes far beyond the family's training, what its loop cannot do, and what this
    machine's memory cannot hold. A warning for sizes that are only larger."""
    family, shape = known.family, wanted.shape
    if note := size_note(shape.width * SPATIAL, shape.height * SPATIAL, family):
        warnings.warn(note, stacklevel=2)
    check_memory(known, shape, wanted.keeps)
    setting = setting_of(known.geometry, shape, family, wanted.given_frames)
    early_plan(setting, family.schedule, wanted.policy, wanted.steps)
    device, kv_shape = known.geometry.device, clip_kv_shape(known.geometry, shape, family, wanted.switches)
    needed = kv_peak_bytes(wanted.policy, setting, kv_shape)
    _fits("the keys and values of this clip", needed, device_memory_bytes(device), device)


def check_start(known: Known, shape: LatentShape, policy: Policy) -> None:
    """What the loop says to a given start, before that is looked at."""
    early_plan(setting_of(known.geometry, shape, known.family, 1), known.family.schedule, policy, NO_STEPS)


def check_memory(known: Known, shape: LatentShape, keeps: bool = False) -> None:
    """OutputError for a clip whose lists, pixels or latents are more than there is room for."""
    chunk = known.family.chunk_frames
    frame = 4 * shape.channels * shape.height * shape.width
    pixels = 4 * 3 * (4 * chunk) * shape.height * shape.width * SPATIAL**2
    chunks = -(-shape.frames // chunk)
    kept = COPIES * frame * shape.frames if keeps else 0
    _fits("this clip", chunks * CHUNK_BYTES + COPIES * pixels + kept, main_memory_bytes(), torch.device("cpu"))


def check_count(what: str, count: int, most: int) -> None:
    """DummyForcingError for a number of things from which no run would return."""
    if not 1 <= count <= most:
        raise DummyForcingError(f"expected 1 to {most} {what}, got {count}; make fewer at a time")


def _fits(what: str, needed: int, there: int | None, device: torch.device) -> None:
    if there is not None and needed > there:
        raise OutputError(
            f"{what} would take {needed / GIB:.1f} GiB, and {device} has {there / GIB:.1f} GiB; make it shorter or "
            "smaller, or give heads a shorter memory (--policy window or dummy)"
        )
