"""Finished clips as workflows on a real ready: upscaled, interpolated, with sound, cancelled, one after the other."""

from __future__ import annotations

import io
import time
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dummyforcing_core.clips.video import VideoWriter
from tests.host.clips import CLIP_SIZE, SAMPLER, Prompt, frames_of, moves, only, posted, released, video
from tests.host.inside.tiny_models import INTERPOLATOR, UPSCALER, write_interpolator, write_upscaler
from tests.host.server import ComfyServer

av = pytest.importorskip("av")


@pytest.fixture
def ready(host: ComfyServer) -> ComfyServer:
    """With an upscaler, RIFE and a sound of three seconds. Stops loudly where the host cannot load upscalers."""
    if "UpscaleModelLoader" not in host.object_info():
        pytest.skip("the host has no Load Upscale Model: is spandrel missing?")
    write_upscaler(host.base / "models" / "upscale_models" / UPSCALER)
    write_interpolator(host.base / "models" / "frame_interpolation" / INTERPOLATOR)
    with wave.open(str(host.base / "input" / "tone.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(22050)
        sound.writeframes((np.sin(np.arange(3 * 22050) * 0.2) * 20000).astype("<i2").tobytes())
    return host


def long_clip(path: Path, frames: int) -> Path:
    """A bar that moves, at 23.976 frames per second."""
    with VideoWriter(path, 128, 96, Fraction(24000, 1001)) as file:
        for number in range(frames):
            frame = np.full((1, 96, 128, 3), 60, np.uint8)
            frame[:, :, number % 120 :][:, :, :8] = 220
            file.write(frame)
    return path


def upscaled(video_of: list, **inputs: object) -> Prompt:
    """A prompt's nodes that upscale a VIDEO."""
    return {
        "80": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": UPSCALER}},
        "81": {
            "class_type": "DummyForcingUpscaleVideo",
            "inputs": {"video": video_of, "upscale_model": ["80", 0], "shorter_side": 0, "window": 8,
                       "filename_prefix": "video/large", **inputs},
        },
    }  # fmt: skip


def test_a_batch_of_clips_gets_frames_in_between_size_and_sound(ready: ComfyServer) -> None:
    prompt = released("demo")
    prompt[only(prompt, CLIP_SIZE)]["inputs"] |= {"batch_size": 2, "seconds": 2.0, "width": 64, "height": 64}
    prompt["70"] = {"class_type": "FrameInterpolationModelLoader", "inputs": {"model_name": INTERPOLATOR}}
    prompt["71"] = {
        "class_type": "DummyForcingInterpolateVideo",
        "inputs": {"video": [only(prompt, SAMPLER), 1], "interp_model": ["70", 0], "multiplier": 2, "window": 5,
                   "filename_prefix": "video/smooth"},
    }  # fmt: skip
    prompt |= upscaled(["71", 0], shorter_side=96)
    prompt["90"] = {"class_type": "LoadAudio", "inputs": {"audio": "tone.wav"}}
    prompt["91"] = {
        "class_type": "DummyForcingAddAudio",
        "inputs": {"video": ["81", 0], "audio": ["90", 0], "filename_prefix": "video/heard"},
    }
    run = ready.run(prompt)
    frames = 2 * frames_of(2) - 1
    for node, size in (("71", 64), ("81", 96), ("91", 96)):
        files = run.output(node)["images"]
        assert len({file["filename"] for file in files}) == 2
        clips = [video(ready.view(file)) for file in files]
        assert all(clip.shape == (frames, size, size, 3) and moves(clip) for clip, _ in clips)
        assert np.abs(clips[0][0].astype(np.int16) - clips[1][0]).mean() > 0.5, "both are one clip"
        assert all(posted(tags) == prompt for _, tags in clips)
    for file in run.output("91")["images"]:
        with av.open(io.BytesIO(ready.view(file))) as container:
            seen, heard = (float(one.duration * one.time_base) for one in container.streams)
            samples = np.concatenate([one.to_ndarray()[0] for one in container.decode(audio=0)])
        assert seen == pytest.approx(frames / 32) and heard == pytest.approx(seen, abs=0.05)
        assert np.abs(samples[10000:]).max() > 0.3


def test_the_page_counts_frames_and_the_same_prompt_again_is_cached(ready: ComfyServer) -> None:
    clip = long_clip(ready.base / "input" / "long.mp4", 50)
    prompt = {"1": {"class_type": "LoadVideo", "inputs": {"file": clip.name}}} | upscaled(["1", 0])
    run = ready.run(prompt)
    frames, tags = video(ready.view(run.output("81")["images"][0]))
    assert frames.shape == (50, 192, 256, 3) and posted(tags) == prompt
    told = [event.data for event in run.of_type("progress") if event.data["node"] == "81"]
    assert {one["max"] for one in told} == {50} and told[-1]["value"] == 50
    assert [one["value"] for one in told] == sorted(one["value"] for one in told)
    again = ready.run(prompt)
    assert "81" in again.of_type("execution_cached")[0].data["nodes"]
    assert again.output("81") == run.output("81")


def test_cancel_keeps_what_plays_and_the_next_one_runs(ready: ComfyServer) -> None:
    clip = long_clip(ready.base / "input" / "longer.mp4", 3000)
    prompt = {"1": {"class_type": "LoadVideo", "inputs": {"file": clip.name}}}
    prompt |= upscaled(["1", 0], filename_prefix="video/cancelled")
    client = ready.connect()
    try:
        prompt_id = ready.post(prompt, listener=client)
        client.wait_for("progress", 120, node="81", max=3000)
        deadline = time.monotonic() + 120
        while not [*(ready.base / "output" / "video").glob("cancelled*.part.mp4")] and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)  # some windows more
        ready.interrupt(prompt_id)
        run = client.follow(prompt_id, 120)
    finally:
        client.close()
    assert run.outcome == "execution_interrupted"
    (part,) = (ready.base / "output" / "video").glob("cancelled*")
    assert part.name.endswith(".part.mp4") and str(part) in ready.log_since_mark()
    frames, _ = video(part.read_bytes())
    assert 16 <= len(frames) < 3000 and len(frames) % 8 == 0 and moves(frames)

    short = long_clip(ready.base / "input" / "short.mp4", 20)
    prompt["1"]["inputs"]["file"] = short.name
    assert len(video(ready.view(ready.run(prompt).output("81")["images"][0]))[0]) == 20


def test_a_wrong_video_is_one_line_on_the_page(ready: ComfyServer) -> None:
    (ready.base / "input" / "text.mp4").write_text("no video", encoding="utf-8")
    prompt = {"1": {"class_type": "LoadVideo", "inputs": {"file": "text.mp4"}}} | upscaled(["1", 0])
    run = ready.follow(ready.post(prompt))
    assert run.outcome == "execution_error" and "cannot read" in run.error and "\n" not in run.error.strip()
    assert run.error.startswith("Dummy Forcing:")
