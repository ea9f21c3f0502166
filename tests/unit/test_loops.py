"""What every family's loop promises to whoever shows its progress and its cost."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dummyforcing_core.geometry import LatentShape, Span, chunk_spans
from dummyforcing_core.kv.attention import attention
from dummyforcing_core.loops.rolling import check_rolling
from dummyforcing_core.loops.run import Run
from dummyforcing_core.loops.table import clip_kv_shape, loop_of, pass_flops, sample
from dummyforcing_core.models.checkpoints import load_demo_model
from dummyforcing_core.models.denoiser import Step, WanDenoiser
from dummyforcing_core.models.families import FAMILIES, get_family
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Full, Policy, SlidingWindow
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule

PROMPTS = PromptSchedule.constant(torch.zeros(1, 11, 64))


class Counted(WanDenoiser):
    calls = 0

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        self.calls += 1
        return super().__call__(x, sigma, context, step)


@pytest.fixture(scope="module")
def denoise() -> Counted:
    return Counted(load_demo_model().model)


def takes_no_start(name: str) -> bool:
    """Rolling windows."""
    return loop_of(FAMILIES[name]).refuse is check_rolling


@pytest.mark.parametrize(
    ("name", "given"),
    [(name, given) for name in FAMILIES for given in ([0] if takes_no_start(name) else [0, 1, 5])],
)
@pytest.mark.parametrize("policy", [Full(), DummyForcing()])
def test_the_calls_of_a_clip_are_known_before(denoise: Counted, name: str, given: int, policy) -> None:
    family = get_family(name)
    for schedule in (family.schedule, Schedule((1.0, 0.7, 0.4))):
        announced = 0

        def on_step(span, step) -> None:
            nonlocal announced
            announced += 1

        window = loop_of(family).pass_frames(family)
        whole = 18 if window > family.chunk_frames else given + 7
        shape = LatentShape(1, 16, given + 40 if family.overlap_frames else whole, 2, 2)
        start = torch.zeros(1, 16, given, 2, 2) if given else None
        denoise.calls = 0
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*there is no VAE")
            noise = SeededNoise(0, shape, family.chunk_frames)
            chunks = list(
                sample(Run(denoise, shape, schedule, PROMPTS, policy, family, noise, start=start, on_step=on_step))
            )
        assert len(chunks) == len(chunk_spans(shape.frames, family.chunk_frames, given))
        expected = loop_of(family).model_calls(family, schedule, shape.frames, given)
        assert expected == announced == denoise.calls


@pytest.mark.filterwarnings("ignore:.*(there is no VAE|was trained on)")
@pytest.mark.parametrize("policy", [Full(), SlidingWindow(6, 3), DummyForcing()], ids=["full", "window", "dummy"])
@pytest.mark.parametrize("name", FAMILIES)
def test_attention_late_in_a_clip_is_as_priced(denoise: Counted, name: str, policy: Policy) -> None:
    """Counted in the attention calls of the last chunk, in rolling windows of the last window that is full."""
    family, shape = get_family(name), LatentShape(1, 16, 39, 4, 4)  # a clip that starts anew ends there, too
    if family.default_window_frames < 9 and isinstance(policy, SlidingWindow):
        policy = SlidingWindow(5, 1)
    passes: list[tuple[int, list[int]]] = []  # of a denoising pass: its chunk, the operations of every call

    def on_step(span: Span, step: int) -> None:
        passes.append((-1, []))  # a clean pass, unless the loop says that it can be watched

    def watch(span: Span, step: int) -> None:
        passes[-1] = span.chunk, passes[-1][1]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if k.shape[1] != PROMPTS.at(0).shape[1]:  # which is no multiple of a frame's 4 tokens
            passes[-1][1].append(4 * q.shape[1] * k.shape[1] * q.shape[2] * q.shape[3])
        return attention(q, k, v)

    noise = SeededNoise(0, shape, family.chunk_frames)
    run = Run(denoise, shape, family.schedule, PROMPTS, policy, family, noise, attend=attend)
    chunks = list(sample(replace(run, on_step=on_step, watch=watch)))
    late = len(chunks) - loop_of(family).pass_frames(family) // family.chunk_frames
    counted = [sum(calls) for chunk, calls in passes if chunk == late]
    expected = pass_flops(chunks[-1].plan, clip_kv_shape(denoise.geometry, shape, family), family, shape.frames)
    assert counted and set(counted) == {expected}
