"""`take resume`, `continue`, `branch`, `decode`, `show --sheet`, `prune`, and takes of a folder of clips."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dummyforcing_core.takes.snapshot import SNAPSHOT
from dummyforcing_core.takes.take import EVENTS, LATENTS, MANIFEST, Take

PROMPT = "a red circle on the left"
CLIP = ("--prompt", PROMPT, "--frames", "45", "--policy", "window", "--seed", "3")
MANY = "0:00 | a red circle\n0:01 | a green circle\n"


@pytest.fixture
def base(run, tiny_demo, tmp_path: Path) -> Path:
    """A folder with the finished take `one` of a clip of four chunks."""
    assert run("generate", *CLIP, "--take", tmp_path / "one", "--out", tmp_path / "one.mp4").code == 0
    return tmp_path


def unfinished(take: Path, chunks: int) -> None:
    """As a kill behind so many chunks leaves it."""
    found, manifest = Take(take), json.loads((take / MANIFEST).read_text())
    last = found.entries[chunks - 1].record
    with (take / LATENTS).open("r+b") as file:
        file.truncate(last.start + last.length)
    (take / MANIFEST).write_text(json.dumps({**manifest, "finished": False}))


def latents(take: Path) -> torch.Tensor:
    found = Take(take)
    return torch.cat([found.latent(span) for span in found.spans], dim=2)


def generated(run, folder: Path, *words: str) -> torch.Tensor:
    assert run("generate", *words, "--out", folder / "g.mp4", "--save-latents", folder / "g.safetensors").code == 0
    return load_file(folder / "g.safetensors")["latent"]


def test_resume_goes_on_as_it_was_begun(run, base: Path) -> None:
    before, video = latents(base / "one"), (base / "one.mp4").read_bytes()
    unfinished(base / "one", 2)
    (base / "one.mp4").unlink()
    result = run("take", "resume", base / "one")
    assert result.code == 0 and "2 chunks are there already" in result.err
    assert torch.equal(latents(base / "one"), before) and (base / "one.mp4").read_bytes() == video
    report = base / "report.json"
    assert run("take", "resume", base / "one", "--out", base / "again.mp4", "--report", report).code == 0
    told = json.loads(report.read_text())["conditions"]
    assert (told["take"], told["chunks there"]) == (str(base / "one"), 4)
    assert (base / "again.mp4").read_bytes() == video


def test_continue_is_the_longer_clip_with_another_prompt_from_there_on(run, base: Path) -> None:
    assert run("take", "continue", base / "one", "--frames", "93", "--prompt", "a blue square").code == 0
    schedule = base / "s.txt"
    schedule.write_text(f"0:00 | {PROMPT}\n0:03 | a blue square")  # latent frame 12, where the take ended
    words = ("--schedule", str(schedule), "--frames", "93", "--policy", "window", "--seed", "3")
    assert torch.equal(latents(base / "one"), generated(run, base, *words))
    again = Take(base / "one").manifest.call
    assert again["lines"] == [[0, PROMPT], [12, "a blue square"]] and "--frames=93" in again["options"]
    # The second run of the same command only writes the video again.
    (base / "one.mp4").unlink()
    assert run("take", "continue", base / "one").code == 0 and (base / "one.mp4").exists()


def test_branch_by_seed_prompt_and_policy(run, base: Path) -> None:
    whole = latents(base / "one")
    assert run("take", "branch", base / "one", base / "same", "--from-chunk", "2").code == 0
    assert torch.equal(latents(base / "same"), whole) and (base / "same.mp4").read_bytes()
    assert run("take", "branch", base / "one", base / "seed", "--from-chunk", "2", "--seed", "4").code == 0
    assert torch.equal(latents(base / "seed")[:, :, :6], whole[:, :, :6])
    assert not torch.equal(latents(base / "seed")[:, :, 6:9], whole[:, :, 6:9])
    assert (
        run("take", "branch", base / "one", base / "said", "--from-chunk", "2", "--prompt", "a blue square").code == 0
    )
    (base / "s.txt").write_text(f"0:00 | {PROMPT}\n0:01.5 | a blue square")
    words = ("--schedule", str(base / "s.txt"), *CLIP[2:])
    assert torch.equal(latents(base / "said"), generated(run, base, *words))
    result = run("take", "branch", base / "one", base / "narrow", "--from-chunk", "3", "--policy", "full")
    assert result.code == 0 and "another policy than one: its heads read the shared chunks anew" in result.err
    narrow = latents(base / "narrow")
    assert torch.equal(narrow[:, :, :9], whole[:, :, :9])
    unfinished_branch(base / "narrow")
    assert run("take", "resume", base / "narrow").code == 0 and torch.equal(latents(base / "narrow"), narrow)


def test_a_policy_looks_at_what_is_made_in_clean_passes_or_is_refused(run, base: Path) -> None:
    result = run("take", "branch", base / "one", base / "mass", "--from-chunk", "3", "--policy", "dummy")
    assert result.code == 0 and bool(latents(base / "mass").isfinite().all())
    made = latents(base / "mass")
    unfinished_branch(base / "mass")
    assert run("take", "resume", base / "mass").code == 0 and torch.equal(latents(base / "mass"), made)
    words = ("--policy", "dummy", "--cost", "output_change")
    result = run("take", "branch", base / "one", base / "change", "--from-chunk", "3", *words)
    assert result.code == 2 and "needs no look at chunk" in result.err and result.err.count("error:") == 1
    assert len(Take(base / "change").entries) == 3, "the parent's"


def unfinished_branch(take: Path) -> None:
    """As a kill before its first own chunk leaves it."""
    manifest = json.loads((take / MANIFEST).read_text())
    (take / MANIFEST).write_text(json.dumps({**manifest, "finished": False}))
    (take / LATENTS).unlink()


def test_branches_of_branches_of_a_lengthened_take(run, base: Path) -> None:
    (base / "s.txt").write_text(MANY)
    words = ("--schedule", str(base / "s.txt"), *CLIP[2:])
    assert run("generate", *words, "--take", base / "a", "--out", base / "a.mp4").code == 0
    assert run("take", "continue", base / "a", "--frames", "69").code == 0
    assert run("take", "branch", base / "a", base / "b", "--from-chunk", "4", "--seed", "8").code == 0
    assert run("take", "branch", base / "b", base / "c", "--from-chunk", "5", "--seed", "9").code == 0
    a, b, c = (latents(base / name) for name in "abc")
    assert torch.equal(c[:, :, :15], b[:, :, :15]) and torch.equal(c[:, :, :12], a[:, :, :12])
    assert run("take", "decode", base / "c", "--out", base / "decoded.mp4").code == 0
    assert (base / "decoded.mp4").read_bytes() == (base / "c.mp4").read_bytes()


def test_decode_writes_what_was_written(run, base: Path) -> None:
    assert run("take", "decode", base / "one", "--out", base / "d.mp4").code == 0
    assert (base / "d.mp4").read_bytes() == (base / "one.mp4").read_bytes()
    assert run("take", "decode", base / "one", "--out", base / "d.mp4", "--fps", "8", "--crf", "0").code == 0
    assert (base / "d.mp4").read_bytes() != (base / "one.mp4").read_bytes()
    unfinished(base / "one", 2)
    result = run("take", "decode", base / "one", "--out", base / "d.mp4")
    assert result.code == 0 and "21 frames" in result.out
    assert run("take", "decode", base / "one", "--out", base / "d.mp4", "--vae", base / "x.pt").code == 2
    (base / "one" / LATENTS).unlink()
    assert "holds none" in run("take", "decode", base / "one", "--out", base / "d.mp4").err


def test_a_sheet_has_a_picture_per_chunk(run, base: Path) -> None:
    result = run("take", "show", base / "one", "--sheet", base / "sheet.png")
    assert result.code == 0 and "have no picture" not in result.out
    with Image.open(base / "sheet.png") as sheet:
        assert sheet.size[0] > 4 * 64
    shutil.rmtree(base / "one" / "pictures")
    assert "4 chunks have no picture" in run("take", "show", base / "one", "--sheet", base / "sheet.png").out
    assert run("take", "show", base / "one", "--sheet", base / "sheet.jpg").code == 2


def test_list_says_of_each_how_far_it_is_and_whose_branch(run, base: Path) -> None:
    assert run("take", "branch", base / "one", base / "two", "--from-chunk", "2", "--seed", "5").code == 0
    unfinished(base / "one", 3)
    lines = run("take", "list", base).out.splitlines()
    assert len(lines) == 2
    told = {Path(line.split("  ")[0]).name: line for line in lines}
    assert "3 chunks" in told["one"] and "unfinished" in told["one"]
    assert "finished, a branch of one" in told["two"]
    assert run("take", "list", base / "nowhere").code == 2


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_a_take_is_one_line_whatever_its_name(run, base: Path) -> None:
    strange = base / "two\nlines"
    (base / "one").rename(strange)
    for words in (("list", base), ("check", strange)):
        (line,) = run("take", *words).out.splitlines()
        assert "two lines" in line and "4 chunks" in line


def test_prune_says_first_and_keeps_what_branches_need(run, base: Path) -> None:
    assert run("take", "continue", base / "one", "--frames", "69", "--snapshot-every", "1").code == 0
    assert run("take", "branch", base / "one", base / "two", "--from-chunk", "2", "--seed", "5").code == 0
    branch, size = latents(base / "two"), (base / "one" / LATENTS).stat().st_size
    assert (base / "one" / SNAPSHOT).exists()
    assert "--yes does it" in run("take", "prune", base / "one").out and (base / "one" / SNAPSHOT).exists()
    assert run("take", "prune", base / "one", "--yes").code == 0 and not (base / "one" / SNAPSHOT).exists()
    assert (base / "one" / LATENTS).stat().st_size == size
    said = run("take", "prune", base / "one", "--all").out
    assert "its first 2 chunks stay" in said and len(Take(base / "one").entries) == 6
    assert run("take", "prune", base / "one", "--all", "--yes").code == 0
    assert len(Take(base / "one").entries) == 2 and not Take(base / "one").manifest.finished
    assert torch.equal(latents(base / "two"), branch)
    assert run("take", "resume", base / "one").code == 0 and len(Take(base / "one").entries) == 6
    assert run("take", "prune", base / "two", "--all", "--yes").code == 0
    assert not (base / "two").exists() and len(Take(base / "one").entries) == 6
    assert run("take", "prune", base / "one", "--all", "--yes").code == 0 and not (base / "one").exists()


def test_prune_leaves_what_is_no_takes(run, base: Path) -> None:
    (base / "one" / "mine.txt").write_text("precious")
    (base / "broken").mkdir()
    (base / "broken" / MANIFEST).write_text("{")
    assert "cannot tell whether" in run("take", "prune", base / "one", "--all", "--yes").err
    shutil.rmtree(base / "broken")
    assert run("take", "prune", base / "one", "--all", "--yes").code == 0
    assert [path.name for path in (base / "one").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "call",
    [
        None,
        3,
        {},
        {"options": "x"},
        {"options": [3], "lines": [[0, "a"]], "blend chunks": 0},
        {"options": ["--out=/tmp/x.mp4"], "lines": [[0, "a"]], "blend chunks": 0},
        {"options": ["--report=/tmp/x.json"], "lines": [[0, "a"]], "blend chunks": 0},
        {"options": ["--take=/tmp/x"], "lines": [[0, "a"]], "blend chunks": 0},
        {"options": ["--ou=/tmp/x.mp4"], "lines": [[0, "a"]], "blend chunks": 0},
        {"options": ["x"], "lines": [[0, "a"]], "blend chunks": 0},
        {"options": ["--nothing=1"], "lines": [[0, "a"]], "blend chunks": 0},
        {"options": ["--seed=x"], "lines": [[0, "a"]], "blend chunks": 0},
        {"options": [], "lines": [["0", "a"]], "blend chunks": 0},
        {"options": [], "lines": [[0, 1]], "blend chunks": 0},
        {"options": [], "lines": [], "blend chunks": 0},
        {"options": [], "lines": [[0, "a"]], "blend chunks": -1},
        {"options": [], "lines": [[0, "a"]], "blend chunks": "x"},
    ],
)
def test_a_hostile_call_is_one_line_and_chooses_no_name(run, base: Path, call: object) -> None:
    manifest = json.loads((base / "one" / MANIFEST).read_text())
    (base / "one" / MANIFEST).write_text(json.dumps({**manifest, "call": call}))
    before = sorted(base.rglob("*"))
    result = run("take", "resume", base / "one", "--out", base / "r.mp4")
    assert result.code == 2 and result.err.count("\n") == 1 and len(result.err) < 700
    assert sorted(base.rglob("*")) == before


def test_files_of_a_call_are_found_from_anywhere(run, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = base / "start.png"
    Image.new("RGB", (64, 64), (200, 0, 0)).save(image)
    monkeypatch.chdir(base)
    words = (*CLIP, "--start-image", "start.png")
    assert run("generate", *words, "--take", "here", "--out", "here.mp4").code == 0
    unfinished(base / "here", 2)
    (base / "elsewhere").mkdir()
    monkeypatch.chdir(base / "elsewhere")
    assert run("take", "resume", base / "here").code == 0
    assert f"--start-image={image}" in Take(base / "here").manifest.call["options"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("resume", "{one}", "--seconds", "9"), "use take continue"),
        (("resume", "{one}", "--seed", "9"), "use take continue"),
        (("branch", "{one}", "{new}"), "expected --from-chunk N"),
        (("branch", "{one}", "{new}", "--from-chunk", "9"), "1 to 4 whole chunks"),
        (("branch", "{one}", "{new}", "--from-chunk", "2", "--size", "32x32"), "expected size"),
        (("continue", "{one}", "--policy", "full"), "branch from it"),
        (("continue", "{one}", "--frames", "21"), "or more"),
        (("continue", "{new}"), "no such file"),
        (("decode", "{one}", "--out", "x.avi"), "end in .mp4"),
        (("show",), "required: DIR"),
        ((), "required: ACTION"),
        (("eat", "{one}"), "invalid choice"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, base: Path, words: tuple[str, ...], said: str) -> None:
    before = sorted(base.rglob("*"))
    result = run("take", *(word.format(one=base / "one", new=base / "new") for word in words))
    assert sorted(base.rglob("*")) == before, "a take that could not be begun leaves nothing"
    assert result.code == 2 and said in result.err and result.err.count("\n") == 1


def test_a_folder_of_clips_may_keep_takes(run, tiny_demo, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a red circle\na blue square\n")
    words = ("--prompts", tmp_path / "p.txt", "--frames", "45", "--out", tmp_path / "out", "--keep-takes")
    assert run("generate", *words).code == 0
    takes = sorted((tmp_path / "out").glob("*.take"))
    assert len(takes) == 2 and all(Take(take).manifest.finished for take in takes)
    video = tmp_path / "out" / "001_a_blue_square.mp4"
    data, made = video.read_bytes(), latents(takes[1])
    unfinished(takes[1], 2)
    video.unlink()
    result = run("generate", *words)
    assert result.code == 0 and "2 chunks are there already" in result.err and "skipped" in result.out
    assert video.read_bytes() == data and torch.equal(latents(takes[1]), made)
    unfinished(takes[1], 1)
    assert run("take", "resume", takes[1], "--out", tmp_path / "x.mp4").code == 0
    assert torch.equal(latents(takes[1]), made)
    assert "--prompts is not given" in run("generate", *CLIP, "--out", tmp_path / "y.mp4", "--keep-takes").err


def test_events_tell_the_story(run, base: Path) -> None:
    assert run("take", "continue", base / "one", "--frames", "69").code == 0
    events = [json.loads(line) for line in (base / "one" / EVENTS).read_text().splitlines()]
    told = [event["event"] for event in events]
    assert told == ["begun", "decided", "finished", "lengthened", "taken up", "finished"]
    assert all(event["time"] for event in events)
    assert events[1]["prompt"] == PROMPT and events[1]["heads"] == {"window": 4}, "2 layers of 2 heads"
    assert events[0]["by"]["process"] == events[4]["by"]["process"]


def test_events_tell_of_switches_plans_scores_and_what_is_banked(run, base: Path) -> None:
    (base / "s.txt").write_text(MANY)
    words = ("--schedule", str(base / "s.txt"), "--frames", "93")
    for policy in ("dummy", "head_forcing"):
        take = base / policy
        assert run("generate", *words, "--policy", policy, "--take", take, "--out", base / "x.mp4").code == 0
        events = [json.loads(line) for line in (take / EVENTS).read_text().splitlines()]
        decided = [event for event in events if event["event"] == "decided"]
        assert [event["prompt"] for event in decided if "prompt" in event] == ["a red circle", "a green circle"]
        scored = [event["scores"] for event in decided if "scores" in event]
        assert scored and all(len(layers) == 2 and len(layers[0]) == 2 for layers in scored)
        assert len([event for event in decided if "heads" in event]) >= 2, "as it begins, and once heads are seen"
        assert any("banked" in event for event in decided) == (policy == "head_forcing")


def test_a_vbench_folder_may_keep_takes(run, tiny_demo, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a red circle\na blue square\n")
    words = (
        "--prompts",
        tmp_path / "p.txt",
        "--frames",
        "45",
        "--samples",
        "1",
        "--out",
        tmp_path / "out",
        "--keep-takes",
    )
    assert run("vbench", *words).code == 0
    takes, videos = (sorted((tmp_path / "out" / name).iterdir()) for name in ("takes", "videos"))
    assert len(takes) == len(videos) == 2 and {path.suffix for path in videos} == {".mp4"}
    data, made = videos[0].read_bytes(), [latents(take) for take in takes]
    for take in takes:
        unfinished(take, 2)
    videos[0].unlink()
    assert run("vbench", *words).code == 0
    assert videos[0].read_bytes() == data
    assert sum(torch.equal(x, y) for x, y in zip(map(latents, takes), made, strict=False) if x.shape == y.shape) == 1
