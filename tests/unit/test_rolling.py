"""Rolling Forcing's loop against tables written from the description of the public code, frame by frame."""

import gc
from dataclasses import dataclass, replace
from itertools import groupby

import pytest
import torch
from torch import Tensor

from dummyforcing_core.errors import DummyForcingError, OutputError, PlanError
from dummyforcing_core.geometry import Span
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.loops.rolling import rolling
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models.families import Family
from dummyforcing_core.models.stepcache import StepCache
from dummyforcing_core.policies import DummyForcing, Full, Policy, SlidingWindow
from dummyforcing_core.policies.base import Setting
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule
from tests.unit.rolling_runs import (
    LONG,
    PLANS,
    ROLLING,
    Recorder,
    Seen,
    Told,
    calls_of,
    cleans,
    prompt,
    run_of,
    seen,
    windows,
)

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
    calls = calls_of(run_of(21))
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
    calls = calls_of(run_of(3 * n, family))
    assert len(windows(calls)) == n + w_max - 1 and len(cleans(calls)) == n
    for w, call in enumerate(windows(calls)):
        a, z = max(0, w - w_max + 1), min(n - 1, w)
        assert (call.start, call.stop) == (3 * a, 3 * z + 3)
        assert call.sigmas == pytest.approx([levels[w - k] for k in range(a, z + 1) for _ in range(3)], abs=1e-6)


def test_the_shortest_clip_is_one_full_window() -> None:
    chunks = list(rolling(run_of(15)))
    assert [chunk.span.start for chunk in chunks] == [0, 3, 6, 9, 12]


def test_what_enters_a_window() -> None:
    """A chunk enters as its own noise; between windows it is noised anew with the noise of its next step."""
    run = run_of(27)
    calls = windows(calls_of(run))
    levels = ROLLING.schedule.sigmas
    ordinal = [i + 1 for i, call in enumerate(run.denoise.calls) if call.output]
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
    run = run_of(27)
    chunks = list(rolling(run))
    calls = run.denoise.calls
    assert [chunk.span for chunk in chunks] == [Span(k, 3 * k, 3 * k + 3) for k in range(9)]
    for k, (chunk, clean) in enumerate(zip(chunks, cleans(calls), strict=True)):
        last = calls.index(clean)  # its ordinal, from 1 on, is that of the window before the clean pass
        assert chunk.latent[0, 0, :, 0, 0].tolist() == [1000.0 * last + 3 * k + i for i in range(3)]
        assert torch.equal(chunk.latent, clean.x)
        assert chunk.latent.untyped_storage().nbytes() == chunk.latent.nbytes, "it would keep the window alive"


def test_chunks_come_as_soon_as_they_are_finished() -> None:
    run = run_of(30)
    counts = [len(run.denoise.calls) for _ in rolling(run)]
    assert counts == [6, 8, 10, 12, 14, 16, 18, 20, 22, 24]


def test_what_on_step_is_told() -> None:
    told: list[tuple[int, int, int]] = []
    plain = run_of(21)
    calls_of(replace(plain, on_step=lambda span, step: told.append((len(plain.denoise.calls), span.chunk, step))))
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
    calls = calls_of(run_of(27, family, LIKE_THE_FAMILY[policy], batch=batch, recorder=Recorder(2, 2)))
    for call in windows(calls):
        for at in [(layer, head) for layer in range(2) for head in range(2)]:
            assert call.seen[at] == table[call.start], (call.start, call.stop)
        assert call.own == seen(*range(call.start, call.stop)) and call.at == list(call.own)
        assert call.attention_calls == 2, "one call per layer"
    for call in cleans(calls):
        assert call.history() == CLEANS[call.start] and call.at == [call.start + i for i in range(3)]


