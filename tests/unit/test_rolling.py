"""Rolling Forcing's loop on a denoiser that only records: which chunks at which levels, and which frames a pass sees.

Raw keys are all alike, so a rotated key tells where it stands; values carry their frame and head. The tables are
written from the description of the public code, frame by frame.
"""

import gc
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import pytest
import torch
from torch import Tensor

from dummyforcing_core.clip_memory import kv_shape
from dummyforcing_core.errors import DummyForcingError, OutputError, PlanError
from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.memory_use import MemoryUse
from dummyforcing_core.models.denoiser import ModelGeometry, Step
from dummyforcing_core.models.families import Family, get_family
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.plan import HeadMemory, HeadPlan
from dummyforcing_core.policies import DummyForcing, Full, Policy, SlidingWindow
from dummyforcing_core.policies.base import Setting
from dummyforcing_core.profile import HeadProfile
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.rolling import rolling
from dummyforcing_core.rolling_cache import RollingCache
from dummyforcing_core.rollout import ChunkResult
from dummyforcing_core.schedule import Schedule
from dummyforcing_core.scoring import HeadScores, Observation
from dummyforcing_core.stepcache import NO_STEPS, StepCache

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

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        cache = step.cache
        assert isinstance(cache, RollingCache)
        self.cache = weakref.ref(cache)
        frames = list(cache.query_frames)
        assert len(frames) == x.shape[2] and sigma.shape == (x.shape[0], x.shape[2])
        assert bool((sigma == sigma[:1]).all()) and step.told is None and step.residual is None
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


@dataclass
class Run:
    """A clip with defaults; frames in latents."""

    frames: int = 27
    family: Family = ROLLING
    policy: Policy = field(default_factory=Full)
    prompts: PromptSchedule = field(default_factory=lambda: PromptSchedule.constant(prompt(0)))
    schedule: Schedule | None = None
    batch: int = 1
    size: tuple[int, int] = (2, 4)
    start: Tensor | None = None
    steps: StepCache = NO_STEPS
    recorder: Recorder = field(default_factory=Recorder)
    on_step: object = None
    watch: object = None

    @property
    def shape(self) -> LatentShape:
        return LatentShape(self.batch, 16, self.frames, *self.size)

    @property
    def noise(self) -> SeededNoise:
        return SeededNoise(3, self.shape, self.family.chunk_frames)

    def iterate(self) -> Iterator[ChunkResult]:
        given = {name: getattr(self, name) for name in ("on_step", "watch") if getattr(self, name) is not None}
        return rolling(
            self.recorder,
            self.shape,
            self.schedule or self.family.schedule,
            self.prompts,
            self.policy,
            self.family,
            self.noise,
            self.start,
            attend=self.recorder.attend,
            steps=self.steps,
            **given,
        )

    def calls(self) -> list[Call]:
        list(self.iterate())
        return self.recorder.calls


def windows(calls: list[Call]) -> list[Call]:
    return [call for call in calls if call.output]


def cleans(calls: list[Call]) -> list[Call]:
    return [call for call in calls if not call.output]


def seen(*frames: int, sink: int | None = None) -> Seen:
    """Frames where they are, and the sink's three from position `sink` on."""
    return {f: f for f in frames} | ({} if sink is None else {0: sink, 1: sink + 1, 2: sink + 2})


# -- the order of passes, and their levels ---------------------------------------------------------------------------


def test_the_levels_of_the_released_models() -> None:
    five, four = ROLLING.schedule.sigmas, LONG.schedule.sigmas
    assert [1000 * s for s in five] == pytest.approx([1000, 952.381, 882.353, 769.231, 555.556], abs=1e-3)
    assert [1000 * s for s in four] == pytest.approx([1000, 937.5, 833.333, 625], abs=1e-3)


