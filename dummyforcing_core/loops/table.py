"""The loops that families are sampled by: one row each. Nothing else asks for a loop by its name."""

import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from ..errors import PlanError
from ..geometry import LatentShape, chunk_spans
from ..kv.plan import HeadPlan, KVShape
from ..models.denoiser import ModelGeometry
from ..models.families import Family
from ..models.stepcache import NO_STEPS, StepCache
from ..policies.base import Policy, Setting
from ..schedule import Schedule
from .context_latents import context_frames
from .recompute import check_context, context_shape, recompute
from .restarts import part_shape, parts_of, restarts
from .rolling import check_rolling, check_windows, rolling, whole_windows
from .rolling_memory import fitted
from .rollout import rollout
from .run import ChunkResult, Run, kv_shape


@dataclass(frozen=True)
class Loop:
    """How a family is sampled, and what has to be known of that before it runs. All lengths in latent frames.

    run           -- yields a clip's chunks
    refuse        -- raises one readable line for what the loop cannot do
    refuse_early  -- the same of what is known before a model is loaded
    check_plan    -- raises PlanError for a head plan that the loop cannot follow
    made_frames   -- the fewest frames, as many as asked for or more, that the loop can make
    about         -- a phrase for a list of families, "" for the plain loop
    model_calls   -- (family, schedule, frames, given_frames) -> calls of a clip, as on_step is told of them
    kv_shape      -- (model, shape, family, recaches) -> what turns a clip's head plans into bytes
    pass_frames   -- frames that one denoising call works on
    past_frames   -- the most history that such a call can see; None: all there is
    still_frames  -- how many frames back the loop asks for a pixel frame as a still; 0: never
    looks_again   -- whether heads may be observed in a chunk that is there, as it is read again
    stores_kv     -- whether a run may begin from stored keys and values; others make theirs anew in a few passes
    """

    run: Callable[[Run], Generator[ChunkResult, None, None]]
    model_calls: Callable[[Family, Schedule, int, int], int]
    kv_shape: Callable[[ModelGeometry, LatentShape, Family, bool], KVShape] = kv_shape
    refuse: Callable[[Run], None] = lambda run: None
    refuse_early: Callable[[Setting, Schedule, StepCache], None] = lambda setting, schedule, steps: None
    check_plan: Callable[[HeadPlan, Family], object] = lambda plan, family: None
    made_frames: Callable[[Family, Schedule, int], int] = lambda family, schedule, frames: frames
    about: Callable[[Family], str] = lambda family: ""
    pass_frames: Callable[[Family], int] = lambda family: family.chunk_frames
    past_frames: Callable[[Family], int | None] = lambda family: None
    still_frames: Callable[[Family], int] = lambda family: 0
    looks_again: bool = False
    stores_kv: bool = False


def _chunk_calls(family: Family, schedule: Schedule, frames: int, given_frames: int) -> int:
    """Of the loop over chunks: the denoising steps, and the clean passes over what is made and given."""
    spans = chunk_spans(frames, family.chunk_frames, given_frames)
    clean = sum(len(span.passes(family.chunk_frames)) for span in spans)
    return _denoising_calls(family, schedule, frames, given_frames) + clean


def _denoising_calls(family: Family, schedule: Schedule, frames: int, given_frames: int) -> int:
    made = [span for span in chunk_spans(frames, family.chunk_frames, given_frames) if not span.given]
    return sum(len(schedule.levels(span.start == given_frames)) for span in made)


def _rolling_calls(family: Family, schedule: Schedule, frames: int, given_frames: int) -> int:
    """A window and a clean pass per chunk, and the windows that the first chunk waits for."""
    return 2 * len(chunk_spans(frames, family.chunk_frames, given_frames)) + len(schedule) - 1


