"""A video that was given: every frame of it, upright, at its own rate, whatever made it; and what cannot be one."""

import io
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dummyforcing_core.clips.given_video import GivenVideo
from dummyforcing_core.clips.video import VideoWriter
from dummyforcing_core.errors import OutputError

av = pytest.importorskip("av")

WIDTH, HEIGHT, FRAMES = 64, 48, 20


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A frame that tells its number by its brightness, and by its top left corner which way up it is."""
    frame = np.full((height, width, 3), 10 * number + 20, np.uint8)
    frame[: height // 2, : width // 2] = 250
    return frame


def number_of(frame: np.ndarray) -> int:
    return round((float(frame[-frame.shape[0] // 4, -frame.shape[1] // 4].mean()) - 20) / 10)


def make(
    path: Path,
    times: Any = None,
    rate: Fraction = Fraction(16),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    **options: str,
) -> Path:
    """A video of FRAMES numbered frames; `times`: of its frames, in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.options = {"preset": "8"} if "av1" in codec else options
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(FRAMES if times is None else len(times)):
            frame = av.VideoFrame.from_ndarray(numbered(number, *size), format="rgb24").reformat(format=pixels)
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn(path: Path) -> Path:
    """Says in the file that it was filmed lying on its side, as phones do: a quarter clockwise."""
    data = path.read_bytes()
    matrix = data.index(b"tkhd") + 44
    one, down = 0x10000, (1 << 32) - 0x10000
    values = [0, one, 0, down, 0, 0, 0, 0, 0x40000000]
    path.write_bytes(data[:matrix] + b"".join(v.to_bytes(4, "big") for v in values) + data[matrix + 36 :])
    return path


@pytest.mark.parametrize("rate", ["16", "24000/1001", "30000/1001", "12.5", "25", "60"])
def test_every_frame_once_at_the_rate_of_the_file(tmp_path, rate):
    video = GivenVideo(make(tmp_path / "clip.mp4", rate=Fraction(rate)))
    assert (video.fps, video.size, video.count, video.sound) == (Fraction(rate), (WIDTH, HEIGHT), FRAMES, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [number_of(frame) for frame in video.frames()] == [*range(FRAMES)]
        assert len(list(video.frames())) == FRAMES  # anew


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("b-frames.mkv", "libx264", "yuv420p"), ("clip.mp4", "libsvtav1", "yuv420p"),
        ("ten.mp4", "libx264", "yuv420p10le"), ("alpha.webm", "libvpx-vp9", "yuva420p"), ("grey.mkv", "ffv1", "gray"),
        ("still.avi", "mjpeg", "yuvj420p"), ("clip.mov", "prores_ks", "yuv422p10le"), ("clip.ts", "libx264", "yuv420p"),
        ("rgb.mkv", "libx264rgb", "rgb24"),
    ],
)  # fmt: skip
def test_codecs_containers_and_kinds_of_pixels(tmp_path, name, codec, pixels):
    video = GivenVideo(make(tmp_path / name, codec=codec, pixels=pixels, rate=Fraction(25)))
    frames = list(video.frames())
    assert [number_of(frame) for frame in frames] == [*range(FRAMES)]
    assert frames[0].shape == (HEIGHT, WIDTH, 3) and frames[0].dtype == np.uint8 and video.fps == 25
    assert abs(video.count - FRAMES) <= 2


