"""What a clip's bank held, in seconds of its video: the bookkeeping, the report, the command line's line."""

import json
import re
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dummyforcing_core.clips.bank_history import BankChange, BankHistory, held_text
from dummyforcing_core.clips.report import RunReport
from dummyforcing_core.geometry import LatentShape, Span, pixel_frames
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import ChunkResult, Run
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import HeadForcing
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule
from tests.property.dummy_runs import MODEL
from tests.property.tiny import context

PLAN = HeadPlan.uniform(1, 1, HeadMemory(0, 3), "window", "tiny")
RATES = st.sampled_from((Fraction(16), Fraction(24), Fraction(24000, 1001)))


def chunk(index: int, banked: tuple[int, ...]) -> ChunkResult:
    return ChunkResult(Span(index, 3 * index, 3 * index + 3), torch.empty(0), PLAN, banked=banked)


def history(*banks: tuple[int, ...], fps: Fraction = Fraction(16), frames: int = 10**6) -> BankHistory:
    made = BankHistory(fps, frames)
    for index, banked in enumerate(banks):
        made.add(chunk(index, banked))
    return made


def frames_of(latents: set[int], shown: int) -> set[int]:
    """Pixel frames by another rule: 0 is latent 0's, 4t - 3 .. 4t are latent t's."""
    return {frame for frame in range(shown) if -(-frame // 4) in latents}


@given(latents=st.sets(st.integers(0, 30), max_size=12), fps=RATES, shown=st.integers(1, 130))
def test_stretches_cover_exactly_the_banked_frames_and_do_not_touch(latents: set, fps: Fraction, shown: int) -> None:
    held = history(tuple(latents), fps=fps, frames=shown).held
    covered = [range(round(start * fps), round(stop * fps)) for start, stop in held]
    assert {frame for stretch in covered for frame in stretch} == frames_of(latents, shown)
    assert all(start < stop for start, stop in held)
    assert all(before[1] < after[0] for before, after in pairwise(held))


@given(banks=st.lists(st.sets(st.integers(0, 9), max_size=3).map(tuple), max_size=8), fps=RATES)
def test_one_entry_per_change_from_the_end_of_the_chunk_on(banks: list, fps: Fraction) -> None:
    said = {change.seconds: change.held for change in history(*banks, fps=fps).changes}
    now: tuple = ()
    for index, banked in enumerate(banks):
        before, now = now, history(banked, fps=fps).held
        end = float(pixel_frames(3 * index + 3) / fps)
        assert (said.pop(end) == now) if now != before else end not in said
    assert said == {}


def test_nothing_is_said_without_a_bank() -> None:
    made = history((), (), ())
    assert made.changes == [] and made.held == ()
    report = RunReport(bank=made.changes)
    assert json.loads(report.to_json())["bank"] == [] and "remembered" not in report.table()


def test_the_texts() -> None:
    assert held_text(()) == "nothing"
    assert held_text(((0, 0.5625),)) == "0:00.00-0:00.56"
    assert held_text(((1.5, 2.25), (8, 8.75))) == "0:01.50-0:02.25 and 0:08.00-0:08.75"
    assert held_text(((1.5, 2.25), (8, 8.75), (59.999, 61))).endswith(", 0:08.00-0:08.75 and 1:00.00-1:01.00")


def test_the_report_says_what_is_held_and_since_when() -> None:
    made = history((), (0, 1, 2), (0, 1, 2, 4), (), (4, 9, 10))
    report = RunReport(bank=made.changes)
    assert json.loads(report.to_json())["bank"] == [
        {"seconds": 21 / 16, "held": [[0, 9 / 16]]},
        {"seconds": 33 / 16, "held": [[0, 9 / 16], [13 / 16, 17 / 16]]},
        {"seconds": 45 / 16, "held": []},
        {"seconds": 57 / 16, "held": [[13 / 16, 17 / 16], [33 / 16, 41 / 16]]},
    ]
    lines = report.table().splitlines()
    assert max(map(len, lines)) <= 64
    assert lines[lines.index("-- remembered ".ljust(64, "-")) + 1 : -1] == [
        "at the end          0:00.81-0:01.06 and 0:02.06-0:02.56",
        "from 0:01.31 on     0:00.00-0:00.56",
        "from 0:02.06 on     0:00.00-0:00.56 and 0:00.81-0:01.06",
        "from 0:02.81 on     nothing",
        "from 0:03.56 on     0:00.81-0:01.06 and 0:02.06-0:02.56",
    ]


def test_a_rollout_is_told_as_its_chunks_say() -> None:
    shape = LatentShape(1, 16, 24, 4, 4)
    family = Family("tiny", "Tiny", "tests", window_frames=12, trained_frames=999)
    texts = [context(seed) for seed in range(5)]
    prompts = PromptSchedule.per_chunk([texts[i // 2] for i in range(9)], 3)
    policy = HeadForcing(num_memory=2, novelty=0.0, reclassify_chunks=9)
    run = Run(WanDenoiser(MODEL), shape, Schedule((1.0, 0.6)), prompts, policy, family, SeededNoise(0, shape, 3))
    made, told = BankHistory(Fraction(16), 93), []
    for one in rollout(run):
        made.add(one)
        told.append(one.banked)
        covered = {f for start, stop in made.held for f in range(round(start * 16), round(stop * 16))}
        assert covered == frames_of(set(one.banked), 93)
    assert len(told[-1]) == 6
    assert len(made.changes) == sum(now != before for before, now in pairwise([(), *told])) > 2
    assert made.changes[-1] == BankChange(made.changes[-1].seconds, made.held)


POLICY = "--policy", "head_forcing", "--num-memory", 4, "--novelty", 0, "--reclassify", 99


@pytest.mark.parametrize("fps", [16, 24])
def test_generate_says_what_is_remembered_and_writes_it_down(run, tiny_demo, tmp_path, fps: int) -> None:
    script, sheet = tmp_path / "s.txt", tmp_path / "r.json"
    script.write_text("0 | a red circle\n1.5 | a blue square\n3 | a red circle\n", encoding="utf-8")
    where = "--schedule", script, "--fps", fps, "--out", tmp_path / "c.mp4", "--report", sheet
    result = run("generate", "--model", "demo", "--device", "cpu", "--size", "16x16", "--seconds", 5, *where, *POLICY)
    assert result.code == 0, result.err
    bank = json.loads(sheet.read_text(encoding="utf-8"))["bank"]
    assert len(bank) > 1 and [one["seconds"] for one in bank] == sorted(one["seconds"] for one in bank)
    assert all(0 <= start < stop <= one["seconds"] <= 5.1 for one in bank for start, stop in one["held"])
    (line,) = re.findall(r"^remembers .*$", result.out, re.MULTILINE)
    assert line == f"remembers {held_text(tuple(map(tuple, bank[-1]['held'])))}"
    assert "-- remembered --" in result.out


def test_generate_says_nothing_without_a_bank(run, tiny_demo, tmp_path) -> None:
    where = "--prompt", "a red circle", "--out", tmp_path / "c.mp4", "--size", "16x16", "--frames", 33
    result = run("generate", "--model", "demo", "--device", "cpu", *where)
    assert result.code == 0 and "remember" not in result.out