T = [1.0, 20 / 21, 15 / 17, 10 / 13, 5 / 9]
# (first frame, stop, level of each chunk from the oldest on) of a clip of 7 chunks; "c": a clean pass
PASSES = [
    (0, 3, [0]),
    (0, 6, [1, 0]),
    (0, 9, [2, 1, 0]),
    (0, 12, [3, 2, 1, 0]),
    (0, 15, [4, 3, 2, 1, 0]),
    (0, 3, "c"),
    (3, 18, [4, 3, 2, 1, 0]),
    (3, 6, "c"),
    (6, 21, [4, 3, 2, 1, 0]),
    (6, 9, "c"),
    (9, 21, [4, 3, 2, 1]),
    (9, 12, "c"),
    (12, 21, [4, 3, 2]),
    (12, 15, "c"),
    (15, 21, [4, 3]),
    (15, 18, "c"),
    (18, 21, [4]),
    (18, 21, "c"),
]


def test_the_order_of_passes_and_the_level_of_every_frame() -> None:
    calls = Run(21).calls()
    assert [(call.start, call.stop) for call in calls] == [(start, stop) for start, stop, _ in PASSES]
    for call, (_, _, levels) in zip(calls, PASSES, strict=True):
        clean = levels == "c"
        expected = [0.0] * 3 if clean else [T[level] for level in levels for _ in range(3)]
        assert call.sigmas == pytest.approx(expected, abs=1e-6)
        assert call.output is not clean


@pytest.mark.parametrize("family", [ROLLING, LONG], ids=["W 5", "W 4"])
@pytest.mark.parametrize("extra", [0, 1, 6])
def test_passes_of_any_length(family: Family, extra: int) -> None:
    levels = family.schedule.sigmas
    w_max, n = len(levels), len(levels) + extra
    calls = Run(3 * n, family).calls()
    assert len(windows(calls)) == n + w_max - 1 and len(cleans(calls)) == n
    for w, call in enumerate(windows(calls)):
        a, z = max(0, w - w_max + 1), min(n - 1, w)
        assert (call.start, call.stop) == (3 * a, 3 * z + 3)
        assert call.sigmas == pytest.approx([levels[w - k] for k in range(a, z + 1) for _ in range(3)], abs=1e-6)


def test_the_shortest_clip_is_one_full_window() -> None:
    chunks = list(Run(15).iterate())
    assert [chunk.span.start for chunk in chunks] == [0, 3, 6, 9, 12]


def test_what_enters_a_window() -> None:
    """A chunk enters as its own noise; between windows it is noised anew with the noise of its next step."""
    run = Run(27)
    calls = windows(run.calls())
    levels = ROLLING.schedule.sigmas
    ordinal = [i + 1 for i, call in enumerate(run.recorder.calls) if call.output]
    for w, call in enumerate(calls):
        for k in range(call.start // 3, call.stop // 3):
            span, age = Span(k, 3 * k, 3 * k + 3), w - k
            expected = run.noise(age, span)
            if age:
                x0 = torch.tensor([1000.0 * ordinal[w - 1] + f for f in range(span.start, span.stop)])
                expected = (1 - levels[age]) * x0[None, None, :, None, None] + levels[age] * expected
            mine = call.x[:, :, span.start - call.start : span.stop - call.start]
            torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-3)


def test_a_chunk_is_what_its_last_window_made_and_what_its_clean_pass_reads() -> None:
    run = Run(27)
    chunks = list(run.iterate())
    calls = run.recorder.calls
    assert [chunk.span for chunk in chunks] == [Span(k, 3 * k, 3 * k + 3) for k in range(9)]
    for k, (chunk, clean) in enumerate(zip(chunks, cleans(calls), strict=True)):
        last = calls.index(clean)  # its ordinal, from 1 on, is that of the window before the clean pass
        assert chunk.latent[0, 0, :, 0, 0].tolist() == [1000.0 * last + 3 * k + i for i in range(3)]
        assert torch.equal(chunk.latent, clean.x)
        assert chunk.latent.untyped_storage().nbytes() == chunk.latent.nbytes, "it would keep the window alive"


def test_chunks_come_as_soon_as_they_are_finished() -> None:
    run = Run(30)
    counts = [len(run.recorder.calls) for _ in run.iterate()]
    assert counts == [6, 8, 10, 12, 14, 16, 18, 20, 22, 24]


