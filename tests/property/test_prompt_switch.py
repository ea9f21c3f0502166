"""Prompt switches on a family that re-caches: what every head holds afterwards, what K/V those are, what it costs.

The oracles: a frame-set model of one head, and a dense bidirectional pass in float64 that knows no cache.
"""

import weakref
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from dummyforcing_core.clips.memory_use import MemoryUse
from dummyforcing_core.geometry import LatentShape, Span, chunk_spans
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run, kv_shape
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.models.wan import forward, text_kv
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Full, Policy, SlidingWindow
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule
from tests.property.oracle import rotate
from tests.property.tiny import HEADS, LAYERS, FunctionMemory, context, tiny_model

CHUNK, WINDOW = 3, 12
FAMILY = Family(
    "tiny", "Tiny random model", "tests", window_frames=WINDOW, sink_frames=3, trained_frames=999, recache=True
)
SCHEDULE = Schedule((1.0, 0.6))


MODEL = tiny_model()


A, B, C = map(context, range(3))
ALL_HEADS = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
Exports = dict[tuple[int, int], tuple[list[int], Tensor, Tensor]]


def exports(cache: KVCache) -> Exports:
    """(layer, head) -> frames held, K and V."""
    return {at: cache.export(*at) for at in ALL_HEADS}


class Noting(WanDenoiser):
    """The tiny model; notes for every denoised chunk, by its first frame, its context and what each head held."""

    def __init__(self):
        super().__init__(MODEL)
        self.contexts: dict[int, Tensor] = {}
        self.before: dict[int, Exports] = {}
        self.cache: weakref.ref[KVCache] | None = None

    def __call__(self, x, sigma, context, step):
        self.cache, start = weakref.ref(step.cache), step.cache.query_frames.start
        if bool(sigma.any()):
            assert self.contexts.setdefault(start, context) is context
            if start not in self.before:
                self.before[start] = exports(step.cache)
        return super().__call__(x, sigma, context, step)


@dataclass
class Case:
    """What these tests vary of a run, with defaults. Sizes in latents."""

    policy: Policy
    switches: dict[int, Tensor]
    frames: int = 24
    size: tuple[int, int] = (4, 4)
    given: int = 0
    family: Family = FAMILY
    denoise: Noting = field(default_factory=Noting)

    @property
    def shape(self) -> LatentShape:
        return LatentShape(1, 16, self.frames, *self.size)

    @property
    def prompts(self) -> PromptSchedule:
        return PromptSchedule(((0, A), *self.switches.items()))

    @property
    def spans(self) -> list[Span]:
        return chunk_spans(self.frames, CHUNK, self.given)

    def iterate(self):
        start = None
        if self.given:
            start = torch.randn(1, 16, self.given, *self.size, generator=torch.Generator().manual_seed(7))
        noise = SeededNoise(0, self.shape, CHUNK)
        return rollout(Run(self.denoise, self.shape, SCHEDULE, self.prompts, self.policy, self.family, noise, start))

    def acting(self) -> dict[int, Tensor]:
        """Chunk start -> the prompt that takes over there; of several that would, the last."""
        starts = [span.start for span in self.spans if not span.given]
        later = {frame: [start for start in starts if start >= frame] for frame in self.switches}
        return {later[frame][0]: self.switches[frame] for frame in sorted(self.switches) if later[frame]}


# -- oracles ---------------------------------------------------------------------------------------------------------


class HeadModel:
    """Which frames one head holds, from the definitions alone."""

    def __init__(self, memory: HeadMemory):
        self.memory = memory
        self.pinned: list[int] = []
        self.recent: list[int] = []

    def read(self, frames: range) -> None:
        for frame in frames:
            (self.pinned if len(self.pinned) < self.memory.sink_frames else self.recent).append(frame)
        self._trim()

    def become(self, memory: HeadMemory) -> None:
        self.memory = memory
        self.pinned = self.pinned[: memory.sink_frames]
        self._trim()

    def recache(self, span_start: int, sink_of_plan: int, global_sink: bool) -> None:
        """The window before `span_start` is read anew; a sink that stays takes its places out of the window."""
        first = max(0, span_start - WINDOW)
        self.recent = []
        if first > 0 and global_sink:
            first = max(first, span_start - (WINDOW - sink_of_plan))
        else:
            self.pinned = []
        self.read(range(first, span_start))

    def _trim(self) -> None:
        limit = self.memory.recent_frames
        self.recent = self.recent if limit is None else self.recent[len(self.recent) - min(limit, len(self.recent)) :]

    @property
    def frames(self) -> list[int]:
        return sorted(self.pinned + self.recent)