def test_deep_inside_a_long_clip() -> None:
    calls = calls_of(run_of(180, recorder=Recorder(1, 2)))  # a clean pass runs all layers but the last
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
    calls = calls_of(run_of(39, policy=SlidingWindow(21, sink), recorder=Recorder(1, 2)))
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
    calls = calls_of(run_of(36, policy=SlidingWindow(12, 3), recorder=Recorder(1, 2)))
    by_start = {call.start: call.history() for call in windows(calls)}
    assert by_start[18] == seen(15, 16, 17, sink=12)
    assert by_start[24] == seen(*range(18, 24), sink=15)  # q 12
    assert by_start[33] == seen(*range(24, 33), sink=21)  # q 3
    assert cleans(calls)[5].history() == seen(*range(6, 15))


def test_the_sink_only() -> None:
    """Clean passes lose sight of all of it at once, 21 frames on; windows never."""
    calls = calls_of(run_of(33, policy=SlidingWindow(6, 3), recorder=Recorder(1, 2)))
    for call in cleans(calls)[1:]:
        assert call.history() == (seen(sink=0) if call.start <= 18 else {})
    assert all(call.history() == seen(sink=call.start - 3) for call in windows(calls) if call.start)


def test_the_chunk_only() -> None:
    """A window of one chunk: no head has any history, and nothing is stored but the present chunk."""
    run = run_of(21, policy=SlidingWindow(3, 0), recorder=Recorder(2, 2))
    assert all(chunk.history_bytes == 0 for chunk in rolling(run))
    assert all(history == {} for call in run.denoise.calls for history in call.seen.values())


# -- prompts ---------------------------------------------------------------------------------------------------------


def test_every_chunk_speaks_its_own_prompt() -> None:
    a, b = prompt(1), prompt(2)
    run = run_of(24, prompts=PromptSchedule(((0, a), (7, b))))  # takes over at frame 9
    for call in calls_of(run):
        speak = [1 if frame < 9 else 2 for frame in range(call.start, call.stop, 3)]
        if len(set(speak)) == 1:
            assert call.prompts is (a if speak[0] == 1 else b), "features of a prompt are told by identity"
        else:
            assert call.prompts.flatten().tolist() == speak


def test_a_batch_of_two_with_prompts_of_their_own() -> None:
    a, b = prompt(0, 2) + torch.tensor([10.0, 20.0])[:, None, None], prompt(30)
    run = run_of(24, prompts=PromptSchedule(((0, a), (9, b))), batch=2)
    mixed = [call for call in calls_of(run) if call.start < 9 < call.stop]
    for call in mixed:
        olds = (9 - call.start) // 3
        news = (call.stop - 9) // 3
        assert call.prompts.flatten().tolist() == [*[10] * olds, *[30] * news, *[20] * olds, *[30] * news]
    assert [(call.start, call.stop) for call in mixed] == [(0, 12), (0, 15), (3, 18), (6, 21)]