def test_what_on_step_is_told() -> None:
    told: list[tuple[int, int, int]] = []
    run = Run(21)
    run.on_step = lambda span, step: told.append((len(run.recorder.calls), span.chunk, step))
    run.calls()
    expected = [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5)]
    expected += [(k, step) for k in range(1, 7) for step in (4, 5)]
    assert told == [(i, *where) for i, where in enumerate(expected)]


# -- what a pass sees ------------------------------------------------------------------------------------------------

# First frame of the window -> history, in a clip of 9 chunks (W 5). Windows are full up to frame 12, then 12, 9, 6, 3.
WINDOWS_5 = {
    0: seen(),
    3: seen(sink=0),
    6: seen(3, 4, 5, sink=0),
    9: seen(6, 7, 8, sink=3),
    12: seen(9, 10, 11, sink=6),
    15: seen(9, 10, 11, 12, 13, 14, sink=6),
    18: seen(*range(9, 18), sink=6),
    21: seen(*range(9, 21), sink=6),
    24: seen(*range(9, 24), sink=6),
}
# W 4: full up to frame 15
WINDOWS_4 = {
    0: seen(),
    3: seen(sink=0),
    6: seen(3, 4, 5, sink=0),
    9: seen(3, 4, 5, 6, 7, 8, sink=0),
    12: seen(6, 7, 8, 9, 10, 11, sink=3),
    15: seen(9, 10, 11, 12, 13, 14, sink=6),
    18: seen(*range(9, 18), sink=6),
    21: seen(*range(9, 21), sink=6),
    24: seen(*range(9, 24), sink=6),
}
CLEANS = {start: seen(*range(max(0, start - 18), start)) for start in range(0, 27, 3)}
assert 0 in CLEANS[18] and list(CLEANS[21]) == list(range(3, 21))  # the sink goes with the eighth chunk
LIKE_THE_FAMILY = {"full": Full(), "its window": SlidingWindow(21, 3)}


@pytest.mark.parametrize("policy", LIKE_THE_FAMILY)
@pytest.mark.parametrize("family, table", [(ROLLING, WINDOWS_5), (LONG, WINDOWS_4)], ids=["W 5", "W 4"])
@pytest.mark.parametrize("batch", [1, 2])
def test_which_frames_are_seen_and_where(policy: str, family: Family, table: dict[int, Seen], batch: int) -> None:
    calls = Run(27, family, LIKE_THE_FAMILY[policy], batch=batch, recorder=Recorder(2, 2)).calls()
    for call in windows(calls):
        for at in [(layer, head) for layer in range(2) for head in range(2)]:
            assert call.seen[at] == table[call.start], (call.start, call.stop)
        assert call.own == seen(*range(call.start, call.stop)) and call.at == list(call.own)
        assert call.attention_calls == 2, "one call per layer"
    for call in cleans(calls):
        assert call.history() == CLEANS[call.start] and call.at == [call.start + i for i in range(3)]


def test_deep_inside_a_long_clip() -> None:
    calls = Run(180, recorder=Recorder(1, 2)).calls()  # a clean pass runs all layers but the last
    for call in windows(calls):
        history = call.history()
        if call.start >= 6 and call.stop - call.start == 15:
            a = call.start
            assert history == seen(a - 3, a - 2, a - 1, sink=a - 6)
        everything = [*history.values(), *call.own.values()]
        assert max(everything) - min(everything) < 21, "never beyond the trained range"
    for call in cleans(calls)[7:]:
        assert call.history() == seen(*range(call.start - 18, call.start))


@pytest.mark.parametrize("sink", [0, 1, 2, 3])
def test_sinks_of_other_lengths(sink: int) -> None:
    calls = Run(39, policy=SlidingWindow(21, sink), recorder=Recorder(1, 2)).calls()
    for call in windows(calls):
        q = call.stop - call.start
        working = min(max(call.start - sink, 0), 21 - q - sink)
        first = call.start - working
        held = {f: f for f in range(first, call.start)} | {f: first - sink + f for f in range(sink) if call.start}
        assert call.history() == held
    for call in cleans(calls):
        assert call.history() == seen(*range(max(0, call.start - 18), call.start))


