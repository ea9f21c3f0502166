"""What single heads are worth, by leaving each out: one head forgets all but its newest chunk, the others nothing.

A check of what observing heads says of them (kv/output_change.py), and dearer: a whole pass along the clip per head.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar

from torch import Tensor

from ..errors import PlanError
from ..geometry import LatentShape, Span
from ..kv.plan import HeadMemory, HeadPlan
from ..loops.run import Run
from ..policies.base import Policy, Setting
from ..vae.still_frame import NewStills, no_stills
from .teacher_forced import relative_error, velocities

Velocities = Iterator[tuple[Span, list[Tensor]]]


@dataclass(frozen=True)
class AllBut(Policy):
    """What another policy gives every head, but for one head, which gets a memory of its own."""

    reference: Policy
    layer: int
    head: int
    memory: HeadMemory

    name: ClassVar[str] = "all but one head"

    def plan(self, setting: Setting) -> HeadPlan:
        plan = self.reference.plan(setting)
        memories, roles = [list(row) for row in plan.memories], [list(row) for row in plan.roles]
        memories[self.layer][self.head] = self.memory
        roles[self.layer][self.head] = "left out"
        return replace(plan, memories=tuple(map(tuple, memories)), roles=tuple(map(tuple, roles)))


@dataclass(frozen=True)
class HeadWorth:
    """Relative L2 error of the network's output without a head's far frames: mean over the chunks with a history."""

    layer: int
    head: int
    velocity: float


def leave_one_out(
    run: Run,
    latents: Tensor,
    reference: Policy,
    heads: Sequence[tuple[int, int]] | None = None,
    new_stills: NewStills = no_stills,
) -> Iterator[HeadWorth]:
    """Teacher-forced errors of leaving heads out, one by one, along finished latents (B, C, T, h, w).

    run   -- as for teacher_forced, which this is, but for the heads' outputs; its own policy plays no part
    heads -- (layer, head) of those to leave out; None: all that it makes a difference to (`far_heads`)

    The pass under the reference is made once for all heads; its velocities wait in main memory: as many times the
    latents, in their dtype, as there are denoising steps. PlanError if the reference plans anew on the way.
    """
    setting = replace(run, shape=LatentShape(*latents.shape), start=None).setting
    check_fixed(reference, setting)
    plan, chunk = reference.plan(setting), setting.chunk_frames
    said = [(span, [one.cpu() for one in heard]) for span, heard in velocities(run, latents, reference, new_stills)]
    for layer, head in far_heads(plan, chunk) if heads is None else heads:
        policy = AllBut(reference, layer, head, _newest(plan.memories[layer][head], chunk))
        yield HeadWorth(layer, head, _error(velocities(run, latents, policy, new_stills), said))


def far_heads(plan: HeadPlan, chunk_frames: int) -> list[tuple[int, int]]:
    """(layer, head) of those that keep more than the newest chunk of so many latent frames."""
    return [
        (layer, head)
        for layer, row in enumerate(plan.memories)
        for head, memory in enumerate(row)
        if memory != _newest(memory, chunk_frames)
    ]


def check_fixed(reference: Policy, setting: Setting) -> None:
    """PlanError for a policy that observes heads in the clip and plans anew: no head of it can be left out alone."""
    if reference.may_observe_again or any(reference.observes(span, setting, (), False) for span in setting.spans):
        raise PlanError(
            f"expected a reference with one plan for the whole clip, got '{reference.name}', which observes heads in "
            "the clip and plans anew; give it a saved head profile, or compare with another policy first"
        )


def _newest(memory: HeadMemory, chunk_frames: int) -> HeadMemory:
    """What of a memory lies in the newest chunk of history."""
    recent = memory.recent_frames
    newest = chunk_frames if recent is None else min(recent, chunk_frames)
    return replace(memory, sink_frames=0, recent_frames=newest, bank_frames=0)


def _error(found: Velocities, said: Sequence[tuple[Span, list[Tensor]]]) -> float:
    """Mean over passes, then over the chunks with a history; 0 if there is none."""
    chunks = [
        fmean(relative_error(one, expected.to(one.device)) for one, expected in zip(heard, before, strict=True))
        for (span, heard), (_, before) in zip(found, said, strict=True)
        if span.start > 0
    ]
    return fmean(chunks) if chunks else 0.0
