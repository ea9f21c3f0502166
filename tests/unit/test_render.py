"""render(): what reaches the files, in which order, and what an error or an interruption leaves."""

import dataclasses
import errno
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dummyforcing_core.clips import render as module
from dummyforcing_core.clips.pipeline import Compute, Pipeline, Weights, load_pipeline
from dummyforcing_core.clips.render import Clip, Outputs, render, save_latents
from dummyforcing_core.clips.script import Script
from dummyforcing_core.clips.video import frame_count, read_frames
from dummyforcing_core.errors import OutputError
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run
from dummyforcing_core.loops.table import sample
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import Full, SlidingWindow
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.vae.streaming import StreamingDecoder, to_uint8

PROMPT = "a red circle on the left"
SHAPE = LatentShape.of_pixels(16, 32, 21)  # two chunks


@pytest.fixture(scope="module")
def pipeline(tiny_demo) -> Pipeline:
    return load_pipeline(Weights("demo"), Compute(torch.device("cpu"), torch.float32))


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(*(tmp_path / name for name in ("c.mp4", "c.png", "l.safetensors", "r.json")))


def clip(prompts=(PROMPT,), shape: LatentShape = SHAPE, seed: int = 3, policy=None) -> Clip:
    return Clip(Script.per_chunk(list(prompts), 3), shape, seed, policy or Full())


def names(outputs: Outputs) -> list[str]:
    return sorted(path.name for path in outputs.video.parent.iterdir())


def by_hand(pipeline: Pipeline, prompts: list[str]) -> torch.Tensor:
    """The clip's latents straight from the rollout, one prompt per chunk."""
    schedule = PromptSchedule(tuple((3 * i, pipeline.encode(prompt)) for i, prompt in enumerate(prompts)))
    noise = SeededNoise(3, SHAPE, 3)
    family = pipeline.family
    chunks = rollout(Run(pipeline.denoiser, SHAPE, family.schedule, schedule, Full(), family, noise))
    return torch.cat([chunk.latent for chunk in chunks], dim=2)


def test_latents_are_the_rollouts_and_the_video_is_their_decoding(pipeline: Pipeline, outputs: Outputs) -> None:
    report = render(pipeline, clip(), outputs).report
    assert names(outputs) == ["c.mp4", "c.png", "l.safetensors", "r.json"]
    latents = load_file(outputs.latents)["latent"]
    assert torch.equal(latents, by_hand(pipeline, [PROMPT]))
    decoder = pipeline.new_decoder()
    with torch.inference_mode():
        pixels = to_uint8(torch.cat([decoder.push(latents), decoder.flush()], dim=2))[0]
    shown = list(read_frames(outputs.video))
    assert len(shown) == len(pixels) == 21
    for frame, expected in zip(shown, pixels, strict=True):
        small = frame[3::6, 3::6]  # the middle of every enlarged pixel
        assert abs(small.astype(int) - expected).mean() < 12  # h264 loses a little colour
    assert report.to_json() == outputs.report.read_text(encoding="utf-8")


@pytest.mark.parametrize("loop", [{"loop": "recompute", "window_frames": 6}, {"loop": "restarts", "overlap_frames": 3}])
@pytest.mark.parametrize("given", [0, 1, 12])
def test_stills_come_out_of_the_videos_own_decoding(
    pipeline: Pipeline, outputs: Outputs, loop: dict, given: int
) -> None:
    """Where the loop looks at pixels of its clip, each latent is decoded once, and the clip is the one it would be."""
    shape = LatentShape.of_pixels(16, 32, 69 if given != 1 else 73)
    family = dataclasses.replace(pipeline.family, sink_frames=0, trained_frames=12, **loop)
    start = (
        torch.randn(1, 16, given, shape.height, shape.width, generator=torch.Generator().manual_seed(1))
        if given
        else None
    )
    decoded: list[int] = []

    def new_decoder() -> StreamingDecoder:
        decoder = pipeline.new_decoder()
        push = decoder.push
        decoder.push = lambda latents: decoded.append(latents.shape[2]) or push(latents)  # type: ignore[func-returns-value]
        return decoder

    warnings.simplefilter("ignore")  # the plain loop has no VAE; a full cache beyond the trained length
    own = dataclasses.replace(pipeline, family=family, new_decoder=new_decoder)
    render(own, dataclasses.replace(clip(shape=shape), start=start), outputs)
    assert sum(decoded) == shape.frames
    schedule = PromptSchedule.constant(pipeline.encode(PROMPT))
    beside = sample(
        Run(
            pipeline.denoiser,
            shape,
            family.schedule,
            schedule,
            Full(),
            family,
            SeededNoise(3, shape, 3),
            start=start,
            still=own.new_stills(),
        )
    )
    expected = torch.cat([chunk.latent for chunk in beside], dim=2)
    assert torch.equal(load_file(outputs.latents)["latent"], expected)
    plain = sample(
        Run(pipeline.denoiser, shape, family.schedule, schedule, Full(), family, SeededNoise(3, shape, 3), start=start)
    )
    assert not torch.equal(torch.cat([chunk.latent for chunk in plain], dim=2), expected)