def test_a_shorter_window() -> None:
    """12 frames: 3 of the sink, 6 recent; a clean pass sees the chunk and the 9 before it."""
    calls = Run(36, policy=SlidingWindow(12, 3), recorder=Recorder(1, 2)).calls()
    by_start = {call.start: call.history() for call in windows(calls)}
    assert by_start[18] == seen(15, 16, 17, sink=12)
    assert by_start[24] == seen(*range(18, 24), sink=15)  # q 12
    assert by_start[33] == seen(*range(24, 33), sink=21)  # q 3
    assert cleans(calls)[5].history() == seen(*range(6, 15))


def test_the_sink_only() -> None:
    """Clean passes lose sight of all of it at once, 21 frames on; windows never."""
    calls = Run(33, policy=SlidingWindow(6, 3), recorder=Recorder(1, 2)).calls()
    for call in cleans(calls)[1:]:
        assert call.history() == (seen(sink=0) if call.start <= 18 else {})
    assert all(call.history() == seen(sink=call.start - 3) for call in windows(calls) if call.start)


def test_the_chunk_only() -> None:
    """A window of one chunk: no head has any history, and nothing is stored but the present chunk."""
    run = Run(21, policy=SlidingWindow(3, 0), recorder=Recorder(2, 2))
    assert all(chunk.history_bytes == 0 for chunk in run.iterate())
    assert all(history == {} for call in run.recorder.calls for history in call.seen.values())


# -- prompts ---------------------------------------------------------------------------------------------------------


def test_every_chunk_speaks_its_own_prompt() -> None:
    a, b = prompt(1), prompt(2)
    run = Run(24, prompts=PromptSchedule(((0, a), (7, b))))  # takes over at frame 9
    for call in run.calls():
        speak = [1 if frame < 9 else 2 for frame in range(call.start, call.stop, 3)]
        if len(set(speak)) == 1:
            assert call.prompts is (a if speak[0] == 1 else b), "features of a prompt are told by identity"
        else:
            assert call.prompts.flatten().tolist() == speak


def test_a_batch_of_two_with_prompts_of_their_own() -> None:
    a, b = prompt(0, 2) + torch.tensor([10.0, 20.0])[:, None, None], prompt(30)
    run = Run(24, prompts=PromptSchedule(((0, a), (9, b))), batch=2)
    mixed = [call for call in run.calls() if call.start < 9 < call.stop]
    for call in mixed:
        olds = (9 - call.start) // 3
        news = (call.stop - 9) // 3
        assert call.prompts.flatten().tolist() == [*[10] * olds, *[30] * news, *[20] * olds, *[30] * news]
    assert [(call.start, call.stop) for call in mixed] == [(0, 12), (0, 15), (3, 18), (6, 21)]


# -- Dummy Forcing ---------------------------------------------------------------------------------------------------

SHARES = {"sink": (0.6, 0.1, 0.3), "neighbour": (0.1, 0.6, 0.3), "dummy": (0.01, 0.01, 0.98)}
ROLES = ("sink", "dummy", "neighbour", "dummy")


def profile(layers: int, roles: tuple[str, ...] = ROLES) -> HeadProfile:
    return HeadProfile(HeadScores(torch.tensor([[SHARES[role] for role in roles]] * layers)))


def by_role(call: Call, layer: int = 0) -> dict[str, Seen]:
    table: dict[str, Seen] = {}
    for head, role in enumerate(ROLES):
        assert table.setdefault(role, call.history(head, layer)) == call.history(head, layer)
    return table


