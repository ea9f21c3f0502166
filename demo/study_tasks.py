"""What is asked of a policy: clips of the demo world, most with a dark spell, and how much of them lasts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from dummyforcing_core.errors import DummyForcingError
from dummyforcing_core.evaluation.profiling import CLEAN, ProfilePlan, Sample, take_changes, take_samples
from dummyforcing_core.kv.output_change import OutputChange
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import DEMO, get_family
from dummyforcing_core.policies import Full, Policy
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.prompts import PromptSchedule

from .cases import conflict_clips, episode_clips, gap_clips, long_clips, prompts_of, recoloured_clips
from .prompts import sample_clips
from .sampling import make, run_of
from .study_policies import LONG_CHUNKS, Profiles
from .world import Clips

SEED, FRESH = 1000, 1000  # of the noise; what fresh clips add to it, and to the seed of their prompts
PROFILE_SEED, PROFILE_PROMPTS = 5000, 77  # profiles come from other prompts and noise than the figures
KINDS: dict[str, Callable[[int, int, int], Clips]] = {
    "gap": gap_clips,
    "recoloured, gap": recoloured_clips,
    "conflict, gap": conflict_clips,
    "episodes, gap": episode_clips,
    "steady": long_clips,
}


@dataclass(frozen=True, eq=False)
class Task:
    """Clips of one kind. truth: what the world shows; seed: of the first clip's noise, the next ones count on."""

    name: str
    truth: Clips
    seed: int

    @classmethod
    def named(cls, name: str, clips: int, fresh: bool) -> "Task":
        """The task of a name such as "gap 10", on the study's clips or on as many fresh ones; always the same ones."""
        kind, _, chunks = name.rpartition(" ")
        if kind not in KINDS or not chunks.isdecimal():
            raise DummyForcingError(
                f"expected a task such as 'gap 3', got {name!r}; write a number of chunks after {'; '.join(KINDS)}"
            )
        offset = FRESH * fresh
        return cls(name, KINDS[kind](clips, int(chunks), offset), SEED + offset)

    @property
    def switches(self) -> bool:
        """Whether the prompt of any clip changes."""
        return any(prompt != prompts[0] for prompts in prompts_of(self.truth) for prompt in prompts)

    def run(self, denoise: WanDenoiser, first: int, count: int, policy: Policy) -> Run:
        """So many clips from this one on, under a policy."""
        return run_of(denoise, prompts_of(self.truth)[first : first + count], policy, self.seed + first)


@cache
def dense_clip(denoise: WanDenoiser, task: Task, number: int) -> Tensor:
    """Latents under the full cache, which every policy of a process is measured against."""
    return torch.cat([chunk.latent for chunk in make(task.run(denoise, number, 1, Full()))], 2)


def take_profiles(denoise: WanDenoiser, clips: int) -> Profiles:
    """Of random clips of their own. Chunk 1 is the first that has scores."""
    samples = list(_scored(denoise, clips, 1))
    long = [one for one in _scored(denoise, clips, LONG_CHUNKS) if one.chunk > 1]
    first = [one for one in samples if one.chunk == 1 and one.step == CLEAN]
    later = _mean([one for one in samples if one.chunk > 1])
    changes = [
        change for plan in _profiled(denoise, clips, 1) for change in take_changes(denoise, get_family(DEMO), plan)
    ]
    return Profiles(_mean(first), replace(later, changes=OutputChange.mean(changes)), _mean(long))


def _scored(denoise: WanDenoiser, clips: int, local_chunks: int) -> Iterator[Sample]:
    """Scores of every pass of the profile's clips; neighbours are so many chunks."""
    for plan in _profiled(denoise, clips, local_chunks):
        yield from take_samples(denoise, get_family(DEMO), plan)


def _profiled(denoise: WanDenoiser, clips: int, local_chunks: int) -> Iterator[ProfilePlan]:
    """The profile's clips, of the trained length, one by one."""
    generator = torch.Generator().manual_seed(PROFILE_PROMPTS)
    for number, prompts in enumerate(prompts_of(sample_clips(clips, LONG_CHUNKS + 1, generator))):
        run = run_of(denoise, [prompts], Full(), PROFILE_SEED + number)
        assert isinstance(run.prompts, PromptSchedule)
        yield ProfilePlan([run.prompts], [PROFILE_SEED + number], run.shape, local_chunks)


def _mean(samples: Sequence[Sample]) -> HeadProfile:
    return HeadProfile(HeadScores.mean([one.scores for one in samples]))
