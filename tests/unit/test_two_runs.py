"""Two runs on one name, for every command that writes; what is no file; and how a real process ends when it fails."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dummyforcing_core.clips.video import frame_count
from tests.unit.owners import ROOT, Owner
from tests.unit.refusals import assert_refused, files

DEMO = "--size", "16x16", "--frames", "33", "--device", "cpu"
PROMPT = "--prompt", "a red circle"
LOADERS = ("generate.load", "compare.load", "demo.load_demo", "profile.load", "verify.verify", "vbench.load")


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    """Of a.* and of the folder f, in which it also has a clip that is no folder run's."""
    (tmp_path / "f").mkdir()
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n", encoding="utf-8")
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    names = ("a.mp4", "a.json", "a.png", "a.md", "a.safetensors", "b.part.mp4", "f", "f/rank-0-of-1")
    inside = (
        "g/side_by_side.part.mp4",
        "h/compare.json",
        "i/dummy_heads.png",
        "j/window.safetensors",
        "k/demo.mp4",
        "l/rank-0-of-2",
    )
    for name in inside:
        (tmp_path / name).parent.mkdir()
    (tmp_path / "l" / "videos").mkdir()
    other = Owner(*(tmp_path / name for name in (*names, *inside)))
    yield other
    other.end()


@pytest.mark.parametrize(
    "words",
    [
        f"generate {' '.join(DEMO)} --prompt x --out a.mp4",
        f"generate {' '.join(DEMO)} --prompt x --out link.mp4",
        f"generate {' '.join(DEMO)} --prompt x --out b.mp4",  # whose unfinished video is another's
        f"generate {' '.join(DEMO)} --prompt x --out c.mp4 --report a.json",
        f"generate {' '.join(DEMO)} --prompt x --out c.mp4 --save-latents a.safetensors",
        f"generate {' '.join(DEMO)} --prompts prompts.txt --out f",
        f"compare {' '.join(DEMO)} --prompt x --out f",
        f"generate {' '.join(DEMO)} --prompt x --out f/000_x.mp4",  # of a folder that is another's
        f"generate {' '.join(DEMO)} --prompts prompts.txt --out g",  # in which another has one file
        f"profile {' '.join(DEMO)} --prompts prompts.txt --out f/p.json",
        f"vbench {' '.join(DEMO)} --prompts prompts.txt --samples 1 --out g",
        f"generate {' '.join(DEMO)} --prompt x --out l/videos/x-0.mp4",  # of a vbench run's
        *(f"compare {' '.join(DEMO)} --prompt x --out {folder}" for folder in "ghij"),
        "demo --out k",
        f"profile {' '.join(DEMO)} --prompts prompts.txt --out a.json",
        f"profile {' '.join(DEMO)} --prompts prompts.txt --out c.json --picture a.png",
        "verify --model demo --out a.md",
        "verify --model demo --json a.json",
        "demo --out f",
        f"vbench {' '.join(DEMO)} --prompts prompts.txt --samples 1 --out f",
        "convert {checkpoint} a.safetensors --family self_forcing",
    ],
)
def test_the_second_is_told_before_it_loads_anything(
    run, tiny_demo, checkpoint: Path, owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in LOADERS:
        monkeypatch.setattr(f"dummyforcing_core.cli.{name}", lambda *_: pytest.fail("loaded a model"))
    before = files(tmp_path)
    result = run(*words.replace("{checkpoint}", str(checkpoint)).split())
    assert_refused(result.code, result.err, "to be free, got another run that is writing it")
    assert files(tmp_path).keys() == before.keys()


def test_of_two_that_start_together_one_makes_its_clip(tiny_demo, tmp_path: Path) -> None:
    """Of the bundled model: other processes would not see a tiny one."""
    command = [sys.executable, "-m", "dummyforcing_core", "generate", *DEMO, *PROMPT, "--out", str(tmp_path / "c.mp4")]
    pair = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in pair]
    codes = [process.returncode for process in pair]
    assert sorted(codes) in ([0, 2], [0, 0]), said  # one may have been over when the other began
    assert frame_count(tmp_path / "c.mp4") == 33
    assert [path.name for path in tmp_path.iterdir()] == ["c.mp4"]
    for code, text in zip(codes, said, strict=True):
        assert code == 0 or "to be free, got another run" in text