def test_what_each_role_sees_with_a_profile() -> None:
    """Beside the window: f0 in front of it, or the newest frame, or the last chunk. Clean passes: the same, as far as
    the family's own clean pass reaches, at true places."""
    calls = Run(33, policy=DummyForcing(profile=profile(2)), recorder=Recorder(4, 2)).calls()
    for call in windows(calls):
        a = call.start
        if a == 0:
            assert set(map(len, call.seen.values())) == {0}
            continue
        for layer in range(2):
            assert by_role(call, layer) == {
                "sink": {0: a - 1},
                "dummy": {a - 1: a - 1},
                "neighbour": {a - 3: a - 3, a - 2: a - 2, a - 1: a - 1},
            }
        assert call.attention_calls == 2 * 2, "sink and dummy heads share a call"
    for call in cleans(calls)[1:]:
        a = call.start
        expected = {"sink": {0: 0} if a <= 18 else {}, "dummy": {a - 1: a - 1}, "neighbour": seen(a - 3, a - 2, a - 1)}
        assert by_role(call) == expected


def test_neighbours_of_many_chunks_give_way_to_the_window() -> None:
    policy = DummyForcing(profile=profile(1), local_chunks=4)
    by_start = {call.start: call for call in windows(Run(36, policy=policy, recorder=Recorder(4)).calls())}
    assert list(by_role(by_start[21])["neighbour"]) == list(range(15, 21))  # q 15: 6 are left of 21
    assert list(by_role(by_start[27])["neighbour"]) == list(range(15, 27))  # q 9


@dataclass(frozen=True)
class Told(DummyForcing):
    """Dummy Forcing that is told the scores, but observes for itself."""

    seen: list = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    looks: list = field(default_factory=list)  # called when an observation is asked for

    def observes(self, span: Span, setting: Setting, observed: Sequence[int], switched: bool) -> bool:
        self.asked.append(span.chunk)
        return super().observes(span, setting, observed, switched)

    def observation(self, setting: Setting) -> Observation:
        for look in self.looks:
            look()
        seen_now = self.seen
        layers = setting.layers

        class Watcher(Observation):
            def __call__(self, layer, heads, q, k, regions) -> None:
                assert q.shape[2] == k.shape[2] == len(heads)
                assert [r.start_token for r in regions] == [0, regions[0].stop_token, regions[1].stop_token]
                assert regions[-1].stop_token == k.shape[1]
                tokens = q.shape[1] // len(regions[0].frames)
                assert k.shape[1] == tokens * sum(len(r.frames) for r in regions)
                seen_now.append((layer, tuple(heads), {r.name: r.frames for r in regions}))

            def scores(self) -> HeadScores:
                return profile(layers).scores

        return Watcher(setting.layers, setting.heads)


def test_heads_are_scored_in_the_last_window_of_the_first_chunk_with_neighbours() -> None:
    policy = Told(dummy_ratio=0.5)
    run = Run(27, policy=policy, recorder=Recorder(4, 2))
    chunks = list(run.iterate())
    assert [chunk.span.chunk for chunk in chunks if chunk.scores is not None] == [1]
    assert policy.asked == list(range(9)), "once for every chunk"
    regions = {"current": tuple(range(3, 18)), "sink": (0,), "recent": (1, 2)}
    assert policy.seen == [(layer, (0, 1, 2, 3), regions) for layer in range(2)]
    assert set(chunks[0].plan.roles[0]) == {"unclassified"} and chunks[1].plan.roles == (ROLES, ROLES)
    calls = {call.start: call for call in windows(run.recorder.calls)}
    assert [call.history(head) for call in [calls[3]] for head in range(4)] == [{0: 0, 1: 1, 2: 2}] * 4
    assert by_role(calls[6]) == {"sink": {0: 5}, "dummy": {5: 5}, "neighbour": seen(3, 4, 5)}


