"""Rules that mark frames, and the list of what is marked."""

import pytest
import torch

from dummyforcing_core.errors import PlanError
from dummyforcing_core.kv.bank import RULES, EpisodeEnd, Every, KeyChange, KeyNovelty, Marks, rule_document, rule_of
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan


def latent(mean: float, frames: int = 3) -> torch.Tensor:
    """(1, 2, frames, 2, 2): channel 0 around `mean`, channel 1 around its negative."""
    noise = torch.randn(1, 2, frames, 2, 2, generator=torch.Generator().manual_seed(0)) * 0.1
    return noise + torch.tensor([mean, -mean])[None, :, None, None, None]


def played(rule, bank_frames, *chunks):
    """Marks after chunks of 3 frames, each (mean of its latent, whether a switch follows)."""
    marks, after = Marks(rule, bank_frames), []
    for chunk, (mean, switched) in enumerate(chunks):
        marks.committed(range(3 * chunk, 3 * chunk + 3), latent(mean))
        if switched:
            marks.switched()
        after.append(sorted(marks.frames))
    return after


def test_an_episodes_last_chunk_is_marked_when_it_ends() -> None:
    rule = EpisodeEnd(first_chunk=False)
    assert played(rule, 6, (1, False), (1, True), (-1, False)) == [[], [3, 4, 5], [3, 4, 5]]


def test_an_episode_that_looks_like_a_marked_one_is_not_marked() -> None:
    rule = EpisodeEnd(first_chunk=False)
    ends = played(rule, 9, (1, True), (-1, True), (1.01, True), (-1, True))
    assert ends[-1] == [0, 1, 2, 3, 4, 5]
    assert played(EpisodeEnd(0, first_chunk=False), 9, (1, True), (1.2, True))[-1] == [0, 1, 2, 3, 4, 5]


def test_the_oldest_goes() -> None:
    rule = EpisodeEnd(first_chunk=False)
    assert played(rule, 3, (1, True), (-1, True))[-1] == [3, 4, 5]


def test_the_first_chunk_stands_in_until_its_place_is_needed_and_never_hides_what_comes() -> None:
    marked = played(EpisodeEnd(), 6, (1, False), (1, True), (-1, True))
    assert marked == [[0, 1, 2], [0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8]]
    assert played(EpisodeEnd(), 6, (1, True))[-1] == [0, 1, 2]  # marked again, and held once


def test_frames_whose_keys_are_new() -> None:
    marks, keys = Marks(KeyNovelty(0.5), 6), torch.eye(4)[None]
    marks.committed(range(2), latent(1, 2), keys[:, :2])
    marks.committed(range(2, 4), latent(1, 2), keys[:, 1:3] * 5)
    assert sorted(marks.frames) == [0, 1, 3]  # frame 2 points where frame 1 does


def test_novelty_is_the_mean_over_clips_of_a_batch() -> None:
    old, new = torch.tensor([1.0, 0]), torch.tensor([0.0, 1])
    marks = Marks(KeyNovelty(0.4), 6)
    marks.committed(range(1), latent(1, 1), torch.stack([old, old])[:, None])
    marks.committed(range(1, 2), latent(1, 1), torch.stack([old, new])[:, None])
    assert sorted(marks.frames) == [0, 1]


def test_the_frames_that_change_most_against_the_one_before() -> None:
    marks = Marks(KeyChange(), 2)
    angles = torch.tensor([0.0, 0.1, 1.1, 1.2, 1.8])
    marks.committed(range(5), latent(1, 5), torch.stack([angles.cos(), angles.sin()], -1)[None])
    assert sorted(marks.frames) == [0, 2]  # the first has none before it; then a turn of 1, and of 0.6


def test_one_of_so_many() -> None:
    marks = Marks(Every(2), 2)
    for start in (0, 3):
        marks.committed(range(start, start + 3), latent(1))
    assert sorted(marks.frames) == [2, 4]


def test_rules_survive_json_and_every_rule_is_known() -> None:
    for rule in (EpisodeEnd(0.2, False), KeyNovelty(0.1), KeyChange(room_frames=4), Every(4)):
        assert rule_of(rule_document(rule)) == rule
    assert set(RULES) == {"episode_end", "key_novelty", "key_change", "every"}


@pytest.mark.parametrize("make", [lambda: EpisodeEnd(-1), lambda: KeyNovelty(3), lambda: Every(0), lambda: Every(True)])
def test_numbers_out_of_their_bounds_are_one_line(make) -> None:
    with pytest.raises(PlanError, match="expected"):
        make()


def test_a_bank_needs_a_rule_and_recent_frames() -> None:
    with pytest.raises(PlanError, match="a rule that says which frames are banked"):
        HeadPlan.uniform(1, 1, HeadMemory(0, 3, bank_frames=3), "memory")
    for recent in (0, None):
        with pytest.raises(PlanError, match="keep at least a chunk"):
            HeadMemory(0, recent, bank_frames=3)


def test_a_plan_with_a_bank_survives_json() -> None:
    memory = HeadMemory(1, 3, "end", 6, 21, 1)
    plan = HeadPlan.uniform(2, 3, memory, "memory", "demo", EpisodeEnd())
    assert HeadPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("bank", ['{"rule": "most_liked"}', '{"novelty": 1}', '{"rule": "every", "x": 1}', "3"])
def test_a_damaged_rule_is_one_line(bank: str) -> None:
    text = HeadPlan.uniform(1, 1, HeadMemory(0, 3), "x", "demo").to_json().replace('"bank": null', f'"bank": {bank}')
    with pytest.raises(PlanError, match=r"damaged|expected"):
        HeadPlan.from_json(text)
