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

from collections.abc import Generator

import torch
from torch import Tensor

from ..errors import DummyForcingError, OutputError, PlanError
from ..geometry import LatentShape, Span, pixel_frames
from ..kv.attention import AttentionFn, attention
from ..models.denoiser import Denoiser, Step
from ..models.families import Family
from ..models.stepcache import NO_STEPS, StepCache
from ..noise import NoiseFn
from ..policies.base import Policy
from ..prompts import PromptSchedule
from ..schedule import Schedule, add_noise
from .rolling_memory import RollingMemory
from .rollout import ChunkResult, OnStep, Watch


@torch.inference_mode()
def rolling(
    denoise: Denoiser,
    shape: LatentShape,
    schedule: Schedule,
    prompts: PromptSchedule,
    policy: Policy,
    family: Family,
    noise: NoiseFn,
    start: Tensor | None = None,
    on_step: OnStep = lambda span, step: None,
    attend: AttentionFn = attention,
    steps: StepCache = NO_STEPS,
    watch: Watch = lambda span, step: None,
) -> Generator[ChunkResult, None, None]:
    """Yields one ChunkResult per chunk. Arguments as rollout's; `start` and `steps` have no place here: an error.

    on_step, watch -- get a window as its oldest chunk and that chunk's step; a clean pass is step W

    Every chunk is made under its own prompt: a window over a switch speaks both, each to its own chunks.
    """
    _check(shape, schedule, prompts, family, start, steps)
    memory = RollingMemory(denoise, shape, schedule, prompts, policy, family, noise, attend)
    spans, levels = memory.setting.spans, schedule.sigmas
    last = len(levels) - 1
    x: list[Tensor] = []  # the window's chunks, oldest first
    for w in range(len(spans) + last):
        window = spans[max(0, w - last) : w + 1]
        ages = [w - span.chunk for span in window]  # windows that each chunk has behind it: its level
        if w < len(spans):
            x.append(noise(0, window[-1]))
        observation = memory.observation(window[0]) if ages[0] == last else None
        full = memory.cache.is_full
        on_step(window[0], ages[0])
        frames = window[-1].stop - window[0].start
        memory.cache.begin_window(window[0].start, frames, observation, watch(window[0], ages[0]))
        sigma = torch.tensor([levels[age] for age in ages]).repeat_interleave(family.chunk_frames)
        context = _spoken(prompts, window, shape.batch)
        x0 = denoise(torch.cat(x, dim=2), sigma.expand(shape.batch, -1), context, Step(memory.cache))
        assert x0 is not None
        clean = x0.split(family.chunk_frames, dim=2)
        x = [
            add_noise(chunk, noise(age + 1, span), levels[age + 1])
            for chunk, span, age in zip(clean, window, ages, strict=True)
            if age < last
        ]
        if ages[0] == last:
            latent = clean[0].clone()  # the window's other chunks shall not live as long
            on_step(window[0], len(levels))
            scores = memory.commit(window[0], latent, observation)
            yield ChunkResult.of(memory.cache, window[0], latent, full, memory.predicted_peak_bytes, scores)


def _spoken(prompts: PromptSchedule, window: list[Span], batch: int) -> Tensor:
    """The window's text features: the one prompt's own, or (batch * chunks, S, text_dim) if chunks differ."""
    contexts = [prompts.at(span.start) for span in window]
    if all(context is contexts[0] for context in contexts):
        return contexts[0]
    return torch.stack([context.expand(batch, -1, -1) for context in contexts], dim=1).flatten(0, 1)


def _check(
    shape: LatentShape,
    schedule: Schedule,
    prompts: PromptSchedule,
    family: Family,
    start: Tensor | None,
    steps: StepCache,
) -> None:
    """One readable line for everything this loop cannot do."""
    window, chunk = len(schedule.sigmas), family.chunk_frames
    if start is not None:
        raise OutputError(
            f"a given start came; {family.title} denoises a window of chunks together and was never made to go on from "
            "an image or clip: leave it out, or use a model of another family"
        )
    if steps.skipped:
        raise DummyForcingError(
            f"steps {sorted(steps.skipped)} to skip came; every pass of {family.title} serves all noise levels at "
            "once, so none can be skipped: turn step caching off"
        )
    if schedule.first_sigmas is not None or schedule.told is not None:
        raise DummyForcingError(
            f"a schedule with levels of its own for the first chunk, or told levels, came; {family.title} has one list "
            "for all chunks: use its own schedule"
        )
    if (window + 1) * chunk > family.default_window_frames:
        raise PlanError(
            f"{window} noise levels came; a window of as many chunks of {chunk} and a sink do not fit into the "
            f"{family.default_window_frames} frames that {family.title} attends to: use fewer levels"
        )
    if shape.frames % chunk or shape.frames < window * chunk:
        near = max(-(-shape.frames // chunk), window) * chunk
        raise OutputError(
            f"a clip of {shape.frames} latent frames came; {family.title} makes whole chunks of {chunk}, at least "
            f"{window}: ask for {near} latent frames ({pixel_frames(near)} frames of video)"
        )
    sizes = {tuple(context.shape[1:]) for _, context in prompts.entries}
    if len(sizes) > 1:
        raise DummyForcingError(
            f"text features of sizes {sorted(sizes)} came; one window may speak two prompts, so all need equally many "
            "rows and channels: pad them alike"
        )
