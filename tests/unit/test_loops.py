"""What every family's loop promises to whoever shows its progress and its cost."""

import warnings

import pytest
import torch
from torch import Tensor

from dummyforcing_core.geometry import LatentShape, Span, chunk_spans
from dummyforcing_core.kv.attention import attention
from dummyforcing_core.loops.table import loop_of, model_calls, pass_flops, price_shape
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


@pytest.mark.parametrize(
    ("name", "given"),  # rolling windows take no start
    [(name, given) for name in FAMILIES for given in ([0] if FAMILIES[name].loop == "rolling" else [0, 1, 5])],
)
@pytest.mark.parametrize("policy", [Full(), DummyForcing()])
def test_the_calls_of_a_clip_are_known_before(denoise: Counted, name: str, given: int, policy) -> None:
    family = get_family(name)
    for schedule in (family.schedule, Schedule((1.0, 0.7, 0.4))):
        told = 0

        def on_step(span, step) -> None:
            nonlocal told
            told += 1

        shape = LatentShape(1, 16, {"rolling": 18, "restarts": given + 40}.get(family.loop, given + 7), 2, 2)
        start = torch.zeros(1, 16, given, 2, 2) if given else None
        denoise.calls = 0
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*there is no VAE")
            noise = SeededNoise(0, shape, family.chunk_frames)
            chunks = list(
                loop_of(family)(denoise, shape, schedule, PROMPTS, policy, family, noise, start=start, on_step=on_step)
            )
        assert len(chunks) == len(chunk_spans(shape.frames, family.chunk_frames, given))
        assert model_calls(family, schedule, shape.frames, given) == told == denoise.calls


@pytest.mark.filterwarnings("ignore:.*(there is no VAE|was trained on)")
@pytest.mark.parametrize("policy", [Full(), SlidingWindow(6, 3), DummyForcing()], ids=["full", "window", "dummy"])
@pytest.mark.parametrize("name", FAMILIES)
def test_attention_late_in_a_clip_is_as_priced(denoise: Counted, name: str, policy: Policy) -> None:
    """Counted in the attention calls of the last chunk, in rolling windows of the last window that is full."""
    family, shape = get_family(name), LatentShape(1, 16, 39, 4, 4)  # a clip that starts anew ends there, too
    if family.loop == "recompute" and isinstance(policy, SlidingWindow):
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

    loop, noise = loop_of(family), SeededNoise(0, shape, family.chunk_frames)
    chunks = list(
        loop(
            denoise, shape, family.schedule, PROMPTS, policy, family, noise,
            on_step=on_step, watch=watch, attend=attend,
        )
    )  # fmt: skip
    late = len(chunks) - (len(family.steps) if family.loop == "rolling" else 1)
    counted = [sum(calls) for chunk, calls in passes if chunk == late]
    expected = pass_flops(chunks[-1].plan, price_shape(denoise, shape, family), family, shape.frames)
    assert counted and set(counted) == {expected}
