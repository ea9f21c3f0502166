"""The study of head policies: policies hold what they say, measures agree with the evaluation's, and it runs."""

import json
from pathlib import Path

import pytest
import torch

from demo import measure
from demo.cases import gap_clips
from demo.sampling import decode
from demo.study import main
from demo.study_measure import interval, pick, remembered
from demo.study_policies import BARE, EqualBytes, FixedRoles, held_frames
from demo.world import render
from dummyforcing_core.clips.demo_assets import load_demo_codec
from dummyforcing_core.kv.plan import HeadMemory
from dummyforcing_core.models.families import get_family
from dummyforcing_core.policies import Setting, SlidingWindow

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


def test_the_command_measures_every_policy_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of the bundled model, since other processes would not see a tiny one."""
    words = ["--clips", "1", "--draws", "2", "--profile-clips", "1", "--gaps", "1", "--ratios", "0.5", "--workers", "1"]
    main([*words, "--out", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    by_key = {row["key"]: row for row in rows}
    assert len(rows) == len(by_key) == 12
    assert by_key["full cache"]["values"]["error"] == pytest.approx([0], abs=1e-5)
    ours = by_key["dummy 50%, profile"]
    assert by_key["first + window, bytes of dummy 50%"]["bytes"] == ours["bytes"] > 0
    assert by_key["window 1"]["values"]["error"][0] > by_key["window 9"]["values"]["error"][0] > 0
    table = (tmp_path / "study_table.md").read_text(encoding="utf-8")
    assert table.count("\n") == 2 + 11 + 1 and "dummy 50%, random heads" in table
    capsys.readouterr()
    main([*words, "--out", str(tmp_path)])  # all is there: the table alone is made again
    assert "/12" not in capsys.readouterr().out
    assert (tmp_path / "study_table.md").read_text(encoding="utf-8") == table