class DenseClean:
    """Self-attention of one bidirectional pass over `frames`, in float64 and without any memory; keeps K and V."""

    def __init__(self, frames: range, rows: int, cols: int):
        self.at, self.grid = frames, (rows, cols)
        self.k: dict[int, Tensor] = {}
        self.v: dict[int, Tensor] = {}

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        heads = [rotate(k[:, :, h], self.at, *self.grid) for h in range(k.shape[2])]
        self.k[layer], self.v[layer] = torch.stack(heads, 2), v.double()

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.store(layer, k, v)
        out = []
        for h in range(q.shape[2]):
            scores = rotate(q[:, :, h], self.at, *self.grid) @ self.k[layer][:, :, h].transpose(1, 2)
            out.append((scores / q.shape[-1] ** 0.5).softmax(-1) @ self.v[layer][:, :, h])
        return torch.stack(out, 2).to(q)


def dense_clean(latents: Tensor, text: Tensor, first: int = 0) -> DenseClean:
    """K and V of latents (1, C, T, h, w) from frame `first` on, every frame seeing every other."""
    latents = latents[:, :, first:]
    frames, height, width = latents.shape[2:]
    seen = DenseClean(range(first, first + frames), height // 2, width // 2)
    with torch.inference_mode():
        forward(MODEL, latents, torch.zeros(1, frames), text_kv(MODEL, text), FunctionMemory(seen))
    return seen


def worst_difference(held: Exports, seen: DenseClean, tokens: int) -> float:
    """Largest absolute difference of any head's stored K or V from the dense pass's, over the frames it holds."""
    worst = 0.0
    for (layer, head), (frames, k, v) in held.items():
        places = [seen.at.index(frame) for frame in frames]
        for mine, all_of_them in ((k, seen.k[layer]), (v, seen.v[layer])):
            theirs = all_of_them[:, :, head].unflatten(1, (-1, tokens))[:, places].flatten(1, 2)
            worst = max(worst, float((mine - theirs).abs().max()) if frames else 0.0)
    return worst


# -- the policies ----------------------------------------------------------------------------------------------------

# Sink, neighbour and two dummy heads in either layer.
PROFILE = HeadProfile(
    HeadScores(
        torch.tensor([[[0.6, 0.1, 0.3], [0.1, 0.6, 0.3], [0.02, 0.01, 0.97], [0.01, 0.02, 0.97]]]).expand(
            LAYERS, -1, -1
        )
    )
)
FULL = Full()
ONCE: dict[str, Policy] = {
    "full": FULL,
    "window 12, sink 3": SlidingWindow(12, 3),
    "window 6, sink 1": SlidingWindow(6, 1),
    "window 9": SlidingWindow(9, 0),
    "profile": DummyForcing(profile=PROFILE),
    "profile, sink 3, two local chunks": DummyForcing(profile=PROFILE, sink_frames=3, local_chunks=2),
    "profile, four local chunks": DummyForcing(profile=PROFILE, local_chunks=4),
    "online, bare": DummyForcing(packed_frames=0),
    "online": DummyForcing(),
    "online, chunk 3": DummyForcing(observe_chunk=3),
    "online, sink 3": DummyForcing(sink_frames=3, local_chunks=2),
}
AGAIN: dict[str, Policy] = {
    "again every 2": DummyForcing(reclassify_chunks=2),
    "chunk 3, again every chunk": DummyForcing(observe_chunk=3, reclassify_chunks=1),
}
SWITCHES: dict[str, dict[int, Tensor]] = {
    "none": {},
    "at frame 1, the second chunk": {1: B},
    "at the observed chunk": {3: B},
    "behind it": {6: B},
    "at chunk 3": {9: B},
    "the window just reaches frame 0": {12: B},
    "the window has left frame 0": {15: B},
    "between chunk starts": {13: B},
    "two for one chunk": {7: B, 8: C},
    "two in a row": {6: B, 7: C},
    "every chunk, back to the first": {3: B, 4: C, 7: A, 10: B},
    "early and late": {4: B, 18: C},
    "in the last chunk": {21: B},
    "past the last chunk start": {22: B},
    "behind the clip": {400: B},
}
SIZES = {"landscape": (4, 10), "portrait": (12, 4), "one token per frame": (2, 2)}


def must_observe(policy: Policy, span: Span, observed: list[int], switched: bool) -> bool:
    """When Dummy Forcing scores: once, again at every switch behind that, and at the pace it was given."""
    if not isinstance(policy, DummyForcing) or policy.profile or span.given:
        return False
    if not observed:
        return span.chunk == policy.observe_chunk if policy.observe_chunk else span.start > policy.sink_frames
    pace = policy.reclassify_chunks
    return switched or (pace is not None and span.chunk - observed[-1] >= pace)


def follow(run: Case) -> None:
    """Runs a clip chunk by chunk beside the frame-set model, its observations and its prices."""
    priced = kv_shape(run.denoise.geometry, run.shape, run.family, recaches=bool(run.switches))
    use, acting, observed = MemoryUse(priced), run.acting(), list[int]()
    models: dict[tuple[int, int], HeadModel] = {}
    wide = plan = None
    for chunk in run.iterate():
        span, switched = chunk.span, chunk.span.start in acting
        if wide is None or plan is None:
            wide = plan = chunk.plan
            models = {(i, j): HeadModel(wide.memories[i][j]) for i, j in ALL_HEADS}
        if switched:
            for model in models.values():
                model.recache(span.start, sinks(plan), run.family.global_sink)
        if not span.given:
            found = {at: frames for at, (frames, _, _) in run.denoise.before[span.start].items()}
            assert found == {at: model.frames for at, model in models.items()}, span
        assert (chunk.scores is not None) == must_observe(run.policy, span, observed, switched), span
        if chunk.scores is not None and observed:
            models = {(i, j): HeadModel(wide.memories[i][j]) for i, j in ALL_HEADS}
            for model in models.values():
                model.read(range(span.start))
                if switched:
                    model.recache(span.start, sinks(wide), run.family.global_sink)
        for (i, j), model in models.items():
            model.read(range(span.start, span.stop))
            if chunk.scores is not None:
                model.become(chunk.plan.memories[i][j])
        observed += [span.chunk] * (chunk.scores is not None)
        plan = chunk.plan
        assert run.denoise.cache is not None
        cache = run.denoise.cache()
        assert cache is not None
        assert {at: cache.export(*at)[0] for at in ALL_HEADS} == {at: model.frames for at, model in models.items()}
        assert bool(chunk.latent.isfinite().all())
        assert chunk.history_bytes == sum(len(m.frames) for m in models.values()) * priced.frame_bytes
        assert chunk.resident_bytes == plan.resident_bytes(priced)
        use.add(chunk)
    assert use.actual_peak == use.predicted_peak


def sinks(plan: HeadPlan) -> int:
    return max(memory.sink_frames for row in plan.memories for memory in row)


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("policy", ONCE)
def test_what_heads_hold_and_cost_around_a_switch(policy: str, switches: str):
    follow(Case(ONCE[policy], SWITCHES[switches]))


@pytest.mark.parametrize(
    "switches", [{12: B}, {13: B}, {4: B, 18: C}, {15: B, 18: C, 21: A}], ids=lambda x: str(list(x))
)
@pytest.mark.parametrize("policy", ONCE)
def test_without_a_global_sink_the_window_gives_a_new_one(policy: str, switches: dict[int, Tensor]):
    follow(Case(ONCE[policy], switches, family=replace(FAMILY, global_sink=False)))


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("policy", AGAIN)
def test_what_heads_hold_when_they_are_scored_again_and_again(policy: str, switches: str):
    follow(Case(AGAIN[policy], SWITCHES[switches]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("policy", ONCE | AGAIN)
def test_at_every_resolution(policy: str, size: str):
    follow(Case((ONCE | AGAIN)[policy], {4: B, 14: C}, size=SIZES[size]))


@pytest.mark.parametrize("given, frames", [(1, 24), (7, 24), (0, 23), (2, 22)])
@pytest.mark.parametrize("policy", ONCE)
def test_behind_a_given_start_and_with_a_short_last_chunk(policy: str, given: int, frames: int):
    follow(Case(ONCE[policy], {8: B, 16: C}, frames, given=given))


# -- what the re-cached keys and values are --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, switch, start", [(0, 3, 3), (0, 6, 6), (0, 8, 9), (0, 10, 12), (1, 1, 1), (1, 5, 7), (5, 9, 11), (7, 3, 7)]
)
@pytest.mark.parametrize("policy", ONCE | AGAIN)
def test_an_equal_prompt_leaves_what_one_fresh_pass_over_the_clip_so_far_gives(policy, given, switch, start):
    """While the window covers the clip so far. The prompt is another tensor of equal values: a switch all the same."""
    run = Case((ONCE | AGAIN)[policy], {switch: A.clone()}, 21, given=given)
    latents = torch.cat([chunk.latent for chunk in run.iterate()], dim=2)
    seen = dense_clean(latents[:, :, :start], A)
    assert worst_difference(run.denoise.before[start], seen, tokens=4) < 1e-4


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_new_prompt_leaves_a_fresh_pass_under_the_new_prompt(size: tuple[int, int]):
    run = Case(FULL, {9: B}, 12, size)
    latents = torch.cat([chunk.latent for chunk in run.iterate()], dim=2)[:, :, :9]
    tokens = size[0] * size[1] // 4
    assert worst_difference(run.denoise.before[9], dense_clean(latents, B), tokens) < 1e-4
    assert worst_difference(run.denoise.before[9], dense_clean(latents, A), tokens) > 1e-2


@pytest.mark.parametrize("given, switch, start", [(0, 14, 15), (5, 12, 14), (7, 18, 19), (2, 21, 23)])
@pytest.mark.parametrize("policy", [FULL, SlidingWindow(9, 0), SlidingWindow(15, 0)], ids=str)
def test_behind_the_start_of_the_clip_the_pass_is_over_the_newest_window(policy: Policy, given, switch, start):
    """Heads without a sink; chunk starts need not be whole chunks away from the window's first frame."""
    run = Case(policy, {switch: B}, given=given)
    latents = torch.cat([chunk.latent for chunk in run.iterate()], dim=2)
    seen = dense_clean(latents[:, :, :start], B, first=start - WINDOW)
    assert worst_difference(run.denoise.before[start], seen, tokens=4) < 1e-4


def test_without_a_switch_the_cache_is_another_one():
    """What the two tests above would find if nothing were re-cached: each chunk saw only what came before it."""
    run = Case(FULL, {9: A}, 12)  # the same tensor
    latents = torch.cat([chunk.latent for chunk in run.iterate()], dim=2)[:, :, :9]
    assert worst_difference(run.denoise.before[9], dense_clean(latents, A), tokens=4) > 1e-2


# -- when a switch acts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, acts",
    [
        (0, {42: 40, 81: 80, 162: 160}),
        (1, {40: 40, 82: 80, 160: 160}),  # an image: chunks start at 1, 4, 7 ...
        (2, {41: 40, 80: 80, 161: 160}),
        (83, {83: 80, 161: 160}),  # a given start longer than the first prompts
    ],
)
def test_longlives_switch_indices_act_at_the_next_chunk_start(given: int, acts: dict[int, int]):
    run = Case(SlidingWindow(6, 3), {40: B, 80: C, 160: A.clone()}, 171, (2, 2), given)
    for _ in run.iterate():
        pass
    contexts = run.denoise.contexts
    assert list(contexts) == [span.start for span in run.spans if not span.given]
    befores = [A, *contexts.values()][:-1]
    changes = [start for (start, now), before in zip(contexts.items(), befores, strict=True) if now is not before]
    assert changes == list(acts)
    assert all(contexts[start] is run.switches[index] for start, index in acts.items())


def test_a_later_rescoring_keeps_what_the_re_cache_made():
    """Heads scored again some chunks behind a switch: the rebuilt cache still is under the new prompt."""

    @dataclass(frozen=True)
    class Keep(DummyForcing):
        def replan(self, scores, setting):
            return DummyForcing(profile=PROFILE, local_chunks=self.local_chunks).plan(setting)

    run = Case(Keep(local_chunks=3, reclassify_chunks=1), {9: B}, 18)
    latents = torch.cat([chunk.latent for chunk in run.iterate()], dim=2)
    seen = dense_clean(latents[:, :, :9], B)
    compared = 0
    for start in (12, 15):
        for key, (frames, k, v) in run.denoise.before[start].items():
            old = [i for i, frame in enumerate(frames) if frame < 9]
            k, v = (x.unflatten(1, (-1, 4))[:, old].flatten(1, 2) for x in (k, v))
            compared += len(old)
            assert worst_difference({key: ([frames[i] for i in old], k, v)}, seen, 4) < 1e-4
    assert compared > 9
