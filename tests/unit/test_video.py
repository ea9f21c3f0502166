"""The growing video file: colours, crash safety, clean failures, reproducible bytes."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dummyforcing_core.clips.video import VideoWriter, read_frames
from dummyforcing_core.errors import OutputError
from dummyforcing_core.files import write_atomic

av = pytest.importorskip("av")


def moving_square(frames: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    clip = np.zeros((frames, height, width, 3), np.uint8)
    clip[:] = (30 + 10 * seed, 60, 90)
    for i in range(frames):
        clip[i, 8:24, 2 * i % (width - 16) :][:, :16] = (220, 200, 40)
    return clip


def write_clip(path: Path, chunks: list[np.ndarray], **options) -> None:
    _, height, width, _ = chunks[0].shape
    with VideoWriter(path, width, height, **options) as writer:
        for chunk in chunks:
            writer.write(chunk)


def test_every_chunk_is_on_disk_when_write_returns_and_times_are_even(tmp_path):
    path = tmp_path / "clip.mp4"
    clip = moving_square(1 + 12 + 12 + 33)
    with VideoWriter(path, 64, 48) as writer:
        done = 0
        for count in (1, 12, 0, 12, 33):
            writer.write(clip[done : done + count])
            done += count
            shown = list(read_frames(path))
            assert len(shown) == writer.frames_written == done
    # A square moves two pixels per frame, so a swapped, repeated or lost frame would be far off.
    error = np.abs(np.stack(list(read_frames(path))).astype(int) - clip).mean(axis=(1, 2, 3))
    assert error.max() < 6
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [frame.time for frame in container.decode(video=0)]
        assert np.allclose(times, np.arange(len(clip)) / 16)
        assert float(stream.duration * stream.time_base) == pytest.approx(len(clip) / 16)


def test_first_chunk_of_one_frame_has_a_length(tmp_path):
    write_clip(tmp_path / "one.mp4", [moving_square(1)])
    with av.open(str(tmp_path / "one.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(1 / 16)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 30, 60), (255, 255, 255), (0, 0, 0)])
def test_colours_come_back_and_are_tagged_bt709(tmp_path, colour):
    path = tmp_path / "flat.mp4"
    write_clip(path, [np.full((5, 32, 32, 3), colour, np.uint8)])
    for frame in read_frames(path):
        assert np.abs(frame.astype(int) - np.array(colour)).max() <= 4
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        # The samples themselves, against the BT.709 formula: limited range, y = 16 + 219 * luma.
        luma = 16 + 219 * np.dot(colour, (0.2126, 0.7152, 0.0722)) / 255
        frame = next(container.decode(video=0))
        assert frame.format.name == "yuv420p"
        assert abs(frame.to_ndarray()[16, 16] - luma) <= 2


def test_scale_enlarges_to_hard_edges(tmp_path):
    path = tmp_path / "big.mp4"
    frames = np.zeros((2, 7, 5, 3), np.uint8)  # odd sides are fine once the scale makes them even
    frames[:, 3, 2] = 255
    write_clip(path, [frames], scale=16)
    shown = next(read_frames(path))
    assert shown.shape == (112, 80, 3)
    assert shown[50:62, 34:46].min() > 230
    assert shown[:44].max() < 25


def test_metadata_is_kept(tmp_path):
    write_clip(tmp_path / "m.mp4", [moving_square(2)], metadata={"comment": "ein roter Würfel", "title": "seed 7"})
    with av.open(str(tmp_path / "m.mp4")) as container:
        assert container.metadata["comment"] == "ein roter Würfel"
        assert container.metadata["title"] == "seed 7"


def test_same_frames_same_bytes_even_for_two_writers_at_once(tmp_path):
    chunks = [moving_square(5), moving_square(12), moving_square(12, seed=3)]
    write_clip(tmp_path / "alone.mp4", chunks)
    with VideoWriter(tmp_path / "a.mp4", 64, 48) as a, VideoWriter(tmp_path / "b.mp4", 64, 48) as b:
        for chunk in chunks:
            a.write(chunk)
            b.write(255 - chunk)
    digests = {n: hashlib.sha256((tmp_path / f"{n}.mp4").read_bytes()).hexdigest() for n in ("alone", "a", "b")}
    assert digests["alone"] == digests["a"] != digests["b"]


KILLED_WRITER = """
import sys, time
import numpy as np
from dummyforcing_core.clips.video import VideoWriter
writer = VideoWriter(sys.argv[1], 64, 48)
for chunk in range(100):
    writer.write(np.full((9 if chunk == 0 else 12, 48, 64, 3), 20 + 40 * chunk, np.uint8))
    print(chunk, flush=True)
    if chunk == 2:
        time.sleep(60)