def test_a_gif(tmp_path):
    video = GivenVideo(make(tmp_path / "a.gif", codec="gif", pixels="rgb8", rate=Fraction(25)))
    means = [float(frame[-HEIGHT // 3 :, -WIDTH // 3 :].mean()) for frame in video.frames()]
    assert video.fps == 25 and means == pytest.approx([10 * number + 20 for number in range(FRAMES)], abs=20)


@pytest.mark.parametrize(("start", "seconds", "first", "last"), [(0.5, 0, 8, 19), (0.5, 0.25, 8, 11), (0, 0.25, 0, 3)])
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_stretch(tmp_path, start, seconds, first, last, in_memory):
    path = make(tmp_path / "clip.mp4")
    video = GivenVideo(io.BytesIO(path.read_bytes()) if in_memory else path, start, seconds)
    assert [number_of(frame) for frame in video.frames()] == [*range(first, last + 1)]
    assert video.count == last - first + 1


def test_odd_sides_and_one_frame(tmp_path):
    video = GivenVideo(make(tmp_path / "clip.mkv", [0], codec="ffv1", pixels="bgr0", size=(33, 21)))
    (frame,) = video.frames()
    assert video.size == (33, 21) and frame.shape == (21, 33, 3) and video.count == 1


def test_a_phones_video_stands_upright(tmp_path):
    flat = next(GivenVideo(make(tmp_path / "clip.mp4")).frames())
    video = GivenVideo(turn(tmp_path / "clip.mp4"))
    frame = next(video.frames())
    assert video.size == (HEIGHT, WIDTH) and frame.shape == (WIDTH, HEIGHT, 3)
    np.testing.assert_array_equal(frame, np.rot90(flat, -1))  # its corner is at the top right


def test_what_is_left_of_a_cancelled_run(tmp_path):
    writer = VideoWriter(tmp_path / "clip.part.mp4", WIDTH, HEIGHT, Fraction(24000, 1001))
    for number in range(FRAMES):
        writer.write(numbered(number)[None])
    writer.close()
    video = GivenVideo(tmp_path / "clip.part.mp4")
    assert [number_of(frame) for frame in video.frames()] == [*range(FRAMES)]
    assert video.fps == Fraction(24000, 1001) and video.count >= 1


def test_uneven_times_are_told(tmp_path):
    times = [*range(0, 400, 40), *range(1400, 1800, 40)]
    video = GivenVideo(make(tmp_path / "clip.mkv", times))
    with pytest.warns(UserWarning, match="come at uneven times"):
        assert len(list(video.frames())) == FRAMES
    assert 10 <= video.fps <= 25


def test_times_in_whole_milliseconds_are_even_enough(tmp_path):
    rate = Fraction(24000, 1001)
    video = GivenVideo(make(tmp_path / "clip.mkv", [round(1000 * number / rate) for number in range(FRAMES)], rate))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(video.frames())) == FRAMES
    assert video.fps == rate


def test_hdr_is_told(tmp_path):
    path = make(tmp_path / "clip.mp4", pixels="yuv420p10le", **{"x264-params": "transfer=smpte2084"})
    with pytest.warns(UserWarning, match=r"HDR \(PQ\)"):
        list(GivenVideo(path).frames())


def test_what_is_no_video_is_one_line(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (tmp_path / "text.mp4").write_text("no video")
    clip = make(tmp_path / "clip.mp4")
    for source, seconds, words in (
        (tmp_path / "sound.mp4", (), "no video in it"),
        (tmp_path / "text.mp4", (), "Invalid data"),
        (tmp_path / "gone.mp4", (), "no such file"),
        (tmp_path, (), "folder"),
        (io.BytesIO(b"nothing"), (), "video in memory"),
        (clip, (5.0,), "no frames in it from 5 s on"),
        (clip, (5.0, 1.0), "no frames in it from 5 to 6 s"),
    ):
        with pytest.raises(OutputError) as caught:
            GivenVideo(source, *seconds)
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_ends_in_the_middle_gives_what_is_there_and_then_an_error_or_its_end(tmp_path):
    path = make(tmp_path / "clip.ts", g="4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    seen = []
    try:
        for frame in GivenVideo(path).frames():
            seen.append(number_of(frame))
    except OutputError:
        pass
    assert seen == [*range(len(seen))] and 0 < len(seen) < FRAMES


def test_a_file_that_vanishes_before_it_is_read(tmp_path):
    video = GivenVideo(make(tmp_path / "clip.mp4"))
    (tmp_path / "clip.mp4").unlink()
    with pytest.raises(OutputError, match="no such file"):
        list(video.frames())


def test_a_size_that_changes_is_told(tmp_path):
    parts = [make(tmp_path / f"{size[0]}.ts", size=size).read_bytes() for size in ((64, 48), (96, 64))]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    video = GivenVideo(tmp_path / "both.ts")
    with pytest.raises(OutputError, match=r"expected frames of 64x48 throughout .*, got 96x64 after 20"):
        list(video.frames())
