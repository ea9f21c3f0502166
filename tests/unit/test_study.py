"""The study of head policies: policies hold what they say, measures agree with the evaluation's, and it runs."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from demo import measure
from demo.cases import conflict_clips, episode_clips, gap_clips, long_clips, prompts_of
from demo.sampling import decode, make
from demo.study import main, table
from demo.study_measure import interval, measures
from demo.study_policies import BARE, EqualBytes, FixedRoles, Profiles, entries, held_frames
from demo.study_tasks import KINDS, Task
from demo.world import render
from dummyforcing_core.clips.demo_assets import load_demo_codec
from dummyforcing_core.errors import DummyForcingError
from dummyforcing_core.kv.plan import HeadMemory
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.models.checkpoints import load_demo_model
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import get_family
from dummyforcing_core.policies import Setting, SlidingWindow
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.text.demo_words import COLOURS, MOTIONS

SETTING = Setting(6, 4, get_family("demo"), 3, 21)
ROLES = FixedRoles(
    (("dummy", "sink"), ("neighbour", "dummy")),
    (("dummy", BARE), ("neighbour", HeadMemory(0, 3)), ("sink", HeadMemory(1, 0))),
)


def test_fixed_roles_plan_and_shuffle() -> None:
    plan = ROLES.plan(Setting(2, 2, get_family("demo"), 3, 21))
    assert plan.memories == ((BARE, HeadMemory(1, 0)), (HeadMemory(0, 3), BARE))
    draws = {ROLES.shuffled(seed).roles for seed in range(20)}
    assert len(draws) > 3
    assert {tuple(sorted(sum(roles, ()))) for roles in draws} == {("dummy", "dummy", "neighbour", "sink")}


@pytest.mark.parametrize("sink", [0, 1, 3])
@pytest.mark.parametrize("window", [4, 5, 9, 21])
def test_equal_bytes_is_equal_and_even(window: int, sink: int) -> None:
    target = SlidingWindow(window, 0)
    held = held_frames(EqualBytes(target, sink).plan(SETTING), 18)
    assert sum(held) == sum(held_frames(target.plan(SETTING), 18))
    assert max(held) - min(held) <= 1


def test_equal_bytes_of_a_mixed_plan() -> None:
    memories = [HeadMemory(0, 3)] * 7 + [HeadMemory(1, 0)] * 5 + [BARE] * 12
    names = {HeadMemory(0, 3): "neighbour", HeadMemory(1, 0): "sink", BARE: "dummy"}
    rows = [memories[i : i + 4] for i in range(0, 24, 4)]
    target = FixedRoles(
        tuple(tuple(names[m] for m in row) for row in rows), tuple((name, m) for m, name in names.items())
    )
    plan = EqualBytes(target, 1).plan(SETTING)
    assert sum(held_frames(plan, 18)) == 26
    assert {memory.sink_frames for row in plan.memories for memory in row} == {1}


def test_rivals_hold_the_bytes_of_what_they_are_named_for() -> None:
    draw = torch.Generator().manual_seed(0)
    profiles = Profiles(*(HeadProfile(HeadScores(torch.rand(6, 4, 3, generator=draw).softmax(2))) for _ in range(3)))
    found = entries(SETTING, profiles, (0.1, 0.25, 0.5, 0.75), 10)
    held = {entry.key: sum(held_frames(entry.policy.plan(SETTING), 18)) for entry in found}
    assert len(held) == len(found)
    rivals = [key for key in held if ", bytes of " in key]
    assert len(rivals) > 25
    for key in rivals:
        assert held[key] == held[f"{key.partition(', bytes of ')[2]}, profile"], key
    draws = [entry for entry in found if entry.draw is not None]
    assert len(draws) == 3 * 4 * 10  # packed, unpacked, rest full
    assert all(held[entry.key] == held[entry.name.replace("random heads", "profile")] for entry in draws)


def test_the_end_is_measured_as_the_evaluation_does() -> None:
    """Though only the end is decoded."""
    clips, codec = gap_clips(2, 1), load_demo_codec()
    latents = codec.encode(render(clips).transpose(1, 2))
    latents[:, :, -3:] = latents[:, :, -3:].flip(0)  # the last chunk shows the other clip's shapes
    found = measures(codec, clips, latents)
    assert found["recall"].tolist() == measure.colour_recall(decode(codec, latents), clips, 3).tolist()
    assert found["kept"].tolist() == [0.0, 0.0] and "obeyed" not in found


def test_steadiness_is_measured_as_the_evaluation_does() -> None:
    clips, codec = long_clips(2, 8), load_demo_codec()
    latents = codec.encode(render(clips).transpose(1, 2))
    latents[1, :, -3:] = latents[0, :, -3:]
    found, pixels = measures(codec, clips, latents), decode(codec, latents)
    right, judged = (x[:, :, 6:] for x in measure.shapes_right(pixels, clips))
    assert found["right"].tolist() == ((right & judged).sum((1, 2)) / judged.sum((1, 2))).tolist()
    assert found["right"][0] == 1 > found["right"][1]
    assert found["travel"].tolist() == measure.travel(pixels[:, -60:], clips.colour[:, 0, 0]).tolist()


def test_a_new_colour_that_is_not_shown_is_not_obeyed() -> None:
    clips, codec = conflict_clips(2, 2), load_demo_codec()
    latents = codec.encode(render(clips).transpose(1, 2))
    assert measures(codec, clips, latents)["obeyed"].min() > 0.9
    latents[:, :, 12:15] = latents[:, :, 3:6]  # chunk 4, the last that names colours, shows those of before
    assert measures(codec, clips, latents)["obeyed"].max() < 0.1  # the codec remembers


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("gap 3", "AA...__"),
        ("recoloured, gap 3", "AABB...__"),
        ("conflict, gap 3", "AA.BB..__"),
        ("conflict, gap 10", "AA.....BB.....__"),
        ("episodes, gap 5", "AABB.....__"),
        ("steady 4", "AAAA"),
    ],
)
@pytest.mark.parametrize("fresh", [False, True])
def test_prompts_say_in_words_what_a_task_is(name: str, plan: str, fresh: bool) -> None:
    """A, B: the first and second colours are named; dots: dark, and no colour is named, nor in the light after it."""
    clips = Task.named(name, 12, fresh).truth
    for number, prompts in enumerate(prompts_of(clips)):
        present, colours = clips.present[number].tolist(), clips.colour[number].tolist()
        said = [[word for word in prompt.replace(",", "").split() if word in COLOURS] for prompt in prompts]
        pairs = {"A": [c[0] for c in colours], "B": [c[-1] for c in colours], ".": [], "_": []}
        for chunk, sign in enumerate(plan):
            named = [COLOURS[c] for c, there in zip(pairs[sign], present, strict=True) if there] if pairs[sign] else []
            assert said[chunk] == named
            assert ("lights off" in prompts[chunk]) == (sign == ".")
        assert len(plan) == len(prompts)
        assert "B" not in plan or not set(said[0]) & set(said[plan.index("B")])


def test_episodes_are_three_of_other_motion() -> None:
    for prompts in prompts_of(episode_clips(12, 5)):
        a = [prompt.partition(" and a ")[0] for prompt in prompts]
        motions = [next(motion for motion in MOTIONS if motion in prompt) for prompt in a]
        light, dark = {motions[0], *motions[-2:]}, motions[4:9]
        assert len(light) == 1 and len(set(dark) | light) == 4
        assert sum(x != y for x, y in pairwise(dark)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_clips_are_others(kind: str) -> None:
    first, fresh = (Task.named(f"{kind} 3", 64, fresh) for fresh in (False, True))
    assert not {tuple(clip) for clip in prompts_of(first.truth)} & {tuple(clip) for clip in prompts_of(fresh.truth)}
    assert abs(first.seed - fresh.seed) >= 64


def test_a_clip_is_the_same_alone_and_in_a_batch() -> None:
    denoise, task = WanDenoiser(load_demo_model().model), Task.named("episodes, gap 3", 3, False)
    batch, alone = (make(task.run(denoise, *which, SlidingWindow(7, 3))) for which in ((0, 3), (2, 1)))
    for one, other in zip(batch, alone, strict=True):
        torch.testing.assert_close(one.latent[2:], other.latent, rtol=0, atol=1e-4)


def test_a_task_that_is_none_is_refused() -> None:
    with pytest.raises(DummyForcingError, match="got 'gaps 3'"):
        Task.named("gaps 3", 1, False)


def test_an_interval_holds_the_mean_and_leaves_out_nan() -> None:
    values = torch.linspace(0.1, 0.3, 64).numpy()
    low, high = interval(values)
    assert 0.1 < low < values.mean() < high < 0.3
    values[0] = float("nan")
    assert interval(values)[0] > low


def test_a_table_has_a_line_for_all_draws_and_a_dash_for_what_was_not_measured() -> None:
    memory = {"frames": 1.5, "bytes": 2048, "task": "gap 0"}
    named = {"name": "ours", **memory, "values": {"error": [0.1, 0.1], "recall": [0.5, 0.5]}}
    longer = {"name": "ours", "frames": 9, "bytes": 9, "task": "gap 10", "values": {"recall": [0.3, 0.3]}}
    drawn = [{"name": "random heads", **memory, "values": {"error": [error, error]}} for error in (0.2, 0.4)]
    assert table([named, longer, *drawn], {"recall, gap 0": 1.0}).splitlines() == [
        "| policy | frames | KiB | error, gap 0 | recall, gap 0 | recall, gap 10 |",
        "|---|---|---|---|---|---|",
        "| ours | 1.50 | 2 | 0.1000 [0.1000, 0.1000] | 0.50 [0.50, 0.50] | 0.30 [0.30, 0.30] |",
        "| random heads | 1.50 | 2 | 0.3000 [0.2000, 0.4000] | - | - |",
        "| the truth through the codec | - | - | - | 1.00 | - |",
    ]


SMALL = ["--clips", "1", "--draws", "1", "--profile-clips", "1", "--ratios", "0.5", "--workers", "1"]


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_command_measures_every_policy_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of the bundled model, since other processes would not see a tiny one."""
    words = [*SMALL, "--tasks", "gap 1", "recoloured, gap 1", "--errors", "gap 1", "--out", str(tmp_path)]
    main(words)
    rows = rows_of(tmp_path)
    by_key = {row["key"]: row for row in rows if row["task"] == "gap 1"}
    assert len(rows) == len({(row["key"], row["task"]) for row in rows})
    assert by_key["full cache"]["values"]["error"] == pytest.approx([0], abs=1e-5)
    for target in ("dummy 50%", "unpacked dummy 50%", "dummy 50%, rest full", "long dummy 50%"):
        ours = by_key[f"{target}, profile"]
        assert by_key[f"first + window, bytes of {target}"]["bytes"] == ours["bytes"] > 0
    assert by_key["full cache"]["frames"] == 12  # of 15: the last chunk is being made
    assert by_key["full cache"]["bytes"] == 12 * by_key["window 1"]["bytes"]
    named = {row["key"] for row in rows if row["draw"] is None}
    assert named == {row["key"] for row in rows if row["task"] == "recoloured, gap 1" and "obeyed" in row["values"]}
    assert by_key["window 1"]["values"]["error"][0] > by_key["window 9"]["values"]["error"][0] > 0
    page = (tmp_path / "study_table.md").read_text(encoding="utf-8")
    names = {row["name"] for row in rows}
    assert page.count("\n") == 2 + len(names) + 1 and all(f"| {name} |" in page for name in names)
    capsys.readouterr()
    main(words)  # all is there: the table alone is made again
    assert capsys.readouterr().out == page + "\n"
    assert (tmp_path / "study_table.md").read_text(encoding="utf-8") == page


def test_tasks_and_errors_are_added_to_what_was_measured(tmp_path: Path) -> None:
    words = [*SMALL, "--policies", "long", "--only", "sink 3 + 1", "--out", str(tmp_path)]
    main([*words, "--tasks", "gap 1"])
    main([*words, "--tasks", "steady 4", "gap 1"])
    main([*words, "--tasks", "gap 1", "--fresh"])
    main([*words, "--tasks", "gap 1", "steady 4", "--errors", "gap 1"])
    rows = [(row["task"], "error" in row["values"], json.loads(row["settings"])["fresh"]) for row in rows_of(tmp_path)]
    steady = ("steady 4", False, False)
    assert rows == [("gap 1", False, False), steady, ("gap 1", False, True), ("gap 1", True, False)]