"""


def test_killed_writer_leaves_every_written_chunk(tmp_path):
    path = tmp_path / "killed.mp4"
    command = [sys.executable, "-c", KILLED_WRITER, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        assert process.stdout is not None
        assert [process.stdout.readline().strip() for _ in range(3)] == ["0", "1", "2"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    levels = [frame.mean() for frame in read_frames(path)]
    assert levels == pytest.approx([20] * 9 + [60] * 12 + [100] * 12, abs=3)


def test_a_clip_is_replaced_by_the_first_chunk_not_before(tmp_path):
    path = tmp_path / "clip.mp4"
    write_clip(path, [moving_square(9)])
    before = path.read_bytes()
    with pytest.raises(RuntimeError), VideoWriter(path, 64, 48):
        raise RuntimeError("the model failed")
    assert path.read_bytes() == before
    write_clip(path, [moving_square(3)])
    assert len(list(read_frames(path))) == 3


def test_nothing_stays_behind_without_a_frame(tmp_path):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "never.mp4", 64, 48):
        raise RuntimeError("the model failed")
    VideoWriter(tmp_path / "empty.mp4", 64, 48).close()
    assert list(tmp_path.iterdir()) == []


def test_an_error_after_a_chunk_keeps_the_chunk(tmp_path):
    path = tmp_path / "clip.mp4"
    with pytest.raises(RuntimeError), VideoWriter(path, 64, 48) as writer:
        writer.write(moving_square(9))
        raise RuntimeError("the model failed")
    assert len(list(read_frames(path))) == 9


def test_close_twice_and_write_after_close(tmp_path):
    writer = VideoWriter(tmp_path / "clip.mp4", 64, 48)
    writer.write(moving_square(2))
    writer.close()
    writer.close()
    with pytest.raises(OutputError, match="already closed"):
        writer.write(moving_square(2))
    assert len(list(read_frames(writer.path))) == 2


class FullDisk:
    """A file on a disk that takes `room` more bytes."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self.file.write(bytes(data[: self.room]))
        self.room -= count
        return count

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_full_disk_keeps_whole_chunks_and_says_so(tmp_path):
    path = tmp_path / "clip.mp4"
    with pytest.raises(OutputError, match=r"disk is full.*9 frames") as caught, VideoWriter(path, 64, 48) as writer:
        writer.write(moving_square(9))
        size = path.stat().st_size
        writer._file = FullDisk(writer._file, room=100)
        writer.write(moving_square(12))
    assert "\n" not in str(caught.value)
    assert path.stat().st_size == size  # the 100 bytes of a torn fragment are gone
    assert len(list(read_frames(path))) == 9


def test_an_interruption_in_the_middle_of_a_chunk_drops_that_chunk_alone(tmp_path):
    path = tmp_path / "clip.mp4"

    class Interrupted(FullDisk):
        def write(self, data) -> int:
            super().write(data)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), VideoWriter(path, 64, 48) as writer:
        writer.write(moving_square(9))
        size = path.stat().st_size
        writer._file = Interrupted(writer._file, room=100)
        writer.write(moving_square(12))
    assert path.stat().st_size == size
    assert len(list(read_frames(path))) == 9


def test_full_disk_on_the_first_chunk_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="disk is full"), VideoWriter(tmp_path / "clip.mp4", 64, 48) as writer:
        writer._file = FullDisk(writer._file, room=100)
        writer.write(moving_square(9))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_dev_full():
    with pytest.raises(OutputError, match="cannot write /dev/full: the disk is full"):
        write_clip(Path("/dev/full"), [moving_square(2)])


def test_unwritable_places_are_named_before_any_frame(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for place, words in [
        (tmp_path / "missing" / "clip.mp4", "folder does not exist"),
        (tmp_path, "that is a folder"),
    ]:
        with pytest.raises(OutputError, match=words) as caught:
            VideoWriter(place, 64, 48)
        assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match="cannot write"):
        VideoWriter(tmp_path / "file" / "clip.mp4", 64, 48)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name == "nt" or getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="no permission"):
            VideoWriter(tmp_path / "clip.mp4", 64, 48)
    finally:
        tmp_path.chmod(0o700)


def test_bad_sizes_and_frames(tmp_path):
    with pytest.raises(OutputError, match=r"even sides .*64x47"):
        VideoWriter(tmp_path / "clip.mp4", 64, 47)
    with pytest.raises(OutputError, match="at least 1"):
        VideoWriter(tmp_path / "clip.mp4", 64, 48, scale=0)
    with pytest.raises(OutputError, match="100000x100000"):
        VideoWriter(tmp_path / "clip.mp4", 100000, 100000)
    with VideoWriter(tmp_path / "clip.mp4", 64, 48) as writer:
        with pytest.raises(OutputError, match=r"got \(2, 64, 48, 3\) uint8"):
            writer.write(np.zeros((2, 64, 48, 3), np.uint8))
        with pytest.raises(OutputError, match=r"got .* float32"):
            writer.write(np.zeros((2, 48, 64, 3), np.float32))


def test_missing_pyav_and_missing_encoder_say_what_to_install(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)
        with pytest.raises(OutputError, match="pip install av"):
            VideoWriter(tmp_path / "clip.mp4", 64, 48)

    def no_codec(name, mode):
        raise av.codec.codec.UnknownCodecError(name)

    monkeypatch.setattr(av.codec, "Codec", no_codec)
    with pytest.raises(OutputError, match=r"libx264.*pip install"):
        VideoWriter(tmp_path / "clip.mp4", 64, 48)
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video", encoding="utf-8")
    for name in ("text.mp4", "missing.mp4"):
        with pytest.raises(OutputError, match="cannot read") as caught:
            next(read_frames(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_write_atomic_keeps_the_old_file_when_the_new_one_fails(tmp_path, monkeypatch):
    target = tmp_path / "report.json"
    write_atomic(target, b"old")

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_atomic(target, b"new", lasting=True)
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