@pytest.mark.parametrize("reason", ["every third chunk", "a new prompt"])
def test_heads_are_scored_again_over_the_sink_and_the_newest(reason: str) -> None:
    policy, switch = Told(dummy_ratio=0.5, reclassify_chunks=9), [(30, prompt(1))]
    if reason == "a new prompt":
        policy = Told(dummy_ratio=0.5)
    else:
        switch = []
    run = Run(45, policy=policy, prompts=PromptSchedule(((0, prompt(0)), *switch)), recorder=Recorder(4))
    chunks = list(run.iterate())
    assert [chunk.span.chunk for chunk in chunks if chunk.scores is not None] == [1, 10]
    assert [dict(regions) for _, _, regions in policy.seen] == [
        {"current": tuple(range(3, 18)), "sink": (0,), "recent": (1, 2)},
        {"current": tuple(range(30, 45)), "sink": (0,), "recent": (26, 27, 28, 29)},
    ]
    replayed = [call.start for call in cleans(run.recorder.calls)]
    order = [start for start, _ in groupby(replayed)]
    assert order == [*range(0, 30, 3), 0, 24, 27, *range(30, 45, 3)]


PLANS: dict[str, Policy] = {
    "full": Full(),
    "window 12": SlidingWindow(12, 3),
    "dummy, scored": Told(dummy_ratio=0.5),
    "dummy, scored again": Told(dummy_ratio=0.5, reclassify_chunks=3),
    "dummy, profile": DummyForcing(profile=profile(2)),
    "dummy, two chunks": DummyForcing(profile=profile(2), local_chunks=2, packed_frames=2, sink_frames=2),
}


def test_a_second_look_never_holds_two_caches() -> None:
    caches: list[weakref.ref[RollingCache] | None] = []
    alive: list[int] = []
    policy = Told(dummy_ratio=0.5, reclassify_chunks=3)
    policy.looks.append(lambda: alive.append(len({id(ref()) for ref in caches if ref and ref() is not None})))
    run = Run(27, policy=policy, recorder=Recorder(4))
    run.on_step = lambda span, step: caches.append(run.recorder.cache)
    list(run.iterate())
    assert alive == [1, 0, 0], "first over the cache there is, then the old one has gone before the new one fills"


@pytest.mark.parametrize("name, kept", [("full", []), ("dummy, profile", []), ("dummy, scored", [0, 10])])
def test_which_latents_are_kept(name: str, kept: list[int]) -> None:
    """Only what a second look would read: the sink's chunk and the newest."""
    run = Run(39, policy=PLANS[name], recorder=Recorder(4, 2))
    chunks, latents = run.iterate(), []
    for _ in range(12):
        latents.append(weakref.ref(next(chunks).latent))
    gc.collect()
    assert [k for k, latent in enumerate(latents[:11]) if latent() is not None] == kept
    next(chunks)


def test_on_output_sees_every_layer() -> None:
    run = Run(15)
    shape = kv_shape(run.recorder, run.shape, ROLLING)
    cache = RollingCache(HeadPlan.uniform(2, 3, HeadMemory(1, 3), "any"), replace(shape, head_dim=6), 21)
    told: list[tuple[int, Tensor]] = []
    cache.on_output = lambda layer, out: told.append((layer, out))
    q = torch.randn(1, 15 * shape.frame_tokens, 3, 6)
    cache.begin_window(0, 15)
    outs = [cache(layer, q, q, q) for layer in range(2)]
    assert [layer for layer, _ in told] == [0, 1]
    assert all(torch.equal(mine, out) for (_, mine), out in zip(told, outs, strict=True))


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("batch", [1, 2])
def test_bytes_are_the_price(name: str, batch: int) -> None:
    run = Run(36, policy=PLANS[name], batch=batch, recorder=Recorder(4, 2))
    priced = kv_shape(run.recorder, run.shape, run.family)
    use = MemoryUse(priced)
    for chunk in run.iterate():
        assert run.recorder.cache is not None
        cache = run.recorder.cache()
        assert cache is not None
        tensors = [x for layer in cache.layers for group in layer for x in (group.k, group.v)]
        assert sum(x.untyped_storage().nbytes() for x in tensors) == chunk.resident_bytes
        assert chunk.resident_bytes == chunk.plan.resident_bytes(priced)
        held = [len(cache.export(layer, head)[0]) for layer in range(2) for head in range(4)]
        assert chunk.history_bytes == sum(held) * priced.frame_bytes
        assert chunk.history_bytes <= chunk.plan.history_bytes(priced, chunk.span.stop)
        use.add(chunk)
    assert use.actual_peak == use.predicted_peak
    assert use.rows()["history_bytes"]["actual"] == use.rows()["history_bytes"]["predicted"]


