"""Roles from elsewhere and roles anew: saved profiles, and heads that are scored again while a clip is made."""

import gc
from dataclasses import dataclass, field, fields, replace

import pytest
import torch
from torch import Tensor

from dummyforcing_core.clips.memory_use import MemoryUse
from dummyforcing_core.errors import PlanError
from dummyforcing_core.kv.scoring import HeadScores, Observation
from dummyforcing_core.loops.clip_memory import clean_pass
from dummyforcing_core.loops.run import ChunkResult, setting_of
from dummyforcing_core.models.families import Family
from dummyforcing_core.policies import DummyForcing
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.prompts import PromptSchedule
from tests.property.dummy_runs import (
    FAMILY,
    PROMPT,
    Case,
    GivenRoles,
    Watched,
    hand_made_profile,
    hand_made_scores,
    held,
    latents,
    relative,
    spans,
)
from tests.property.tiny import HEADS, LAYERS, context

# -- saved profiles --------------------------------------------------------------------------------------------------


def test_a_saved_profile_is_narrow_from_the_first_chunk_and_observes_nothing():
    saved, online = DummyForcing(profile=hand_made_profile()), GivenRoles()
    run, other = Case(saved), Case(online)
    chunks, observed = run.chunks(), other.chunks()
    plan = observed[-1].plan
    assert [c.plan.memories for c in chunks] == [plan.memories] * 4
    assert [c.scores for c in chunks] == [None] * 4
    assert [c.resident_bytes for c in chunks] == [plan.resident_bytes(run.priced)] * 4
    assert max(c.peak_bytes for c in chunks) == plan.resident_bytes(run.priced) < max(c.peak_bytes for c in observed)
    found = held(run.denoise.cache, plan) if run.denoise.caches[-1]() else None
    assert found is None  # the cache died with the run
    assert torch.equal(latents(chunks)[:, :, :3], latents(observed)[:, :, :3])
    assert relative(latents(chunks)[:, :, 3:6], latents(observed)[:, :, 3:6]) > 1e-3


def test_frame_sets_of_a_saved_profile():
    run, found = Case(DummyForcing(profile=hand_made_profile(), local_chunks=2)), []
    for chunk in run.iterate():
        found.append(held(run.denoise.cache, chunk.plan))
    neighbour = spans((0, 3), (0, 6), (3, 9), (6, 12))
    assert found == [{"sink": [0], "neighbour": n, "dummy": n[-1:]} for n in neighbour]


@pytest.mark.parametrize(("layers", "heads"), [(30, 12), (LAYERS, 12), (3, HEADS)])
def test_a_profile_of_another_geometry_is_refused_and_both_are_named(layers: int, heads: int):
    profile = HeadProfile(hand_made_scores(layers, heads))
    with pytest.raises(PlanError) as error:
        Case(DummyForcing(profile=profile)).chunks()
    assert f"{layers} layers x {heads} heads" in str(error.value)
    assert f"{LAYERS} x {HEADS}" in str(error.value)


def test_a_profile_gives_what_is_asked_of_it_at_any_resolution_and_count():
    for count in (0, 3, 8):
        plan = Case(DummyForcing(profile=hand_made_profile(), num_dummy=count), 3).chunks()[0].plan
        assert sum(row.count("dummy") for row in plan.roles) == count


# -- looking again ---------------------------------------------------------------------------------------------------


def observed_chunks(chunks: list[ChunkResult]) -> list[int]:
    return [c.span.chunk for c in chunks if c.scores is not None]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (DummyForcing(), [1]),
        (DummyForcing(reclassify_chunks=1), [1, 2, 3, 4, 5, 6]),
        (DummyForcing(reclassify_chunks=2), [1, 3, 5]),
        (DummyForcing(reclassify_chunks=3, observe_chunk=2), [2, 5]),
        (DummyForcing(reclassify_chunks=50), [1]),
        (DummyForcing(reclassify_chunks=1, profile=hand_made_profile()), []),
    ],
)
def test_heads_are_scored_again_every_so_many_chunks(policy: DummyForcing, expected: list[int]):
    assert observed_chunks(Case(policy, 21).chunks()) == expected


