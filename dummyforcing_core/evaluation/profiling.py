"""Taking a head profile: scores of whole clips, and how stable the choice of dummy heads is across them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from ..geometry import LatentShape, Span
from ..kv.attention import AttentionFn, attention
from ..kv.output_change import ChangeObservation, OutputChange, memory_options
from ..kv.plan import HeadMemory, HeadPlan
from ..kv.scoring import HeadScores, Observation
from ..loops import table
from ..loops.run import Run
from ..models.denoiser import Denoiser
from ..models.families import Family
from ..noise import SeededNoise
from ..policies import own_policy
from ..policies.base import Policy, Seen, Setting
from ..policies.head_programming import DUMMY, assign_roles
from ..prompts import PromptSchedule
from ..vae.still_frame import NewStills, no_stills

CLEAN = -1
PAPER_OVERLAP = {"AR steps": 0.92, "timesteps": 0.85, "prompts": 0.76}
PAPER_CURRENT_SHARE = 0.25
CURRENT_MASS = 0.8


@dataclass(frozen=True, eq=False)
class Sample:
    """One pass's scores: which clip and prompt, which chunk, which denoising step (CLEAN: the clean pass)."""

    clip: int
    prompt: int
    chunk: int
    step: int
    scores: HeadScores


@dataclass(frozen=True, eq=False)
class Watching(Policy):
    """A uniform window in which every clean pass is scored and nothing changes."""

    memory: HeadMemory
    seen: Callable[[HeadScores], None]

    name: ClassVar[str] = "watching"

    def plan(self, setting: Setting) -> HeadPlan:
        return HeadPlan.uniform(setting.layers, setting.heads, self.memory, "unclassified", setting.family.name)

    def observes(self, span: Span, setting: Setting, observed: Sequence[int], switched: bool) -> bool:
        return span.start > self.memory.sink_frames

    def replan(self, seen: Seen, setting: Setting) -> HeadPlan:
        assert isinstance(seen, HeadScores)
        self.seen(seen)
        return self.plan(setting)


@dataclass(frozen=True)
class ProfilePlan:
    """Which clips are scored: every prompt with every seed, all of one shape."""

    prompts: Sequence[PromptSchedule]
    seeds: Sequence[int]
    shape: LatentShape
    local_chunks: int = 1
    sink_frames: int = 1


def take_samples(
    denoise: Denoiser,
    family: Family,
    clips: ProfilePlan,
    attend: AttentionFn = attention,
    new_stills: NewStills = no_stills,
) -> Iterator[Sample]:
    """Scores of every pass that has neighbour frames, under the memory Dummy Forcing classifies with."""
    memory = HeadMemory(clips.sink_frames, clips.local_chunks * family.chunk_frames)
    model, number = denoise.geometry, 0
    for index, prompts in enumerate(clips.prompts):
        for seed in clips.seeds:
            seen: list[HeadScores] = []
            steps: dict[tuple[int, int], Observation] = {}

            def watch(span: Span, step: int, steps=steps) -> Observation | None:
                if span.start <= memory.sink_frames:
                    return None
                return steps.setdefault((span.chunk, step), Observation(model.layers, model.heads))

            noise = SeededNoise(seed, clips.shape, family.chunk_frames, model.device)
            policy = Watching(memory, seen.append)
            run = Run(denoise, clips.shape, family.schedule, prompts, policy, family, noise, attend=attend)
            for chunk in table.sample(replace(run, watch=watch, still=new_stills())):
                for (where, step), observation in steps.items():
                    yield Sample(number, index, where, step, observation.result())
                if seen:
                    yield Sample(number, index, chunk.span.chunk, CLEAN, seen.pop())
                steps.clear()
            number += 1


def take_changes(
    denoise: Denoiser,
    family: Family,
    clips: ProfilePlan,
    step: int = 0,
    attend: AttentionFn = attention,
    new_stills: NewStills = no_stills,
) -> Iterator[OutputChange]:
    """Output change in one denoising step (0: the first, out of noise alone) of every chunk that has far frames.

    Far frames are those before the newest chunk of history; heads remember what the family was trained with.
    """
    model, options = denoise.geometry, memory_options(family.chunk_frames)
    for prompts in clips.prompts:
        for seed in clips.seeds:
            seen: list[ChangeObservation] = []

            def watch(span: Span, now: int, seen=seen) -> ChangeObservation | None:
                if now != step or span.start <= family.chunk_frames:
                    return None
                seen.append(ChangeObservation(model.layers, model.heads, options, denoise.project))
                return seen[-1]

            noise = SeededNoise(seed, clips.shape, family.chunk_frames, model.device)
            run = Run(denoise, clips.shape, family.schedule, prompts, own_policy(family), family, noise, attend=attend)
            for _ in table.sample(replace(run, watch=watch, still=new_stills())):
                yield from (observation.result() for observation in seen)
                seen.clear()


def current_share(scores: HeadScores) -> Tensor:
    """Per layer, the share of heads with more than 80 % of their mass on the current chunk; (layers,)."""
    return (scores.mass[..., 2] > CURRENT_MASS).float().mean(1)


def dummy_set(scores: HeadScores, count: int) -> frozenset[int]:
    """Flat indices of the `count` dummy heads."""
    roles = torch.tensor(assign_roles(scores.mass, count)).flatten()
    return frozenset(torch.nonzero(roles == DUMMY).flatten().tolist())


def overlap(first: HeadScores, second: HeadScores, count: int) -> float:
    """Share of the dummy heads that two scores agree on."""
    return len(dummy_set(first, count) & dummy_set(second, count)) / count if count else 1.0


def overlaps(samples: Sequence[Sample], count: int) -> dict[str, float | None]:
    """Mean overlap of dummy sets over all pairs that differ in one thing; None where there is no pair.

    AR steps: chunks of one clip, clean pass. Timesteps: denoising steps of one chunk. Prompts: clips' mean scores of
    different prompts.
    """
    by_clip: dict[int, list[Sample]] = {}
    by_chunk: dict[tuple[int, int], list[Sample]] = {}
    by_prompt: dict[int, list[Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt, []).append(sample)
        if sample.step == CLEAN:
            by_clip.setdefault(sample.clip, []).append(sample)
        else:
            by_chunk.setdefault((sample.clip, sample.chunk), []).append(sample)
    prompts = [HeadScores.mean([s.scores for s in group]) for group in by_prompt.values()]
    return {
        "AR steps": _mean_overlap([[s.scores for s in group] for group in by_clip.values()], count),
        "timesteps": _mean_overlap([[s.scores for s in group] for group in by_chunk.values()], count),
        "prompts": _mean_overlap([prompts], count),
    }


def _mean_overlap(groups: Sequence[Sequence[HeadScores]], count: int) -> float | None:
    values = [overlap(a, b, count) for group in groups for a, b in combinations(group, 2)] if count else []
    return sum(values) / len(values) if values else None
