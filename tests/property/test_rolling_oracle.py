"""Rolling Forcing's loop on a tiny random model against a dense one without a cache: every pass's keys written out.

The oracle keeps each clean pass's raw keys and values of every frame for ever, works out from the definitions which of
them a head sees and where they stand, and attends in float64. Its windows, levels, noising and scores are its own.
"""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dummyforcing_core.clips.memory_use import MemoryUse
from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.kv.attention import attention
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.plan import HeadMemory
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.loops.rolling import rolling
from dummyforcing_core.loops.run import ChunkResult, Run, kv_shape
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

SEED = 11
TOLERANCE = 2e-5
ROLLING = Family(
    "rolling_forcing",
    "Tiny Rolling Forcing",
    "tests",
    steps=(1000, 800, 600, 400, 200),
    window_frames=21,
    sink_frames=3,
    trained_frames=10**6,
    loop="rolling",
)
LONG = replace(ROLLING, steps=(1000, 750, 500, 250))
TWO = replace(ROLLING, steps=(1000, 500))


MODEL = tiny_model()


A, B = context(0), context(1)
At = tuple[int, int]  # layer, head


# -- the oracle ------------------------------------------------------------------------------------------------------


class Dense:
    """Self-attention of one pass over `frames`. history: per layer and head, (frame, position) of what it sees."""

    def __init__(self, frames: range, grid: tuple[int, int], history: dict[At, list[tuple[int, int]]], kv: dict):
        self.frames, self.grid, self.history, self.kv = frames, grid, history, kv
        self.made: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # (layer, frame) -> raw K, V (B, HW, H, D)
        self.mass: dict[At, dict[int, float]] = {}  # by frame

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        raise AssertionError("the oracle runs every pass to its end")

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tokens = self.grid[0] * self.grid[1]
        for i, frame in enumerate(self.frames):
            at = slice(i * tokens, i * tokens + tokens)
            self.made[layer, frame] = k[:, at].double(), v[:, at].double()
        out = []
        for h in range(HEADS):
            seen = self.history[layer, h]
            parts = [self.kv[layer, frame] for frame, _ in seen] + [self.made[layer, f] for f in self.frames]
            places = [place for _, place in seen] + list(self.frames)
            keys = rotate(torch.cat([part[0][:, :, h] for part in parts], 1), places, *self.grid)
            values = torch.cat([part[1][:, :, h] for part in parts], 1)
            scores = rotate(q[:, :, h], self.frames, *self.grid) @ keys.transpose(1, 2)
            weights = (scores / q.shape[-1] ** 0.5).softmax(-1)
            shares = weights.unflatten(-1, (-1, tokens)).sum(-1).mean((0, 1)).tolist()
            self.mass[layer, h] = dict(zip([f for f, _ in seen] + list(self.frames), shares, strict=True))
            out.append(weights @ values)
        return torch.stack(out, 2).to(q)


def everywhere(memory: HeadMemory) -> dict[At, HeadMemory]:
    return {(layer, head): memory for layer in range(LAYERS) for head in range(HEADS)}