@pytest.mark.parametrize(
    ("switches", "expected"),
    [((6,), [1, 2]), ((7,), [1, 3]), ((8,), [1, 3]), ((9,), [1, 3]), ((10, 13), [1, 4, 5]), ((1,), [1]), ((3,), [1])],
)
def test_heads_are_scored_again_in_the_chunk_where_a_prompt_switch_takes_effect(switches, expected: list[int]):
    prompts = PromptSchedule(((0, PROMPT), *((frame, context(frame)) for frame in switches)))
    assert observed_chunks(Case(DummyForcing(), 18, prompts=prompts).chunks()) == expected
    assert observed_chunks(Case(DummyForcing(profile=hand_made_profile()), 18, prompts=prompts).chunks()) == []


def test_a_repeated_prompt_is_no_switch():
    prompts = PromptSchedule(((0, PROMPT), (6, PROMPT), (9, PROMPT)))
    assert observed_chunks(Case(DummyForcing(), 15, prompts=prompts).chunks()) == [1]


@pytest.mark.parametrize("policy", [GivenRoles(reclassify_chunks=2), GivenRoles(reclassify_chunks=2, sink_frames=2),
                                    GivenRoles(reclassify_chunks=2, local_chunks=2)])  # fmt: skip
def test_rescoring_sees_the_window_again_rebuilt_from_retained_latents(policy: GivenRoles):
    """The chunk is scored with sink, neighbours and itself in view, as at the first look."""
    regions: dict[int, set] = {}

    @dataclass(frozen=True)
    class Looking(type(policy)):
        def observation(self, setting, project):
            inner = super().observation(setting, project)

            def observe(layer, heads, q, k, v, found):
                named = {r.name: tuple(sorted(r.frames)) for r in found}
                regions.setdefault(named["current"][0], set()).add((named["sink"], named["recent"]))
                inner(layer, heads, q, k, v, found)

            observe.result = inner.result
            return observe

    looking = Looking(**{f.name: getattr(policy, f.name) for f in fields(policy)})
    run = Case(looking, 18)
    chunks = run.chunks()
    assert observed_chunks(chunks) == [1, 3, 5]
    sink, local = tuple(range(policy.sink_frames)), 3 * policy.local_chunks
    for chunk in (1, 3, 5):
        start = 3 * chunk
        recent = tuple(range(max(policy.sink_frames, start - local), start))
        assert regions[start] == {(sink, recent)}


def test_rescoring_is_made_by_replaying_the_retained_chunks_in_order():
    run = Case(GivenRoles(reclassify_chunks=3), 18)
    assert observed_chunks(run.chunks()) == [1, 4]
    assert [start for start, clean in run.denoise.passes if clean] == [0, 3, 6, 9, 0, 9, 12, 15]


def test_rescoring_equals_scoring_over_a_cache_that_was_rebuilt_by_hand():
    run = Case(DummyForcing(reclassify_chunks=2), 12)
    chunks = run.chunks()
    done = latents(chunks)
    cache = run.run.new_cache()
    spans_of = {c.span.start: c.span for c in chunks}
    again = Observation(LAYERS, HEADS)
    with torch.inference_mode():
        for start, observation in ((0, None), (6, None), (9, again)):
            part = done[:, :, start : start + 3]
            clean_pass(run.run, cache, spans_of[start], part, PROMPT, observation)
    assert torch.equal(chunks[3].scores.mass, again.result().mass)


def test_a_second_plan_may_move_heads_to_other_roles():
    @dataclass(frozen=True)
    class Swapping(DummyForcing):
        looks: list = field(default_factory=list, hash=False)

        def replan(self, scores, setting):
            self.looks.append(scores)
            mass = hand_made_scores().mass
            return super().replan(HeadScores(mass if len(self.looks) == 1 else mass.flip(1)), setting)

    run, found = Case(Swapping(reclassify_chunks=2), 15), []
    for _ in run.iterate():
        found.append([run.denoise.cache.export(0, head)[0] for head in range(HEADS)])
    assert found[1] == [[0], [3, 4, 5], [5], [5]]
    assert found[3] == [[11], [11], [9, 10, 11], [0]]
    assert found[4] == [[14], [14], [12, 13, 14], [0]]


