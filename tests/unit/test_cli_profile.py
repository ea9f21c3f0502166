"""`profile`: the file, the picture and the printed figures; a profile that `generate` takes."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from dummyforcing_core.models import checkpoints
from dummyforcing_core.models.checkpoints import read_checkpoint
from dummyforcing_core.policies.profile import HeadProfile

SMALL = "--size", "16x16", "--device", "cpu"  # one token per frame
FRAME_BYTES = 2 * 32 * 4  # K and V of one frame of one head of the tiny stand-in: one token, head_dim 32, float32


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("# two\na red circle on the left\n\na blue square in the rain\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(run, tiny_demo, tmp_path_factory: pytest.TempPathFactory):
    """Folder with p.json and map.png of two prompts and 45 frames, and what was printed."""
    folder = tmp_path_factory.mktemp("profile")
    (folder / "prompts.txt").write_text("a red circle on the left\na blue square on the right\n", encoding="utf-8")
    outputs = "--out", folder / "new" / "p.json", "--picture", folder / "new" / "map.png"
    result = run("profile", "--prompts", folder / "prompts.txt", "--frames", 45, *SMALL, *outputs)
    assert result.code == 0, result.err
    return folder / "new", result


def test_the_file(made) -> None:
    folder, _ = made
    document = json.loads((folder / "p.json").read_text(encoding="utf-8"))
    assert (document["format"], document["version"]) == ("dummyforcing.head_profile", 2)
    assert (document["family"], document["layers"], document["heads"]) == ("demo", 2, 2)
    assert document["fingerprint"] == read_checkpoint(checkpoints.DEMO_PATH).info.fingerprint != ""
    scores = torch.tensor(document["scores"])
    assert scores.shape == (2, 2, 3)
    assert (scores > 0).all()
    torch.testing.assert_close(scores.sum(-1), torch.ones(2, 2), rtol=0, atol=1e-5)
    change = torch.tensor(document["output_change"]["change"])
    assert change.shape == (2, 2, 5)
    assert (change > 0).all()
    assert document["output_change"]["options"]["newest chunk"] == [0, 3]
    roles = [role for row in document["roles"] for role in row]
    assert len(roles) == 4
    assert roles.count("dummy") == 2
    assert set(roles) <= {"sink", "neighbour", "dummy"}
    # 2 prompts, chunks 1 to 3, 4 denoising steps and the clean pass
    assert document["conditions"] == {"prompts": 2, "seeds": 1, "frames": 45, "samples": 2 * 3 * 5}


def test_the_picture(made) -> None:
    with Image.open(made[0] / "map.png") as picture:
        assert picture.format == "PNG"
        assert picture.width >= 400
        assert picture.height >= 100
        assert len(picture.convert("RGB").getcolors(100_000)) > 5


@pytest.mark.parametrize(
    "line",
    [
        r"heads with more than 80% of their mass on the current chunk, by layer:",
        r"  layer 0 +\d+\.\d%",
        r"  layer 1 +\d+\.\d%",
        r"  overall +\d+\.\d% +\(paper: about 25%\)",
        r"overlap of the 2 dummy heads, mean over pairs:",
        r"  across AR steps +[01]\.\d\d +\(paper: 0\.92\)",
        r"  across timesteps +[01]\.\d\d +\(paper: 0\.85\)",
        r"  across prompts +[01]\.\d\d +\(paper: 0\.76\)",
        r"heads whose output changes most without far frames \(mean over all \d\.\d{4}\):",
        r"  layer [01] +head [01] +\d\.\d{4}",
        r"wrote .*p\.json",
        r"wrote .*map\.png",
    ],
)
def test_what_is_printed(made, line: str) -> None:
    assert re.search(f"^{line}$", made[1].out, re.MULTILINE), made[1].out


def test_the_same_command_gives_the_same_file_and_another_seed_does_not(run, tiny_demo, prompts, tmp_path) -> None:
    found = []
    for name, more in {"a": (), "b": (), "c": ("--seed", 7), "d": ("--seeds", 2)}.items():
        path = tmp_path / f"{name}.json"
        words = "--prompts", prompts, "--frames", 21, "--out", path, *more
        assert run("profile", *words, *SMALL).code == 0
        found.append(path.read_text(encoding="utf-8"))
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert json.loads(found[3])["conditions"] == {"prompts": 2, "seeds": 2, "frames": 21, "samples": 2 * 2 * 1 * 5}


def test_one_prompt_and_one_chunk_have_no_pair_across_prompts_or_ar_steps(run, tiny_demo, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a red circle\n", encoding="utf-8")
    words = "--prompts", tmp_path / "one.txt", "--frames", 21, "--out", tmp_path / "p.json"
    result = run("profile", *words, *SMALL)
    assert re.search(r"across AR steps +no pair", result.out)
    assert re.search(r"across prompts +no pair", result.out)
    assert re.search(r"across timesteps +[01]\.\d\d", result.out)


def test_generate_takes_the_profile_without_a_warning_and_is_narrow_at_once(run, made, tmp_path: Path) -> None:
    profile = made[0] / "p.json"
    roles = [role for row in json.loads(profile.read_text(encoding="utf-8"))["roles"] for role in row]
    words = "--policy", "dummy", "--profile", profile, "--report", tmp_path / "r.json", "--out", tmp_path / "c.mp4"
    result = run("generate", "--prompt", "a red circle", "--frames", 45, *SMALL, *words)
    assert result.code == 0, result.err
    assert "warning" not in result.err
    memory = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["memory"]
    held = sum({"sink": 1, "neighbour": 3, "dummy": 1}[role] for role in roles)
    assert memory["history_bytes"] == {"predicted": held * FRAME_BYTES, "actual": held * FRAME_BYTES}
    assert memory["peak_bytes"]["actual"] == (held + 4 * 3) * FRAME_BYTES
    assert memory["cached_frames"]["mean"] == held / 4


def test_a_profile_holds_for_another_size(run, made, tmp_path: Path) -> None:
    words = "--policy", "dummy", "--profile", made[0] / "p.json", "--out", tmp_path / "c.mp4"
    size = "--size", "32x16", "--device", "cpu"
    assert run("generate", "--prompt", "a red circle", "--frames", 9, *size, *words).code == 0


def test_a_profile_read_back_is_the_mean_that_was_printed(made) -> None:
    profile = HeadProfile.read(made[0] / "p.json")
    share = float((profile.scores.mass[..., 2] > 0.8).float().mean())
    assert f"{share:6.1%}   (paper: about 25%)" in made[1].out


# -- bad input -------------------------------------------------------------------------------------------------------

BAD_WORDS: dict[str, tuple[str, str]] = {
    "missing prompts": ("--prompts {tmp}/none.txt", "cannot read the prompts"),
    "no prompt in the file": ("--prompts {tmp}/empty.txt", "holds no prompt"),
    "negative local chunks": ("--local-chunks -1", "expected --local-chunks of 1 or more, got -1"),
    "seeds in words": ("--seeds many", "--seeds: expected a whole number"),
    "bad size": ("--size 20x21", "even sides"),
    "out is a folder": ("--out {tmp}", "cannot write"),
    "picture is a folder": ("--picture {tmp}", "that is a folder"),
    "out and picture in one": ("--picture {tmp}/x/../p.json", "--out and --picture name the same file"),
    "picture over the prompts": ("--prompts {tmp}/full.txt --picture {tmp}/full.txt", "--prompts and --picture name"),
    "out over a model": ("--model {tmp}/full.txt --out {tmp}/full.txt", "--model and --out name the same file"),
    "out under a file": ("--out {tmp}/empty.txt/p.json", "cannot make the folder"),
    "no such option": ("--policy dummy", "unrecognized arguments"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_words(run, tiny_demo, prompts: Path, tmp_path: Path, case: str) -> None:
    words, message = BAD_WORDS[case]
    (tmp_path / "empty.txt").write_text("# nothing\n", encoding="utf-8")
    (tmp_path / "full.txt").write_text("a red circle", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    words = words.replace("{tmp}", str(tmp_path)).split()
    out = "--out", tmp_path / "p.json"
    result = run("profile", "--prompts", prompts, "--frames", 21, *out, *SMALL, *words)
    assert result.code == 2, result.err
    assert result.err.splitlines()[-1].startswith("error: ")
    assert message in result.err
    assert "Traceback" not in result.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--frames 9", "too short"),
        ("--seeds 0", "seeds"),
        ("--seeds -1", "seeds"),
        ("--local-chunks 0", "local"),
    ],
)
def test_nothing_to_score(run, tiny_demo, prompts: Path, tmp_path: Path, words: str, message: str) -> None:
    result = run("profile", "--prompts", prompts, "--frames", 21, "--out", tmp_path / "p.json", *SMALL, *words.split())
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("error: ")
    assert message in result.err


def test_clips_too_short_to_be_scored_leave_no_file(run, tiny_demo, prompts: Path, tmp_path: Path) -> None:
    result = run("profile", "--prompts", prompts, "--frames", 9, "--out", tmp_path / "p.json", *SMALL)
    assert result.code == 2
    assert "too short" in result.err
    assert not (tmp_path / "p.json").exists()