def test_one_prompt_per_chunk(pipeline: Pipeline, outputs: Outputs) -> None:
    prompts = [PROMPT, "a blue square, lights off"]
    render(pipeline, clip(prompts), outputs)
    mixed = load_file(outputs.latents)["latent"]
    assert torch.equal(mixed, by_hand(pipeline, prompts))
    assert torch.equal(mixed[:, :, :3], by_hand(pipeline, [PROMPT])[:, :, :3])
    assert not torch.equal(mixed[:, :, 3:], by_hand(pipeline, [PROMPT])[:, :, 3:])


def test_title_names_each_prompt_once_in_a_row() -> None:
    assert clip(["a", "a", "b", "a"]).script.title == "a  |  b  |  a"
    assert Outputs(Path("x") / "clip.v2.mp4").part == Path("x") / "clip.v2.part.mp4"


def test_every_chunk_is_on_disk_before_the_next_begins(pipeline: Pipeline, outputs: Outputs) -> None:
    seen: list[tuple[int, int, int]] = []

    def on_step(span, step: int) -> None:
        if step == 0:
            frames = len(list(read_frames(outputs.part))) if span.chunk else outputs.part.stat().st_size
            seen.append((span.chunk, span.start, frames))
            assert not outputs.video.exists()

    render(pipeline, clip(shape=LatentShape.of_pixels(16, 16, 33)), outputs, on_step)
    assert seen == [(0, 0, 0), (1, 3, 9), (2, 6, 21)]
    assert len(list(read_frames(outputs.video))) == 33


def test_every_model_call_is_announced(pipeline: Pipeline, outputs: Outputs) -> None:
    calls: list[tuple[int, int]] = []
    render(pipeline, clip(), outputs, lambda span, step: calls.append((span.chunk, step)))
    assert calls == [(chunk, step) for chunk in range(2) for step in range(5)]


def test_report_prices_the_policy_that_ran(pipeline: Pipeline, outputs: Outputs, tiny_demo) -> None:
    report = render(pipeline, clip(policy=SlidingWindow(4, 1)), outputs).report
    frame = 2 * 2 * tiny_demo.dim * 4 * tiny_demo.num_layers  # K and V, two tokens, float32
    assert report.memory["history_bytes"] == {"predicted": frame, "actual": frame}
    assert report.memory["resident_bytes"] == {"predicted": 4 * frame, "actual": 4 * frame}
    assert report.conditions["policy"] == str(SlidingWindow(4, 1))


def no_space(*_: object, **__: object) -> None:
    raise OutputError("cannot write it: the disk is full")


def memory_gone(*_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("broken", "by", "frames"),
    [
        ("dummyforcing_core.clips.video.VideoWriter._encode", no_space, 0),
        ("dummyforcing_core.clips.video.VideoWriter.close", no_space, 21),
        (f"{module.__name__}.rename_whole", no_space, 21),
        (f"{module.__name__}.MemoryUse.add", memory_gone, 9),
        (f"{module.__name__}.to_uint8", memory_gone, 0),
    ],
)
def test_whatever_fails_what_was_made_stays_and_is_named(
    pipeline: Pipeline, outputs: Outputs, monkeypatch: pytest.MonkeyPatch, broken: str, by: Callable, frames: int
) -> None:
    monkeypatch.setattr(broken, by)
    with pytest.warns(UserWarning) as said, pytest.raises((OutputError, MemoryError)):
        render(pipeline, clip(), outputs)
    (line,) = (str(one.message) for one in said if one.category is UserWarning)
    assert names(outputs) == (["c.part.mp4"] if frames else []) + ["l.safetensors"]
    assert str(outputs.latents) in line and (f"{frames} frames, plays in {outputs.part};" in line) == bool(frames)
    if frames:
        assert frame_count(outputs.part) == frames
    monkeypatch.undo()
    made = load_file(outputs.latents)["latent"]
    assert torch.equal(made, by_hand(pipeline, [PROMPT])[:, :, : made.shape[2]])


