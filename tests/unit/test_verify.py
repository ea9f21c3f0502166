"""`verify`: what its page says of whole, damaged and unknown checkpoints."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dummyforcing_core.__main__ import build_parser
from dummyforcing_core.cli import verify as command
from dummyforcing_core.clips.report import ChunkTiming, RunReport
from dummyforcing_core.evaluation.comparison import Row
from dummyforcing_core.evaluation.profiling import CLEAN, Sample
from dummyforcing_core.evaluation.teacher_forced import ChunkError
from dummyforcing_core.evaluation.verify import Page, check_bytes, check_costs, check_heads, check_tensors, chunk_fps
from dummyforcing_core.geometry import Span
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.models import checkpoints
from dummyforcing_core.models.checkpoints import DEMO_PATH, save_model
from dummyforcing_core.models.families import FAMILIES
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.policies import DummyForcing, Full
from tests.unit.refusals import assert_refused

CONFIG = WanConfig(dim=256, ffn_dim=64, num_heads=2, num_layers=2, text_dim=32, freq_dim=16)
SMALL = "--size", "16x16", "--device", "cpu"


def verdicts(page: Page) -> dict[str, str]:
    return {check.name: check.verdict for check in page.checks}


def measured(page: Page) -> dict[str, str]:
    return {check.name: check.measured for check in page.checks}


class TestPage:
    def page(self) -> Page:
        page = Page("Verification of a|b", {"device": "cpu | gpu"})
        page.add("good", "1 | 2", "3", True)
        page.add("known", "7", "paper: 8")
        return page

    def test_one_fail_fails_the_page(self) -> None:
        page = self.page()
        assert (page.verdict, page.summary()) == ("PASS", "PASS: 1 PASS, 0 FAIL, 1 INFO")
        page.add("bad", "0", "1", False)
        assert (page.verdict, page.summary()) == ("FAIL", "FAIL: 1 PASS, 1 FAIL, 1 INFO")

    def test_text(self) -> None:
        lines = self.page().text().splitlines()
        assert "PASS  good   1 | 2   (expected: 3)" in lines
        assert "INFO  known  7   (paper: 8)" in lines

    def test_markdown_cells_stay_cells(self) -> None:
        rows = [line for line in self.page().markdown().splitlines() if line.startswith("|")]
        assert "| good | 1 \\| 2 | 3 | PASS |" in rows
        assert {line.replace("\\|", "").count("|") for line in rows} == {3, 5}

    def test_json(self) -> None:
        document = json.loads(self.page().json())
        assert document["verdict"] == "PASS"
        assert document["conditions"] == {"device": "cpu | gpu"}
        assert document["checks"][1] == {"name": "known", "measured": "7", "expected": "paper: 8", "verdict": "INFO"}


class TestTensors:
    @pytest.fixture
    def tensors(self) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return CausalWan(CONFIG).state_dict()

    def check(self, tensors: dict[str, torch.Tensor]) -> Page:
        page = Page("")
        check_tensors(page, tensors, CONFIG)
        return page

    def test_whole(self, tensors) -> None:
        tensors["blocks.1.ffn.0.weight"][3, 4] = -77.5
        page = self.check(tensors)
        assert page.verdict == "PASS"
        assert measured(page)["largest value"] == "77.5 in blocks.1.ffn.0.weight"
        assert measured(page)["tensors"].startswith("69, ")

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("name", ["blocks.0.self_attn.k.weight", "blocks.1.modulation", "head.head.bias"])
    def test_one_number_that_is_none(self, tensors, value: float, name: str) -> None:
        tensors[name].view(-1)[-1] = value
        page = self.check(tensors)
        assert verdicts(page)["NaN or infinity"] == "FAIL"
        assert measured(page)["NaN or infinity"] == f"1: {name}"

    def test_an_empty_matrix(self, tensors) -> None:
        tensors["blocks.0.ffn.2.weight"].zero_()
        tensors["blocks.0.ffn.2.bias"].zero_()  # biases of zero are usual
        tensors["blocks.0.norm3.weight"].zero_()  # and this is no matrix
        page = self.check(tensors)
        assert verdicts(page)["empty matrices"] == "FAIL"
        assert measured(page)["empty matrices"] == "1: blocks.0.ffn.2.weight"

    @pytest.mark.parametrize("config", [replace(CONFIG, num_layers=3), replace(CONFIG, num_layers=1)])
    def test_another_number_of_layers(self, tensors, config: WanConfig) -> None:
        page = Page("")
        check_tensors(page, tensors, config)
        assert verdicts(page)["tensors"] == "FAIL"

    def test_many_names_are_cut(self, tensors) -> None:
        for tensor in tensors.values():
            tensor.fill_(float("nan"))
        assert measured(self.check(tensors))["NaN or infinity"].endswith(", ...")


def scored(mass: list[list[float]], clip: int, chunk: int, step: int = CLEAN) -> Sample:
    return Sample(clip, clip, chunk, step, HeadScores(torch.tensor([mass])))


# Heads by what they look at; the two that look at history least become dummies.
SINK, NEAR, SELF, VERY = [0.7, 0.1, 0.2], [0.1, 0.7, 0.2], [0.1, 0.05, 0.85], [0.05, 0.05, 0.9]


class TestHeads:
    def test_figures_by_hand(self) -> None:
        page = Page("")
        first, second = [SINK, NEAR, SELF, VERY], [SELF, NEAR, VERY, SINK]
        check_heads(page, [scored(first, 0, 1), scored(first, 0, 2), scored(second, 1, 1), scored(second, 1, 2)], 2)
        found = measured(page)
        # Of the means, only the third head's (0.05 + 0.85, 0.9) / 2 is above 0.8.
        assert found["heads with > 80% of mass on the current chunk"] == "25.0%"
        assert found["overlap of 2 dummy heads across AR steps"] == "1.00"
        assert found["overlap of 2 dummy heads across prompts"] == "0.50"
        assert found["overlap of 2 dummy heads across timesteps"] == "no pair to compare"
        assert set(verdicts(page).values()) == {"PASS", "INFO"}

    @pytest.mark.parametrize("mass", [[0.5, 0.5, 0.5], [float("nan"), 0.5, 0.5], [0.3, 0.3, 0.39]])
    def test_shares_that_are_none(self, mass: list[float]) -> None:
        page = Page("")
        check_heads(page, [scored([mass, SINK], 0, 1)], 1)
        assert page.verdict == "FAIL"

    def test_nothing_scored(self) -> None:
        page = Page("")
        check_heads(page, [], 1)
        assert page.verdict == "PASS"
        assert "use more --frames" in page.text()


def report(ms: list[float], **memory: tuple[int, int]) -> RunReport:
    sizes = {"history": (8, 8), "resident": (9, 9), "peak": (10, 10)} | memory
    rows = {f"{name}_bytes": {"predicted": p, "actual": a} for name, (p, a) in sizes.items()}
    chunks = [ChunkTiming(i, 3 * i, 3, time, 0.0, False) for i, time in enumerate(ms)]
    return RunReport(chunks=chunks, memory=rows)


def row(policy, error: float, ms: list[float] | None = None, **memory) -> Row:
    errors = [ChunkError(Span(i, 3 * i, 3 * i + 3), e, torch.full((1, 2), e)) for i, e in enumerate((99.0, error))]
    plan = HeadPlan.uniform(1, 2, HeadMemory(), "full")
    return Row(policy, plan, report(ms or [100.0, 50.0, 40.0], **memory), errors, 1)


class TestCosts:
    def page(self, dense: Row, dummy: Row, gpu: bool = False) -> Page:
        page = Page("")
        check_costs(page, dense, dummy, 1, gpu)
        return page

    def test_good(self) -> None:
        dense = row(Full(), 0.0)
        dummy = row(DummyForcing(), 0.1, [200.0, 25.0, 20.0], history=(4, 4))
        page = self.page(dense, dummy)
        assert page.verdict == "PASS"
        assert measured(page)["speed, Dummy Forcing against dense"] == "2.00 x, on a CPU"
        assert measured(page)["K/V history, Dummy Forcing against dense"] == "0.50 x"
        on_gpu = measured(self.page(dense, dummy, gpu=True))["speed, Dummy Forcing against dense"]
        assert on_gpu == "2.00 x (300.00 -> 600.00 FPS DiT-only)"

    @pytest.mark.parametrize("error", [1.0, 5.0, float("nan"), float("inf")])
    def test_an_error_as_large_as_the_velocity(self, error: float) -> None:
        found = verdicts(self.page(row(Full(), 0.0), row(DummyForcing(), error)))
        assert found["Dummy Forcing against dense, teacher-forced"] == "FAIL"
        assert found["dense against itself, teacher-forced"] == "PASS"

    @pytest.mark.parametrize("error", [0.01, float("nan")])
    def test_dense_that_is_not_itself(self, error: float) -> None:
        found = verdicts(self.page(row(Full(), error), row(DummyForcing(), 0.1)))
        assert found["dense against itself, teacher-forced"] == "FAIL"

    @pytest.mark.parametrize("name", ["history", "resident", "peak"])
    def test_bytes_that_were_not_priced(self, name: str) -> None:
        page = Page("")
        check_bytes(page, "dense", report([1.0], **{name: (1000, 1001)}))
        assert page.verdict == "FAIL"
        assert f"{name} 1,000" in page.checks[0].expected
        assert f"{name} 1,001" in page.checks[0].measured

    def test_speed_leaves_the_first_chunks_out(self) -> None:
        assert chunk_fps(report([1.0, 24.0, 12.0]), 1) == pytest.approx(1000)
        assert chunk_fps(report([1.0, 24.0, 12.0]), 0) == pytest.approx(9000)
        assert chunk_fps(report([1.0]), 1) is None


def whole_page(result) -> dict[str, tuple[str, str]]:
    lines = [line for line in result.out.splitlines() if line[:6] in ("PASS  ", "FAIL  ", "INFO  ")]
    return {line[6:].split("  ")[0].strip(): (line[:4], line) for line in lines}


class TestCommand:
    @pytest.fixture
    def named(self, tmp_path: Path):
        """named(family, edit) -> a checkpoint of our own form after edit(its tensors)."""

        def make(family: str = "longlive", edit=lambda tensors: None, name: str = "w.safetensors") -> Path:
            path = tmp_path / "secret folder" / name
            path.parent.mkdir(exist_ok=True)
            torch.manual_seed(0)
            model = CausalWan(CONFIG)
            with torch.no_grad():
                edit(dict(model.named_parameters()))
            save_model(model, path, family)
            return path

        return make

    def test_the_bundled_model(self, run, tiny_demo, tmp_path: Path) -> None:
        """Its tiny stand-in here; all lines that a checkpoint can have."""
        page, document = tmp_path / "new" / "p.md", tmp_path / "p.json"
        result = run("verify", "--model", "demo", *SMALL, "--out", page, "--json", document)
        assert result.code == 0, result.out + result.err
        found = json.loads(document.read_text(encoding="utf-8"))
        assert found["verdict"] == "PASS"
        names = [check["name"] for check in found["checks"]]
        assert len(names) == len(set(names)) == 21
        assert [c["verdict"] for c in found["checks"]].count("PASS") == 11
        text = page.read_text(encoding="utf-8")
        assert all(f"| {name} |" in text for name in names)
        assert "stated by the file" in whole_page(result)["family"][1]

    def test_a_checkpoint_without_text(self, run, checkpoint: Path) -> None:
        result = run("verify", "--model", checkpoint, "--family", "self_forcing", *SMALL)
        assert result.code == 0, result.out + result.err
        found = whole_page(result)
        assert "none given" in found["text"][1]
        assert "as --family says" in found["family"][1]
        assert "no pair" in found["overlap of 2 dummy heads across prompts"][1]

    def test_saved_text(self, run, checkpoint: Path, embedding: Path) -> None:
        result = run("verify", "--model", checkpoint, "--family", "self_forcing", *SMALL, "--text-embedding", embedding)
        assert result.code == 0, result.out + result.err
        assert "one saved embedding" in whole_page(result)["text"][1]

    def test_a_family_guessed_by_name(self, run, named) -> None:
        path = named()
        bare = path.with_name("longlive_base.safetensors")
        save_file(load_file(path), bare)
        result = run("verify", "--model", bare, *SMALL)
        assert result.code == 0, result.out
        assert whole_page(result)["family"][0] == "INFO"
        assert "guessed from the file's name" in whole_page(result)["family"][1]

    @pytest.mark.parametrize("family", [name for name in FAMILIES if name != "demo"])
    def test_every_familys_own_loop(self, run, named, family: str) -> None:
        """With a first chunk of its own, in rolling windows, over a cache made anew: all PASS, and not for nothing."""
        result = run("verify", "--model", named(family), *SMALL)
        assert result.code == 0, result.out + result.err
        found = whole_page(result)
        assert found["clips"][0] == "PASS"
        error = found["Dummy Forcing against dense, teacher-forced"][1]
        assert float(error.split("velocity error ")[1].split(",")[0]) > 1e-4
        assert float(found["K/V history, Dummy Forcing against dense"][1].split()[-2]) < 0.9

    @pytest.mark.parametrize("frames", [1, 9, 13, 17])
    def test_short_clips(self, run, named, frames: int) -> None:
        result = run("verify", "--model", named("self_forcing"), *SMALL, "--frames", frames)
        assert result.code == 0, result.out + result.err

    def test_nothing_on_the_page_names_a_folder(self, run, named) -> None:
        path = named()
        result = run("verify", "--model", path, *SMALL)
        assert "secret folder" not in result.out
        path.write_bytes(path.read_bytes()[:-100])
        assert "secret folder" not in run("verify", "--model", path, *SMALL).out

    def test_a_damaged_number(self, run, named) -> None:
        def edit(tensors) -> None:
            tensors["blocks.1.cross_attn.v.weight"][0, 0] = float("nan")

        result = run("verify", "--model", named(edit=edit), *SMALL)
        assert result.code == 1
        found = whole_page(result)
        assert found["NaN or infinity"][0] == "FAIL"
        assert "blocks.1.cross_attn.v.weight" in found["NaN or infinity"][1]
        assert "not made" in found["clips"][1]

    def test_numbers_too_large_to_compute_with(self, run, named) -> None:
        """Every weight is finite; what they make is not."""

        def edit(tensors) -> None:
            tensors["head.head.weight"].fill_(3e38)

        result = run("verify", "--model", named(edit=edit), *SMALL)
        assert result.code == 1
        assert whole_page(result)["clips"][0] == "FAIL"
        assert whole_page(result)["NaN or infinity"][0] == "PASS"

    def test_a_cut_file(self, run, named, tmp_path: Path) -> None:
        path = named()
        path.write_bytes(path.read_bytes()[:-100])
        result = run("verify", "--model", path, *SMALL, "--json", tmp_path / "p.json")
        assert result.code == 1
        assert whole_page(result)["file"][0] == "FAIL"
        assert "truncated" in whole_page(result)["file"][1]
        assert json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))["verdict"] == "FAIL"

    def test_a_missing_tensor_and_another_family(self, run, named) -> None:
        path = named("longlive")
        result = run("verify", "--model", path, "--family", "self_forcing", *SMALL)
        assert result.code == 1
        assert "contradicts the file" in whole_page(result)["file"][1]
        tensors = load_file(path)
        del tensors["blocks.0.norm3.weight"]
        save_file(tensors, path)
        result = run("verify", "--model", path, "--family", "longlive", *SMALL)
        assert result.code == 1
        assert "blocks.0.norm3.weight" in whole_page(result)["file"][1]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--model", "none.safetensors"), "no such file"),
            (("--model", "."), "this is a folder"),
            (("--family", "nope"), "unknown model family"),
            (("--size", "17x16"), "even sides"),
            (("--frames", "0"), "at least 1"),
            (("--prompts", "none.txt"), "cannot read the prompts"),
            (("--device", "warp"), "cannot be used"),
            (("--out", "p.md", "--json", "./p.md"), "--out and --json name the same file"),
            (("--json", "nowhere.txt", "--prompts", "nowhere.txt"), "--prompts and --json name the same file"),
            (("--vae", "none.pt"), "none.pt"),
        ],
    )
    def test_bad_words(self, run, tiny_demo, words: tuple[str, ...], message: str) -> None:
        result = run("verify", *SMALL, *words)
        assert_refused(result.code, result.err, message)

    def test_a_checkpoint_that_does_not_tell_its_family(self, run, checkpoint: Path) -> None:
        result = run("verify", "--model", checkpoint, *SMALL)
        assert_refused(result.code, result.err, "pass --family with one of")
        assert result.out == ""

    def test_a_small_clip_on_a_cpu(self, run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """480p of a real checkpoint would take hours there."""
        sizes: list[tuple[int, int]] = []
        monkeypatch.setattr(command, "_check_clips", lambda page, args, shape, folder: sizes.append(args.size))
        run("verify", "--model", checkpoint, "--family", "self_forcing", "--device", "cpu")
        assert sizes == [command.CPU_SIZE]

    @pytest.mark.parametrize(("family", "chunk"), [("self_forcing", 2), ("causal_forcing_framewise", 3)])
    def test_speed_is_of_chunks_after_the_heads_are_sorted(
        self, run, named, monkeypatch: pytest.MonkeyPatch, family: str, chunk: int
    ) -> None:
        """Scored is the first chunk with a frame between the sink and itself: frames 3..5, or frame 2 alone."""
        seen: list[tuple[int, bool]] = []
        monkeypatch.setattr(command, "check_costs", lambda page, dense, dummy, *rest: seen.append(rest))
        assert run("verify", "--model", named(family), *SMALL).code == 0
        assert seen == [(chunk, False)]

    def test_the_model_that_is_really_bundled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Trained: some heads look at the current chunk alone, dummy sets are no chance, and the error is small."""
        monkeypatch.setattr(checkpoints, "DEMO_PATH", DEMO_PATH)
        words = ["verify", "--device", "cpu", "--frames", "33"]
        page = command.verify(build_parser(words).parse_args(words))
        assert page.verdict == "PASS", page.text()
        found = measured(page)
        assert float(found["heads with > 80% of mass on the current chunk"].rstrip("%")) > 5
        assert all(float(v) > 0.7 for name, v in found.items() if name.startswith("overlap of 12 dummy heads"))
        error = found["Dummy Forcing against dense, teacher-forced"]
        assert 0.001 < float(error.split()[2].rstrip(",")) < 0.3
