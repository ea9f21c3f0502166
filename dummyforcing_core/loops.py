"""The loop that a family is sampled by; all have rollout's arguments and yield its ChunkResult."""

from collections.abc import Callable, Iterator
from functools import partial

from .clip_memory import kv_shape, recaches
from .geometry import LatentShape
from .models.denoiser import Denoiser
from .models.families import Family
from .models.still_frame import StillFrames
from .plan import KVShape
from .prompts import PromptSchedule
from .recompute import context_shape, recompute
from .rolling import rolling
from .rollout import ChunkResult, rollout

Loop = Callable[..., Iterator[ChunkResult]]

LOOPS: dict[str, Loop] = {"chunks": rollout, "rolling": rolling, "recompute": recompute}


def loop_of(family: Family, still: StillFrames | None = None) -> Loop:
    """The family's loop for one clip. `still` encodes pixel frames of it, where a loop wants them (recompute.py)."""
    loop = LOOPS[family.loop]
    return partial(loop, still=still) if family.loop == "recompute" else loop


def price_shape(
    denoise: Denoiser, shape: LatentShape, family: Family, prompts: PromptSchedule | None = None
) -> KVShape:
    """What a clip's head plan is priced by in that loop."""
    if family.loop == "recompute":
        return context_shape(denoise, shape, family)
    return kv_shape(denoise, shape, family, prompts is not None and recaches(family, prompts))