def test_the_family_holds_24_frames_like_the_public_cache() -> None:
    run = Run(60, recorder=Recorder(1, 1))
    chunks = list(run.iterate())
    frame = kv_shape(run.recorder, run.shape, run.family).frame_bytes
    assert chunks[-1].resident_bytes == 24 * frame and chunks[-1].history_bytes == 21 * frame
    assert [chunk.window_full for chunk in chunks] == [False] * 7 + [True] * 13


def test_what_half_dummies_save_at_the_real_models_head_count() -> None:
    """30 layers of 12 heads, 180 dummies, 90 sink and 90 neighbour heads; keys per query and frame, one chunk on."""
    roles = ("sink", "dummy", "neighbour", "dummy") * 3
    run = {
        "full": Run(39, size=(2, 2), recorder=Recorder(12, 30)),
        "dummy": Run(39, size=(2, 2), recorder=Recorder(12, 30), policy=DummyForcing(profile=profile(30, roles))),
    }
    work = {}
    for name, clip in run.items():
        calls = clip.calls()
        window = next(call for call in windows(calls) if call.start == 24)
        clean = next(call for call in cleans(calls) if call.start == 24)
        keys = {
            "window": sum(15 * (15 + len(history)) for history in window.seen.values()),
            # the last layer of a clean pass only stores
            "clean": sum(3 * (3 + len(history)) for history in clean.seen.values()),
        }
        work[name] = keys["window"] / 360, keys["clean"] / 348
    assert work == {"full": (315, 63), "dummy": (15 * 16.5, 3 * 4.25)}


# -- a clip's life ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANS)
def test_memory_is_constant_over_200_chunks(name: str) -> None:
    run = Run(600, policy=PLANS[name], size=(2, 2), recorder=Recorder(4, 2))
    steady: set[tuple[int, int]] = set()
    tables: set[int] = set()
    kept: set[int] = set()
    for chunk in run.iterate():
        run.recorder.calls = run.recorder.calls[-1:]
        if chunk.span.chunk < 30:
            continue
        cache = run.recorder.cache and run.recorder.cache()
        assert cache is not None
        steady.add((chunk.history_bytes, chunk.resident_bytes))
        tables.add(len(cache._tables) + len(cache._turns))
        if chunk.span.chunk in (30, 100, 190):
            gc.collect()
            floats = (x for x in gc.get_objects() if type(x) is Tensor and x.ndim == 5 and x.shape[1] == 16)
            kept.add(sum(x.nbytes for x in floats))
    assert len(steady) <= 2 and max(tables) < 8
    assert len(kept) == 1, kept


def test_a_clip_that_is_cancelled_leaves_nothing() -> None:
    class Stop(Exception):
        pass

    def stop(span: Span, step: int) -> None:
        if (span.chunk, step) == (2, 4):
            raise Stop

    run = Run(27, policy=Told(dummy_ratio=0.5), recorder=Recorder(4, 2))
    run.on_step = stop
    with pytest.raises(Stop):
        list(run.iterate())
    gc.collect()
    assert run.recorder.cache is not None and run.recorder.cache() is None
    assert run.recorder.calls[-1].start == 3


def test_watch_sees_windows() -> None:
    noted: list[tuple[int, int, tuple[int, ...]]] = []

    def watch(span: Span, step: int):
        def note(layer, heads, q, k, regions) -> None:
            noted.append((span.chunk, step, regions[0].frames))

        return note if span.chunk != 2 else None

    run = Run(21, policy=Told(dummy_ratio=0.5), recorder=Recorder(4, 1))
    run.watch = watch
    run.calls()
    once = [entry for entry, _ in groupby(noted)]
    assert once[:6] == [*((0, i, tuple(range(3 * i + 3))) for i in range(5)), (1, 4, tuple(range(3, 18)))]
    assert {chunk for chunk, _, _ in once} == {0, 1, 3, 4, 5, 6}
    assert len(run.policy.seen) == 1, "the policy watches beside"