@pytest.fixture
def spoilt(run, tiny_demo, tmp_path: Path):
    """A folder run's command, whose first clip is there with other frames than it should have."""
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n", encoding="utf-8")

    def go(folder: str):
        return run("generate", *DEMO, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / folder)

    assert run("generate", *DEMO, "--frames", 9, *PROMPT, "--out", tmp_path / "short.mp4").code == 0
    return go


@pytest.mark.parametrize("with_report", [True, False])
def test_a_clip_with_other_frames_is_not_there_already(spoilt, tmp_path: Path, with_report: bool) -> None:
    assert spoilt("f").code == 0
    (tmp_path / "f" / "001_a_blue_square.mp4").unlink()
    (tmp_path / "short.mp4").replace(tmp_path / "f" / "000_a_red_circle.mp4")
    if not with_report:
        (tmp_path / "f" / "000_a_red_circle.json").unlink()
    result = spoilt("f")
    assert_refused(result.code, result.err, "000_a_red_circle.mp4, got 9; choose another folder, or delete it")
    assert not (tmp_path / "f" / "001_a_blue_square.mp4").exists()


def test_what_is_no_video_is_not_there_already(spoilt, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "000_a_red_circle.mp4").write_bytes(b"no video")
    result = spoilt("f")
    assert_refused(result.code, result.err, "cannot read")
    assert "delete it, and it is made again" in result.err and "give another file" not in result.err