@dataclass
class Oracle:
    """The whole loop from its description. memories: what every head holds from now on; set it to change it."""

    run: "Case"
    memories: dict[At, HeadMemory]
    kv: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    committed: list[int] = field(default_factory=list)
    mass: dict[At, dict[int, float]] = field(default_factory=dict)
    once_pinned: int = 0  # so many first frames were sinks: they never count as recent

    def held(self, memory: HeadMemory) -> tuple[list[int], list[int]]:
        sink = [f for f in self.committed if f < memory.sink_frames]
        rest = [f for f in self.committed if f >= max(memory.sink_frames, self.once_pinned)]
        assert memory.recent_frames is not None
        return sink, rest[len(rest) - min(memory.recent_frames, len(rest)) :]

    def in_window(self, memory: HeadMemory, start: int, q: int) -> list[tuple[int, int]]:
        sink, rest = self.held(memory)
        room = 21 - q - len(sink)
        working = rest[-room:] if room else []
        first = start - len(working) - len(sink)
        return [(f, first + f) for f in sink] + [(f, f) for f in working]

    def in_clean_pass(self, memory: HeadMemory, start: int) -> list[tuple[int, int]]:
        near = [f for part in self.held(memory) for f in part if start - f <= 18]
        most = max(memory.sink_frames, memory.recent_frames or 0)
        return [(f, f) for f in near[-most:]]

    def forward(self, x: Tensor, timesteps: list[float], contexts: list[Tensor], attend: Dense) -> Tensor:
        """Velocity. Text keys and values chunk by chunk, clip by clip."""
        pairs = [[text_kv(MODEL, c.expand(x.shape[0], -1, -1)[b : b + 1]) for c in contexts] for b in range(x.shape[0])]
        text = [
            tuple(torch.cat([pair[layer][i] for clip in pairs for pair in clip]) for i in range(2))
            for layer in range(LAYERS)
        ]
        time = torch.tensor(timesteps).expand(x.shape[0], -1)
        with torch.inference_mode():
            out = forward(MODEL, x, time, text, FunctionMemory(attend))
        assert out is not None
        return out

    def window(self, x: Tensor, start: int, timesteps: list[float]) -> Tensor:
        q = x.shape[2]
        history = {at: self.in_window(memory, start, q) for at, memory in self.memories.items()}
        attend = Dense(range(start, start + q), self.run.grid, history, self.kv)
        contexts = [self.run.prompts.at(frame) for frame in range(start, start + q, 3)]
        sigma = torch.tensor(timesteps)[None, None, :, None, None] / 1000
        x0 = x - sigma * self.forward(x, timesteps, contexts, attend)
        self.mass = attend.mass
        return x0

    def clean_pass(self, latent: Tensor, start: int) -> None:
        history = {at: self.in_clean_pass(memory, start) for at, memory in self.memories.items()}
        attend = Dense(range(start, start + 3), self.run.grid, history, self.kv)
        s = self.run.context_noise
        if s:
            span = Span(start // 3, start, start + 3)
            latent = (1 - s) * latent + s * self.run.noise(len(self.run.family.steps), span)
        self.forward(latent, [1000 * s] * 3, [self.run.prompts.at(start)], attend)
        self.kv |= attend.made
        self.committed += attend.frames

    def forget(self, latents: Tensor, first: int, recent: int) -> None:
        """Re-scoring: all is read anew from the chunks that hold frames 0 .. first - 1 and the newest `recent`."""
        stop = latents.shape[2]
        self.kv, self.committed = {}, []
        for start in range(0, stop, 3):
            if start < first or start + 3 > stop - recent:
                self.clean_pass(latents[:, :, start : start + 3], start)

    def clip(self) -> Iterator[tuple[int, Tensor]]:
        """(chunk, latent) as they are finished; the clean pass of a chunk runs when the next one is asked for."""
        noise, frames = self.run.noise, self.run.frames
        t = [1000 * (5 * u / (1 + 4 * u)) for u in (step / 1000 for step in self.run.family.steps)]
        upward = [level for level in reversed(t) for _ in range(3)]  # a full window, oldest first
        n, w_max = frames // 3, len(t)
        store = torch.zeros(self.run.batch, 16, frames, *self.run.size)
        for w in range(n + w_max - 1):
            a, z = max(0, w - w_max + 1), min(n - 1, w)
            start, stop = 3 * a, 3 * z + 3
            if z == w:
                store[:, :, 3 * z : stop] = noise(0, Span(z, 3 * z, stop))
            levels = upward[-(stop - start) :] if a == 0 else upward[: stop - start]
            yield -1, store  # before the window
            x0 = self.window(store[:, :, start:stop], start, levels)
            for k in range(a, z + 1):
                step = t.index(levels[3 * (k - a)]) + 1
                if step < w_max:
                    s, at = t[step] / 1000, slice(3 * k, 3 * k + 3)
                    fresh = noise(step, Span(k, 3 * k, 3 * k + 3))
                    store[:, :, at] = (1 - s) * x0[:, :, at.start - start : at.stop - start] + s * fresh
            if w >= w_max - 1:
                yield a, x0[:, :, :3]
                self.clean_pass(x0[:, :, :3], start)


# -- the engine ------------------------------------------------------------------------------------------------------


class Noting(WanDenoiser):
    def __init__(self) -> None:
        super().__init__(MODEL)
        self.cache: weakref.ref[KVCache] | None = None

    def __call__(self, x, sigma, context, step):
        self.cache = weakref.ref(step.cache)
        return super().__call__(x, sigma, context, step)


@dataclass
class Case:
    """A clip with defaults. Sizes in latents."""

    policy: Policy = field(default_factory=Full)
    frames: int = 30
    family: Family = ROLLING
    switches: dict[int, Tensor] = field(default_factory=dict)
    first: Tensor = field(default_factory=lambda: A)
    batch: int = 1
    size: tuple[int, int] = (4, 6)
    context_noise: float = 0.0
    denoise: Noting = field(default_factory=Noting)

    @property
    def shape(self) -> LatentShape:
        return LatentShape(self.batch, 16, self.frames, *self.size)

    @property
    def grid(self) -> tuple[int, int]:
        return self.size[0] // 2, self.size[1] // 2

    @property
    def prompts(self) -> PromptSchedule:
        return PromptSchedule(((0, self.first), *self.switches.items()))

    @property
    def noise(self) -> SeededNoise:
        return SeededNoise(SEED, self.shape, 3)

    @property
    def schedule(self) -> Schedule:
        return replace(self.family.schedule, context_noise=self.context_noise)

    def iterate(self) -> Iterator[ChunkResult]:
        return rolling(
            Run(
                self.denoise,
                self.shape,
                self.schedule,
                self.prompts,
                self.policy,
                self.family,
                self.noise,
                attend=attention,
            )
        )


def stored(sink: int, recent: int) -> HeadMemory:
    """What a head keeps of a policy's wish: a clean pass wants recent frames in the sink's place."""
    return HeadMemory(sink, recent + (sink if recent else 0))


def check(run: Case, memory: HeadMemory) -> None:
    """Follows a clip whose heads all hold the same, to its end."""
    oracle = Oracle(run, everywhere(memory))
    wanted = ((k, latent) for k, latent in oracle.clip() if k >= 0)
    chunks = 0
    for chunk, (k, latent) in zip(run.iterate(), wanted, strict=True):
        assert chunk.span == Span(k, 3 * k, 3 * k + 3)
        assert float((chunk.latent - latent).abs().max()) < TOLERANCE, chunk.span
        chunks += 1
    assert chunks == run.frames // 3


CLIPS: dict[str, tuple[Case, HeadMemory]] = {
    "as released": (Case(), stored(3, 15)),
    "W 4": (Case(family=LONG), stored(3, 15)),
    "W 2": (Case(family=TWO, frames=36), stored(3, 15)),
    "by window": (Case(SlidingWindow(21, 3)), stored(3, 15)),
    "no sink": (Case(SlidingWindow(21, 0)), stored(0, 18)),
    "a sink of 2": (Case(SlidingWindow(21, 2)), stored(2, 16)),
    "12 frames": (Case(SlidingWindow(12, 3)), stored(3, 6)),
    "sink only": (Case(SlidingWindow(6, 3)), stored(3, 0)),
    "no history": (Case(SlidingWindow(3, 0)), stored(0, 0)),
    "one full window": (Case(frames=15), stored(3, 15)),
    "a batch of two": (Case(batch=2, frames=24), stored(3, 15)),
    "a prompt switch": (Case(switches={10: B}), stored(3, 15)),
    "switches and a batch": (
        Case(batch=2, first=context(3, 2), switches={6: B, 12: context(4, 2), 15: A}, frames=24),
        stored(3, 15),
    ),
    "context noise": (Case(context_noise=0.1, frames=24), stored(3, 15)),
}


@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_is_what_the_description_says(name: str) -> None:
    check(*CLIPS[name])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    frames=st.integers(5, 12).map(lambda chunks: 3 * chunks),
    family=st.sampled_from([ROLLING, LONG, TWO]),
    sink=st.integers(0, 3),
    recent=st.integers(0, 15),
    switch=st.none() | st.integers(1, 30),
)
def test_any_clip_is(frames: int, family: Family, sink: int, recent: int, switch: int | None) -> None:
    policy = SlidingWindow(sink + recent + 3, sink)
    run = Case(policy, frames, family, {} if switch is None else {switch: B}, size=(4, 4))
    check(run, stored(sink, recent))


