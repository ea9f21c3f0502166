"""Upscale Video, Interpolate Video and Add Audio to Video: every frame once, in windows that change nothing."""

from __future__ import annotations

import io
import itertools
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import comfy.model_management
import comfy.utils
import numpy as np
import pytest
import torch
from stock_nodes import known, stock_nodes
from tiny_models import INTERPOLATOR, UPSCALER, write_interpolator, write_upscaler

Interrupted = comfy.model_management.InterruptProcessingException
WIDTH, HEIGHT, FRAMES = 64, 48, 21  # RIFE pads by reflection, to 64: it takes no less than half of that

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def upscaler(call: Any, base: Path) -> Any:
    """An UPSCALE_MODEL of 2x, from the stock loader."""
    pytest.importorskip("spandrel", reason="the host has no spandrel, which loads upscale models")
    write_upscaler(base / "models" / "upscale_models" / UPSCALER)
    return call("UpscaleModelLoader", model_name=UPSCALER).outputs[0]


@pytest.fixture(scope="module")
def interpolator(call: Any, base: Path) -> Any:
    known("FrameInterpolationModelLoader")
    write_interpolator(base / "models" / "frame_interpolation" / INTERPOLATOR)
    return call("FrameInterpolationModelLoader", model_name=INTERPOLATOR).outputs[0]


def moving(frames: int = FRAMES, width: int = WIDTH, height: int = HEIGHT) -> torch.Tensor:
    """Frames (f, h, w, 3) in [0, 1] of a bright bar that moves two pixels a frame over a gradient."""
    images = torch.linspace(0.1, 0.5, width)[None, None, :, None].repeat(frames, height, 1, 3)
    for number in range(frames):
        images[number, :, (2 * number) % (width - 8) :][:, :8, :2] = 0.9
    return images