def _recompute_calls(family: Family, schedule: Schedule, frames: int, given_frames: int) -> int:
    """The denoising steps, and the clean passes over every chunk's context."""
    context, chunk = context_frames(family), family.chunk_frames
    made = [span for span in chunk_spans(frames, chunk, given_frames) if not span.given]
    clean = sum(-(-min(span.start, context) // chunk) for span in made)
    return _denoising_calls(family, schedule, frames, given_frames) + clean


def _restart_calls(family: Family, schedule: Schedule, frames: int, given_frames: int) -> int:
    """Those of every clip."""
    parts = parts_of(frames, family, given_frames)
    return sum(_chunk_calls(family, schedule, part.stop - part.start, part.held) for part in parts)


def _window(family: Family) -> int:
    """Frames of a rolling window: a chunk for every noise level."""
    return family.chunk_frames * len(family.steps)


LOOPS: dict[str, Loop] = {
    "chunks": Loop(run=rollout, model_calls=_chunk_calls, looks_again=True, stores_kv=True),
    "rolling": Loop(
        run=rolling,
        model_calls=_rolling_calls,
        refuse=check_rolling,
        refuse_early=check_windows,
        check_plan=fitted,
        made_frames=whole_windows,
        about=lambda family: f"{_window(family)} frames denoised together",
        pass_frames=_window,
        past_frames=lambda family: family.default_window_frames - _window(family),
    ),
    "recompute": Loop(
        run=recompute,
        model_calls=_recompute_calls,
        kv_shape=lambda model, shape, family, recaches: context_shape(model, shape, family),
        check_plan=check_context,
        about=lambda family: "cache made anew before every chunk",
        past_frames=context_frames,
        still_frames=context_frames,
    ),
    "restarts": Loop(
        run=restarts,
        model_calls=_restart_calls,
        kv_shape=lambda model, shape, family, recaches: part_shape(model, shape, family),
        about=lambda family: f"longer clips restart, over {family.overlap_frames} frames",
        past_frames=lambda family: family.trained_frames - family.chunk_frames,
        still_frames=lambda family: family.overlap_frames,
        looks_again=True,
    ),
}


def loop_of(family: Family) -> Loop:
    """The family's row."""
    return LOOPS[family.loop]


def early_plan(setting: Setting, schedule: Schedule, policy: Policy, steps: StepCache = NO_STEPS) -> HeadPlan:
    """The head plan that a clip would begin with. Raises what its loop would refuse, before a model is loaded."""
    loop = loop_of(setting.family)
    loop.refuse_early(setting, schedule, steps)
    with warnings.catch_warnings():  # the run itself says them
        warnings.simplefilter("ignore")
        plan = policy.plan(setting)
        loop.check_plan(plan, setting.family)
    return plan


def check_fresh(run: Run) -> None:
    """PlanError if the policy would have to look at heads while chunks are made that are there already.

    Behind chunks of another memory only clean passes are made again.
    """
    policy, setting = run.policy, run.setting
    if loop_of(run.family).looks_again and policy.observed_step is None:
        return
    for span in run.spans[: run.made.fresh]:
        if not span.given and policy.observes(span, setting, [], False):
            raise PlanError(
                f"expected a policy that needs no look at chunk {span.chunk}, which is there already, got "
                f"{policy.name}, which looks at heads while it is made; give it a saved head profile, or branch before "
                "that chunk"
            )


def kv_peak_bytes(policy: Policy, setting: Setting, shape: KVShape) -> int:
    """The most bytes of K/V that a clip takes: under its first plan, and under any that may follow."""
    with warnings.catch_warnings():  # the run itself says them
        warnings.simplefilter("ignore")
        return policy.plan(setting).peak_bytes(shape, policy.later(setting))


def sample(run: Run) -> Generator[ChunkResult, None, None]:
    """A run's chunks, by its family's loop. What the loop cannot do is refused here, before the first of them."""
    loop = loop_of(run.family)
    loop.refuse(run)
    check_fresh(run)
    return loop.run(run)


def clip_kv_shape(model: ModelGeometry, shape: LatentShape, family: Family, switches: int = 0) -> KVShape:
    """What turns a clip's head plans into bytes in its family's loop; `switches` of its prompt."""
    return loop_of(family).kv_shape(model, shape, family, family.recache and switches > 0)


def pass_flops(plan: HeadPlan, shape: KVShape, family: Family, frames: int) -> int:
    """Multiply-adds times two of self-attention in one denoising pass, deep in a clip of `frames` latent frames."""
    loop = loop_of(family)
    length = loop.pass_frames(family)
    before, most = max(frames - length, 0), loop.past_frames(family)
    if most is not None:
        before = min(before, most)
    return plan.attention_flops(replace(shape, pass_frames=min(length, frames)), before)
