"""Rolling Forcing's loop on a denoiser that only records: which chunks at which levels, and which frames a pass sees.

Raw keys are all alike, so a rotated key tells where it stands; values carry their frame and head.
"""

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.kv.output_change import Project
from dummyforcing_core.kv.rolling_cache import RollingCache
from dummyforcing_core.kv.scoring import HeadScores, Observation
from dummyforcing_core.loops.rolling import rolling
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models.denoiser import ModelGeometry, Step
from dummyforcing_core.models.families import Family, get_family
from dummyforcing_core.models.stepcache import NO_STEPS, StepCache
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Full, Policy, SlidingWindow
from dummyforcing_core.policies.base import Setting
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule

ROLLING, LONG = get_family("rolling_forcing"), get_family("causal_forcing_long")
PLACES = range(700)
Seen = dict[int, int]  # frame -> position


def prompt(number: int, batch: int = 1) -> Tensor:
    return torch.full((batch, 1, 1), float(number))


@dataclass
class Call:
    """One model call over frames `start` on. seen: per head, the history it attends to."""

    start: int
    sigmas: list[float]
    prompts: Tensor
    output: bool
    x: Tensor
    own: Seen = field(default_factory=dict)
    at: list[int] = field(default_factory=list)  # positions of the queries
    seen: dict[tuple[int, int], Seen] = field(default_factory=dict)
    attention_calls: int = 0

    @property
    def stop(self) -> int:
        return self.start + self.x.shape[2]

    def history(self, head: int = 0, layer: int = 0) -> Seen:
        return self.seen[layer, head]


class Recorder:
    """Answers a call with its ordinal times 1000 plus the frame, in every place."""

    def __init__(self, heads: int = 1, layers: int = 1):
        # One pair of six channels turns with the frame: its angle is the position, modulo a full turn.
        self.geometry = ModelGeometry(layers, heads, 6, 16, torch.device("cpu"), torch.float32)
        self.calls: list[Call] = []
        self.cache: weakref.ref[RollingCache] | None = None
        self.layer = 0

    def project(self, layer: int, x: Tensor) -> Tensor:
        raise AssertionError("a projection is for output changes, and nobody observes them here")

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        cache = step.cache
        assert isinstance(cache, RollingCache)
        self.cache = weakref.ref(cache)
        frames = list(cache.query_frames)
        assert len(frames) == x.shape[2] and sigma.shape == (x.shape[0], x.shape[2])
        assert bool((sigma == sigma[:1]).all()) and step.timestep is None and step.residual is None
        call = Call(frames[0], sigma[0].tolist(), context, step.output, x.clone())
        self.calls.append(call)
        tokens, heads = cache.shape.frame_tokens, self.geometry.heads
        size = (x.shape[0], len(frames) * tokens, heads, 6)
        k = torch.tensor([1.0, 0.0] * 3).expand(size)
        v = torch.zeros(size)
        v[..., 0] = torch.tensor(frames).repeat_interleave(tokens)[None, :, None]
        v[..., 1] = torch.arange(heads)
        for layer in range(self.geometry.layers):
            self.layer = layer
            if layer == self.geometry.layers - 1 and not step.output:
                cache.store(layer, k, v)
                return None
            cache(layer, k, k, v)
        number = torch.tensor([1000.0 * len(self.calls) + frame for frame in frames])
        return number[None, None, :, None, None].expand_as(x).clone()

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        call = self.calls[-1]
        call.attention_calls += 1
        tokens = q.shape[1] // call.x.shape[2]
        assert torch.equal(v, v[:1].expand_as(v)) and q.shape[2] == k.shape[2] == v.shape[2]
        call.at = [place_of(turn) for turn in q[0, ::tokens, 0, :2]]
        for i in range(v.shape[2]):
            frames = v[0, ::tokens, i, 0].int().tolist()
            assert torch.equal(v[0, :, i, 0], torch.tensor(frames).repeat_interleave(tokens).float())
            assert len(set(frames)) == len(frames), "a frame is seen once"
            places = dict(zip(frames, (place_of(turn) for turn in k[0, ::tokens, i, :2]), strict=True))
            call.own = {f: p for f, p in places.items() if call.start <= f < call.stop}
            head = int(v[0, 0, i, 1])
            assert (self.layer, head) not in call.seen
            call.seen[self.layer, head] = {f: p for f, p in places.items() if f not in call.own}
        return v[:, : q.shape[1]].clone()

    def time_signal(self, sigma: float, modulation: bool) -> Tensor:
        raise AssertionError