def test_the_gates_are_open() -> None:
    """What is seen, and be it in clean passes alone, shows in the latents by far more than the tolerance."""
    for policy in (SlidingWindow(21, 2), SlidingWindow(18, 3), SlidingWindow(21, 0)):
        differences = [
            float((a.latent - b.latent).abs().max())
            for a, b in zip(Case().iterate(), Case(policy).iterate(), strict=True)
        ]
        assert max(differences[:2]) < 1 and max(differences) > 1e-3


# -- Dummy Forcing ---------------------------------------------------------------------------------------------------

PROFILE = HeadProfile(
    HeadScores(
        torch.tensor([[[0.6, 0.1, 0.3], [0.1, 0.6, 0.3], [0.02, 0.01, 0.97], [0.01, 0.02, 0.97]]]).expand(
            LAYERS, -1, -1
        )
    )
)


def roles_of(chunk: ChunkResult, local: int = 3) -> dict[At, HeadMemory]:
    table = {"sink": HeadMemory(1, 0), "dummy": HeadMemory(0, 1), "neighbour": HeadMemory(0, local)}
    return {(i, h): table[role] for i, row in enumerate(chunk.plan.roles) for h, role in enumerate(row)}


DUMMY: dict[str, tuple[Case, int, list[int]]] = {
    "online": (Case(DummyForcing()), 3, [1]),
    "online, W 4, batch 2": (Case(DummyForcing(dummy_ratio=0.25), family=LONG, batch=2, size=(4, 4)), 3, [1]),
    "observed late": (Case(DummyForcing(observe_chunk=4)), 3, [4]),
    "two chunks": (Case(DummyForcing(local_chunks=2)), 6, [1]),
    "no dummies": (Case(DummyForcing(dummy_ratio=0)), 3, [1]),
    "only dummies": (Case(DummyForcing(dummy_ratio=1)), 3, [1]),
    "with a profile": (Case(DummyForcing(profile=PROFILE)), 3, []),
    "every third chunk": (Case(DummyForcing(reclassify_chunks=3)), 3, [1, 4, 7]),
    "a new prompt": (Case(DummyForcing(), switches={18: B}), 3, [1, 6]),
}


