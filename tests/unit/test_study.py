"""The study of head policies: its policies hold what they say, its measures agree with the core's, and it runs."""

import json
from pathlib import Path

import pytest
import torch

from demo import measure
from demo.cases import gap_clips, prompts_of
from demo.sampling import decode
from demo.study import main
from demo.study_measure import predictions, remembered, velocity_errors
from demo.study_policies import BARE, EqualBytes, FixedRoles, held_frames
from demo.study_scene import Scene, Subject, make
from demo.study_statistics import difference, interval
from demo.world import render
from dummyforcing_core.clips.demo_assets import load_demo_codec
from dummyforcing_core.evaluation.teacher_forced import teacher_forced
from dummyforcing_core.kv.attention import attention
from dummyforcing_core.kv.plan import HeadMemory
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import get_family
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.policies import DummyForcing, Full, Setting, SlidingWindow
from dummyforcing_core.text.demo_text import encode_prompt

FEW = ("--profile-clips", "1", "--ratios", "0.5", "--workers", "1")
SETTING = Setting(6, 4, get_family("demo"), 3, 21)
ROLES = FixedRoles(
    (("dummy", "sink"), ("neighbour", "dummy")),
    (("dummy", BARE), ("neighbour", HeadMemory(0, 3)), ("sink", HeadMemory(1, 0))),
)


@pytest.fixture(scope="module")
def subject(tiny_demo: WanConfig) -> Subject:
    torch.manual_seed(1)
    model = CausalWan(tiny_demo).requires_grad_(False)
    family = get_family("demo")
    return Subject("tiny", WanDenoiser(model), family, lambda p: encode_prompt(p)[0], attention, "", load_demo_codec())


@pytest.fixture(scope="module")
def scene() -> Scene:
    clips = gap_clips(2, 1)
    return Scene("gap_1", prompts_of(clips), (16, 8, 8), clips)


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


def test_clip_errors_are_the_cores(subject: Subject, scene: Scene) -> None:
    case, policy = scene.case(subject, 1, 1), SlidingWindow(4, 0)
    latents = torch.cat([chunk.latent for chunk in make(subject, case, Full())], 2)
    dense = list(predictions(subject, case, Full(), latents))
    ours = velocity_errors(subject, case, policy, latents, dense)
    run = Run(subject.denoise, case.shape, subject.family.schedule, case.prompts, policy, subject.family, case.noise)
    theirs = teacher_forced(run, latents, Full())
    values = [error.velocity for error in theirs if error.span.start > 0]
    assert float(ours) == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert float(ours) > 0


def test_a_clip_is_the_same_in_any_batch_and_from_its_own_first_chunk(subject: Subject, scene: Scene) -> None:
    policy = DummyForcing(0.5)
    alone = make(subject, scene.case(subject, 1, 1), policy)
    again = make(subject, scene.case(subject, 1, 1), policy, alone[0].latent)
    for one, other in zip(alone, again, strict=True):
        assert torch.equal(one.latent, other.latent)
        assert one.plan == other.plan
    both = make(subject, scene.case(subject, 0, 2), Full())
    single = make(subject, scene.case(subject, 1, 1), Full())
    for one, other in zip(both, single, strict=True):
        assert torch.allclose(one.latent[1:], other.latent, atol=1e-3)


def test_last_chunks_are_measured_as_the_evaluation_does() -> None:
    clips, codec = gap_clips(2, 1), load_demo_codec()
    latents = codec.encode(render(clips).transpose(1, 2))
    latents[:, :, -3:] = latents[:, :, -3:].flip(0)  # the last chunk shows the other clip's shapes
    pixels = decode(codec, latents)
    found = remembered(codec, clips, latents)
    assert torch.equal(found["recall"], measure.colour_recall(pixels, clips, 3))
    right, judged = (x[:, :, -1] for x in measure.shapes_right(pixels, clips))
    assert torch.equal(found["kept"], (right & judged).sum(1) / judged.sum(1))
    assert found["kept"].tolist() == [0.0, 0.0]


def test_verdicts_need_an_interval_that_excludes_zero() -> None:
    wide, narrow = torch.linspace(-1, 1.2, 64).numpy(), torch.linspace(0.1, 0.3, 64).numpy()
    zero = torch.zeros(64).numpy()
    assert difference(wide, zero, False)["verdict"] == "no difference"
    assert difference(narrow, zero, False)["verdict"] == "better"
    assert difference(narrow, zero, True)["verdict"] == "worse"
    low, high = interval(narrow)
    assert low < narrow.mean() < high


def test_the_command_writes_a_page_from_its_figures(tiny_demo: WanConfig, tmp_path: Path) -> None:
    words = [*FEW, "--clips", "2", "--draws", "2", "--gaps", "0"]
    main([*words, "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")])
    document = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))
    rows = {(row["table"], row["kind"]): row for row in document["rows"]}
    assert rows["uniform", "full cache"]["metrics"]["error"]["mean"] == pytest.approx(0, abs=1e-5)
    for table in ("packed", "bare", "rest full", "long"):
        ours = rows[table, "profile, later chunks"]["bytes"]
        assert rows[table, "first + window"]["bytes"] == ours
    assert [row["draws"] for row in document["random"]] == [2, 2, 2]
    page = (tmp_path / "out" / "study.md").read_text(encoding="utf-8")
    assert "4 heads, one synthetic world" in page
    assert (tmp_path / "out" / "study.png").stat().st_size > 1000


def test_other_weights_leave_out_what_needs_the_world(checkpoint: Path, embedding: Path, tmp_path: Path) -> None:
    words = [*FEW, "--clips", "1", "--draws", "1", "--family", "self_forcing", "--frames", "33"]
    files = ["--model", str(checkpoint), "--text-embedding", str(embedding), "--size", "32x32"]
    main([*words, *files, "--work", str(tmp_path / "work"), "--out", str(tmp_path)])
    document = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert {name for row in document["rows"] for name in row["metrics"]} == {"error"}
    page = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "left out for this model" in page
    assert "synthetic world, one" not in page