ANGLES = torch.tensor([[math.cos(place), math.sin(place)] for place in PLACES])


def place_of(turn: Tensor) -> int:
    return int((ANGLES - turn).norm(dim=1).argmin())


def run_of(
    frames: int = 27,
    family: Family = ROLLING,
    policy: Policy | None = None,
    prompts: PromptSchedule | None = None,
    schedule: Schedule | None = None,
    batch: int = 1,
    size: tuple[int, int] = (2, 4),
    start: Tensor | None = None,
    steps: StepCache = NO_STEPS,
    recorder: Recorder | None = None,
) -> Run:
    """A clip that a recorder answers; frames in latents."""
    recorder, shape = recorder or Recorder(), LatentShape(batch, 16, frames, *size)
    return Run(
        recorder,
        shape,
        schedule or family.schedule,
        prompts or PromptSchedule.constant(prompt(0)),
        policy or Full(),
        family,
        SeededNoise(3, shape, family.chunk_frames),
        start,
        attend=recorder.attend,
        steps=steps,
    )


def calls_of(run: Run) -> list[Call]:
    """Every call of the whole clip, which is made for it."""
    list(rolling(run))
    return run.denoise.calls


def windows(calls: list[Call]) -> list[Call]:
    return [call for call in calls if call.output]


def cleans(calls: list[Call]) -> list[Call]:
    return [call for call in calls if not call.output]


def seen(*frames: int, sink: int | None = None) -> Seen:
    """Frames where they are, and the sink's three from position `sink` on."""
    return {f: f for f in frames} | ({} if sink is None else {0: sink, 1: sink + 1, 2: sink + 2})


# -- Dummy Forcing ---------------------------------------------------------------------------------------------------

SHARES = {"sink": (0.6, 0.1, 0.3), "neighbour": (0.1, 0.6, 0.3), "dummy": (0.01, 0.01, 0.98)}
ROLES = ("sink", "dummy", "neighbour", "dummy")


def profile(layers: int, roles: tuple[str, ...] = ROLES) -> HeadProfile:
    return HeadProfile(HeadScores(torch.tensor([[SHARES[role] for role in roles]] * layers)))


@dataclass(frozen=True)
class Told(DummyForcing):
    """Dummy Forcing that is told the scores, but observes for itself."""

    seen: list = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    looks: list = field(default_factory=list)  # called when an observation is asked for

    def observes(self, span: Span, setting: Setting, observed: Sequence[int], switched: bool) -> bool:
        self.asked.append(span.chunk)
        return super().observes(span, setting, observed, switched)

    def observation(self, setting: Setting, project: Project) -> Observation:
        for look in self.looks:
            look()
        seen_now = self.seen
        layers = setting.layers

        class Watcher(Observation):
            def __call__(self, layer, heads, q, k, v, regions) -> None:
                assert q.shape[2] == k.shape[2] == len(heads)
                assert [r.start_token for r in regions] == [0, regions[0].stop_token, regions[1].stop_token]
                assert regions[-1].stop_token == k.shape[1]
                tokens = q.shape[1] // len(regions[0].frames)
                assert k.shape[1] == tokens * sum(len(r.frames) for r in regions)
                seen_now.append((layer, tuple(heads), {r.name: r.frames for r in regions}))

            def result(self) -> HeadScores:
                return profile(layers).scores

        return Watcher(setting.layers, setting.heads)


PLANS: dict[str, Policy] = {
    "full": Full(),
    "window 12": SlidingWindow(12, 3),
    "dummy, scored": Told(dummy_ratio=0.5),
    "dummy, scored again": Told(dummy_ratio=0.5, reclassify_chunks=3),
    "dummy, profile": DummyForcing(profile=profile(2)),
    "dummy, two chunks": DummyForcing(profile=profile(2), local_chunks=2, packed_frames=2, sink_frames=2),
}
