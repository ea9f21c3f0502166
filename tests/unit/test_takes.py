"""Takes: a clip that is killed goes on to the bits of one that is not; what is hostile is one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from dummyforcing_core.clips.take_of import shared_chunks
from dummyforcing_core.errors import DummyForcingError, OutputError
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.loops.run import Run
from dummyforcing_core.loops.table import sample
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import Policy
from dummyforcing_core.takes.prompts import prompts_of
from dummyforcing_core.takes.records import RecordWriter
from dummyforcing_core.takes.take import EVENTS, LATENTS, MANIFEST, Manifest, Recording, Take, check_same
from tests.property.test_policy_matrix import FAMILIES, POLICY_CASES, VARIANTS, clip
from tests.property.test_resume import Stills

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
MADE = {"policy": "window", "seed": 0}


def manifest(run: Run, **more) -> Manifest:
    return Manifest({**MADE, **more}, {"device": "cpu"}, run.shape)


def recorded(folder: Path, run: Run, stop: int | None = None) -> torch.Tensor:
    """Makes a clip into a take, or the first `stop` chunks of it; its latents."""
    take = Recording(folder) if (folder / MANIFEST).exists() else Recording.begin(folder, manifest(run))
    for chunk in sample(replace(run, still=Stills(), made=take.made())):
        take.add(chunk)
        if len(take.entries) == stop:
            break
    else:
        take.finish()
    return torch.cat([take.latent(span) for span in take.spans], 2)


CASES = [
    (POLICY_CASES["head_forcing again"], "chunks", "a prompt switch"),
    (POLICY_CASES["head_forcing keys"], "re-caching", "two clips, a switch"),
    (POLICY_CASES["dummy scored again"], "rolling", "a prompt switch"),
    (POLICY_CASES["dummy online"], "recompute", "a given start"),
    (POLICY_CASES["window narrow"], "restarts", "a given start"),
]


@pytest.mark.parametrize(("policy", "loop", "kind"), CASES)
def test_a_take_goes_on_from_any_chunk(tmp_path: Path, policy: Policy, loop: str, kind: str) -> None:
    run = clip(policy, FAMILIES[loop], VARIANTS[kind])
    whole = recorded(tmp_path / "whole", run)
    chunks = len(Take(tmp_path / "whole").entries)
    for stop in range(1, chunks):
        folder = tmp_path / f"cut {stop}"
        assert torch.equal(recorded(folder, run, stop), whole[:, :, : Take(folder).frames])
        assert not Take(folder).manifest.finished
        assert torch.equal(recorded(folder, run), whole)
        assert Take(folder).manifest.finished and not Take(folder).missing
        assert [entry.log for entry in Take(folder).entries] == [e.log for e in Take(tmp_path / "whole").entries]


@pytest.mark.parametrize("frames", [6, 9, 11, 13])
@pytest.mark.parametrize(("policy", "loop", "kind"), CASES)
def test_a_take_that_is_lengthened_is_the_longer_clip(
    tmp_path: Path, policy: Policy, loop: str, kind: str, frames: int
) -> None:
    """From the last point on that both share: rolling windows make their last chunks anew."""
    family = FAMILIES[loop]
    short = clip(policy, family, VARIANTS[kind], frames=frames - frames % 3 if loop == "rolling" else frames)
    long = clip(policy, family, VARIANTS[kind])
    whole = recorded(tmp_path / "long", long)
    recorded(tmp_path / "short", short)
    take = Recording(tmp_path / "short")
    last, shared = take.spans[-1], shared_chunks(take, family)
    short_ones = 1 if loop == "rolling" else int(not last.given and last.frames < 3)
    assert len(take.entries) - shared == short_ones
    take.lengthen(long.shape, shared)
    assert torch.equal(recorded(tmp_path / "short", long), whole)


@pytest.mark.parametrize(("policy", "loop", "kind"), CASES)
def test_a_branch_shares_its_parents_chunks_and_copies_none(
    tmp_path: Path, policy: Policy, loop: str, kind: str
) -> None:
    run = clip(policy, FAMILIES[loop], VARIANTS[kind])
    whole = recorded(tmp_path / "parent", run)
    before = (tmp_path / "parent" / LATENTS).read_bytes()
    for chunks in (1, 3):
        folder = tmp_path / f"branch {chunks}"
        Recording.begin(folder, replace(manifest(run), parent=("parent", chunks)))
        assert torch.equal(recorded(folder, run), whole)
        own = Take(folder)
        assert [entry.file.parent.name for entry in own.entries[: chunks + 1]] == ["parent"] * chunks + [folder.name]
        grandchild = tmp_path / f"branch of {chunks}"
        Recording.begin(grandchild, replace(manifest(run), parent=(folder.name, chunks + 1)))
        assert torch.equal(recorded(grandchild, run), whole)
    assert (tmp_path / "parent" / LATENTS).read_bytes() == before


def test_a_branch_of_another_seed_differs_from_its_first_own_chunk_on(tmp_path: Path) -> None:
    run = clip(*(CASES[0][0], FAMILIES["chunks"], VARIANTS["plain"]))
    other = replace(run, noise=SeededNoise(7, run.shape, 3))
    whole = recorded(tmp_path / "parent", run)
    Recording.begin(tmp_path / "branch", replace(manifest(run, seed=7), parent=("parent", 2)))
    branch = recorded(tmp_path / "branch", other)
    assert torch.equal(branch[:, :, :6], whole[:, :, :6])
    assert not torch.equal(branch[:, :, 6:9], whole[:, :, 6:9])


@pytest.mark.parametrize(
    "parent", [["..", 1], ["a/b", 1], ["/etc", 1], ["a\\b", 1], ["x", -1], ["x"], "xy", [1, 2], ["", 1]]
)
def test_a_parent_that_leads_elsewhere_is_one_line(tmp_path: Path, parent: object) -> None:
    Manifest(MADE, {}, LatentShape(1, 16, 9, 4, 4)).write(tmp_path)
    document = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**document, "parent": parent}))
    with pytest.raises(OutputError, match="give the folder of a take"):
        Take(tmp_path)


def test_takes_that_branch_from_one_another_are_one_line(tmp_path: Path) -> None:
    for name, parent in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        Manifest(MADE, {}, LatentShape(1, 16, 9, 4, 4), parent=(parent, 0)).write(tmp_path / name)
    with pytest.raises(OutputError, match="branches in a row"):
        Take(tmp_path / "a")


def test_a_parent_that_lost_chunks_is_told_of(tmp_path: Path) -> None:
    run = clip(*(CASES[0][0], FAMILIES["chunks"], VARIANTS["plain"]))
    recorded(tmp_path / "parent", run, 2)
    (tmp_path / "branch").mkdir()
    replace(manifest(run), parent=("parent", 3)).write(tmp_path / "branch")
    with pytest.raises(OutputError, match=r"expected 3 chunks of .* got 2"):
        Take(tmp_path / "branch")


def test_a_torn_tail_is_told_of_and_cut(tmp_path: Path) -> None:
    run = clip(*(CASES[0][0], FAMILIES["chunks"], VARIANTS["plain"]))
    whole = recorded(tmp_path / "take", run)
    with (tmp_path / "take" / LATENTS).open("r+b") as file:
        file.truncate(os.path.getsize(file.name) - 5)
    take = Take(tmp_path / "take")
    assert "bytes behind the last whole chunk" in take.missing and "latent frames from 15 on" in take.missing
    with pytest.warns(UserWarning, match="ended in .* bytes of a chunk that was not whole"):
        assert torch.equal(recorded(tmp_path / "take", run), whole)


def test_another_setting_is_named(tmp_path: Path) -> None:
    run = clip(*(CASES[0][0], FAMILIES["chunks"], VARIANTS["plain"]))
    recorded(tmp_path, run, 1)
    take = Take(tmp_path)
    check_same(take.manifest, manifest(run), tmp_path)
    with pytest.raises(DummyForcingError, match="expected seed 0, as of the take"):
        check_same(take.manifest, manifest(run, seed=1), tmp_path)
    with pytest.raises(DummyForcingError, match="expected lora None"):
        check_same(take.manifest, manifest(run, lora="x"), tmp_path)
    with pytest.raises(DummyForcingError, match="expected latents of"):
        check_same(take.manifest, replace(manifest(run), shape=replace(run.shape, height=8)), tmp_path)
    with pytest.raises(DummyForcingError, match="or more"):
        check_same(take.manifest, replace(manifest(run), shape=replace(run.shape, frames=15)), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"format": "dummyforcing.take", "version": 2}',
        '{"format": "dummyforcing.take", "version": 1}',
        '{"format": "dummyforcing.take", "version": 1, "latents": [1, 16, 1e9, 4, 4], "conditions": {}, "machine": {}}',
        '{"format": "dummyforcing.take", "version": 1, "latents": [1, 16, 9, 4, -4], "conditions": {}, "machine": {}}',
        '{"format": "dummyforcing.take", "version": 1, "latents": "abcde", "conditions": 3, "machine": {}}',
        "[" * 200_000,
    ],
)
def test_a_hostile_manifest_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(OutputError) as caught:
        Take(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def told(**more) -> dict[str, str]:
    plan = (
        POLICY_CASES["window narrow"].plan(clip(CASES[0][0], FAMILIES["chunks"], VARIANTS["plain"]).setting).to_json()
    )
    default = {"stop": 3, "given": False, "plan": plan, "observed": False, "recached": False, "marked": []}
    return {"chunk": json.dumps(default | more)}


LATENT = torch.zeros(1, 16, 3, 4, 4)
HOSTILE = [
    b"",
    b"\xff" * 8,
    (2**40).to_bytes(8, "little") + b"{}",
    save({"latent": LATENT}),
    save({"latent": torch.zeros(1, 16, 3, 4, 5)}, told()),
    save({"latent": torch.zeros(1, 16, 9, 4, 4)}, told()),
    save({"other": LATENT}, told()),
    save({"latent": LATENT}, told(stop=99)),
    save({"latent": LATENT}, told(stop=-3)),
    save({"latent": LATENT}, told(stop="3")),
    save({"latent": LATENT}, told(plan=None)),
    save({"latent": LATENT}, told(plan="{}")),
    save({"latent": LATENT}, told(marked=[["a"]])),
    save({"latent": LATENT}, told(marked=3)),
    save({"latent": LATENT}, {"chunk": "[" * 100_000}),
    save({"latent": LATENT}, told())[:-7],
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_record_is_one_line(tmp_path: Path, data: bytes) -> None:
    Manifest(MADE, {}, LatentShape(1, 16, 9, 4, 4)).write(tmp_path)
    RecordWriter(tmp_path / LATENTS).append(data)
    with pytest.raises(OutputError) as caught:
        Take(tmp_path).read_all()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def generate(folder: Path, *more: str) -> list[str]:
    out = ("--out", str(folder / "clip.mp4"), "--save-latents", str(folder / "clip.safetensors"))
    prompt = folder / "schedule.txt"
    prompt.write_text("0:00 | a red circle\n0:02 | a green circle\n0:04 | a circle, lights off\n")
    words = ("generate", "--schedule", str(prompt), "--frames", "117", "--policy", "head_forcing", "--device", "cpu")
    return [*words, "--take", str(folder / "take"), *out, *more]


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "dummyforcing_core", *generate(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_killed_again_and_again_it_comes_to_the_same_clip(tmp_path: Path) -> None:
    """Latents and video are those of a clip that nobody killed."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert start(tmp_path / "whole").wait() == 0
    folder, kills = tmp_path / "killed", 0
    take = folder / "take" / LATENTS
    for chunks in (2, 5, 8):
        process = start(folder)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if take.exists() and len(Take(folder / "take").entries) >= chunks:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        process.communicate()
    assert kills
    again = start(folder)
    text, _ = again.communicate()
    assert again.returncode == 0 and "there already" in text
    ours, theirs = (load_file(tmp_path / name / "clip.safetensors")["latent"] for name in ("killed", "whole"))
    assert torch.equal(ours, theirs)
    assert (folder / "clip.mp4").read_bytes() == (tmp_path / "whole" / "clip.mp4").read_bytes()
    events = [json.loads(line)["event"] for line in (folder / "take" / EVENTS).read_text().splitlines()]
    assert events[0] == "begun" and events[-1] == "finished" and "taken up" in events


