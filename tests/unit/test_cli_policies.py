"""Policy and step-caching options of `generate`: bad input, and what good input does to the report."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from dummyforcing_core.errors import PlanError
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.policies import POLICIES, Option, Policy, Setting, option
from dummyforcing_core.policies.profile import HeadProfile
from tests.unit.refusals import assert_refused, files

GENERATE = "generate", "--prompt", "a red circle", "--size", "16x16", "--device", "cpu"  # one token per frame
LAYERS = HEADS = 2  # of the tiny stand-in for the bundled model
FRAME_BYTES = 2 * 32 * 4  # K and V of one frame of one head: one token, head_dim 32, float32


def write_profile(path: Path, layers: int = LAYERS, heads: int = HEADS, fingerprint: str = "") -> Path:
    """Head 0 of every layer looks at the sink, head 1 at its neighbours, the others at themselves."""
    row = [[0.6, 0.1, 0.3], [0.1, 0.6, 0.3], *[[0.01, 0.02, 0.97]] * (heads - 2)]
    HeadProfile(HeadScores(torch.tensor([row] * layers)), "demo", fingerprint).write(path, [["any"] * heads] * layers)
    return path


# Words after the good ones above, and what the message must hold; {tmp} is a folder with a few files.
BAD_WORDS: dict[str, tuple[str, str]] = {
    "more dummy heads than heads": ("--policy dummy --num-dummy 5", "expected at most 4 dummy heads"),
    "fewer than none": ("--policy dummy --num-dummy -1", "expected --num-dummy of 0 or more, got -1"),
    "half a dummy head": ("--policy dummy --num-dummy 0.5", "--num-dummy: expected a number or 'by the share'"),
    "ratio above 1": ("--policy dummy --dummy-ratio 1.01", "expected --dummy-ratio of 0 to 1, got 1.01"),
    "ratio below 0": ("--policy dummy --dummy-ratio -0.5", "expected --dummy-ratio of 0 to 1, got -0.5"),
    "ratio NaN": ("--policy dummy --dummy-ratio nan", "expected --dummy-ratio of 0 to 1, got nan"),
    "ratio in words": ("--policy dummy --dummy-ratio half", "--dummy-ratio: invalid float value"),
    "lc 0": ("--policy dummy --local-chunks 0", "expected --local-chunks of 1 or more, got 0"),
    "negative lc": ("--policy dummy --local-chunks -2", "expected --local-chunks of 1 or more, got -2"),
    "negative packed frames": ("--policy dummy --packed-frames -1", "expected --packed-frames of 0 or more, got -1"),
    "no sink": ("--policy dummy --sink 0", "expected --sink of 1 or more, got 0"),
    "reclassify 0": ("--policy dummy --reclassify 0", "expected --reclassify of 1 or more, got 0"),
    "observe chunk 0": ("--policy dummy --observe-chunk 0", "expected --observe-chunk of 1 or more, got 0"),
    "observe chunk in words": ("--policy dummy --observe-chunk first", "--observe-chunk"),
    "negative observe chunk": ("--policy dummy --observe-chunk -1", "expected --observe-chunk of 1 or more, got -1"),
    "observe chunk beyond the clip": ("--policy dummy --observe-chunk 2", "at most 1, the clip's last chunk, got 2"),
    "score stride 0": ("--policy dummy --score-stride 0", "expected --score-stride of 1 or more, got 0"),
    "profile of more layers": ("--policy dummy --profile {tmp}/3x2.json", "3 layers x 2 heads, this model has 2 x 2"),
    "profile of more heads": ("--policy dummy --profile {tmp}/2x3.json", "2 layers x 3 heads, this model has 2 x 2"),
    "missing profile": ("--policy dummy --profile {tmp}/none.json", "cannot read the head profile"),
    "damaged profile": ("--policy dummy --profile {tmp}/damaged.json", "not a head profile"),
    "profile is a folder": ("--policy dummy --profile {tmp}", "this is a folder"),
    "dummy option with none": ("--num-dummy 1", "--num-dummy: expected --policy dummy"),
    "dummy ratio with window": ("--policy window --dummy-ratio 0.5", "--dummy-ratio: expected --policy dummy"),
    "local chunks with full": ("--local-chunks 1", "--local-chunks: expected --policy dummy"),
    "packed frames with full": ("--packed-frames 1", "--packed-frames: expected --policy dummy"),
    "observe chunk with full": ("--observe-chunk auto", "--observe-chunk: expected --policy dummy"),
    "reclassify with full": ("--reclassify 1", "--reclassify: expected --policy dummy"),
    "score stride with full": ("--score-stride 1", "--score-stride: expected --policy dummy"),
    "profile with full": ("--profile {tmp}/3x2.json", "--profile: expected --policy dummy"),
    "window with dummy": ("--policy dummy --window 12", "--window: expected --policy window"),
    "skip the first step": ("--skip-steps 0", "expected steps to skip from 1 to 3, got 0"),
    "skip the clean pass": ("--skip-steps 4", "expected steps to skip from 1 to 3, got 4"),
    "skip one good, one bad step": ("--skip-steps 2,9", "expected steps to skip from 1 to 3, got 9"),
    "skip a step in words": ("--skip-steps x", "--skip-steps"),
    "skip a negative step": ("--skip-steps -1", "--skip-steps"),
    "skip half a step": ("--skip-steps 1.5", "--skip-steps"),
    "threshold and list": ("--teacache 0.2 --skip-steps 2", "not allowed with argument"),
    "negative threshold": ("--teacache -0.2", "threshold of 0 or more, got -0.2"),
    "threshold NaN": ("--teacache nan", "threshold of 0 or more, got nan"),
    "infinite threshold": ("--teacache inf", "threshold of 0 or more, got inf"),
    "threshold in words": ("--teacache high", "--teacache: invalid float value"),
    "unknown signal": ("--teacache 0.2 --teacache-signal e1", "expected TeaCache signal e or e0, got 'e1'"),
    "coefficients in words": ("--teacache 0.2 --teacache-coefficients a,b", "--teacache-coefficients"),
    "coefficients NaN": ("--teacache 0.2 --teacache-coefficients nan", "finite numbers"),
    "coefficients infinite": ("--teacache 0.2 --teacache-coefficients 1,inf", "finite numbers"),
    "a coefficient is missing": ("--teacache 0.2 --teacache-coefficients 1,,2", "--teacache-coefficients"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_profile(tmp_path / "3x2.json", layers=3)
    write_profile(tmp_path / "2x3.json", heads=3)
    (tmp_path / "damaged.json").write_bytes((tmp_path / "3x2.json").read_bytes()[:40])
    return tmp_path


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_words(run, tiny_demo, folder: Path, case: str) -> None:
    words, message = BAD_WORDS[case]
    before = files(folder)
    words = words.replace("{tmp}", str(folder)).split()
    result = run(*GENERATE, "--frames", 21, "--out", folder / "clip.mp4", *words)
    assert_refused(result.code, result.err, message)
    assert files(folder) == before


@pytest.mark.parametrize(
    "words",
    [
        "--teacache-coefficients 1,2",
        "--teacache-signal e1",
        "--skip-steps 2 --teacache-coefficients nan",
        "--policy dummy --profile {tmp}/2x2.json --observe-chunk 1",
        "--policy dummy --profile {tmp}/2x2.json --reclassify 1",
        "--policy dummy --profile {tmp}/2x2.json --score-stride 2",
        "--policy dummy --dummy-ratio 0.5 --num-dummy 1",
    ],
)
def test_options_that_would_be_ignored(run, tiny_demo, tmp_path: Path, words: str) -> None:
    write_profile(tmp_path / "2x2.json")
    result = run(*GENERATE, "--frames", 21, "--out", tmp_path / "c.mp4", *words.replace("{tmp}", str(tmp_path)).split())
    assert result.code == 2
    assert "has no effect here" in result.err


def test_a_bad_stride_is_refused_before_anything_is_rendered(run, tiny_demo, tmp_path: Path, monkeypatch) -> None:
    calls, call = [], WanDenoiser.__call__
    monkeypatch.setattr(WanDenoiser, "__call__", lambda self, *args: calls.append(1) or call(self, *args))
    run(*GENERATE, "--frames", 21, "--out", tmp_path / "c.mp4", "--policy", "dummy", "--score-stride", 0)
    assert calls == []


def test_a_word_of_another_policys_flag_of_this_name(run, tiny_demo, tmp_path: Path) -> None:
    words = "--policy", "dummy", "--sink", "the family's"
    result = run(*GENERATE, "--frames", 21, "--out", tmp_path / "c.mp4", *words)
    assert_refused(result.code, result.err, 'expected --sink of 1 or more, got "the family\'s"')


# -- words and fractions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toy(Policy):
    """A policy with an option of every kind that no registered one needs to have."""

    order: str = option("near", Option("which frames come first", choices=("near", "far", "both")))
    budget_gb: float | None = option(
        None, Option("memory for history, in GB", 0, unset="no limit", fraction=True, flag="toy-budget")
    )

    name: ClassVar[str] = "toy"

    def plan(self, setting: Setting) -> HeadPlan:
        return self.uniform(setting, HeadMemory(0, 3), self.order)


@dataclass(frozen=True)
class OtherToy(Toy):
    """The same flag with other words, and another word for nothing."""

    order: str = option("random", Option("how heads are drawn", choices=("random", "by layer")))
    budget_gb: float | None = option(None, Option("the same, in GB", 1, unset="half", fraction=True, flag="toy-budget"))

    name: ClassVar[str] = "other"


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for policy in (Toy, OtherToy):
        monkeypatch.setitem(POLICIES, policy.name, policy)


TOY_WORDS: dict[str, tuple[tuple[str, ...], str]] = {
    "an unknown word": (("--order", "up"), "expected --order of near, far or both, got 'up'; which frames come first"),
    "another policy's": (("--order", "random"), "expected --order of near, far or both, got 'random'"),
    "no word": (("--order", ""), "expected --order of near, far or both, got ''"),
    "a word for a number": (("--toy-budget", "all"), "expected a number, 'no limit' or 'half', got 'all'"),
    "another's word for nothing": (("--toy-budget", "half"), "expected --toy-budget of 0 or more, got 'half'"),
    "less than nothing": (("--toy-budget", "-0.5"), "expected --toy-budget of 0 or more, got -0.5"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOY_WORDS)
def test_bad_words_and_fractions(run, tiny_demo, toys, tmp_path: Path, case: str) -> None:
    words, message = TOY_WORDS[case]
    result = run(*GENERATE, "--frames", 9, "--out", tmp_path / "c.mp4", "--policy", "toy", *words)
    assert_refused(result.code, result.err, message)


@pytest.mark.parametrize(
    ("words", "policy"),
    [
        ((), "Toy(order='near', budget_gb=None)"),
        (("--order", "both", "--toy-budget", "1.5"), "Toy(order='both', budget_gb=1.5)"),
        (("--toy-budget", "no limit"), "Toy(order='near', budget_gb=None)"),
        (("--policy", "other", "--order", "by layer"), "OtherToy(order='by layer', budget_gb=None)"),
        (("--policy", "other", "--toy-budget", "2"), "OtherToy(order='random', budget_gb=2.0)"),
    ],
)
def test_words_and_fractions(run, tiny_demo, toys, tmp_path: Path, words: tuple[str, ...], policy: str) -> None:
    assert policy in report(run, tmp_path, "--policy", "toy", *words, frames=9)["out"]


def test_the_help_lists_words_and_defaults(run, toys) -> None:
    text = " ".join(run("generate", "--help").out.split())
    order = "toy: which frames come first: near, far or both (default: near)"
    assert f"--order WORD {order}; other: how heads are drawn: random or by layer (default: random)" in text
    assert "--toy-budget X toy: memory for history, in GB (default: no limit);" in text


@pytest.mark.parametrize(
    ("about", "value", "message"),
    [
        (Option("x", choices=("a",)), "b", "expected field of a, got 'b'; x"),
        (Option("x", choices=("a", "b")), 1, "expected field of a or b, got 1; x"),
        (Option("x", at_most=2), 3, "expected field of 2 or less, got 3; x"),
        (Option("x", 1, 2), 0.5, "expected field of 1 to 2, got 0.5; x"),
        (Option("x"), "one", "expected field of a number, got 'one'; x"),
    ],
)
def test_what_an_option_refuses(about: Option, value: object, message: str) -> None:
    with pytest.raises(PlanError) as error:
        about.check("field", value)
    assert str(error.value) == message


def test_a_policy_refuses_a_word_that_it_does_not_know() -> None:
    with pytest.raises(PlanError, match="expected order of near, far or both, got 'up'"):
        Toy(order="up")


# -- good input ------------------------------------------------------------------------------------------------------


def report(run, folder: Path, *words: object, frames: int = 45) -> dict:
    result = run(*GENERATE, "--frames", frames, "--out", folder / "c.mp4", "--report", folder / "r.json", *words)
    assert result.code == 0, result.err
    document = json.loads((folder / "r.json").read_text(encoding="utf-8"))
    document["err"] = [line.rsplit("\r", 1)[-1] for line in result.err.splitlines() if "warning: " in line]
    document["out"] = result.out
    return document


@pytest.mark.parametrize(
    ("words", "held", "most"),
    [
        ((), None, 3),
        (("--num-dummy", 4), 4, 1),
        (("--num-dummy", 4, "--packed-frames", 0), 0, 0),
        (("--dummy-ratio", 1, "--packed-frames", 2), 8, 2),
        (("--dummy-ratio", 0.25), None, 3),
        (("--num-dummy", 4, "--observe-chunk", "auto"), 4, 1),
        (("--num-dummy", 4, "--observe-chunk", 3), 4, 1),
        (("--num-dummy", 4, "--reclassify", 1), 4, 1),
        (("--num-dummy", 4, "--score-stride", 2), 4, 1),
    ],
)
def test_dummy_options(run, tiny_demo, tmp_path: Path, words: tuple, held: int | None, most: int) -> None:
    memory = report(run, tmp_path, "--policy", "dummy", *words)["memory"]
    assert memory["history_bytes"]["actual"] == memory["history_bytes"]["predicted"]
    assert memory["resident_bytes"]["actual"] == memory["resident_bytes"]["predicted"]
    assert memory["cached_frames"]["max"] <= most
    if held is not None:
        assert memory["history_bytes"]["actual"] == held * FRAME_BYTES
    window = 4 * (1 + max(3, most) + 3) * FRAME_BYTES
    assert memory["peak_bytes"]["actual"] >= window


def test_a_saved_profile_is_narrow_at_once(run, tiny_demo, tmp_path: Path) -> None:
    """A sink and a neighbour head per layer, or dummies only; history and chunk are all that is ever allocated."""
    profile = write_profile(tmp_path / "p.json")
    for dummies, history in ((0, 2 * (1 + 3)), (4, 4)):
        words = "--policy", "dummy", "--profile", profile, "--num-dummy", dummies
        memory = report(run, tmp_path, *words)["memory"]
        assert memory["history_bytes"]["actual"] == history * FRAME_BYTES
        assert memory["peak_bytes"]["actual"] == memory["resident_bytes"]["actual"] == (history + 4 * 3) * FRAME_BYTES


def test_an_unknown_or_another_checkpoint_warns_once_and_goes_on(run, tiny_demo, tmp_path: Path) -> None:
    for fingerprint, words in (("", "an unknown checkpoint"), ("feedface", "checkpoint feedface")):
        profile = write_profile(tmp_path / "p.json", fingerprint=fingerprint)
        warnings = report(run, tmp_path, "--policy", "dummy", "--profile", profile, frames=21)["err"]
        assert len(warnings) == 1
        assert words in warnings[0]


def test_the_report_names_the_policy_in_a_line(run, tiny_demo, tmp_path: Path) -> None:
    profile = write_profile(tmp_path / "p.json")
    document = report(run, tmp_path, "--policy", "dummy", "--profile", profile, frames=21)
    assert "tensor(" not in document["conditions"]["policy"]


@pytest.mark.parametrize(
    ("words", "skipped"),
    [
        ((), "none"),
        (("--skip-steps", "2"), "2"),
        (("--skip-steps", "3,1,3"), "1, 3"),
        (("--teacache", 1e9), "1, 2, 3"),
        (("--teacache", 0, "--teacache-coefficients", "1,0"), "none"),
        (("--teacache", 1e9, "--teacache-signal", "e", "--teacache-coefficients", "1,0"), "1, 2, 3"),
    ],
)
def test_the_report_says_which_steps_are_skipped(run, tiny_demo, tmp_path: Path, words: tuple, skipped: str) -> None:
    document = report(run, tmp_path, *words, frames=9)
    assert document["conditions"]["skipped steps"] == skipped
    assert f"skipped steps       {skipped}" in document["out"]


def test_the_pattern_is_computed_once_for_all_clips(run, tiny_demo, tmp_path: Path, monkeypatch) -> None:
    asked, signal = [], WanDenoiser.time_signal
    monkeypatch.setattr(WanDenoiser, "time_signal", lambda self, *args: asked.append(1) or signal(self, *args))
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n", encoding="utf-8")
    words = "--prompts", tmp_path / "prompts.txt", "--frames", 21, "--out", tmp_path / "clips", "--teacache", 0.2
    assert run("generate", "--size", "16x16", "--device", "cpu", *words).code == 0
    assert len(asked) == 4
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 2
