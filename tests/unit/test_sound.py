"""Sound under a video: copied or encoded, heard at the right moment, as long as the video, and never its loss."""

import io
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dummyforcing_core.clips import mp4
from dummyforcing_core.clips.given_video import GivenVideo
from dummyforcing_core.clips.mp4 import lay_under
from dummyforcing_core.clips.sound import Samples, TrackOfFile
from dummyforcing_core.clips.video import VideoWriter, opened, read_frames
from dummyforcing_core.errors import OutputError

from .test_finished_video import boxes
from .test_given_video import FRAMES, make, number_of, numbered, turn
from .test_video import moving_square

av = pytest.importorskip("av")

RATE = 48000
CLICK_S = 0.03


def clicks(seconds: float, times: list[float], rate: int = RATE, channels: int = 2) -> np.ndarray:
    """Silence with a tone of CLICK_S at each of these times."""
    samples = np.zeros((channels, round(seconds * rate)), np.float32)
    for time in times:
        tone = np.sin(2 * np.pi * 1000 * np.arange(round(CLICK_S * rate)) / rate) * 0.8
        samples[:, round(time * rate) :][:, : len(tone)] = tone[: samples.shape[1] - round(time * rate)]
    return samples


def heard(path: Any) -> tuple[np.ndarray, int]:
    """What a player plays of a file's sound, (samples,) of the first channel from time 0 on, and its rate."""
    with av.open(path if isinstance(path, io.BytesIO) else str(path)) as container:
        track = container.streams.audio[0]
        frames = list(container.decode(track))
        rate = track.codec_context.sample_rate
    length = max(round(float(frame.pts * frame.time_base) * rate) + frame.samples for frame in frames)
    samples = np.zeros(length, np.float32)
    for frame in frames:
        start = round(float(frame.pts * frame.time_base) * rate)
        data = frame.to_ndarray()[0].astype(np.float32)
        data = data if frame.format.name.startswith("flt") else data / 32768
        data = data[: frame.samples] if frame.format.is_planar else data[:: len(frame.layout.channels)]
        samples[max(0, start) : start + frame.samples] = data[max(0, -start) :]
    return samples, rate


def onsets(samples: np.ndarray, rate: int) -> list[float]:
    """When tones begin."""
    loud = np.abs(samples) > 0.2
    edges = np.flatnonzero(loud)
    return [float(edge / rate) for i, edge in enumerate(edges) if i == 0 or edge - edges[i - 1] > CLICK_S * rate]


