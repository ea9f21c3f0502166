"""Prompts that are edited while a clip is made: a chunk keeps the one it began with, the next one has the new one."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from dummyforcing_core.geometry import Span
from dummyforcing_core.loops.table import sample
from dummyforcing_core.policies import DummyForcing, HeadForcing, SlidingWindow
from dummyforcing_core.prompts import PromptSchedule
from tests.property.test_policy_matrix import FAMILIES, A, B, Variant, clip

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # no VAE for stills


@dataclass
class Live:
    """Says `text` to whoever asks now, and notes who asked."""

    text: Tensor
    asked: list[int] = field(default_factory=list)
    may_switch: bool = True

    def at(self, chunk_start: int) -> Tensor:
        self.asked.append(chunk_start)
        return self.text


@pytest.mark.parametrize("policy", [SlidingWindow(), DummyForcing(), HeadForcing(0.5)], ids=["window", "dummy", "head"])
@pytest.mark.parametrize("loop", FAMILIES)
def test_an_edit_in_the_middle_of_a_chunk_is_a_switch_at_the_next(loop: str, policy) -> None:
    """Made while chunk 2 is denoised, it equals a plan that switches where chunk 3 begins, bit for bit."""
    family = FAMILIES[loop]
    planned = replace(clip(policy, family, Variant()), prompts=PromptSchedule(((0, A), (9, B))))
    if loop == "rolling":  # chunk 3 enters the window one pass before chunk 2 leaves it
        planned = replace(planned, prompts=PromptSchedule(((0, A), (12, B))))
    live = Live(A)

    def on_step(span: Span, step: int) -> None:
        if span.start >= 6:
            live.text = B

    edited = replace(planned, prompts=live, on_step=on_step)
    latents = [torch.cat([chunk.latent for chunk in sample(run)], dim=2) for run in (planned, edited)]
    assert torch.equal(*latents)


@pytest.mark.parametrize("loop", [loop for loop in FAMILIES if loop != "restarts"])
def test_every_chunk_asks_once(loop: str) -> None:
    """Clips of a long video read what they begin with under a prompt of its own, so they ask once more each."""
    live = Live(A)
    starts = [
        chunk.span.start for chunk in sample(replace(clip(SlidingWindow(), FAMILIES[loop], Variant()), prompts=live))
    ]
    # Rolling windows look at all prompts first, when the run is refused or not and when it begins: sizes must be alike.
    assert live.asked == starts * (3 if loop == "rolling" else 1)
