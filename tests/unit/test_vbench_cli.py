"""`vbench`: what it makes, what it leaves alone, and what it refuses."""

import json
from pathlib import Path

import av
import pytest
import torch

from dummyforcing_core.cli import vbench
from dummyforcing_core.clips.video import read_frames
from dummyforcing_core.errors import OutputError
from dummyforcing_core.evaluation.vbench import Sample, Shard
from tests.unit.refusals import assert_refused, files

pytestmark = pytest.mark.usefixtures("tiny_demo", "alone")
RED, BLUE, GREEN = "a red circle", "a blue square in the middle", "a green triangle, fast"
SMALL = "--size", "16x16", "--frames", "5", "--device", "cpu"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sample(run, tmp_path: Path):
    """sample("out", [prompts], words...) -> (Result, {clip name: bytes})."""

    def go(out: str, prompts: list[str], *words: object, samples: int = 2, extended: list[str] | None = None):
        (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
        if extended is not None:
            (tmp_path / "extended.txt").write_text("\n".join(extended) + "\n", encoding="utf-8")
            words = "--extended", tmp_path / "extended.txt", *words
        folder = tmp_path / out
        words = "--prompts", tmp_path / "prompts.txt", "--samples", samples, *SMALL, "--out", folder, *words
        result = run("vbench", *words)
        clips = {p.name: p.read_bytes() for p in (folder / "videos").glob("*") if p.is_file()}
        return result, clips

    return go


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("junk", [b"junk", b"", None])
def test_what_is_no_clip_is_not_taken_as_finished(sample, tmp_path: Path, junk: bytes | None) -> None:
    (tmp_path / "out" / "videos").mkdir(parents=True)
    there = tmp_path / "out" / "videos" / f"{RED}-0.mp4"
    there.mkdir() if junk is None else there.write_bytes(junk)
    result, _ = sample("out", [RED], samples=1)
    assert_refused(result.code, result.err, str(there))


def test_a_shorter_clip_is_not_taken_as_finished(sample, tmp_path: Path) -> None:
    assert sample("a", [RED], samples=1)[0].code == sample("b", [RED], "--frames", 9, samples=1)[0].code == 0
    name = f"{RED}-0.mp4"
    (tmp_path / "b" / "videos" / name).write_bytes((tmp_path / "a" / "videos" / name).read_bytes())
    result, _ = sample("b", [RED], "--frames", 9, samples=1)
    assert_refused(result.code, result.err, "expected 9 frames in")


def title(path: Path) -> str:
    with av.open(str(path)) as container:
        return container.metadata["title"]


def test_names_contents_and_manifest(sample, tmp_path: Path) -> None:
    result, clips = sample("out", [RED, BLUE])
    assert result.code == 0, result.err
    assert sorted(clips) == [f"{BLUE}-0.mp4", f"{BLUE}-1.mp4", f"{RED}-0.mp4", f"{RED}-1.mp4"]
    assert len(set(clips.values())) == 4  # two samples of a prompt are two clips
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", "videos"]
    assert len(list(read_frames(tmp_path / "out" / "videos" / f"{RED}-1.mp4"))) == 5
    found = manifest(tmp_path / "out")
    assert found["prompts"][RED] == {"text": RED, "seeds": [Sample(RED, RED, i).seed(0) for i in (0, 1)]}
    assert (
        found["conditions"].items()
        >= {"size": "16x16", "frames": 5, "seed": 0, "policy": "SlidingWindow(window_frames=12, sink_frames=3)"}.items()
    )
    assert len(found["conditions"]["fingerprint"]) == 16
    assert str(tmp_path) not in json.dumps(found)
    lines = [line for line in result.out.splitlines() if "FPS" in line]
    assert [line.split()[0] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]


def test_the_seed_in_the_manifest_makes_the_clip(run, sample, tmp_path: Path) -> None:
    """Anyone can make a clip of the suite again with `generate`."""
    _, clips = sample("out", [RED])
    seed = manifest(tmp_path / "out")["prompts"][RED]["seeds"][1]
    assert run("generate", "--prompt", RED, "--seed", seed, *SMALL, "--out", tmp_path / "one.mp4").code == 0
    assert (tmp_path / "one.mp4").read_bytes() == clips[f"{RED}-1.mp4"]


def test_order_duplicates_and_company_change_nothing(sample) -> None:
    _, clips = sample("a", [RED, BLUE, GREEN])
    assert sample("b", [GREEN, RED, BLUE, RED])[1] == clips
    assert sample("c", [BLUE], samples=3)[1].items() >= {k: v for k, v in clips.items() if k.startswith(BLUE)}.items()
    assert not set(sample("d", [RED, BLUE, GREEN], "--seed", 1)[1].values()) & set(clips.values())


def test_a_second_run_makes_what_is_missing(sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, clips = sample("out", [RED, BLUE])
    videos = tmp_path / "out" / "videos"
    before = {p.name: p.stat().st_ino for p in videos.iterdir()}
    monkeypatch.setattr(vbench, "render", lambda *_: pytest.fail("nothing is missing"))
    result, same = sample("out", [RED, BLUE])
    assert result.code == 0, result.err
    assert same == clips
    assert "4 are there, 0 to make" in result.out
    monkeypatch.undo()
    (videos / f"{BLUE}-0.mp4").unlink()
    result, same = sample("out", [RED, BLUE])
    assert same == clips
    assert {n: p.stat().st_ino for n, p in ((p.name, p) for p in videos.iterdir()) if n != f"{BLUE}-0.mp4"} == {
        n: i for n, i in before.items() if n != f"{BLUE}-0.mp4"
    }
    assert "1/1" in result.out


def test_a_folder_grows(sample, tmp_path: Path) -> None:
    _, first = sample("out", [RED], samples=1)
    result, more = sample("out", [BLUE, RED], samples=3)
    assert result.code == 0, result.err
    assert len(more) == 6
    assert more.items() >= first.items()
    assert {p: len(e["seeds"]) for p, e in manifest(tmp_path / "out")["prompts"].items()} == {RED: 3, BLUE: 3}


def test_leftovers_of_a_killed_run(sample, tmp_path: Path) -> None:
    unfinished = tmp_path / "out" / "unfinished"
    unfinished.mkdir(parents=True)
    from dummyforcing_core.evaluation.vbench_folder import ClipFolder

    folder = ClipFolder(tmp_path / "out")
    left = folder.working_file(Sample(RED, RED, 0))
    left.with_name(f"{left.stem}.part.mp4").write_bytes(b"torn")
    result, clips = sample("out", [RED])
    assert result.code == 0, result.err
    assert not unfinished.exists()
    assert clips == sample("clean", [RED])[1]


def test_extended_prompts(sample, tmp_path: Path) -> None:
    _, plain = sample("plain", [RED, "a thing"], samples=1)
    result, clips = sample("long", [RED, "a thing"], samples=1, extended=[f"{RED} moving up and down", BLUE])
    assert result.code == 0, result.err
    assert list(clips) == list(plain)
    assert all(clips[name] != plain[name] for name in clips)
    assert title(tmp_path / "long" / "videos" / "a thing-0.mp4") == BLUE
    assert manifest(tmp_path / "long")["prompts"]["a thing"]["text"] == BLUE
    refused = _bad(sample("long", [RED], samples=1)[0])
    assert_refused(*refused, f"sampled as '{RED} moving up and down'")
    assert_refused(*refused, f"got '{RED}'")


def _bad(result) -> tuple[int, str]:
    return result.code, result.err


@pytest.mark.parametrize(
    ("words", "was", "now"),
    [
        (("--seed", 1), "expected seed 0, as of", "got seed 1"),
        (("--frames", 9), "expected frames 5, as of", "got frames 9"),
        (("--size", "32x16"), "expected size 16x16, as of", "got size 32x16"),
        (
            ("--policy", "dummy"),
            "expected policy slidingwindow(window_frames=12, sink_frames=3), as of",
            "got policy dummyforcing(",
        ),
        (("--policy", "dummy", "--frames", 9), "expected frames 5, as of", "got frames 9"),
        (("--dtype", "bf16"), "expected dtype float32, as of", "got dtype bfloat16"),
        (("--skip-steps", "2"), "expected skipped steps none, as of", "got skipped steps 2"),
    ],
)
def test_another_configuration_in_the_same_folder(sample, tmp_path: Path, words: tuple, was: str, now: str) -> None:
    sample("out", [RED], samples=1)
    before = files(tmp_path / "out")
    for prompts in ([RED, BLUE], [RED]):  # the second leaves nothing to make
        result, _ = sample("out", prompts, *words, samples=1)
        assert_refused(result.code, result.err, was)
        assert_refused(result.code, result.err, now)
        assert files(tmp_path / "out") == before


def test_another_checkpoint_in_the_same_folder(sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample("out", [RED], samples=1)
    path = tmp_path / "out" / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"fingerprint": "', '"fingerprint": "0'), encoding="utf-8")
    for prompt in (BLUE, RED):
        result, _ = sample("out", [prompt], samples=1)
        assert_refused(result.code, result.err, "fingerprint 0")


@pytest.mark.parametrize("words", [("--window", 6), ("--skip-steps", "0"), ("--tokenizer", "none")])
def test_a_finished_folder_still_reads_the_options(sample, words: tuple) -> None:
    sample("out", [RED], samples=1)
    result, _ = sample("out", [RED], *words, samples=1)
    assert result.code == 2, result.out


@pytest.mark.parametrize(
    ("prompts", "words", "message"),
    [
        ([RED], ("--samples", 0), "expected --samples of 1 or more, got 0"),
        ([RED], ("--policy", "nope"), "unknown policy"),
        ([RED], ("--policy", "full", "--window", 6), "--window: expected --policy window"),
        ([RED], ("--extended", "none.txt"), "cannot read the prompts in none.txt"),
        (["either/or"], (), "prompt 1 holds '/'"),
        (["x" * 250], (), "256 bytes"),
        (["# nothing"], (), "holds no prompt"),
        ([RED], ("--size", "17x16"), "even sides"),
        ([RED], ("--model", "none.pt", "--text-embedding", "none"), "none.pt"),
    ],
)
def test_bad_words(sample, tmp_path: Path, prompts: list[str], words: tuple, message: str) -> None:
    result, clips = sample("out", prompts, *words)
    assert_refused(result.code, result.err, message)
    assert not clips
    assert not (tmp_path / "out" / "manifest.json").exists()


class TestFailures:
    """Clips whose numbers in `bad` (counted from 1, in the order they are made) cannot be made."""

    @pytest.fixture
    def broken(self, monkeypatch: pytest.MonkeyPatch):
        def among(bad: set[int]) -> None:
            made, real = [0], vbench.render

            def render(pipeline, clip, outputs):
                made[0] += 1
                if made[0] in bad:
                    raise OutputError("chunk 0 came out as NaN")
                return real(pipeline, clip, outputs)

            monkeypatch.setattr(vbench, "render", render)

        return among

    def test_one_does_not_stop_the_others(self, sample, broken, monkeypatch: pytest.MonkeyPatch) -> None:
        broken({1, 2, 4, 5})
        result, clips = sample("out", [RED, BLUE, GREEN])
        assert_refused(result.code, result.err, "4 of 6 clips failed")
        assert sorted(clips) == [f"{BLUE}-0.mp4", f"{GREEN}-1.mp4"]
        assert result.err.count("came out as NaN") == 4
        monkeypatch.undo()
        result, clips = sample("out", [RED, BLUE, GREEN])
        assert result.code == 0, result.err
        assert clips == sample("clean", [RED, BLUE, GREEN])[1]

    def test_three_in_a_row_do(self, sample, broken) -> None:
        broken({2, 3, 4})
        result, clips = sample("out", [RED, BLUE, GREEN])
        assert_refused(result.code, result.err, "3 clips in a row failed, the last with: chunk 0 came out as NaN")
        assert list(clips) == [f"{RED}-0.mp4"]


class TestRanks:
    def test_each_rank_reads_and_samples_its_own(self, sample, monkeypatch: pytest.MonkeyPatch) -> None:
        _, whole = sample("alone", [RED, BLUE, GREEN])
        real, told = vbench.load, []
        monkeypatch.setattr(vbench, "load", lambda args, prompts: told.append(prompts) or real(args, prompts))
        for rank in (1, 0):
            for name, value in {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2}.items():
                monkeypatch.setenv(name, str(value))
            result, clips = sample("shared", [RED, BLUE, GREEN])
            assert result.code == 0, result.err
            assert result.out.startswith(f"[rank {rank} of 2] ")
        assert told == [[BLUE], [RED, GREEN]]
        assert clips == whole

    def test_more_ranks_than_prompts(self, sample, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RANK", "3")
        monkeypatch.setenv("WORLD_SIZE", "4")
        result, clips = sample("out", [RED])
        assert result.code == 0, result.err
        assert clips == {}

    def test_a_rank_that_cannot_be(self, sample, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RANK", "2")
        monkeypatch.setenv("WORLD_SIZE", "2")
        result, _ = sample("out", [RED])
        assert_refused(result.code, result.err, "RANK=2, WORLD_SIZE=2")

    def test_every_process_takes_its_own_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        current: list[int] = []
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        monkeypatch.setattr(vbench, "pick_device", torch.device)
        assert vbench._device("cuda", Shard(7, 8, 3, 4)) == "cuda:3"
        assert vbench._device("cuda:1", Shard()) == "cuda:1"
        assert vbench._device("cuda", Shard()) == "cuda"
        assert vbench._device("cpu", Shard(7, 8, 3, 4)) == "cpu"
        assert current == [3, 1]


def test_names_that_differ_in_case_alone(sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """VBench's list holds "a fantasy landscape" and "A fantasy landscape"."""
    result, clips = sample("here", [RED, RED.upper()], samples=1)
    monkeypatch.setattr(vbench.ClipFolder, "ignores_case", lambda self: True)
    result, fewer = sample("there", [RED, RED.upper()], samples=1)
    assert list(fewer) == [f"{RED}-0.mp4"]
    assert "is left out: this disk cannot tell it from" in result.err
    assert len(clips) in (1, 2)