def test_chunks_of_a_longer_clip_begin_alike() -> None:
    """The noise of a chunk and a step does not depend on the clip; the last W - 1 chunks know that it ends."""
    short, long = Run(24), Run(36)
    inputs = [[call.x for call in windows(run.calls())] for run in (short, long)]
    for mine, other in zip(inputs[0][:8], inputs[1][:8], strict=True):
        assert torch.equal(mine, other)


# -- refusals --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fixed(Policy):
    memory: HeadMemory

    def plan(self, setting: Setting) -> HeadPlan:
        return HeadPlan.uniform(setting.layers, setting.heads, self.memory, "fixed")


LEVELS = ROLLING.schedule.sigmas
REFUSED: dict[str, tuple[Run, type[DummyForcingError], list[str]]] = {
    "one chunk too few": (Run(12), OutputError, ["12", "15 latent frames", "57 frames of video"]),
    "a short last chunk": (Run(25), OutputError, ["25", "27 latent frames", "105 frames"]),
    "both": (Run(1), OutputError, ["15 latent frames"]),
    "W 4, too short": (Run(9, LONG), OutputError, ["12 latent frames", "45 frames"]),
    "an image": (Run(27, start=torch.zeros(1, 16, 3, 2, 4)), OutputError, ["given start"]),
    "step caching": (Run(27, steps=StepCache(frozenset({2}))), DummyForcingError, ["[2]", "step caching off"]),
    "levels of the first chunk": (Run(27, schedule=Schedule(LEVELS, first_sigmas=(1.0, 0.5))), DummyForcingError, []),
    "told levels": (Run(27, schedule=Schedule(LEVELS, told=LEVELS)), DummyForcingError, []),
    "too many levels": (Run(27, schedule=Schedule(tuple(1 - i / 9 for i in range(7)))), PlanError, ["7", "21"]),
    "a window beyond the family's": (Run(27, policy=SlidingWindow(22, 3)), PlanError, ["16 recent", "21"]),
    "a sink beyond the first chunk": (Run(27, policy=SlidingWindow(21, 4)), PlanError, ["4 first", "sink of 3"]),
    "neighbours beyond it": (Run(27, policy=DummyForcing(local_chunks=6)), PlanError, ["18 recent"]),
    "positions by rank": (Run(27, policy=Fixed(HeadMemory(1, 3, "rank"))), PlanError, ["rank"]),
    "prompts of other lengths": (
        Run(27, prompts=PromptSchedule(((0, torch.zeros(1, 4, 2)), (9, torch.zeros(1, 5, 2))))),
        DummyForcingError,
        ["(4, 2)", "(5, 2)"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_before_anything_runs(name: str) -> None:
    run, kind, words = REFUSED[name]
    with pytest.raises(kind) as caught:
        list(run.iterate())
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    assert all(word in message for word in words), message
    assert not run.recorder.calls


@pytest.mark.parametrize(
    "policy", [SlidingWindow(21, 3), SlidingWindow(21, 0), SlidingWindow(6, 3), DummyForcing(local_chunks=5)]
)
def test_the_largest_that_fit_are_taken(policy: Policy) -> None:
    assert len(list(Run(15, policy=policy, recorder=Recorder(2)).iterate())) == 5


def test_a_refused_plan_after_scoring_is_an_error_too() -> None:
    @dataclass(frozen=True)
    class Grows(Told):
        def replan(self, scores: HeadScores, setting: Setting) -> HeadPlan:
            return HeadPlan.uniform(setting.layers, setting.heads, HeadMemory(0, 19), "more")

    with pytest.raises(PlanError, match="19 recent"):
        list(Run(27, policy=Grows(), recorder=Recorder(4)).iterate())
