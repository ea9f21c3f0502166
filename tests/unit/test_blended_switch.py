"""--blend-chunks from the command line and the script to the contexts that every model call gets."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dummyforcing_core.clips.pipeline import Compute, Pipeline, Weights, load_pipeline
from dummyforcing_core.clips.render import Clip, prompt_schedule
from dummyforcing_core.clips.script import Script
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import Full

from .refusals import assert_refused, files

RED, BLUE = "a red circle on the left", "a blue square on the right"
STORY = f"0 | {RED}\n0:01.5 | {BLUE}\n"  # 1.5 s are 6 latent frames
SHAPE = LatentShape.of_pixels(16, 16, 57)  # 15 latent frames


@pytest.fixture(scope="module")
def pipeline(tiny_demo) -> Pipeline:
    return load_pipeline(Weights("demo"), Compute(torch.device("cpu"), torch.float32))


def contexts_of(pipeline: Pipeline, clip: Clip) -> dict[int, Tensor]:
    """First frame of a chunk -> the context that its every denoising step is called with."""
    found: dict[int, Tensor] = {}

    class Noting:
        geometry = pipeline.denoiser.geometry

        def __call__(self, x, sigma, context, step):
            if bool(sigma.any()):
                assert found.setdefault(step.cache.query_frames.start, context) is context
            return pipeline.denoiser(x, sigma, context, step)

    family, noise = pipeline.family, SeededNoise(0, clip.shape, 3)
    for _ in rollout(
        Run(Noting(), clip.shape, family.schedule, prompt_schedule(pipeline, clip), Full(), family, noise, clip.start)
    ):
        pass
    return found


@pytest.mark.parametrize(
    ("given", "shares"),
    [
        (0, {0: 0, 3: 0, 6: 1 / 3, 9: 2 / 3, 12: 1}),
        (1, {1: 0, 4: 0, 7: 1 / 3, 10: 2 / 3, 13: 1}),
        (8, {8: 1 / 3, 11: 2 / 3, 14: 1}),
    ],
)
def test_every_step_of_a_chunk_is_called_with_the_blend(pipeline: Pipeline, given: int, shares: dict) -> None:
    start = torch.randn(1, 16, given, 2, 2, generator=torch.Generator().manual_seed(0)) if given else None
    clip = Clip(replace(Script.parse(STORY), blend_chunks=2), SHAPE, 0, Full(), start=start)
    red, blue = pipeline.encode(RED), pipeline.encode(BLUE)
    found = contexts_of(pipeline, clip)
    assert list(found) == list(shares)
    for at, share in shares.items():
        torch.testing.assert_close(found[at], red + share * (blue - red))


def test_without_a_blend_the_schedule_is_the_script(pipeline: Pipeline) -> None:
    schedule = prompt_schedule(pipeline, Clip(Script.parse(STORY), SHAPE, 0, Full()))
    assert [start for start, _ in schedule.entries] == [0, 6]


def test_a_repeated_prompt_blends_nothing_and_costs_no_pass(pipeline: Pipeline) -> None:
    again = Script(((0, RED), (6, RED)), blend_chunks=3)
    schedule = prompt_schedule(pipeline, Clip(again, SHAPE, 0, Full()))
    assert len(schedule.entries) == 1
    assert not schedule.may_switch


def test_every_step_of_a_blend_re_caches_once(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented price: n steps and the prompt itself, n + 1 passes over the window."""
    pipeline = replace(pipeline, family=replace(pipeline.family, recache=True))
    for blend, windows in ((0, [range(6)]), (2, [range(6), range(9), range(12)])):
        passes: list[range] = []
        clip = Clip(replace(Script.parse(STORY), blend_chunks=blend), SHAPE, 0, Full())
        velocity = type(pipeline.denoiser).velocity

        def noted(self, x, sigma, context, step, passes=passes, velocity=velocity):
            passes.append(step.cache.query_frames)
            return velocity(self, x, sigma, context, step)

        with monkeypatch.context() as patch:
            patch.setattr(type(pipeline.denoiser), "velocity", noted)
            noise = SeededNoise(0, SHAPE, 3)
            family = pipeline.family
            prompts = prompt_schedule(pipeline, clip)
            for _ in rollout(Run(pipeline.denoiser, SHAPE, family.schedule, prompts, Full(), family, noise)):
                pass
        assert [frames for frames in passes if len(frames) > 3] == windows


class TestCommandLine:
    """generate --schedule FILE --blend-chunks N"""

    @pytest.fixture
    def make(self, run, tiny_demo, tmp_path: Path):
        story = tmp_path / "story.txt"
        story.write_text(STORY, encoding="utf-8")

        def make(*words: object) -> Tensor:
            out = "--out", tmp_path / "c.mp4", "--save-latents", tmp_path / "c.safetensors"
            result = run("generate", "--schedule", story, "--size", "16x16", "--frames", 57, *words, *out)
            assert result.code == 0, result.err
            return load_file(tmp_path / "c.safetensors")["latent"]

        return make

    def test_a_blend_changes_the_clip_from_the_switch_on(self, make) -> None:
        hard, none, soft = make(), make("--blend-chunks", 0), make("--blend-chunks", 2)
        assert torch.equal(hard, none)
        assert torch.equal(hard[:, :, :6], soft[:, :, :6])
        for frame in range(6, 15):
            assert not torch.equal(hard[:, :, frame], soft[:, :, frame])

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--prompt", RED, "--blend-chunks", 1), "--blend-chunks has no effect here: --schedule is not given"),
            (("--prompts", "STORY", "--blend-chunks", 0), "--schedule is not given"),
            (("--schedule", "STORY", "--blend-chunks", -1), "expected a blend over 0 chunks or more, got -1"),
            (("--schedule", "STORY", "--blend-chunks", 1.5), "expected a whole number of at most 19 digits, got '1.5'"),
        ],
    )
    def test_refused_before_a_model_is_loaded(self, run, tmp_path: Path, monkeypatch, words, message: str) -> None:
        story = tmp_path / "story.txt"
        story.write_text(STORY, encoding="utf-8")
        before = files(tmp_path)
        monkeypatch.setattr("dummyforcing_core.cli.generate.load", lambda *_: pytest.fail("loaded a model"))
        named = [story if word == "STORY" else word for word in words]
        result = run("generate", *named, "--out", tmp_path / "c.mp4")
        if "invalid int" in message:  # argparse's own words
            assert result.code == 2 and message in result.err
        else:
            assert_refused(result.code, result.err, message)
        assert files(tmp_path) == before


def test_the_given_start_is_one_chunk_that_speaks_the_first_prompt(pipeline: Pipeline) -> None:
    clip = Clip(Script(((0, RED), (2, BLUE)), 1), SHAPE, 0, Full(), start=torch.zeros(1, 16, 5, 2, 2))
    schedule = prompt_schedule(pipeline, clip)
    assert [start for start, _ in schedule.entries] == [0, 5, 8]
    assert torch.equal(schedule.at(0), pipeline.encode(RED))
