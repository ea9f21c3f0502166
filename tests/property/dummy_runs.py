"""A clip of the tiny model under a policy, and what to ask of it."""

import weakref
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.plan import HeadPlan, KVShape
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import ChunkResult, Run, kv_shape
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.models.stepcache import NO_STEPS, StepCache
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Policy
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule
from tests.property.tiny import HEADS, LAYERS, context, tiny_model

FAMILY = Family("tiny", "Tiny random model", "tests", chunk_frames=3, trained_frames=10_000)
SCHEDULE = Schedule((1.0, 0.6))
ROLE_NAMES = "sink", "neighbour", "dummy"
MODEL = tiny_model(sharpness=3)
PROMPT = context(0)


class Watched(WanDenoiser):
    """The tiny model; remembers the frames of every call and, weakly, every cache that it was given."""

    def __init__(self):
        super().__init__(MODEL)
        self.passes: list[tuple[int, bool]] = []  # first frame, whether it is a clean pass
        self.caches: list[weakref.ref[KVCache]] = []
        self.most_alive = 0

    @property
    def cache(self) -> KVCache:
        cache = self.caches[-1]()
        assert cache is not None
        return cache

    def __call__(self, x, sigma, context, step):
        if not self.caches or self.caches[-1]() is not step.cache:
            self.caches.append(weakref.ref(step.cache))
        self.most_alive = max(self.most_alive, sum(cache() is not None for cache in self.caches))
        self.passes.append((step.cache.pass_frames.start, not bool(sigma.any())))
        return super().__call__(x, sigma, context, step)


@dataclass
class Case:
    """What these tests vary of a run, with defaults; `chunks()` makes the clip."""

    policy: Policy
    frames: int = 12
    chunk: int = 3
    batch: int = 1
    seed: int = 0
    given: int = 0
    prompts: PromptSchedule = field(default_factory=lambda: PromptSchedule.constant(PROMPT))
    steps: StepCache = NO_STEPS
    denoise: Watched = field(default_factory=Watched)

    @property
    def shape(self) -> LatentShape:
        return LatentShape(self.batch, 16, self.frames, 4, 4)

    @property
    def family(self) -> Family:
        return replace(FAMILY, chunk_frames=self.chunk)

    @property
    def priced(self) -> KVShape:
        return kv_shape(self.denoise.geometry, self.shape, self.family)

    @property
    def noise(self) -> SeededNoise:
        return SeededNoise(self.seed, self.shape, self.chunk)

    @property
    def run(self) -> Run:
        start = None
        if self.given:
            start = torch.randn(1, 16, self.given, 4, 4, generator=torch.Generator().manual_seed(7))
        return Run(
            self.denoise, self.shape, SCHEDULE, self.prompts, self.policy, self.family, self.noise, start,
            steps=self.steps,
        )  # fmt: skip

    def iterate(self, **options):
        return rollout(replace(self.run, **options))

    def chunks(self, **options) -> list[ChunkResult]:
        return list(self.iterate(**options))


def latents(chunks: list[ChunkResult]) -> Tensor:
    return torch.cat([chunk.latent for chunk in chunks], dim=2)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def hand_made_scores(layers: int = LAYERS, heads: int = HEADS) -> HeadScores:
    """Per layer with 4 heads: head 0 looks at the sink, 1 at the neighbours, the others at the current chunk."""
    row = [[0.6, 0.1, 0.3], [0.1, 0.6, 0.3], [0.02, 0.01, 0.97], [0.01, 0.02, 0.97]]
    return HeadScores(torch.tensor([[row[h % 4] for h in range(heads)]] * layers))


def hand_made_profile(**more) -> HeadProfile:
    return HeadProfile(hand_made_scores(), **more)


@dataclass(frozen=True)
class GivenRoles(DummyForcing):
    """Dummy Forcing that observes in earnest but is handed other scores, so that every role occurs."""

    def replan(self, scores, setting):
        assert scores.mass.shape == (LAYERS, HEADS, 3)
        return super().replan(hand_made_scores(), setting)


def all_heads():
    return [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]


def held(cache: KVCache, plan: HeadPlan) -> dict[str, list[int]]:
    """Frames in temporal order that the heads of every role hold; equal for all heads of a role."""
    table: dict[str, list[int]] = {}
    for layer, head in all_heads():
        frames = cache.export(layer, head)[0]
        assert table.setdefault(plan.roles[layer][head], frames) == frames
    return table


def spans(*bounds: tuple[int, int]) -> list[list[int]]:
    return [list(range(start, stop)) for start, stop in bounds]