@pytest.mark.skipif(os.name == "nt", reason="no pipes in folders there")
@pytest.mark.parametrize(
    "name", ["window.mp4", "window.part.mp4", "side_by_side.mp4", "compare.json", "dummy_heads.png"]
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_compare_takes_the_place_of_no_pipe_or_device(
    run, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.setattr("dummyforcing_core.cli.compare.load", lambda *_: pytest.fail("loaded a model"))
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    result = run("compare", *DEMO, *PROMPT, "--out", tmp_path)
    assert_refused(result.code, result.err, f"{name}, which is a device or a pipe; name a file")
    assert [path.name for path in tmp_path.iterdir()] == [name] and Path("/dev/zero").is_char_device()


@pytest.mark.skipif(os.name == "nt", reason="no pipes in folders there")
@pytest.mark.parametrize("name", ["c.mp4", "c.part.mp4"])
def test_generate_waits_at_no_pipe(run, tiny_demo, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    result = run("generate", *DEMO, *PROMPT, "--out", tmp_path / "c.mp4")
    assert_refused(result.code, result.err, f"{name}, which is a device or a pipe")


def test_a_part_that_is_a_link_is_left_alone(run, tiny_demo, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "c.part.mp4").symlink_to("mine")
    result = run("generate", *DEMO, *PROMPT, "--out", tmp_path / "c.mp4")
    assert_refused(result.code, result.err, "c.part.mp4, which is a link; remove it")
    assert files(tmp_path)["mine"] == b"mine"


@pytest.mark.skipif(os.name == "nt", reason="no pipes in folders there")
def test_a_pipe_in_the_folder_is_no_clip_that_is_there(spoilt, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    os.mkfifo(tmp_path / "f" / "000_a_red_circle.mp4")
    result = spoilt("f")
    assert_refused(result.code, result.err, "000_a_red_circle.mp4: this is a pipe, a socket or a device")


@pytest.mark.parametrize("words", ["--policy dummy", "--dtype bf16", "--skip-steps 2", "--teacache 100", "--window 6"])
def test_a_whole_folder_of_another_run_is_refused(spoilt, run, tmp_path: Path, words: str) -> None:
    assert spoilt("f").code == 0
    before = files(tmp_path / "f")
    again = run("generate", *DEMO, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "f", *words.split())
    assert_refused(again.code, again.err, "choose another folder, or delete it")
    assert files(tmp_path / "f") == before
    assert spoilt("f").code == 0  # the same again is no other run


@pytest.mark.parametrize(("first", "then"), [("16", "24"), ("24", "16")])
def test_vbench_keeps_to_its_rate(run, tiny_demo, tmp_path: Path, first: str, then: str) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n", encoding="utf-8")

    def go(rate: str, samples: int):
        words = "--prompts", tmp_path / "prompts.txt", "--samples", samples, "--out", tmp_path / "v", "--fps", rate
        return run("vbench", "--size", "16x16", "--frames", 5, "--device", "cpu", *words)

    assert go(first, 1).code == 0
    result = go(then, 2)
    assert_refused(result.code, result.err, f"expected fps {first}, as of the clips")


# -- a process of its own


def process(*words: object, limit: int | None = None) -> subprocess.Popen[str]:
    def limited() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with it ignored
        if limit:
            import resource  # not on Windows

            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "dummyforcing_core", "generate", "--device", "cpu", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=limited)


@pytest.mark.skipif(os.name == "nt", reason="no such limits there")
def test_a_disk_that_fills_up_late_keeps_the_part_and_the_latents(tmp_path: Path) -> None:
    latents = tmp_path / "l.safetensors"
    words = "--prompt", "a red circle moving sideways", "--frames", 321, "--out", tmp_path / "c.mp4"
    failed = process(*words, "--save-latents", latents, "--report", tmp_path / "r.json", limit=200_000)
    said = failed.communicate(timeout=300)[1]
    assert failed.returncode == 2 and "files may not grow larger here" in said and "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.part.mp4", "l.safetensors"]
    frames = frame_count(tmp_path / "c.part.mp4")
    made = load_file(latents)["latent"].shape[2]
    assert (
        0 < frames < 321 and made * 4 - 3 >= frames and f"{frames} frames, plays in {tmp_path / 'c.part.mp4'}" in said
    )
    rest = process(
        "--prompt",
        "a red circle",
        "--frames",
        made * 4 + 9,
        "--start-latents",
        latents,
        "--out",
        latents.with_name("d.mp4"),
    )
    assert rest.wait(timeout=300) == 0
    assert frame_count(tmp_path / "d.mp4") == made * 4 + 9


@pytest.mark.skipif(os.name == "nt", reason="no such signals there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_the_part_and_the_latents(tmp_path: Path, number: signal.Signals) -> None:
    files = "--out", tmp_path / "c.mp4", "--save-latents", tmp_path / "l.safetensors"
    ended = process("--prompt", "a red circle", "--frames", 4001, *files)
    while not (tmp_path / "c.part.mp4").exists() or not (tmp_path / "c.part.mp4").stat().st_size:
        assert ended.poll() is None
    ended.send_signal(number)
    said = ended.communicate(timeout=300)[1]
    assert ended.returncode == 128 + number and "Traceback" not in said and "Exception ignored" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.part.mp4", "l.safetensors"]
    assert frame_count(tmp_path / "c.part.mp4") > 0 and load_file(tmp_path / "l.safetensors")["latent"].shape[2] >= 3


@pytest.mark.skipif(os.name == "nt", reason="no such signals there")
def test_a_second_signal_interrupts_no_saving(tmp_path: Path) -> None:
    files = "--out", tmp_path / "c.mp4", "--save-latents", tmp_path / "l.safetensors"
    ended = process("--prompt", "a red circle", "--frames", 4001, *files)
    while not (tmp_path / "c.part.mp4").exists() or not (tmp_path / "c.part.mp4").stat().st_size:
        assert ended.poll() is None
    ended.send_signal(signal.SIGTERM)
    while ended.poll() is None:
        ended.send_signal(signal.SIGTERM)
        ended.send_signal(signal.SIGINT)
    said = ended.communicate(timeout=300)[1]
    assert ended.returncode in (130, 143)  # whichever Python looks at first
    assert "Traceback" not in said and "Exception ignored" not in said, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.part.mp4", "l.safetensors"]
    assert load_file(tmp_path / "l.safetensors")["latent"].shape[2] >= 3


@pytest.mark.skipif(os.name == "nt", reason="a shell's redirections")
@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full"])
def test_a_run_that_nobody_watches_is_made(tmp_path: Path, redirection: str) -> None:
    words = f"generate --prompt x --size 16x16 --frames 81 --device cpu --out {tmp_path / 'c.mp4'}"
    command = f"{sys.executable} -m dummyforcing_core {words} {redirection}"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert frame_count(tmp_path / "c.mp4") == 81


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_folder_of_any_bytes(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff\xfe"
    command = [sys.executable, "-m", "dummyforcing_core", "compare", *DEMO, *PROMPT, "--out", folder]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300).returncode == 0
    assert b"side_by_side.mp4" in os.listdir(folder)


@pytest.mark.skipif(os.name == "nt", reason="no such limits there")
def test_verify_blames_no_checkpoint_for_the_disk(tmp_path: Path) -> None:
    page = tmp_path / "v.md"
    words = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000));"
    program = f"{words} from dummyforcing_core.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "verify", "--size", "64x64", "--device", "cpu", "--out", str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "files may not grow larger" in done.stderr and "plays in" not in done.stderr
    assert list(tmp_path.iterdir()) == []
