"""A clip that is whole: a plain mp4 with its index in front, the same frames, and no way there that costs the clip."""

import errno
import io
import os
import stat
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from dummyforcing_core.clips import mp4
from dummyforcing_core.clips.encoding import CODECS, Encoding
from dummyforcing_core.clips.video import VideoWriter, frame_count, read_frames
from dummyforcing_core.errors import OutputError

from .test_video import moving_square

av = pytest.importorskip("av")

FRAMES = 37
TAGS = {"title": "ein roter Würfel", "prompt": '{"1": {"inputs": {}}}' * 400, "workflow": "{}"}


def boxes(path: Path) -> list[str]:
    """Kinds of the top-level boxes of an mp4, in order."""
    data, kinds, start = path.read_bytes(), [], 0
    while start < len(data):
        kinds.append(data[start + 4 : start + 8].decode())
        start += int.from_bytes(data[start : start + 4], "big")
    return kinds


def is_fragmented(path: Path) -> bool:
    return "moof" in boxes(path)


@pytest.fixture(params=CODECS)
def encoding(request: pytest.FixtureRequest) -> Encoding:
    return Encoding(request.param)


def grown(path: Path, encoding: Encoding, rate: Fraction = Fraction(16)) -> VideoWriter:
    """A writer that has written all frames of a clip in chunks, and was neither finished nor closed."""
    writer = VideoWriter(path, 64, 48, rate, encoding, metadata=TAGS)
    for chunk in np.split(moving_square(FRAMES), [1, 13, 25]):
        writer.write(chunk)
    return writer


def test_it_grows_in_fragments_and_ends_as_a_plain_file_with_the_same_frames(tmp_path, encoding):
    path = tmp_path / "clip.mp4"
    writer = grown(path, encoding)
    assert is_fragmented(path)
    growing = np.stack(list(read_frames(path)))
    assert len(growing) == FRAMES  # nothing is held back
    writer.finish()
    assert [kind for kind in boxes(path) if kind != "free"] == ["ftyp", "moov", "mdat"]
    assert np.array_equal(np.stack(list(read_frames(path))), growing)
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("rate", [Fraction(16), Fraction(24), Fraction(24000, 1001), Fraction(997, 1001)])
def test_times_and_rate_are_exact(tmp_path, encoding, rate):
    grown(tmp_path / "clip.mp4", encoding, rate).finish()
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == rate
        assert stream.frames == FRAMES
        assert stream.duration * stream.time_base == FRAMES / rate
        times = [frame.pts * stream.time_base for frame in container.decode(video=0)]
    assert times == [index / rate for index in range(FRAMES)]


def test_tags_and_colours_are_kept(tmp_path, encoding):
    grown(tmp_path / "clip.mp4", encoding).finish()
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert {key: container.metadata[key] for key in TAGS} == TAGS
        context = container.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        assert context.name in {"h264": ("h264",), "av1": ("libdav1d", "av1")}[encoding.codec]


def test_seeking_lands_near_the_middle(tmp_path, encoding):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 64, 48, 16, encoding) as writer:
        writer.write(moving_square(160))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        container.seek(int(5 / stream.time_base), stream=stream)
        first = next(container.decode(video=0))
    assert 3 < first.time <= 5  # a keyframe every two seconds


def test_the_same_frames_give_the_same_bytes(tmp_path, encoding):
    for name in ("a", "b"):
        grown(tmp_path / name, encoding).finish()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_clip_that_failed_stays_fragmented(tmp_path, encoding):
    path = tmp_path / "clip.mp4"
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, 64, 48, 16, encoding) as writer:
        writer.write(moving_square(9))
        raise KeyboardInterrupt
    assert is_fragmented(path)
    assert frame_count(path) == 9
    writer.finish()  # it is closed: nothing more is done to it
    assert is_fragmented(path)


class SmallDisk(io.FileIO):
    """A file on a disk that holds so many bytes."""

    room = 0

    def write(self, data) -> int:
        fitting = memoryview(data)[: max(0, self.room - self.tell())]
        if not fitting:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(fitting) or 0