def test_latents_of_a_finished_clip_outlive_one_that_fails(
    pipeline: Pipeline, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    render(pipeline, clip(), outputs)
    whole = outputs.latents.read_bytes()
    monkeypatch.setattr(f"{module.__name__}.MemoryUse.add", memory_gone)
    other = dataclasses.replace(clip(), seed=9)
    with pytest.warns(UserWarning, match=r"latents are in .*l\.part\.safetensors"), pytest.raises(MemoryError):
        render(pipeline, other, outputs)
    assert outputs.latents.read_bytes() == whole
    assert load_file(outputs.latents_part)["latent"].shape[2] == 3
    assert names(outputs) == ["c.mp4", "c.part.mp4", "c.png", "l.part.safetensors", "l.safetensors", "r.json"]


def test_an_unwanted_part_goes(pipeline: Pipeline, outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{module.__name__}.rename_whole", no_space)
    with warnings.catch_warnings(), pytest.raises(OutputError, match=r"the disk is full$"):
        warnings.simplefilter("error")
        render(pipeline, clip(), dataclasses.replace(outputs, keep_unfinished=False))
    assert names(outputs) == []


@pytest.mark.parametrize("broken", ["save_latents", "ContactSheet.save", "RunReport.write"])
def test_a_finished_video_survives_what_is_written_beside_it(
    pipeline: Pipeline, outputs: Outputs, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(f"{module.__name__}.{broken}", no_space)
    with pytest.raises(OutputError, match=r"the disk is full; the video is whole and stays: .*c\.mp4$"):
        render(pipeline, clip(), outputs)
    assert "c.mp4" in names(outputs)
    assert "c.part.mp4" not in names(outputs)
    assert len(list(read_frames(outputs.video))) == 21


@pytest.mark.parametrize(
    ("prompts", "blend", "said"),
    [
        ([PROMPT], 0, {}),
        ([PROMPT, "a blue square"], 0, {"switches": [3]}),
        ([PROMPT, "a blue square"], 1, {"switches": [3], "blend chunks": 1}),
    ],
)
def test_the_report_says_when_prompts_switch(
    pipeline: Pipeline, outputs: Outputs, prompts: list[str], blend: int, said: dict
) -> None:
    asked = clip(prompts)
    asked = dataclasses.replace(asked, script=dataclasses.replace(asked.script, blend_chunks=blend))
    conditions = render(pipeline, asked, outputs).report.conditions
    assert {name: value for name, value in conditions.items() if name in ("switches", "blend chunks")} == said


def test_an_error_leaves_an_older_clip_alone(
    pipeline: Pipeline, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs.video.write_bytes(b"older")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dummyforcing_core.clips.video.VideoWriter._write_bytes", full)
    with (
        pytest.warns(UserWarning, match="latents"),
        pytest.raises(OutputError, match=r"c\.part\.mp4: the disk is full"),
    ):
        render(pipeline, clip(), outputs)
    assert names(outputs) == ["c.mp4", "l.safetensors"]
    assert outputs.video.read_bytes() == b"older"


def test_a_video_that_cannot_get_its_name(pipeline: Pipeline, outputs: Outputs) -> None:
    outputs.video.mkdir()
    with pytest.warns(UserWarning, match="21 frames"), pytest.raises(OutputError, match=r"cannot write .*c\.mp4"):
        render(pipeline, clip(), outputs)
    assert names(outputs) == ["c.mp4", "c.part.mp4", "l.safetensors"]


class Spoiled:
    """A decoder of NaN."""

    def push(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.full((1, 3, 9, 32, 16), float("nan"))


def test_nan_in_the_pixels(pipeline: Pipeline, outputs: Outputs) -> None:
    spoiled = dataclasses.replace(pipeline, new_decoder=Spoiled)
    with pytest.warns(UserWarning, match="latents"), pytest.raises(OutputError, match="NaN or infinity"):
        render(spoiled, clip(), outputs)
    assert names(outputs) == ["l.safetensors"]


def test_nan_after_good_chunks(pipeline: Pipeline, outputs: Outputs) -> None:
    encode = pipeline.encode
    prompts = {"good": encode(PROMPT), "bad": encode(PROMPT) * float("nan")}
    bad = dataclasses.replace(pipeline, encode=prompts.__getitem__)
    with pytest.warns(UserWarning, match="9 frames"), pytest.raises(OutputError, match="chunk 2 came out as NaN"):
        render(bad, clip(["good", "bad"]), outputs)
    assert names(outputs) == ["c.part.mp4", "l.safetensors"]
    assert torch.equal(load_file(outputs.latents)["latent"], by_hand(pipeline, [PROMPT])[:, :, :3])


def test_an_interruption_leaves_the_part(pipeline: Pipeline, outputs: Outputs) -> None:
    def on_step(span, step: int) -> None:
        if (span.chunk, step) == (1, 4):
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="9 frames"), pytest.raises(KeyboardInterrupt):
        render(pipeline, clip(), outputs, on_step)
    assert names(outputs) == ["c.part.mp4", "l.safetensors"]
    assert len(list(read_frames(outputs.part))) == 9
    render(pipeline, clip(), outputs)
    assert names(outputs) == ["c.mp4", "c.png", "l.safetensors", "r.json"]


@pytest.mark.skipif(os.name == "nt", reason="permissions work otherwise there")
def test_latents_are_as_readable_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    save_latents(tmp_path / "l.safetensors", torch.zeros(1, 16, 2, 2, 2)[:, :, 1:])
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1
    assert load_file(tmp_path / "l.safetensors")["latent"].shape == (1, 16, 1, 2, 2)