@pytest.mark.parametrize("name", DUMMY)
def test_dummy_forcing(name: str) -> None:
    """Frames held and seen per role, scores, re-scoring, bytes: chunk by chunk beside the oracle."""
    run, local, observed = DUMMY[name]
    wide = everywhere(stored(1, local))
    oracle = Oracle(run, wide)
    priced, latents, scored = kv_shape(run.denoise.geometry, run.shape, run.family), [], []
    use = MemoryUse(priced)
    if run.policy.profile is not None:
        roles = (("sink", "neighbour", "dummy", "dummy"),) * LAYERS
        table = {"sink": HeadMemory(1, 0), "dummy": HeadMemory(0, 1), "neighbour": HeadMemory(0, local)}
        oracle.memories = {(i, h): table[role] for i, row in enumerate(roles) for h, role in enumerate(row)}
    steps, chunks = oracle.clip(), run.iterate()
    w_max, w = len(run.family.steps), 0
    for k, wanted in steps:
        if k < 0:  # before a window: a chunk that is scored in it needs every head wide
            a, w = w - w_max + 1, w + 1
            if a in observed and a != observed[0]:
                oracle.memories = wide
                oracle.forget(torch.cat(latents, 2), 1, 1 + local)
            continue
        chunk = next(chunks)
        assert float((chunk.latent - wanted).abs().max()) < TOLERANCE, chunk.span
        latents.append(wanted)
        use.add(chunk)
        assert chunk.resident_bytes == chunk.plan.resident_bytes(priced)
        assert (chunk.scores is not None) == (k in observed)
        if chunk.scores is None:
            continue
        scored.append(k)
        for (layer, head), mass in oracle.mass.items():
            regions = [
                sum(share for frame, share in mass.items() if frame < 1 and k),
                sum(share for frame, share in mass.items() if 1 <= frame < 3 * k),
                sum(share for frame, share in mass.items() if frame >= 3 * k),
            ]
            assert (chunk.scores.mass[layer, head] - torch.tensor(regions)).abs().max() < 1e-5
        assert next(steps)[0] == -1  # past its clean pass, which is wide still
        w += 1
        oracle.memories, oracle.once_pinned = roles_of(chunk, local), 1
    assert scored == observed and next(chunks, None) is None
    assert use.actual_peak == use.predicted_peak


@pytest.mark.parametrize("name", ["online", "every third chunk", "with a profile"])
def test_what_heads_hold(name: str) -> None:
    run, local, _ = DUMMY[name]
    for chunk in run.iterate():
        cache = run.denoise.cache and run.denoise.cache()
        assert cache is not None
        stop = chunk.span.stop
        for layer in range(LAYERS):
            for head in range(HEADS):
                role = chunk.plan.roles[layer][head]
                expected = {
                    "unclassified": [0, *range(max(1, stop - local - 1), stop)],
                    "sink": [0],
                    "dummy": [stop - 1],
                    "neighbour": list(range(stop - local, stop)),
                }[role]
                assert cache.export(layer, head)[0] == expected
        held = sum(len(cache.export(layer, head)[0]) for layer in range(LAYERS) for head in range(HEADS))
        assert chunk.history_bytes == held * cache.shape.frame_bytes


def test_a_clip_dies_with_its_iterator() -> None:
    run = Case(DummyForcing())
    chunks = run.iterate()
    next(chunks), next(chunks)
    del chunks
    gc.collect()
    assert run.denoise.cache is not None and run.denoise.cache() is None


def test_clips_are_the_same_twice() -> None:
    first, second = (torch.cat([c.latent for c in Case(DummyForcing(), 24).iterate()], 2) for _ in range(2))
    assert torch.equal(first, second)


def test_half_precision_stays_close() -> None:
    """The sink's keys are turned twice, so they are rounded twice; in bfloat16 that must not show."""
    runs = []
    for dtype in (torch.float32, torch.bfloat16):
        run = Case()
        run.denoise.model = tiny_model().to(dtype)
        run.denoise.geometry = replace(run.denoise.geometry, dtype=dtype)
        runs.append(torch.cat([c.latent for c in run.iterate()], 2).float())
    assert float((runs[0] - runs[1]).norm() / runs[0].norm()) < 0.05
