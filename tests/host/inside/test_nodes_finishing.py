"""Upscale Video and Add Audio to Video: written as they go, exact in rate and length, sound and all."""

from __future__ import annotations

import gc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

MODEL = "tiny_2x.safetensors"


@pytest.fixture(scope="session")
def upscaler(call: Any, base: Path) -> Any:
    """A tiny random model that doubles sides, from the stock loader."""
    pytest.importorskip("spandrel")
    from safetensors.torch import save_file

    draws = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draws) * 0.2

    folder = base / "models" / "upscale_models"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"body.0.weight": drawn(8, 3, 3, 3), "body.0.bias": drawn(8), "body.1.weight": drawn(8)}
    weights |= {"body.2.weight": drawn(8, 8, 3, 3), "body.2.bias": drawn(8), "body.3.weight": drawn(8)}
    weights |= {"body.4.weight": drawn(12, 8, 3, 3), "body.4.bias": drawn(12)}
    save_file(weights, folder / MODEL)
    return call("UpscaleModelLoader", model_name=MODEL).outputs[0]


@pytest.fixture
def clip_file(part: Any, tmp_path: Path) -> Callable[..., Path]:
    """``clip_file(frames=9)``: a video file, with a tone under it if asked."""
    video, soundtrack = part("dummyforcing_core.clips.video"), part("dummyforcing_core.clips.soundtrack")
    encoding = part("dummyforcing_core.clips.encoding").Encoding("h264", 0)

    def make(frames: int = 9, size: tuple[int, int] = (32, 48), fps: Any = 16, sound: bool = False) -> Path:
        path = tmp_path / f"clip_{frames}_{size[0]}_{fps}_{sound}.mp4".replace("/", "_")
        draws = np.random.default_rng(frames)
        with video.VideoWriter(path, size[1], size[0], fps, encoding) as writer:
            for number in range(frames):
                writer.write(draws.integers(0, 255, (1, *size, 3), np.uint8) // 2 + 5 * number % 100)
        if sound:
            sounding = path.with_name(f"sounding_{path.name}")
            tone = np.sin(np.arange(48000) * 2 * np.pi * 440 / 48000)[None].repeat(2, 0) * 0.5
            soundtrack.add_sound(path, sounding, tone, 48000)
            return sounding
        return path

    return make


def given(path: Path) -> Any:
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(str(path))


def source(done: Any) -> str:
    return done.outputs[0].get_stream_source()


def frames(path: Any) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def sound(path: Any) -> tuple[float, float] | None:
    """Seconds of sound, and how loud it is; None without."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        samples = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
        return samples.shape[1] / container.streams.audio[0].rate, float(np.abs(samples).mean())


@pytest.mark.parametrize("window", [1, 4, 50])
def test_it_is_what_the_stock_node_makes_of_all_frames_at_once(
    call: Any, upscaler: Any, clip_file: Any, part: Any, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, video = clip_file(9), part("dummyforcing_core.clips.video")
    image = torch.from_numpy(np.stack(list(video.read_frames(path)))).float() / 255
    stock = call("ImageUpscaleWithModel", upscale_model=upscaler, image=image).outputs[0]
    written, write = [], video.VideoWriter.write

    def seen(self: Any, pictures: np.ndarray) -> None:
        written.append(pictures)
        write(self, pictures)

    monkeypatch.setattr(video.VideoWriter, "write", seen)
    done = call("DummyForcingUpscaleVideo", video=given(path), upscale_model=upscaler, window=window)
    assert [len(one) for one in written] == [min(window, 9 - start) for start in range(0, 9, window)]
    apart = np.abs(np.concatenate(written).astype(float) - stock.numpy() * 255)
    assert apart.max() < 0.51
    assert frames(source(done)).shape == (9, 64, 96, 3) and Path(source(done)).name.startswith("upscaled_")


def test_every_window_gives_the_same_file(call: Any, upscaler: Any, clip_file: Any) -> None:
    path = clip_file(9)
    files = [
        Path(source(call("DummyForcingUpscaleVideo", video=given(path), upscale_model=upscaler, window=window)))
        for window in (2, 3, 9)
    ]
    assert len({frames(file).tobytes() for file in files}) == 1


@pytest.mark.parametrize("size, sides", [("as the model", (64, 96)), ("720P", (720, 1080))])
def test_size_is_that_of_the_short_side(call: Any, upscaler: Any, clip_file: Any, size: str, sides: Any) -> None:
    done = call("DummyForcingUpscaleVideo", video=given(clip_file(2)), upscale_model=upscaler, size=size)
    assert frames(source(done)).shape[1:3] == sides


@pytest.mark.parametrize("fps", [16, Fraction(24000, 1001), Fraction(30000, 1001), 7])
def test_the_rate_is_kept(call: Any, upscaler: Any, clip_file: Any, fps: Any) -> None:
    done = call("DummyForcingUpscaleVideo", video=given(clip_file(5, fps=fps)), upscale_model=upscaler)
    with av.open(source(done)) as container:
        assert container.streams.video[0].average_rate == fps
    assert len(frames(source(done))) == 5


def test_the_sound_comes_along_as_it_is_coded(call: Any, upscaler: Any, clip_file: Any) -> None:
    path = clip_file(12, sound=True)
    done = call("DummyForcingUpscaleVideo", video=given(path), upscale_model=upscaler)
    assert len(frames(source(done))) == 12
    (ours, loud), (theirs, there) = sound(source(done)), sound(path)
    assert abs(ours - theirs) < 0.05 and abs(loud - there) < 1e-6
    silent = call("DummyForcingUpscaleVideo", video=given(clip_file(3)), upscale_model=upscaler)
    assert sound(source(silent)) is None


def test_a_trimmed_video_is_only_its_part(call: Any, upscaler: Any, clip_file: Any) -> None:
    from comfy_api.latest import InputImpl

    video = InputImpl.VideoFromFile(str(clip_file(32)), start_time=0.5, duration=1.0)
    done = call("DummyForcingUpscaleVideo", video=video, upscale_model=upscaler)
    assert 15 <= len(frames(source(done))) <= 17


def test_a_video_in_memory_is_upscaled(call: Any, upscaler: Any) -> None:
    from comfy_api.latest import InputImpl, Types

    parts = Types.VideoComponents(images=torch.rand(6, 32, 48, 3), audio=None, frame_rate=Fraction(8))
    done = call("DummyForcingUpscaleVideo", video=InputImpl.VideoFromComponents(parts), upscale_model=upscaler)
    assert frames(source(done)).shape == (6, 64, 96, 3)


def test_no_more_than_a_window_is_in_memory(
    call: Any, upscaler: Any, clip_file: Any, part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscaling, alive = part("nodes.host.upscaling"), []
    real = upscaling._by_model

    def counted(model: Any, window: np.ndarray) -> Any:
        gc.collect()
        held = [one for one in gc.get_objects() if isinstance(one, np.ndarray) and one.shape[-3:] == (32, 48, 3)]
        alive.append(sum(one.shape[0] if one.ndim == 4 else 1 for one in held))
        return real(model, window)

    monkeypatch.setattr(upscaling, "_by_model", counted)
    call("DummyForcingUpscaleVideo", video=given(clip_file(40)), upscale_model=upscaler, window=4)
    assert len(alive) == 10 and max(alive) <= 16


def test_cancel_keeps_what_was_made(call: Any, upscaler: Any, clip_file: Any, part: Any, base: Path) -> None:
    import comfy.model_management as management

    upscaling = part("nodes.host.upscaling")
    real, count = upscaling._by_model, 0
    with pytest.MonkeyPatch.context() as patch:

        def cancelled(model: Any, window: np.ndarray) -> Any:
            nonlocal count
            count += 1
            if count == 3:
                management.interrupt_current_processing()
            return real(model, window)

        patch.setattr(upscaling, "_by_model", cancelled)
        with pytest.raises(management.InterruptProcessingException):
            call(
                "DummyForcingUpscaleVideo",
                video=given(clip_file(40)), upscale_model=upscaler, window=4, filename_prefix="video/cut",
            )  # fmt: skip
    (part_file,) = (base / "output" / "video").glob("cut_*.part.mp4")
    assert len(frames(part_file)) == 12
    again = call(
        "DummyForcingUpscaleVideo", video=given(clip_file(4)), upscale_model=upscaler, filename_prefix="video/cut"
    )
    assert len(frames(source(again))) == 4


def test_what_is_no_video_is_one_line(call: Any, upscaler: Any, clip_file: Any, refused: Any, tmp_path: Path) -> None:
    from comfy_api.latest import InputImpl

    gone = given(clip_file(3))
    Path(gone.get_stream_source()).unlink()
    refused(lambda: call("DummyForcingUpscaleVideo", video=gone, upscale_model=upscaler), "cannot read")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    broken = InputImpl.VideoFromFile(str(text))
    refused(lambda: call("DummyForcingUpscaleVideo", video=broken, upscale_model=upscaler), "cannot read")


def test_a_sound_is_laid_under_and_nothing_of_the_picture_changes(
    stream: Any, call: Any, ar_model: Any, tiny_vae: Any, canvas: Any
) -> None:
    clip = stream(ar_model(), latent=canvas(12), vae=tiny_vae).outputs[1][0]
    tone = torch.sin(torch.arange(44100 * 20) * 0.05)[None, None].repeat(1, 2, 1) * 0.3
    done = call("DummyForcingAddAudio", video=clip, audio={"waveform": tone, "sample_rate": 44100})
    assert packets(source(done)) == packets(clip.get_stream_source())
    seconds, loud = sound(source(done))
    assert abs(seconds - 45 / 16) < 0.06 and loud > 0.1, "cut to the clip's length"
    with av.open(source(done)) as ours, av.open(clip.get_stream_source()) as theirs:
        assert {**theirs.metadata}.items() <= {**ours.metadata}.items(), "the workflow stays in it"


def packets(path: Any) -> list[tuple[bytes, Any]]:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        return [(bytes(one), one.pts * one.time_base) for one in container.demux(video) if one.size]


@pytest.mark.parametrize("channels, seconds", [(1, 0.3), (2, 3.0), (6, 1.0)])
def test_sounds_of_any_length_and_shape(call: Any, clip_file: Any, channels: int, seconds: float) -> None:
    audio = {"waveform": torch.rand(1, channels, int(22050 * seconds)) - 0.5, "sample_rate": 22050}
    done = call("DummyForcingAddAudio", video=given(clip_file(16)), audio=audio)
    assert len(frames(source(done))) == 16
    assert abs(sound(source(done))[0] - min(seconds, 1.0)) < 0.1


def test_a_sound_again_takes_the_place_of_the_first(call: Any, clip_file: Any) -> None:
    audio = {"waveform": torch.rand(1, 1, 8000), "sample_rate": 8000}
    done = call("DummyForcingAddAudio", video=given(clip_file(16, sound=True)), audio=audio)
    with av.open(source(done)) as container:
        assert len(container.streams.audio) == 1 and container.streams.audio[0].rate == 8000


@pytest.mark.parametrize(
    "audio",
    [None, 3, {}, {"waveform": None, "sample_rate": 1}, {"waveform": torch.zeros(1, 2, 0), "sample_rate": 44100}],
)
def test_what_is_no_audio_is_one_line(call: Any, clip_file: Any, refused: Any, audio: Any) -> None:
    refused(lambda: call("DummyForcingAddAudio", video=given(clip_file(3)), audio=audio), "expected AUDIO")


@pytest.mark.parametrize("shape, rate, said", [((1, 9, 80), 44100, "1, 2 or 6 channels"), ((1, 1, 80), 10**7, "up to")])
def test_a_sound_that_no_file_holds_is_one_line(
    call: Any, clip_file: Any, refused: Any, outputs: Any, shape: Any, rate: int, said: str
) -> None:
    before, audio = outputs(), {"waveform": torch.zeros(shape), "sample_rate": rate}
    refused(lambda: call("DummyForcingAddAudio", video=given(clip_file(3)), audio=audio), said)
    assert outputs() == before
