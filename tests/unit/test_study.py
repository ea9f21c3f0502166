"""The study of head policies: policies hold what they say, measures agree with the evaluation's, and it runs."""

import json
from pathlib import Path

import pytest
import torch

from demo import measure
from demo.cases import gap_clips
from demo.sampling import decode
from demo.study import main, table
from demo.study_measure import interval, pick, remembered
from demo.study_policies import BARE, EqualBytes, FixedRoles, Profiles, entries, held_frames
from demo.world import render
from dummyforcing_core.clips.demo_assets import load_demo_codec
from dummyforcing_core.kv.plan import HeadMemory
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.models.families import get_family
from dummyforcing_core.policies import Setting, SlidingWindow
from dummyforcing_core.policies.profile import HeadProfile

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


def test_last_chunks_are_measured_as_the_evaluation_does() -> None:
    clips, codec = gap_clips(2, 1), load_demo_codec()
    latents = codec.encode(render(clips).transpose(1, 2))
    latents[:, :, -3:] = latents[:, :, -3:].flip(0)  # the last chunk shows the other clip's shapes
    pixels = decode(codec, latents)
    found = [remembered(codec, pick(clips, number), latents[number : number + 1]) for number in range(2)]
    assert [one["recall"] for one in found] == pytest.approx(measure.colour_recall(pixels, clips, 3).tolist())
    assert [one["kept"] for one in found] == [0.0, 0.0]


def test_an_interval_holds_the_mean_and_leaves_out_nan() -> None:
    values = torch.linspace(0.1, 0.3, 64).numpy()
    low, high = interval(values)
    assert 0.1 < low < values.mean() < high < 0.3
    values[0] = float("nan")
    assert interval(values)[0] > low


def test_a_table_has_a_line_for_all_draws_and_a_dash_for_what_was_not_measured() -> None:
    memory = {"frames": 1.5, "bytes": 2048}
    named = {"name": "ours", **memory, "values": {"error": [0.1, 0.1], "recall, gap 0": [0.5, 0.5]}}
    drawn = [{"name": "random heads", **memory, "values": {"error": [error, error]}} for error in (0.2, 0.4)]
    assert table([named, *drawn], {"recall, gap 0": 1.0}).splitlines()[2:] == [
        "| ours | 1.50 | 2 | 0.1000 [0.1000, 0.1000] | 0.50 [0.50, 0.50] |",
        "| random heads | 1.50 | 2 | 0.3000 [0.2000, 0.4000] | - |",
        "| the truth through the codec | - | - | - | 1.00 |",
    ]


def test_the_command_measures_every_policy_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of the bundled model, since other processes would not see a tiny one."""
    words = [
        "--clips",
        "1",
        "--draws",
        "1",
        "--profile-clips",
        "1",
        "--gaps",
        "1",
        "--recoloured",
        "1",
        "--ratios",
        "0.5",
        "--workers",
        "1",
    ]
    main([*words, "--out", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    by_key = {row["key"]: row for row in rows}
    assert len(rows) == len(by_key)
    assert by_key["full cache"]["values"]["error"] == pytest.approx([0], abs=1e-5)
    for target in ("dummy 50%", "unpacked dummy 50%", "dummy 50%, rest full", "long dummy 50%"):
        ours = by_key[f"{target}, profile"]
        assert by_key[f"first + window, bytes of {target}"]["bytes"] == ours["bytes"] > 0
    assert by_key["full cache"]["frames"] == 12  # of 15: the last chunk is being made
    assert by_key["full cache"]["bytes"] == 12 * by_key["window 1"]["bytes"]
    assert all("recall, recoloured, gap 1" in row["values"] for row in rows if row["draw"] is None)
    assert by_key["window 1"]["values"]["error"][0] > by_key["window 9"]["values"]["error"][0] > 0
    page = (tmp_path / "study_table.md").read_text(encoding="utf-8")
    names = {row["name"] for row in rows}
    assert page.count("\n") == 2 + len(names) + 1 and all(f"| {name} |" in page for name in names)
    capsys.readouterr()
    main([*words, "--out", str(tmp_path)])  # all is there: the table alone is made again
    assert capsys.readouterr().out == page + "\n"
    assert (tmp_path / "study_table.md").read_text(encoding="utf-8") == page