def test_looking_again_is_deterministic_and_changes_the_clip_only_behind_it():
    again = DummyForcing(reclassify_chunks=2)
    first, second, once = (latents(Case(p, 18).chunks()) for p in (again, again, DummyForcing()))
    assert torch.equal(first, second)
    assert torch.equal(first[:, :, :12], once[:, :, :12])


@pytest.mark.parametrize("reclassify", [None, 4])
def test_what_is_kept_for_rescoring_does_not_grow(reclassify: int | None):
    run, counts = Case(DummyForcing(reclassify_chunks=reclassify), 60), []
    wide = run.policy.plan(setting_of(run.denoise.geometry, run.shape, run.family)).resident_bytes(run.priced)
    for chunk in run.iterate():
        assert chunk.resident_bytes <= wide
        if chunk.span.chunk in (6, 10, 18):
            gc.collect()
            tensors = [x for x in gc.get_objects() if issubclass(type(x), Tensor)]
            counts.append(sum(x.shape == chunk.latent.shape for x in tensors))
            del tensors
    assert len(set(counts)) == 1


def test_rescoring_never_holds_two_caches():
    run = Case(GivenRoles(reclassify_chunks=2), 15)
    run.chunks()
    assert len(run.denoise.caches) > 1
    assert run.denoise.most_alive == 1


@pytest.mark.parametrize("global_sink", [True, False])
@pytest.mark.parametrize("switch", [6, 9, 18])
def test_a_family_that_re_caches_at_a_switch_keeps_the_frame_sets(global_sink: bool, switch: int):
    class LongLive(Case):
        @property
        def family(self) -> Family:
            return replace(FAMILY, window_frames=12, sink_frames=3, recache=True, global_sink=global_sink)

    prompts = PromptSchedule(((0, PROMPT), (switch, context(1))))
    run, found = LongLive(GivenRoles(), 24, prompts=prompts), []
    for chunk in run.iterate():
        found.append(held(run.denoise.cache, chunk.plan))
        assert (chunk.scores is not None) == (chunk.span.start in (3, switch))
    for stop, sets in zip(range(6, 25, 3), found[1:], strict=True):
        renewed = stop > switch == 18 and not global_sink  # the window before frame 18 begins at frame 6
        assert sets == {"sink": [6 if renewed else 0], "neighbour": [*range(stop - 3, stop)], "dummy": [stop - 1]}


def test_the_predicted_peak_counts_the_wide_cache_of_rescoring():
    @dataclass(frozen=True)
    class Turning(DummyForcing):
        """First layer 0 has all the dummies, then layer 1."""

        looks: list = field(default_factory=list, hash=False)

        def replan(self, scores, setting):
            self.looks.append(scores)
            mass = torch.tensor([[[0.01, 0.02, 0.97]] * HEADS, [[0.1, 0.6, 0.3]] * HEADS])
            return super().replan(HeadScores(mass if len(self.looks) == 1 else mass.flip(0)), setting)

    run = Case(Turning(reclassify_chunks=2), 12)
    use = MemoryUse(run.priced)
    for chunk in run.iterate():
        use.add(chunk)
    assert use.actual_peak == use.predicted_peak


def test_a_long_given_start_is_read_with_the_prompt_it_begins_with():
    """A switch takes effect at the first chunk that starts at or after it; the given start is one chunk."""
    contexts = []

    class Noting(Watched):
        def __call__(self, x, sigma, context, step):
            contexts.append(context)
            return super().__call__(x, sigma, context, step)

    prompts = PromptSchedule(((0, PROMPT), (3, context(1))))
    next(Case(DummyForcing(), 12, given=6, prompts=prompts, denoise=Noting()).iterate())
    assert all(c is PROMPT for c in contexts)
