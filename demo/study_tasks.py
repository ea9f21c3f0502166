"""What is asked of a policy: clips of the demo world whose light goes out, and what of them comes back with it."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from dummyforcing_core.evaluation.profiling import CLEAN, ProfilePlan, Sample, take_samples
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.loops.run import ChunkResult, Run
from dummyforcing_core.loops.table import sample
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import DEMO, Family, get_family
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import Full, Policy
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.text.demo_text import encode_prompt

from .cases import gap_clips, prompts_of, recoloured_clips
from .prompts import sample_clips
from .study_policies import LONG_CHUNKS, Profiles
from .world import CHUNK_FRAMES, SIZE_PX, Clips

SEED, PROFILE_SEED, PROFILE_PROMPTS = 1000, 5000, 77  # profiles come from other prompts and noise than the figures
FAMILY: Family = get_family(DEMO)


@dataclass(frozen=True, eq=False)
class Task:
    """Clips that are lit, dark for `gap` chunks and lit for two that name no colours. truth: what the world shows."""

    name: str
    truth: Clips

    @classmethod
    def of_gap(cls, clips: int, gap: int) -> "Task":
        """Two lit chunks before the dark; the same clips whenever it is asked."""
        return cls(f"gap {gap}", gap_clips(clips, gap))

    @classmethod
    def recoloured(cls, clips: int, gap: int) -> "Task":
        """Four lit chunks, of which the last two name other colours: neither first nor newest frames show those."""
        return cls(f"recoloured, gap {gap}", recoloured_clips(clips, gap))

    def run(self, denoise: WanDenoiser, number: int, policy: Policy) -> Run:
        """Clip `number` under a policy."""
        return clip_run(denoise, prompts_of(self.truth)[number], SEED + number, policy)


def clip_run(denoise: WanDenoiser, prompts: list[str], seed: int, policy: Policy) -> Run:
    """One clip, one prompt a chunk."""
    contexts: list[Tensor] = []
    for chunk, prompt in enumerate(prompts):
        repeated = chunk > 0 and prompt == prompts[chunk - 1]
        contexts.append(contexts[-1] if repeated else encode_prompt(prompt)[0])  # the same tensor is no switch
    shape = LatentShape(1, 16, CHUNK_FRAMES * len(prompts), SIZE_PX // 8, SIZE_PX // 8)
    noise = SeededNoise(seed, shape, CHUNK_FRAMES)
    schedule = PromptSchedule.per_chunk(contexts, CHUNK_FRAMES)
    return Run(denoise, shape, FAMILY.schedule, schedule, policy, FAMILY, noise)


def make(run: Run) -> list[ChunkResult]:
    """The clip, without the warning of caches beyond the trained range: they are part of the study."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return list(sample(run))


@cache
def dense_clip(denoise: WanDenoiser, task: Task, number: int) -> Tensor:
    """Latents under the full cache, which every policy of a process is measured against."""
    return torch.cat([chunk.latent for chunk in make(task.run(denoise, number, Full()))], 2)


def take_profiles(denoise: WanDenoiser, clips: int, chunks: int) -> Profiles:
    """Of random clips of their own. Chunk 1 is the first that has scores."""
    samples = list(_scored(denoise, clips, chunks, 1))
    long = [one for one in _scored(denoise, clips, chunks, LONG_CHUNKS) if one.chunk > 1]
    first = [one for one in samples if one.chunk == 1 and one.step == CLEAN]
    return Profiles(_mean(first), _mean([one for one in samples if one.chunk > 1]), _mean(long))


def _scored(denoise: WanDenoiser, clips: int, chunks: int, local_chunks: int) -> Iterator[Sample]:
    """Scores of every pass of the profile's clips; neighbours are so many chunks."""
    generator = torch.Generator().manual_seed(PROFILE_PROMPTS)
    for number, prompts in enumerate(prompts_of(sample_clips(clips, chunks, generator))):
        run = clip_run(denoise, prompts, PROFILE_SEED + number, Full())
        assert isinstance(run.prompts, PromptSchedule)
        plan = ProfilePlan([run.prompts], [PROFILE_SEED + number], run.shape, local_chunks)
        yield from take_samples(denoise, FAMILY, plan)


def _mean(samples: Sequence[Sample]) -> HeadProfile:
    return HeadProfile(HeadScores.mean([one.scores for one in samples]))
