"""The loop over rolling windows: W chunks at rising noise are denoised together; one leaves clean, one enters as noise.

Rolling Forcing (arXiv 2509.25161), after its public code (TencentARC/RollingForcing, pipeline/
rolling_forcing_inference.py); the long videos of Causal-Forcing (thu-ml/Causal-Forcing) use the same. With noise levels
t_0 > .. > t_{W-1} and chunks 0 .. n - 1, window w = 0 .. n + W - 2 is

    chunks max(0, w - W + 1) .. min(n - 1, w), chunk k at level t_{w-k}     one pass, bidirectional inside the window
    every chunk but one at t_{W-1} is noised anew, to its next level
    the chunk at t_{W-1} is finished: a clean pass commits it                (rolling_cache.py: what passes see)

Hence the first chunk takes W windows, every later one a single window, and n + W - 1 windows and n clean passes make a
clip. The public code makes a clean pass after the first W - 1 windows too; nothing ever reads those.
"""

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import DummyForcingError, OutputError, PlanError
from ..geometry import Span, pixel_frames
from ..models.denoiser import Step
from ..models.families import Family
from ..models.stepcache import StepCache
from ..policies.base import Setting
from ..schedule import Schedule, add_noise
from .rolling_memory import RollingMemory
from .run import ChunkResult, MemoryLog, Run


@dataclass
class _Entry:
    """A chunk in the window: its text features, its latent x (B, C, F, h, w), how many windows it has behind it."""

    span: Span
    context: Tensor
    x: Tensor
    age: int = 0


@torch.inference_mode()
def rolling(run: Run) -> Generator[ChunkResult, None, None]:
    """Yields one ChunkResult per chunk. A given start and steps to skip have no place here: an error.

    on_step and watch get a window as its oldest chunk and that chunk's step; a clean pass is step W. Every chunk keeps
    the prompt that it enters with: a window over a switch is made under both, each for its own chunks.
    """
    check_rolling(run)
    memory = RollingMemory(run)
    levels = run.schedule.sigmas
    last = len(levels) - 1
    waiting, window = deque(run.spans), list[_Entry]()
    while waiting and run.is_made(waiting[0]):
        span = waiting.popleft()
        memory.go_on(span, run.made.latent(span), run.prompts.at(span.start))
    for place, x in enumerate(run.made.window):
        span = waiting.popleft()
        window.append(_Entry(span, run.prompts.at(span.start), x, last - place))
    while waiting or window:
        # 1. One chunk enters as noise.
        if waiting:
            span = waiting.popleft()
            window.append(_Entry(span, run.prompts.at(span.start), run.noise(0, span)))
        # 2. One pass over the window. The oldest chunk's last one is where its heads are scored.
        oldest = window[0]
        finished = oldest.age == last
        observation = memory.observation(oldest.span, oldest.context) if finished else None
        full = memory.cache.is_full
        run.on_step(oldest.span, oldest.age)
        frames = window[-1].span.stop - oldest.span.start
        memory.cache.begin_window(oldest.span.start, frames, observation, run.watch(oldest.span, oldest.age))
        clean = _predicted(run, memory, window)
        # 3. All but a finished chunk are noised anew, each to its next level.
        for entry, x0 in zip(window, clean, strict=True):
            if entry.age < last:
                entry.x = add_noise(x0, run.noise(entry.age + 1, entry.span), levels[entry.age + 1])
            entry.age += 1
        # 4. A finished chunk leaves, and is read into the cache.
        if finished:
            window.pop(0)
            latent = clean[0].clone()  # the window's other chunks must not live as long
            run.on_step(oldest.span, len(levels))
            scores = memory.commit(oldest.span, latent, oldest.context, observation)
            result = ChunkResult.of(memory.cache, oldest.span, latent, full, memory.predicted_peak_bytes, scores)
            log = MemoryLog(memory.cache.plan, scores is not None)
            yield replace(result, log=log, window=tuple(entry.x for entry in window))


def _predicted(run: Run, memory: RollingMemory, window: list[_Entry]) -> tuple[Tensor, ...]:
    """The clean estimate of every chunk of the window."""
    chunk = run.family.chunk_frames
    sigma = torch.tensor([run.schedule.sigmas[entry.age] for entry in window]).repeat_interleave(chunk)
    x = torch.cat([entry.x for entry in window], dim=2)
    text = _text(run, [entry.context for entry in window])
    x0 = run.denoise(x, sigma.expand(run.shape.batch, -1), text, Step(memory.cache))
    assert x0 is not None  # only a pass whose output is not read has none
    return x0.split(chunk, dim=2)


def _text(run: Run, contexts: list[Tensor]) -> Tensor:
    """The window's text features: the one prompt's own, or (batch * chunks, S, text_dim) if chunks differ."""
    if all(context is contexts[0] for context in contexts):
        return contexts[0]
    _check_alike(contexts)
    return torch.stack([context.expand(run.shape.batch, -1, -1) for context in contexts], dim=1).flatten(0, 1)


def _check_alike(contexts: Sequence[Tensor]) -> None:
    sizes = {tuple(context.shape[1:]) for context in contexts}
    if len(sizes) > 1:
        raise DummyForcingError(
            f"expected text features of one size, got {sorted(sizes)}; a window may be made under two prompts, so all "
            "need equally many rows and channels: pad them alike"
        )


def whole_windows(family: Family, schedule: Schedule, frames: int) -> int:
    """The fewest latent frames, `frames` or more, that this loop can make: whole chunks, and a window full of them."""
    return max(-(-frames // family.chunk_frames), len(schedule.sigmas)) * family.chunk_frames


def check_rolling(run: Run) -> None:
    """One readable line for everything this loop cannot do."""
    check_windows(run.setting, run.schedule, run.steps)
    _check_alike([run.prompts.at(span.start) for span in run.spans])


def check_windows(setting: Setting, schedule: Schedule, steps: StepCache) -> None:
    """What of it is known before a model is loaded."""
    family, frames = setting.family, setting.clip_frames
    window, chunk = len(schedule.sigmas), family.chunk_frames
    if setting.given_frames:
        raise OutputError(
            f"expected no given start, got one; {family.title} denoises a window of chunks together and was never made "
            "to go on from an image or clip: leave it out, or use a model of another family"
        )
    if steps.skipped:
        raise DummyForcingError(
            f"expected no steps to skip, got {sorted(steps.skipped)}; every pass of {family.title} serves all "
            "noise levels at once: turn step caching off"
        )
    if schedule.first_sigmas is not None or schedule.timesteps is not None:
        raise DummyForcingError(
            "expected one list of noise levels for all chunks, got other levels for the first one, or timesteps of its "
            f"own; use the schedule of {family.title}"
        )
    if (window + 1) * chunk > family.default_window_frames:
        raise PlanError(
            f"expected a window and a sink that fit the {family.default_window_frames} frames {family.title} attends "
            f"to, got {window} noise levels, each for a chunk of {chunk}; use fewer levels"
        )
    near = whole_windows(family, schedule, frames)
    if frames != near:
        raise OutputError(
            f"expected whole chunks of {chunk} latent frames, at least {window}, got {frames} frames for "
            f"{family.title}; ask for {near} latent frames ({pixel_frames(near)} frames of video)"
        )