@pytest.fixture
def disk_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the room of the disk that finished files are made on, in bytes."""

    def opened(path: Path, mode: str) -> IO[bytes]:
        return io.BufferedWriter(SmallDisk(path, mode)) if "x" in mode else open(path, mode)

    def disk(room: int) -> None:
        monkeypatch.setattr(SmallDisk, "room", room)
        monkeypatch.setattr(mp4, "open", opened, raising=False)

    return disk


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.99])
def test_a_full_disk_keeps_the_file_as_it_grew_and_says_so(tmp_path, disk_of, share, capfd):
    path = tmp_path / "clip.mp4"
    writer = grown(path, Encoding(crf=0))
    before = path.read_bytes()
    disk_of(int(share * len(before)))
    with pytest.warns(UserWarning, match=r"plays, but .*the disk is full") as told:
        writer.finish()
    assert len(told) == 1
    assert capfd.readouterr().err == ""  # PyAV prints what it cannot raise
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_end_before_the_new_file_is_in_place_leaves_the_old_one(tmp_path, monkeypatch, error):
    path = tmp_path / "clip.mp4"
    writer = grown(path, Encoding())

    def ended(source, target):
        raise error

    monkeypatch.setattr(mp4.os, "replace", ended)
    with pytest.raises(error):
        writer.finish()
    assert is_fragmented(path)
    assert frame_count(path) == FRAMES
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_what_a_killed_run_left_is_in_nobodys_way(tmp_path):
    path, left = tmp_path / "clip.mp4", tmp_path / "clip.mp4.tmp"
    left.write_bytes(b"half a file")
    grown(path, Encoding()).finish()
    assert frame_count(path) == FRAMES
    assert not left.exists()


def test_a_file_that_lost_frames_is_not_made_plain(tmp_path):
    path = tmp_path / "clip.mp4"
    grown(path, Encoding()).close()
    with pytest.raises(OutputError, match=rf"expected {FRAMES + 1} frames .*got {FRAMES}"):
        mp4.make_plain(path, FRAMES + 1, Fraction(16), {})
    assert is_fragmented(path)


@pytest.mark.skipif(os.name == "nt", reason="files have no such modes there")
def test_links_are_followed_and_the_mode_is_kept(tmp_path):
    path, link = tmp_path / "clip.mp4", tmp_path / "link.mp4"
    path.touch(mode=0o600)
    path.chmod(0o640)
    link.symlink_to(path)
    grown(link, Encoding()).finish()
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not is_fragmented(path)


@pytest.mark.skipif(os.name == "nt", reason="there are no such devices there")
def test_a_device_is_never_replaced():
    with pytest.raises(OutputError, match="/dev/null"):
        grown(Path(os.devnull), Encoding()).finish()
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize(
    ("codec", "crf", "words"),
    [
        ("h264", 52, r"crf 0 .* to 51 .* for h264, got 52"),
        ("av1", 64, r"crf 0 .* to 63 .* for av1, got 64"),
        ("h264", -1, "got -1"),
        ("vp9", 16, "codec h264 or av1, got 'vp9'"),
    ],
)
def test_what_no_encoder_knows_is_one_line(codec, crf, words):
    with pytest.raises(OutputError, match=words) as caught:
        Encoding(codec, crf)
    assert "\n" not in str(caught.value)


def test_a_size_that_av1_cannot_be_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="at least 32 pixels for av1, got 64x16"):
        VideoWriter(tmp_path / "clip.mp4", 64, 16, encoding=Encoding("av1"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system tells no scheduler")
def test_an_encoder_changes_nobodys_priority(tmp_path, encoding):
    """As root SVT-AV1 would make every thread of the process real-time, this one too."""
    before = os.sched_getscheduler(0)
    writer = grown(tmp_path / "clip.mp4", encoding)
    assert {os.sched_getscheduler(int(task)) for task in os.listdir("/proc/self/task")} == {before}
    writer.finish()
    assert os.sched_getscheduler(0) == before


def test_crf_0_is_lossless_and_a_high_one_is_small(tmp_path, encoding):
    sizes = []
    clip = np.random.default_rng(0).integers(0, 255, (4, 48, 64, 3), np.uint8)
    for crf in (0, 20, CODECS[encoding.codec].worst):
        path = tmp_path / f"{crf}.mp4"
        with VideoWriter(path, 64, 48, encoding=Encoding(encoding.codec, crf)) as writer:
            writer.write(clip)
        sizes.append(path.stat().st_size)
    assert sizes[0] > sizes[1] > sizes[2]
