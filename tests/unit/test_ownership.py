"""One run owns a name, for as long as its process lives; names that are links, devices, or too long."""

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from dummyforcing_core.errors import OutputError
from dummyforcing_core.files import is_device, make_folder, real_path, write_atomic
from dummyforcing_core.ownership import NameTaken, free_of_owners, owned, shared
from tests.unit.owners import Owner

ROOT = Path(__file__).parents[2]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.mp4").symlink_to("clip.mp4")
    other = Owner(tmp_path / "clip.mp4", tmp_path / "folder")
    yield other
    other.end()


@pytest.mark.parametrize("name", ["clip.mp4", "link.mp4", "folder", "folder/../clip.mp4"])
def test_a_second_run_is_told(owner: Owner, tmp_path: Path, name: str) -> None:
    names = tmp_path / "other.mp4", tmp_path / name
    with pytest.raises(OutputError, match="to be free, got another run that is writing it; wait"), owned(*names):
        pass
    with owned(tmp_path / "other.mp4"):  # what was got before the refusal is free again
        pass
    assert list(free_of_owners([tmp_path / name, tmp_path / "other.mp4"])) == [tmp_path / "other.mp4"]


@pytest.mark.parametrize("by", [None, signal.SIGTERM, signal.SIGKILL])
def test_a_name_is_free_when_its_run_is_over(owner: Owner, tmp_path: Path, by: signal.Signals | None) -> None:
    owner.end(by)
    with owned(tmp_path / "clip.mp4", tmp_path / "folder"):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "link.mp4"]


def test_a_name_may_be_owned_twice_in_a_process(tmp_path: Path) -> None:
    with owned(tmp_path / "a"):
        with owned(tmp_path / "a", tmp_path / "a"):
            pass
        with pytest.raises(AssertionError):
            Owner(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_locks_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: FileLock, **options: float) -> None:
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", none)
    with pytest.warns(UserWarning, match="cannot lock files"), owned(tmp_path / "a"):
        write_atomic(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 256, "the name is too long; choose a shorter one"),
        ("x" * 240, "the name is too long; choose a shorter one"),  # of the files that are made on the way
        ("file/x", "a part of that path is a file"),
        ("none/x", "the folder does not exist"),
        ("circle", "lead round in a circle"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OutputError, match=message), owned(tmp_path / name):
        pass
    with pytest.raises(OutputError):
        write_atomic(tmp_path / name.replace("x" * 240, "x" * 256), b"1")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "circle"}


