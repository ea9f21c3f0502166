"""Head profiles for the study, taken on clips of their own, and how stable the choice of dummy heads is."""

from collections.abc import Sequence

import torch

from dummyforcing_core.evaluation.profiling import (
    CLEAN,
    PAPER_CURRENT_SHARE,
    PAPER_OVERLAP,
    ProfilePlan,
    Sample,
    current_share,
    overlap,
    overlaps,
    take_samples,
)
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.policies.head_programming import ROLES, assign_roles
from dummyforcing_core.policies.profile import HeadProfile

from .cases import prompts_of
from .prompts import sample_clips
from .study_policies import Profiles
from .study_scene import Scene, Subject

PROMPT_SEED, NOISE_SEED = 77, 5000  # apart from those of the evaluation clips


def profile_scene(like: Scene, count: int) -> Scene:
    """Random clips of the demo world, as long as the evaluation's; for other models the evaluation's own prompt."""
    if like.clips is None:
        return Scene("profile", like.prompts[:1] * count, like.size)
    generator = torch.Generator().manual_seed(PROMPT_SEED)
    return Scene("profile", prompts_of(sample_clips(count, len(like.prompts[0]), generator)), like.size)


def score_clip(subject: Subject, scene: Scene, clip: int, local_chunks: int) -> list[Sample]:
    """Scores of every pass of one clip that has neighbour frames."""
    case = scene.case(subject, clip, 1)
    plan = ProfilePlan([case.prompts], [NOISE_SEED + clip], case.shape, local_chunks)
    found = take_samples(subject.denoise, subject.family, plan, subject.attend)
    return [Sample(clip, clip, sample.chunk, sample.step, sample.scores) for sample in found]


def profiles_of(samples: Sequence[Sample], long_samples: Sequence[Sample]) -> Profiles:
    """The profiles that the study compares."""
    first = min(sample.chunk for sample in samples)

    def mean(chosen: Sequence[Sample]) -> HeadProfile:
        return HeadProfile(HeadScores.mean([sample.scores for sample in chosen]))

    return Profiles(
        mean([s for s in samples if s.chunk == first and s.step == CLEAN]),
        mean([s for s in samples if s.chunk > first]),
        mean([s for s in long_samples if s.chunk > first]),
    )


def head_figures(samples: Sequence[Sample], profiles: Profiles, ratios: Sequence[float]) -> dict:
    """How many heads look at the current chunk, and how far choices of dummy heads agree, beside the paper."""
    mass = profiles.later.scores.mass
    layers, heads = mass.shape[:2]
    counts = {ratio: round(ratio * layers * heads) for ratio in ratios}
    return {
        "layers": layers,
        "heads": heads,
        "profile_clips": len({sample.clip for sample in samples}),
        "mean_mass": dict(zip(("sink", "neighbour", "current"), mass.mean((0, 1)).tolist(), strict=True)),
        "current_share_by_layer": current_share(profiles.later.scores).tolist(),
        "current_share": float(current_share(profiles.later.scores).mean()),
        "paper_current_share": PAPER_CURRENT_SHARE,
        "overlap_half": overlaps(samples, layers * heads // 2),
        "paper_overlap": PAPER_OVERLAP,
        "first_later_overlap": {
            f"{ratio:.0%}": overlap(profiles.first.scores, profiles.later.scores, count)
            for ratio, count in counts.items()
            if count
        },
        "roles": {
            f"{ratio:.0%}": {
                name: _role_counts(p, count) for name, p in (("first", profiles.first), ("later", profiles.later))
            }
            for ratio, count in counts.items()
        },
        "mass_later": mass.tolist(),
        "mass_first": profiles.first.scores.mass.tolist(),
    }


def _role_counts(profile: HeadProfile, dummies: int) -> dict[str, int]:
    """How many heads of each role a profile makes."""
    flat = [role for row in assign_roles(profile.scores.mass, dummies) for role in row]
    return {name: flat.count(i) for i, name in enumerate(ROLES)}