def with_track(path: Path, codec: str = "aac", seconds: float = 2.0, times: tuple[float, ...] = (0.25, 1.25)) -> Path:
    """A video of 32 frames at 16 per second with clicks under it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        track = container.add_stream(codec, rate=RATE, layout="stereo")
        for number in range(32):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number % 20), format="rgb24")))
        container.mux(stream.encode(None))
        for packet in Samples(clicks(seconds, list(times)), RATE)._packets(track, Fraction(seconds)):
            container.mux(packet)
    return path


def written(path: Path, frames: int, sound: Any, rate: Fraction = Fraction(16)) -> Path:
    with VideoWriter(path, 64, 48, rate, metadata={"title": "t"}) as writer:
        writer.write(moving_square(frames))
        writer.finish(sound)
    return path


def ends(path: Path) -> tuple[float, float]:
    """Seconds of the video and of its sound."""
    with av.open(str(path)) as container:
        streams = container.streams.video[0], container.streams.audio[0]
        return tuple(float(one.duration * one.time_base) for one in streams)


@pytest.mark.parametrize("rate", [8000, 22000, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_samples_are_heard_when_they_should_be(tmp_path, rate, channels):
    samples = clicks(2, [0.5, 1.5], rate, channels)
    path = written(tmp_path / "clip.mp4", 32, Samples(samples, rate))
    assert onsets(*heard(path)) == pytest.approx([0.5, 1.5], abs=0.004)
    assert ends(path) == pytest.approx((2, 2), abs=0.05)
    with av.open(str(path)) as container:
        assert len(container.streams.audio[0].layout.channels) == channels
    assert boxes(path).index("moov") < boxes(path).index("mdat")


@pytest.mark.parametrize("seconds", [0.3, 5.0])
def test_a_sound_is_cut_or_goes_on_in_silence(tmp_path, seconds):
    path = written(tmp_path / "clip.mp4", 32, Samples(clicks(seconds, [0.1]), RATE))
    assert ends(path) == pytest.approx((2, 2), abs=0.05)
    assert onsets(*heard(path)) == pytest.approx([0.1], abs=0.004)


def test_no_number_that_a_file_cannot_hold_gets_into_it(tmp_path):
    samples = clicks(2, [0.5])
    samples[:, 100], samples[:, 200], samples[:, 300] = np.nan, np.inf, 50
    found, rate = heard(written(tmp_path / "clip.mp4", 32, Samples(samples, RATE)))
    assert np.isfinite(found).all() and np.abs(found).max() < 1.5 and onsets(found[rate // 4 :], rate)


@pytest.mark.parametrize("shape", [(3, 100), (0, 100), (100,)])
def test_channels_without_a_layout_are_refused(shape):
    with pytest.raises(OutputError, match=r"expected sound \(channels, samples\) of 1, 2 or 6"):
        Samples(np.zeros(shape, np.float32), RATE)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "libopus"), ("a.mkv", "mp3"), ("a.ts", "aac")])
def test_a_track_is_copied_packet_by_packet(tmp_path, name, codec):
    source = with_track(tmp_path / name, codec)
    sound = GivenVideo(source).sound
    path = written(tmp_path / "clip.mp4", 32, sound)
    assert onsets(*heard(path)) == pytest.approx([0.25, 1.25], abs=0.03 if name.endswith("ts") else 0.005)
    with av.open(str(source)) as given, av.open(str(path)) as made:
        packets = [
            [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]
            for container in (given, made)
        ]
        assert made.streams.audio[0].codec.name == given.streams.audio[0].codec.name
    behind = packets[0][len(packets[0]) - len(packets[1]) :] if name.endswith("ts") else packets[0]
    # Of those in a .ts every packet has a header of its own, which mp4 has no place for.
    assert all(one.endswith(other) for one, other in zip(behind, packets[1], strict=False))
    assert 0 <= len(packets[0]) - len(packets[1]) <= 3


@pytest.mark.parametrize("start", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_sound_of_a_stretch_begins_with_its_first_frame(tmp_path, start, name):
    source = with_track(tmp_path / name)
    given = GivenVideo(source, start, 0.8125)
    first = number_of(next(given.frames()))
    path = written(tmp_path / "clip.mp4", 13, given.sound)
    began = first / 16
    wanted = [time - began for time in (0.25, 1.25) if began <= time < began + 0.8125]
    assert wanted and onsets(*heard(path)) == pytest.approx(wanted, abs=0.005)
    assert ends(path) == pytest.approx((0.8125, 0.8125), abs=0.03)


def test_a_video_that_is_longer_than_its_sound(tmp_path):
    source = with_track(tmp_path / "a.mp4", seconds=0.5, times=(0.25,))
    path = written(tmp_path / "clip.mp4", 32, GivenVideo(source).sound)
    assert ends(path) == pytest.approx((2, 0.5), abs=0.05)


def test_a_track_that_no_mp4_holds_costs_the_sound_alone(tmp_path):
    source = with_track(tmp_path / "a.mov", "pcm_mulaw")
    with pytest.warns(UserWarning, match="the video has no sound: it could not be taken over"):
        path = written(tmp_path / "clip.mp4", 32, GivenVideo(source).sound)
    with av.open(str(path)) as container:
        assert not container.streams.audio and container.metadata["title"] == "t"
    assert len(list(read_frames(path))) == 32 and "moof" not in boxes(path)


def test_a_source_that_is_gone_by_the_end_costs_the_sound_alone(tmp_path):
    source = with_track(tmp_path / "a.mp4")
    sound = GivenVideo(source).sound
    source.unlink()
    with pytest.warns(UserWarning, match="no sound"):
        path = written(tmp_path / "clip.mp4", 32, sound)
    assert len(list(read_frames(path))) == 32 and not list(tmp_path.glob("*.tmp"))


def test_a_long_track_fits_the_room_for_the_index(tmp_path):
    """Ten minutes of the shortest packets that a file may have."""
    seconds, channels = 600, 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = tmp_path / "clip.mp4"
        with VideoWriter(path, 32, 32, 1) as writer:
            writer.write(np.zeros((seconds, 32, 32, 3), np.uint8))
            writer.finish(Samples(np.zeros((channels, 96000), np.float32), 96000))
    assert ends(path) == pytest.approx((seconds, seconds), abs=0.1)


# ---- under a finished file


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("a.mp4", "libx264", "yuv420p"), ("a.mkv", "libx264", "yuv420p"), ("a.ts", "libx264", "yuv420p"),
     ("a.mp4", "libsvtav1", "yuv420p"), ("a.webm", "libvpx-vp9", "yuv420p")],
)  # fmt: skip
def test_the_packets_of_the_video_stay_as_they_are(tmp_path, name, codec, pixels):
    source = make(tmp_path / name, codec=codec, pixels=pixels)
    path = tmp_path / "sound.mp4"
    with opened(source) as container:
        lay_under(container, path, Samples(clicks(2, [0.5, 1.0]), RATE), {"prompt": "{}"})
    given, made = (np.stack(list(GivenVideo(one).frames())) for one in (source, path))
    np.testing.assert_array_equal(given, made)
    assert onsets(*heard(path)) == pytest.approx([0.5, 1.0], abs=0.004)
    assert ends(path) == pytest.approx((FRAMES / 16, FRAMES / 16), abs=0.05)
    video = GivenVideo(path)
    assert (video.fps, video.count, video.sound) == (16, FRAMES, TrackOfFile(path))
    with av.open(str(path)) as container:
        assert container.metadata["prompt"] == "{}"


def test_a_phones_video_stays_upright(tmp_path):
    make(tmp_path / "a.mp4")
    source = turn(tmp_path / "a.mp4")
    with opened(source) as container:
        lay_under(container, tmp_path / "b.mp4", Samples(clicks(1, []), RATE), {})
    given, made = (np.stack(list(GivenVideo(path).frames())) for path in (source, tmp_path / "b.mp4"))
    assert given.shape[1] > given.shape[2]
    np.testing.assert_array_equal(given, made)


@pytest.mark.parametrize("rate", ["24000/1001", "30000/1001", "12.5", "60"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_rate_stays_exact(tmp_path, name, rate):
    source = make(tmp_path / name, rate=Fraction(rate))
    with opened(source) as container:
        lay_under(container, tmp_path / "b.mp4", Samples(clicks(1, []), RATE), {})
    video = GivenVideo(tmp_path / "b.mp4")
    assert video.fps == Fraction(rate) and len(list(video.frames())) == FRAMES


def test_uneven_times_stay_uneven(tmp_path):
    times = [*range(0, 400, 40), *range(1400, 1800, 40)]
    source = make(tmp_path / "a.mkv", times)
    with opened(source) as container:
        lay_under(container, tmp_path / "b.mp4", Samples(clicks(3, [0.5, 1.5]), RATE), {})
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert [round(1000 * frame.time) for frame in container.decode(video=0)] == times
    assert ends(tmp_path / "b.mp4") == pytest.approx((1.8, 1.8), abs=0.06)


def test_its_own_tags_are_kept_and_its_own_sound_is_not(tmp_path):
    source = written(tmp_path / "a.mp4", 32, Samples(clicks(2, [0.2]), RATE))
    path = tmp_path / "b.mp4"
    with opened(source) as container:
        lay_under(container, path, Samples(clicks(2, [1.2]), RATE), {})
    assert onsets(*heard(path)) == pytest.approx([1.2], abs=0.004)
    with av.open(str(path)) as container:
        assert container.metadata["title"] == "t" and len(container.streams.audio) == 1


def test_a_clip_that_is_still_in_pieces(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", 64, 48)
    writer.write(moving_square(20))
    writer.close()
    with opened(tmp_path / "a.mp4") as container:
        lay_under(container, tmp_path / "b.mp4", Samples(clicks(3, [0.2]), RATE), {})
    assert ends(tmp_path / "b.mp4") == pytest.approx((1.25, 1.25), abs=0.05)
    assert len(list(read_frames(tmp_path / "b.mp4"))) == 20


def test_a_codec_that_no_mp4_holds_leaves_no_file(tmp_path):
    source = make(tmp_path / "a.webm", codec="libvpx")
    with opened(source) as container, pytest.raises(ValueError, match="vp8"):
        lay_under(container, tmp_path / "b.mp4", Samples(clicks(1, []), RATE), {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.webm"]


def test_a_full_disk_is_one_line_and_leaves_no_file(tmp_path, monkeypatch):
    import errno

    source = make(tmp_path / "a.mp4")

    def full(self, data):
        self.error = OSError(errno.ENOSPC, "No space left on device")
        return len(data)

    monkeypatch.setattr(mp4._Quiet, "write", full)
    with opened(source) as container, pytest.raises(OutputError, match=r"b\.mp4: the disk is full"):
        lay_under(container, tmp_path / "b.mp4", Samples(clicks(1, []), RATE), {})
    assert not (tmp_path / "b.mp4").exists()