def tone(seconds: float, rate: int = 48000) -> dict[str, Any]:
    """An AUDIO with a click at half a second."""
    samples = torch.zeros(1, 2, round(seconds * rate))
    samples[..., rate // 2 : rate // 2 + 1000] = torch.sin(torch.arange(1000) * 0.13) * 0.8
    return {"waveform": samples, "sample_rate": rate}


@pytest.fixture
def video(call: Any, base: Path, part: Any) -> Callable[..., Any]:
    """``video(frames=21, fps=16, audio=None)``: a VIDEO of a file of the given kind."""
    from comfy_api.latest import InputImpl

    writer = part("dummyforcing_core.clips.video").VideoWriter
    sounds = part("nodes.host.windows")

    def make(frames: int = FRAMES, fps: Any = 16, audio: Any = None, **size: int) -> Any:
        path = base / "output" / f"given_{next(NUMBERS)}.mp4"
        images = moving(frames, **size)
        with writer(path, images.shape[2], images.shape[1], Fraction(fps)) as file:
            file.write((images * 255).round().byte().numpy())
            file.finish(sounds.sound_of(audio))
        return InputImpl.VideoFromFile(str(path))

    return make


@pytest.fixture
def shown(part: Any) -> Callable[[Any], np.ndarray]:
    """The frames of a VIDEO's file, (f, h, w, 3) uint8."""
    read = part("dummyforcing_core.clips.video").read_frames
    return lambda video: np.stack(list(read(video.get_stream_source())))


@pytest.fixture
def written(part: Any, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """What is handed to the encoder in this test, window by window."""
    windows = part("nodes.host.windows")
    pieces: list[np.ndarray] = []

    class Writer(windows.VideoWriter):
        def write(self, frames: np.ndarray) -> None:
            pieces.append(frames.copy())
            super().write(frames)

    monkeypatch.setattr(windows, "VideoWriter", Writer)
    return pieces


def streams(video: Any) -> dict[str, float]:
    """Seconds of each stream of a VIDEO's file, by its kind."""
    with av.open(video.get_stream_source()) as container:
        return {one.type: float(one.duration * one.time_base) for one in container.streams}


# ---- upscaling


def test_it_is_the_stock_nodes_picture_frame_by_frame(call: Any, video: Any, upscaler: Any, shown: Any) -> None:
    given = video(fps="24000/1001")
    done = call("DummyForcingUpscaleVideo", video=given, upscale_model=upscaler, crf=2)
    parts = call("GetVideoComponents", video=given).outputs
    wanted = call("ImageUpscaleWithModel", upscale_model=upscaler, image=parts[0]).outputs[0].numpy() * 255
    got = shown(done.outputs[0]).astype(np.float32)
    assert got.shape == wanted.shape == (FRAMES, 2 * HEIGHT, 2 * WIDTH, 3)
    apart = np.abs(got - wanted).mean(axis=(1, 2, 3))
    assert apart.max() < 4 and np.abs(got[1:] - wanted[:-1]).mean(axis=(1, 2, 3)).min() > 2 * apart.max()
    assert done.outputs[0].get_frame_rate() == Fraction(24000, 1001)
    (file,) = done.ui["images"]
    assert file["filename"] in done.outputs[0].get_stream_source() and file["subfolder"] == "video"


@pytest.mark.parametrize("window", [1, 2, 20, 21, 22, 1000])
def test_windows_change_no_byte(call: Any, video: Any, upscaler: Any, window: int) -> None:
    given = video()
    files = [
        Path(call("DummyForcingUpscaleVideo", video=given, upscale_model=upscaler, window=one).outputs[0]
             .get_stream_source()).read_bytes()
        for one in (8, window)
    ]  # fmt: skip
    assert len(files[0]) > 1000 and files[0] == files[1]


def test_memory_does_not_grow_with_the_length(
    call: Any, video: Any, upscaler: Any, part: Any, monkeypatch: Any
) -> None:
    """What lives when a window is made, and when it is written, is counted, read and made, and so are bytes."""
    windows, node = part("nodes.host.windows"), part("nodes.upscale")
    alive, making, held, writing = weakref.WeakSet(), [], [], windows.VideoWriter.write
    reading, working = node.frames_of, node.upscaling

    def noted(frame: Any) -> Any:
        alive.add(Kept(frame))
        return frame

    class Kept:
        """Lives as long as the frame that it stands for, whose kind compares by value."""

        def __init__(self, frame: Any) -> None:
            weakref.finalize(frame, lambda one=self: alive.discard(one))

    def counted(self: Any, frames: np.ndarray) -> None:
        held.append(len(alive))
        writing(self, frames)

    def watched(*given: Any) -> Any:
        work = working(*given)

        def make(frames: torch.Tensor) -> torch.Tensor:
            noted(frames)
            making.append(len(alive))
            return noted(work.make(frames))

        return replace(work, make=make)

    monkeypatch.setattr(windows.VideoWriter, "write", counted)

    def read(given: Any) -> Any:
        frames = reading(given)
        return replace(frames, frames=lambda: map(noted, frames.frames()))

    monkeypatch.setattr(node, "frames_of", read)
    monkeypatch.setattr(node, "upscaling", watched)
    seen, grown = [], []
    for frames in (40, 400):
        given, before = video(frames, width=128, height=96), resident()
        held.clear()
        making.clear()
        call("DummyForcingUpscaleVideo", video=given, upscale_model=upscaler, window=4)
        grown.append(resident() - before)
        seen.append((max(making), max(held)))
        assert len(held) == len(making) == frames // 4
    assert seen[0] == seen[1] == (1, 2), "a window, and what is made of it: none of those before, no frame twice"
    assert grown[1] < 400 * (2 * 128) * (2 * 96) * 3, "the upscaled clip lies in memory"


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096


@pytest.mark.parametrize(("side", "size"), [(0, (128, 96)), (48, (64, 48)), (150, (200, 150)), (31, (42, 32))])
def test_the_shorter_side(call: Any, video: Any, upscaler: Any, shown: Any, side: int, size: tuple) -> None:
    done = call("DummyForcingUpscaleVideo", video=video(3), upscale_model=upscaler, shorter_side=side).outputs[0]
    assert done.get_dimensions() == size
    frame = shown(done)[0]
    assert (
        200 < frame[:, : size[0] // 8, 0].mean() < 240 and frame[:, -size[0] // 4 :, 0].mean() < 140
    )  # the bar's place


def test_odd_sides_lose_their_last_line(call: Any, upscaler: Any, base: Path, shown: Any, tmp_path: Path) -> None:
    from comfy_api.latest import InputImpl

    scale_1 = write_upscaler(base / "models" / "upscale_models" / "tiny_1x.safetensors", scale=1)
    same = call("UpscaleModelLoader", model_name=scale_1.name).outputs[0]
    path = tmp_path / "odd.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=16)
        stream.width, stream.height, stream.pix_fmt = 33, 21, "bgr0"
        for frame in (moving(5, 33, 21) * 255).byte().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    for model, size in ((same, (32, 20)), (upscaler, (66, 42))):
        done = call("DummyForcingUpscaleVideo", video=InputImpl.VideoFromFile(str(path)), upscale_model=model)
        assert done.outputs[0].get_dimensions() == size and len(shown(done.outputs[0])) == 5


def test_a_phones_video_is_upright_as_the_host_has_it(call: Any, video: Any, upscaler: Any, shown: Any) -> None:
    given = video(3)
    path = Path(given.get_stream_source())
    data = path.read_bytes()
    matrix = data.index(b"tkhd") + 44
    quarter = [0, 1 << 16, 0, (1 << 32) - (1 << 16), 0, 0, 0, 0, 1 << 30]
    turned = b"".join(value.to_bytes(4, "big") for value in quarter)
    path.write_bytes(data[:matrix] + turned + data[matrix + len(turned) :])
    wanted = call("GetVideoComponents", video=given).outputs[0].numpy() * 255
    got = shown(call("DummyForcingUpscaleVideo", video=given, upscale_model=upscaler, crf=2).outputs[0])
    assert wanted.shape == (3, WIDTH, HEIGHT, 3) and got.shape == (3, 2 * WIDTH, 2 * HEIGHT, 3)
    assert np.abs(got[:, ::2, ::2].astype(np.float32) - wanted).mean() < 8 < np.abs(wanted - wanted[:, ::-1]).mean()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_frames_in_memory(call: Any, upscaler: Any, shown: Any, channels: int) -> None:
    images = moving()[..., :1].repeat(1, 1, 1, channels)
    given = call("CreateVideo", images=images, fps=12.0, audio=tone(2)).outputs[0]
    done = call("DummyForcingUpscaleVideo", video=given, upscale_model=upscaler, window=4).outputs[0]
    assert shown(done).shape == (FRAMES, 2 * HEIGHT, 2 * WIDTH, 3) and done.get_frame_rate() == 12
    assert streams(done) == pytest.approx({"video": FRAMES / 12, "audio": FRAMES / 12}, abs=0.05)


@pytest.mark.parametrize("fps", [16, Fraction(24000, 1001)])
def test_a_slice_of_a_file_and_of_a_slice(call: Any, video: Any, upscaler: Any, shown: Any, fps: Any) -> None:
    given = video(fps=fps, audio=tone(2))
    cut = call("Video Slice", video=given, start_time=0.4, duration=0.5, strict_duration=False).outputs[0]
    deeper = call("Video Slice", video=cut, start_time=0.1, duration=0.3, strict_duration=False).outputs[0]
    late = call("Video Slice", video=given, start_time=-0.5, duration=0.0, strict_duration=False).outputs[0]
    for one in (cut, deeper, late):
        wanted = call("GetVideoComponents", video=one).outputs[0].numpy() * 255
        done = call("DummyForcingUpscaleVideo", video=one, upscale_model=upscaler, crf=2).outputs[0]
        got = shown(done)[:, ::2, ::2].astype(np.float32)
        assert got.shape == wanted.shape and len(got) < FRAMES
        assert np.abs(got - wanted).mean(axis=(1, 2, 3)).max() < 8
        assert done.get_frame_rate() == fps
        assert streams(done)["audio"] == pytest.approx(len(got) / fps, abs=0.05)


@pytest.mark.parametrize(("start", "duration"), [(0.293, 0.5), (0.3, 0.3), (0.334, 0.6), (-0.5, 0.2), (1 / 3, 2 / 3)])
@pytest.mark.parametrize("name", ["ntsc.mkv", "film.webm", "old.avi"])
def test_a_slice_has_the_frames_that_the_hosts_nodes_see(
    part: Any, tmp_path: Path, name: str, start: float, duration: float
) -> None:
    """Ticks of a millisecond or of a whole frame: where a slice begins and ends is a matter of the last digit."""
    from comfy_api.latest import InputImpl

    rate, codec = {"ntsc.mkv": (Fraction(24000, 1001), "libx264"), "film.webm": (Fraction(16), "libvpx-vp9"),
                   "old.avi": (Fraction(10), "mpeg4")}[name]  # fmt: skip
    with av.open(str(tmp_path / name), "w") as file:
        stream = file.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(48):
            grey = np.full((HEIGHT, WIDTH, 3), 5 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        file.mux(stream.encode(None))
    cut = InputImpl.VideoFromFile(str(tmp_path / name), start_time=start, duration=duration)
    wanted = cut.get_components().images[:, HEIGHT // 2, WIDTH // 2, 0]
    got = torch.stack(list(part("nodes.host.windows").frames_of(cut).frames()))[:, HEIGHT // 2, WIDTH // 2, 0]
    assert 0 < len(wanted) < 30
    torch.testing.assert_close(got, wanted, rtol=0, atol=0.01)


def test_a_slice_of_frames_in_memory(call: Any, upscaler: Any, shown: Any) -> None:
    given = call("CreateVideo", images=moving(), fps=16.0).outputs[0]
    cut = call("Video Slice", video=given, start_time=0.25, duration=0.5, strict_duration=True).outputs[0]
    assert isinstance(cut.get_stream_source(), io.BytesIO)
    assert len(shown(call("DummyForcingUpscaleVideo", video=cut, upscale_model=upscaler).outputs[0])) == 8


def test_its_sound_is_copied(call: Any, video: Any, upscaler: Any) -> None:
    given = video(audio=tone(5))
    done = call("DummyForcingUpscaleVideo", video=given, upscale_model=upscaler).outputs[0]

    def packets(one: Any) -> list[bytes]:
        with av.open(one.get_stream_source()) as container:
            return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]

    assert packets(done) == packets(given) and len(packets(done)) > 50
    assert streams(done) == pytest.approx(streams(given), abs=0.03)


def test_av1_in_and_out(call: Any, video: Any, upscaler: Any, shown: Any) -> None:
    first = call("DummyForcingUpscaleVideo", video=video(), upscale_model=upscaler, codec="av1", crf=20).outputs[0]
    second = call("DummyForcingUpscaleVideo", video=first, upscale_model=upscaler, codec="av1", crf=20).outputs[0]
    assert shown(second).shape == (FRAMES, 4 * HEIGHT, 4 * WIDTH, 3)
    with av.open(second.get_stream_source()) as container:
        assert container.streams.video[0].codec.canonical_name == "av1"


def test_one_frame(call: Any, video: Any, upscaler: Any, interpolator: Any, shown: Any) -> None:
    given = video(1)
    assert len(shown(call("DummyForcingUpscaleVideo", video=given, upscale_model=upscaler).outputs[0])) == 1
    assert len(shown(call("DummyForcingInterpolateVideo", video=given, interp_model=interpolator).outputs[0])) == 1


def test_twice_in_a_row_makes_two_files_and_none_is_replaced(
    call: Any, video: Any, upscaler: Any, outputs: Any
) -> None:
    before = outputs()
    given = video(4)
    made = [
        call("DummyForcingUpscaleVideo", video=given, upscale_model=upscaler, filename_prefix="twice/a").outputs[0]
        for _ in range(2)
    ]
    new = {name for name in outputs() - before if name.startswith("twice/")}
    assert new == {"twice/a_00001_.mp4", "twice/a_00002_.mp4"}
    files = [Path(one.get_stream_source()).read_bytes() for one in made]
    assert files[0] == files[1]


def test_the_workflow_is_in_the_file(call: Any, video: Any, upscaler: Any) -> None:
    prompt = {"1": {"class_type": "X", "inputs": {}}}
    for node, inputs in (
        ("DummyForcingUpscaleVideo", {"upscale_model": upscaler}), ("DummyForcingAddAudio", {"audio": tone(1)})
    ):  # fmt: skip
        done = call(node, video=video(3), prompt=prompt, **inputs).outputs[0]
        with av.open(done.get_stream_source()) as container:
            assert json.loads(container.metadata["prompt"]) == prompt


# ---- progress, cancel, errors


def test_the_bar_counts_frames_and_the_hosts_own_bars_do_not_show(
    call: Any, video: Any, upscaler: Any, interpolator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for node, model in (
        ("DummyForcingUpscaleVideo", {"upscale_model": upscaler}),
        ("DummyForcingInterpolateVideo", {"interp_model": interpolator}),
    ):
        seen: list[tuple[int, int]] = []

        def hook(value: int, total: int, *rest: Any, seen: Any = seen, **more: Any) -> None:
            seen.append((value, total))

        monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
        call(node, video=video(), window=4, **model)
        assert hook is comfy.utils.PROGRESS_BAR_HOOK
        assert {total for _, total in seen} == {FRAMES} and seen[-1] == (FRAMES, FRAMES)
        assert [value for value, _ in seen] == sorted(value for value, _ in seen) and len(seen) >= 3


@pytest.mark.parametrize("call_number", [1, 7])
def test_cancel_keeps_what_plays_and_says_where(
    call: Any, video: Any, upscaler: Any, shown: Any, outputs: Any, caplog: Any, base: Path, call_number: int
) -> None:
    given, before, calls = video(), outputs(), []

    def press(*_: Any) -> None:
        calls.append(None)
        if len(calls) == call_number:
            comfy.model_management.interrupt_current_processing()

    handle = next(iter(upscaler.model.modules())).register_forward_hook(press)
    hook = comfy.utils.PROGRESS_BAR_HOOK
    try:
        with pytest.raises(Interrupted):
            call("DummyForcingUpscaleVideo", video=given, upscale_model=upscaler, window=3)
    finally:
        handle.remove()
    assert len(calls) == call_number and comfy.utils.PROGRESS_BAR_HOOK is hook
    assert not any(module._forward_pre_hooks for module in upscaler.model.modules())
    left = outputs() - before
    if call_number == 1:
        assert left == set()
    else:
        (name,) = left
        assert name.endswith(".part.mp4") and "what was made plays" in caplog.text and Path(name).name in caplog.text
        assert len(shown(SimpleNamespace(get_stream_source=lambda: base / "output" / name))) == 6
    assert len(shown(call("DummyForcingUpscaleVideo", video=given, upscale_model=upscaler).outputs[0])) == FRAMES


def test_what_cannot_be_read_or_written_is_one_line(
    call: Any, video: Any, upscaler: Any, interpolator: Any, refused: Any, tmp_path: Path, outputs: Any
) -> None:
    from comfy_api.latest import InputImpl

    gone = video(3)
    Path(gone.get_stream_source()).unlink()
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    fine = video(3)
    late = call("Video Slice", video=fine, start_time=50.0, duration=0.0, strict_duration=False).outputs[0]
    before = outputs()
    for wrong, words in (
        (gone, "no such file"), (InputImpl.VideoFromFile(str(text)), "Invalid data"),
        (InputImpl.VideoFromFile(str(sound)), "no video in it"), (late, "no frames in it from 50 s on"),
    ):  # fmt: skip
        for node, inputs in (
            ("DummyForcingUpscaleVideo", {"upscale_model": upscaler}),
            ("DummyForcingInterpolateVideo", {"interp_model": interpolator}),
            ("DummyForcingAddAudio", {"audio": tone(1)}),
        ):
            refused(lambda node=node, wrong=wrong, inputs=inputs: call(node, video=wrong, **inputs), words)
    upscale = {"video": fine, "upscale_model": upscaler}
    for inputs, words in (
        ({"filename_prefix": "x" * 300}, "filename_prefix"), ({"crf": 60}, "crf"),
        ({"codec": "av1", "shorter_side": 8}, "at least 32 pixels"), ({"window": 0}, "window of at least 1"),
    ):  # fmt: skip
        refused(lambda inputs=inputs: call("DummyForcingUpscaleVideo", **upscale, **inputs), words)
    assert outputs() == before


def test_a_model_that_makes_no_numbers_is_told(call: Any, video: Any, upscaler: Any, refused: Any) -> None:
    handle = upscaler.model.register_forward_hook(lambda module, given, made: made * float("nan"))
    try:
        refused(
            lambda: call("DummyForcingUpscaleVideo", video=video(3), upscale_model=upscaler), "NaN", "another model"
        )
    finally:
        handle.remove()


def test_a_full_disk_in_the_middle_keeps_what_plays(
    call: Any, video: Any, upscaler: Any, refused: Any, part: Any, monkeypatch: pytest.MonkeyPatch, outputs: Any
) -> None:
    import errno

    writer = part("dummyforcing_core.clips.video").VideoWriter
    real, calls = writer._write_bytes, []

    def full(self: Any, data: bytes) -> None:
        calls.append(len(data))
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, data)

    given, before = video(), outputs()
    monkeypatch.setattr(writer, "_write_bytes", full)
    refused(lambda: call("DummyForcingUpscaleVideo", video=given, upscale_model=upscaler), "the disk is full")
    (left,) = outputs() - before
    assert left.endswith(".part.mp4")


# ---- interpolation


@pytest.mark.parametrize(("window", "multiplier"), [(1, 2), (4, 2), (7, 3), (20, 4), (100, 2)])
def test_windows_give_the_frames_of_a_whole_run(
    call: Any, video: Any, interpolator: Any, part: Any, written: list, window: int, multiplier: int
) -> None:
    given = video()
    done = call(
        "DummyForcingInterpolateVideo", video=given, interp_model=interpolator, multiplier=multiplier, window=window
    ).outputs[0]
    frames = torch.stack(list(part("nodes.host.windows").frames_of(given).frames()))
    whole = call("FrameInterpolate", interp_model=interpolator, images=frames, multiplier=multiplier).outputs[0]
    wanted = (whole * 255).round().byte().numpy()
    got = np.concatenate(written)
    assert got.shape == wanted.shape == ((FRAMES - 1) * multiplier + 1, HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(got, wanted)
    between = wanted[1::multiplier].astype(int) - wanted[:-1:multiplier]
    assert np.abs(between).mean() > 0.05  # frames in between are no copies
    assert done.get_frame_rate() == 16 * multiplier


def test_interpolation_keeps_the_sound_and_refuses_what_no_video_shows(
    call: Any, video: Any, interpolator: Any, refused: Any
) -> None:
    given = video(fps="24000/1001", audio=tone(2))
    done = call("DummyForcingInterpolateVideo", video=given, interp_model=interpolator, multiplier=2).outputs[0]
    assert done.get_frame_rate() == Fraction(48000, 1001)
    assert streams(done)["audio"] == pytest.approx(streams(done)["video"], abs=0.05)
    refused(
        lambda: call("DummyForcingInterpolateVideo", video=given, interp_model=interpolator, multiplier=16),
        "at most 240", "smaller multiplier",
    )  # fmt: skip


# ---- sound


def test_no_stock_node_lays_sound_under_a_file() -> None:
    """Where one does, Add Audio to Video may go, and the help pages say how."""
    takes_both = set(stock_nodes("VIDEO", "VIDEO")) & set(stock_nodes("AUDIO", "VIDEO"))
    assert takes_both == set()
    assert set(stock_nodes("AUDIO", "VIDEO")) <= {"CreateVideo"}  # of images, all of them in memory


def test_sound_is_laid_under_a_file_and_no_frame_is_decoded(
    call: Any, video: Any, shown: Any, part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = video(40)
    source = part("dummyforcing_core.clips.given_video").GivenVideo
    decoded: list[Any] = []
    real = source._decoded

    def counted(self: Any, container: Any) -> Any:
        for frame in real(self, container):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(source, "_decoded", counted)
    monkeypatch.setattr(type(given), "get_components", None)
    done = call("DummyForcingAddAudio", video=given, audio=tone(7)).outputs[0]
    assert len(decoded) <= 1
    np.testing.assert_array_equal(shown(done), shown(given))
    assert streams(done) == pytest.approx({"video": 2.5, "audio": 2.5}, abs=0.05)
    assert done.get_frame_rate() == 16 and done.get_frame_count() == 40


def test_the_hosts_nodes_hear_it(call: Any, video: Any, tmp_path: Path) -> None:
    done = call("DummyForcingAddAudio", video=video(32), audio=tone(1)).outputs[0]
    audio = call("GetVideoComponents", video=done).outputs[1]
    loud = (audio["waveform"][0, 0].abs() > 0.3).nonzero()
    assert audio["sample_rate"] == 48000
    assert float(loud[0] / 48000) == pytest.approx(0.5, abs=0.03) and float(loud[-1] / 48000) < 0.6
    done.save_to(str(tmp_path / "saved.mp4"))  # as Save Video does
    with av.open(str(tmp_path / "saved.mp4")) as container:
        assert [one.type for one in container.streams] == ["video", "audio"]


@pytest.mark.parametrize("kind", ["slice", "memory", "vp8"])
def test_what_cannot_be_copied_is_encoded(call: Any, video: Any, shown: Any, kind: str, tmp_path: Path) -> None:
    from comfy_api.latest import InputImpl

    if kind == "slice":
        given = call("Video Slice", video=video(), start_time=0.25, duration=0.5, strict_duration=True).outputs[0]
    elif kind == "memory":
        given = call("CreateVideo", images=moving(8), fps=16.0).outputs[0]
    else:
        path = tmp_path / "clip.webm"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libvpx", rate=16)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for frame in (moving(8) * 255).byte().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        given = InputImpl.VideoFromFile(str(path))
    done = call("DummyForcingAddAudio", video=given, audio=tone(3)).outputs[0]
    assert shown(done).shape == (8, HEIGHT, WIDTH, 3)
    assert streams(done) == pytest.approx({"video": 0.5, "audio": 0.5}, abs=0.05)


@pytest.mark.parametrize(("shape", "words"), [((1, 2, 0), "got none"), ((1, 3, 100), "mix it down"), ((2, 9), "batch")])
def test_audio_that_is_none_is_told(
    call: Any, video: Any, refused: Any, outputs: Any, shape: tuple, words: str
) -> None:
    given, before = video(3), outputs()
    audio = {"waveform": torch.zeros(shape), "sample_rate": 44100}
    refused(lambda: call("DummyForcingAddAudio", video=given, audio=audio), words)
    assert outputs() == before