def test_a_folder_that_cannot_be_says_why(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the name is too long"):
        make_folder(tmp_path / ("x" * 256))


# -- links and devices


@pytest.mark.parametrize("target", ["there.json", "to_come.json", "sub/there.json"])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, target: str) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("there.json", "sub/there.json"):
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "link_to_link").symlink_to("link")
    for name in ("link", "link_to_link"):
        write_atomic(tmp_path / name, name.encode())
        assert (tmp_path / name).is_symlink() and (tmp_path / target).read_bytes() == name.encode()
    assert len(list(tmp_path.rglob("*"))) == 5 + (target == "to_come.json")


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE)
    write_atomic(tmp_path / "pipe", b"all of it")
    assert reader.communicate(timeout=60)[0] == b"all of it"
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["/dev/null", "link"])
def test_a_device_is_written_to_and_owned_by_nobody(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    with owned(tmp_path / name), warnings.catch_warnings():
        warnings.simplefilter("error")
        write_atomic(tmp_path / name, b"1")
    assert Path("/dev/null").is_char_device()
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_what_is_a_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    assert all(map(is_device, ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", tmp_path / "link"]))
    assert not any(map(is_device, [tmp_path, tmp_path / "none", "/dev/shm/x/clip.mp4", "dev/x"]))
    assert real_path(tmp_path / "none" / ".." / "a") == tmp_path / "a"


@pytest.mark.parametrize("into_file", [True, False])
def test_a_report_to_stdout(tmp_path: Path, into_file: bool) -> None:
    """Into a pipe it goes; into a file it would overwrite what is printed."""
    words = ["generate", "--prompt", "a red circle", "--frames", "1", "--size", "16x16", "--report", "/dev/stdout"]
    with (tmp_path / "printed").open("wb") as file:
        command = [sys.executable, "-m", "dummyforcing_core", *words, "--out", str(tmp_path / "c.mp4")]
        out = file if into_file else subprocess.PIPE
        done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True, timeout=120)
    if into_file:
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "which is redirected" in done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == ["printed"]
    else:
        assert done.returncode == 0 and '"conditions"' in done.stdout


# -- a folder and the files in it


@pytest.fixture
def another() -> Iterator[Callable[..., Owner]]:
    """Starts a process that owns these names."""
    started: list[Owner] = []

    def start(*paths: Path) -> Owner:
        started.append(Owner(*paths))
        return started[-1]

    yield start
    for owner in started:
        owner.end()


@pytest.mark.parametrize(("theirs", "mine"), [("f", "f/a.mp4"), ("f/a.mp4", "f"), ("f", "f"), ("f/.a.json", "f")])
def test_a_folder_and_its_files_know_each_other(another, tmp_path: Path, theirs: str, mine: str) -> None:
    (tmp_path / "f").mkdir()
    owner = another(tmp_path / theirs)
    with pytest.raises(NameTaken, match="to be free, got another run"), owned(tmp_path / mine):
        pass
    owner.end()
    with owned(tmp_path / mine):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["f"]


@pytest.mark.parametrize(
    ("theirs", "mine"), [("f/a.mp4", "f/b.mp4"), ("f", "f/g/a.mp4"), ("f/g/a.mp4", "f"), ("f", "f/g"), ("f/g", "f")]
)
def test_two_that_are_not_in_each_others_way(another, tmp_path: Path, theirs: str, mine: str) -> None:
    (tmp_path / "f" / "g").mkdir(parents=True)
    another(tmp_path / theirs)
    with owned(tmp_path / mine):
        pass


@pytest.mark.parametrize("first", ["f", "f/a.mp4"])
def test_a_process_owns_both_at_once(tmp_path: Path, first: str) -> None:
    (tmp_path / "f").mkdir()
    with owned(tmp_path / first), owned(tmp_path / "f", tmp_path / "f" / "a.mp4"), owned(tmp_path / "f" / "b.mp4"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["f"]


def test_what_a_killed_run_left_in_a_folder_goes(another, tmp_path: Path) -> None:
    another(tmp_path / "a.mp4").end(signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir()] == [".a.mp4.dummyforcing.lock"]
    with owned(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_many_look_at_a_folder_at_once(another, tmp_path: Path) -> None:
    """None of them takes another's look for an owner."""
    another(tmp_path).end(signal.SIGKILL)  # its lock is still there to be looked at
    owners = [another(tmp_path / f"{number}.mp4") for number in range(4)]
    assert all(owner.process.poll() is None for owner in owners)


@pytest.mark.parametrize("theirs", ["f", "f/a.mp4", "f/videos/a.mp4", "f/videos"])
def test_those_that_share_a_folder_know_its_other_owners(another, tmp_path: Path, theirs: str) -> None:
    (tmp_path / "f" / "videos").mkdir(parents=True)
    folder = tmp_path / "f"
    another(tmp_path / theirs)
    with pytest.raises(NameTaken), shared(folder, "0-of-2", [folder / "videos"]):
        pass


@pytest.mark.parametrize("mine", ["f", "f/a.mp4", "f/videos/a.mp4", "f/rank-0-of-2"])
def test_and_are_known_to_them(another, tmp_path: Path, mine: str) -> None:
    (tmp_path / "f" / "videos").mkdir(parents=True)
    another(tmp_path / "f" / "rank-0-of-2")
    with pytest.raises(NameTaken), owned(tmp_path / mine):
        pass
    with shared(tmp_path / "f", "1-of-2", [tmp_path / "f" / "videos"]), owned(tmp_path / "f" / "unfinished.mp4"):
        pass