def test_latents_without_their_manifest_are_not_begun_over(tmp_path: Path) -> None:
    run = clip(*(CASES[0][0], FAMILIES["chunks"], VARIANTS["plain"]))
    recorded(tmp_path, run, 2)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(OutputError, match=r"which holds latents\.take and no take\.json"):
        Recording.begin(tmp_path, manifest(run, seed=5))


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("name", [MANIFEST, LATENTS, EVENTS])
@pytest.mark.parametrize("kind", ["link", "lost link", "pipe", "folder"])
def test_what_is_no_file_of_the_take_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    run = clip(*(CASES[0][0], FAMILIES["chunks"], VARIANTS["plain"]))
    recorded(tmp_path / "take", run, 2)
    path, precious = tmp_path / "take" / name, tmp_path / "precious"
    if path.exists():
        path.rename(precious)
    before = precious.read_bytes() if precious.exists() else b""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(precious if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(OutputError, match="a link or no file"):
        recorded(tmp_path / "take", run)
    assert not precious.exists() or precious.read_bytes() == before


def test_chunks_of_another_length_or_model_are_refused(tmp_path: Path) -> None:
    run = clip(*(POLICY_CASES["window narrow"], FAMILIES["chunks"], VARIANTS["plain"]))
    recorded(tmp_path, run, 3)
    take, model = Take(tmp_path), run.denoise.geometry
    take.check_run(run.spans, model)
    for spans, geometry in ((run.spans[1:], model), (run.spans, replace(model, heads=9))):
        with pytest.raises(OutputError, match="expected chunk"):
            take.check_run(spans, geometry)


def test_a_chunk_that_is_not_finite_is_found(tmp_path: Path) -> None:
    run = clip(*(POLICY_CASES["window narrow"], FAMILIES["chunks"], VARIANTS["plain"]))
    take = Recording.begin(tmp_path, manifest(run))
    for chunk in sample(run):
        take.add(replace(chunk, latent=chunk.latent * float("nan")))
        break
    with pytest.raises(OutputError, match="is not finite"):
        Take(tmp_path).read_all()


@pytest.mark.parametrize("name", ["clip.mp4", "take.json", "latents.take", "events.jsonl"])
def test_no_output_takes_the_place_of_a_takes_files(run, tiny_demo, tmp_path: Path, name: str) -> None:
    words = (
        "generate",
        "--prompt",
        "a red circle",
        "--frames",
        "9",
        "--take",
        tmp_path / "t",
        "--out",
        tmp_path / "x.mp4",
    )
    result = run(*words, "--report", tmp_path / "t" / name)
    assert result.code == 2 and result.err.count("\n") == 1
    assert ("name the same file" in result.err) == (name != "clip.mp4")


def test_a_rate_that_is_none_is_shown_at_once(run, tmp_path: Path) -> None:
    Manifest({"fps": "1e99999999", "a\nb": 1}, {}, LatentShape(1, 16, 9, 4, 4)).write(tmp_path)
    result = run("take", "show", tmp_path)
    assert result.code == 0 and "0 chunks" in result.out


def test_what_is_the_same_in_many_chunks_is_held_once(tmp_path: Path) -> None:
    """Else a take of ten thousand chunks would hold its longest prompt and its marks ten thousand times."""
    run = clip(POLICY_CASES["head_forcing again"], FAMILIES["chunks"], VARIANTS["a prompt switch"], frames=30)
    grown = Recording.begin(tmp_path, manifest(run))
    for chunk in sample(run):
        grown.add(chunk, prompts_of(run, chunk, lambda frame: "a red circle " * 9))
    for take in (grown, Take(tmp_path)):
        shared = 0
        for one, other in pairwise(take.entries):
            assert one.log.plan is other.log.plan or one.log.plan != other.log.plan
            assert one.log.marked is other.log.marked or one.log.marked != other.log.marked
            shared += one.log.marked is other.log.marked
        assert shared > 2
    texts = [one.text for entry in Take(tmp_path).entries for one in entry.heard]
    assert len(texts) == 10 and len({id(text) for text in texts}) == 1


def test_another_take_in_the_parents_place_is_found_out(tmp_path: Path) -> None:
    run = clip(*(CASES[0][0], FAMILIES["chunks"], VARIANTS["plain"]))
    recorded(tmp_path / "parent", run)
    Recording.begin(tmp_path / "branch", replace(manifest(run), parent=("parent", 2)))
    Recording.begin(tmp_path / "branch of it", replace(manifest(run), parent=("branch", 1)))
    (tmp_path / "parent").rename(tmp_path / "moved")
    for name in ("branch", "branch of it"):
        with pytest.raises(OutputError, match=r"from which .*branch.* branched, got none; give it back"):
            Take(tmp_path / name)
    recorded(tmp_path / "parent", replace(run, noise=SeededNoise(7, run.shape, 3)))
    for name in ("branch", "branch of it"):
        with pytest.raises(OutputError, match="got another of that name; give it back"):
            Take(tmp_path / name)
    shutil.rmtree(tmp_path / "parent")
    (tmp_path / "moved").rename(tmp_path / "parent")
    assert [len(Take(tmp_path / name).entries) for name in ("branch", "branch of it")] == [2, 1]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_branch_that_is_reached_by_a_link_finds_its_parent(tmp_path: Path) -> None:
    run = clip(*(CASES[0][0], FAMILIES["chunks"], VARIANTS["plain"]))
    (tmp_path / "takes").mkdir()
    recorded(tmp_path / "takes" / "parent", run, 3)
    Recording.begin(tmp_path / "takes" / "branch", replace(manifest(run), parent=("parent", 2)))
    (tmp_path / "link").symlink_to(tmp_path / "takes" / "branch")
    assert len(Take(tmp_path / "link").entries) == 2