# -- a clip's life ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [50, pytest.param(200, marks=pytest.mark.proof)])
@pytest.mark.parametrize("name", PLANS)
def test_memory_is_constant(name: str, chunks: int) -> None:
    run = run_of(3 * chunks, policy=PLANS[name], size=(2, 2), recorder=Recorder(4, 2))
    steady: set[tuple[int, int]] = set()
    tables: set[int] = set()
    kept: set[int] = set()
    for chunk in rolling(run):
        run.denoise.calls = run.denoise.calls[-1:]
        if chunk.span.chunk < 30:
            continue
        cache = run.denoise.cache and run.denoise.cache()
        assert cache is not None
        steady.add((chunk.history_bytes, chunk.resident_bytes))
        tables.add(len(cache._tables) + len(cache._turns))
        if chunk.span.chunk in (30, chunks // 2 + 10, chunks - 10):
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

    run = replace(run_of(27, policy=Told(dummy_ratio=0.5), recorder=Recorder(4, 2)), on_step=stop)
    with pytest.raises(Stop):
        list(rolling(run))
    gc.collect()
    assert run.denoise.cache is not None and run.denoise.cache() is None
    assert run.denoise.calls[-1].start == 3


def test_watch_sees_windows() -> None:
    noted: list[tuple[int, int, tuple[int, ...]]] = []

    def watch(span: Span, step: int):
        def note(layer, heads, q, k, v, regions) -> None:
            noted.append((span.chunk, step, regions[0].frames))

        return note if span.chunk != 2 else None

    run = replace(run_of(21, policy=Told(dummy_ratio=0.5), recorder=Recorder(4, 1)), watch=watch)
    calls_of(run)
    once = [entry for entry, _ in groupby(noted)]
    assert once[:6] == [*((0, i, tuple(range(3 * i + 3))) for i in range(5)), (1, 4, tuple(range(3, 18)))]
    assert {chunk for chunk, _, _ in once} == {0, 1, 3, 4, 5, 6}
    assert len(run.policy.seen) == 1, "the policy watches beside"


def test_chunks_of_a_longer_clip_begin_alike() -> None:
    """The noise of a chunk and a step does not depend on the clip; the last W - 1 chunks know that it ends."""
    short, long = run_of(24), run_of(36)
    inputs = [[call.x for call in windows(calls_of(run))] for run in (short, long)]
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
    "one chunk too few": (run_of(12), OutputError, ["12", "15 latent frames", "57 frames of video"]),
    "a short last chunk": (run_of(25), OutputError, ["25", "27 latent frames", "105 frames"]),
    "both": (run_of(1), OutputError, ["15 latent frames"]),
    "W 4, too short": (run_of(9, LONG), OutputError, ["12 latent frames", "45 frames"]),
    "an image": (run_of(27, start=torch.zeros(1, 16, 3, 2, 4)), OutputError, ["given start"]),
    "step caching": (run_of(27, steps=StepCache(frozenset({2}))), DummyForcingError, ["[2]", "step caching off"]),
    "levels of the first chunk": (
        run_of(27, schedule=Schedule(LEVELS, first_sigmas=(1.0, 0.5))),
        DummyForcingError,
        [],
    ),
    "timesteps of their own": (run_of(27, schedule=Schedule(LEVELS, timesteps=LEVELS)), DummyForcingError, []),
    "too many levels": (run_of(27, schedule=Schedule(tuple(1 - i / 9 for i in range(7)))), PlanError, ["7", "21"]),
    "a window beyond the family's": (run_of(27, policy=SlidingWindow(22, 3)), PlanError, ["16 recent", "21"]),
    "a sink beyond the first chunk": (run_of(27, policy=SlidingWindow(21, 4)), PlanError, ["4 first", "sink of 3"]),
    "neighbours beyond it": (run_of(27, policy=DummyForcing(local_chunks=6)), PlanError, ["18 recent"]),
    "positions by rank": (run_of(27, policy=Fixed(HeadMemory(1, 3, "rank"))), PlanError, ["rank"]),
    "prompts of other lengths": (
        run_of(27, prompts=PromptSchedule(((0, torch.zeros(1, 4, 2)), (9, torch.zeros(1, 5, 2))))),
        DummyForcingError,
        ["(4, 2)", "(5, 2)"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_before_anything_runs(name: str) -> None:
    run, kind, words = REFUSED[name]
    with pytest.raises(kind) as caught:
        list(rolling(run))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    assert all(word in message for word in words), message
    assert not run.denoise.calls


@pytest.mark.parametrize(
    "policy", [SlidingWindow(21, 3), SlidingWindow(21, 0), SlidingWindow(6, 3), DummyForcing(local_chunks=5)]
)
def test_the_largest_that_fit_are_taken(policy: Policy) -> None:
    assert len(list(rolling(run_of(15, policy=policy, recorder=Recorder(2))))) == 5


def test_a_refused_plan_after_scoring_is_an_error_too() -> None:
    @dataclass(frozen=True)
    class Grows(Told):
        def replan(self, scores: HeadScores, setting: Setting) -> HeadPlan:
            return HeadPlan.uniform(setting.layers, setting.heads, HeadMemory(0, 19), "more")

    with pytest.raises(PlanError, match="19 recent"):
        list(rolling(run_of(27, policy=Grows(), recorder=Recorder(4))))
