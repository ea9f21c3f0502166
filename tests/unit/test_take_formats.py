"""Takes that older versions wrote are opened, checked and gone on with; newer ones say what to do."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dummyforcing_core.errors import OutputError
from dummyforcing_core.loops.table import sample
from dummyforcing_core.takes.snapshot import SNAPSHOT
from dummyforcing_core.takes.take import MANIFEST, VERSION, Recording, Take
from tests.unit.take_format import latent_key, run_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
KEPT = Path(__file__).parent / "data" / "takes"
TAKES = {
    f"{line.split()[0]}-{path.parent.name}": (path.parent, *line.split())
    for path in sorted(KEPT.glob("*/latents.txt"))
    for line in path.read_text(encoding="utf-8").splitlines()
}


def test_there_are_takes_of_every_version() -> None:
    assert {path.name for path in KEPT.iterdir()} == {f"v{number}" for number in range(1, VERSION + 1)}
    assert len(TAKES) == 4 * VERSION
    assert sum(path.stat().st_size for path in KEPT.rglob("*") if path.is_file()) < 400 * 1024


@pytest.mark.parametrize(("folder", "name", "key"), TAKES.values(), ids=TAKES)
def test_a_take_is_read_whole(run, folder: Path, name: str, key: str) -> None:
    take = Take(folder / name)
    take.read_all()
    assert latent_key(take) == key and not take.missing and not take.manifest.finished
    for entry in take.entries:
        assert take.picture(entry.span.chunk)
        assert [one.text for one in entry.heard] == [f"prompt {one.frame // 6}" for one in entry.heard]
        assert all(take.features(entry, one) is not None for one in entry.heard)
    made = take.made()
    assert (made.stored is not None) == (folder / name / SNAPSHOT).exists() == (name == "story")
    assert bool(made.window) == (name == "rolling")
    assert run("take", "check", folder / name).code == 0


@pytest.mark.parametrize(("folder", "name", "key"), TAKES.values(), ids=TAKES)
def test_a_take_is_gone_on_with(folder: Path, name: str, key: str, tmp_path: Path) -> None:
    """On this machine from its latents on: the bits before are another's."""
    shutil.copytree(folder, tmp_path / "copy")
    clip, take = run_of(name), Recording(tmp_path / "copy" / name)
    take.check_run(clip.spans, clip.denoise.geometry)
    for chunk in sample(replace(clip, made=take.made())):
        take.add(chunk)
    take.finish()
    again = Take(tmp_path / "copy" / name)
    assert again.manifest.finished and not again.missing and again.frames == clip.shape.frames
    assert all(bool(again.latent(span).isfinite().all()) for span in again.spans)
    assert torch.equal(again.latent(again.spans[0]), Take(folder / name).latent(again.spans[0]))


def test_a_take_of_a_newer_version_says_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(KEPT / "v1" / "story", tmp_path / "story")
    manifest = json.loads((tmp_path / "story" / MANIFEST).read_text())
    (tmp_path / "story" / MANIFEST).write_text(json.dumps({**manifest, "version": VERSION + 1}))
    with pytest.raises(OutputError, match=r"of version 2.*update"):
        Take(tmp_path / "story")


@pytest.mark.parametrize("left_out", ["call", "shown frames", "parent"])
def test_what_older_manifests_lack_is_not_missed(tmp_path: Path, left_out: str) -> None:
    shutil.copytree(KEPT / "v1" / "story", tmp_path / "story")
    manifest = json.loads((tmp_path / "story" / MANIFEST).read_text())
    del manifest[left_out]
    (tmp_path / "story" / MANIFEST).write_text(json.dumps(manifest))
    assert len(Take(tmp_path / "story").entries) == 3
