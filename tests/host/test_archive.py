"""The archive that people install, unpacked into an empty ComfyUI: nothing else is needed, also not the scripts."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dummyforcing_core.clips.video import read_frames
from tests.host.install import REPOSITORY, ComfyInstall, make_base_directory
from tests.host.server import ComfyServer

FOLDER = "dummyforcing-1.0"  # people unpack into whatever name they like
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("archive") / "pack.zip"
    script = REPOSITORY / "scripts" / "pack.py"
    subprocess.run([sys.executable, str(script), str(target)], check=True, timeout=120)
    return target


@pytest.fixture(scope="module")
def unpacked(comfyui: ComfyInstall, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = make_base_directory(tmp_path_factory.mktemp("unpacked") / "base", {})
    with zipfile.ZipFile(io.BytesIO(archive.read_bytes())) as packed:
        packed.extractall(base / "custom_nodes" / FOLDER)
    with ComfyServer(comfyui, base) as running:
        yield running


def test_every_node_is_there_and_none_of_the_tests(unpacked: ComfyServer) -> None:
    ours = {name for name in unpacked.object_info() if name.startswith("DummyForcing")}
    assert ours == set(json.loads((HERE / "object_info.json").read_text(encoding="utf-8")))
    folder = unpacked.base / "custom_nodes" / FOLDER
    assert not any((folder / name).exists() for name in ("tests", "demo", "benchmarks", ".ci"))
    assert "Traceback" not in unpacked.log and "Cannot import" not in unpacked.log


def test_the_demo_makes_its_clip(unpacked: ComfyServer) -> None:
    prompt = json.loads((HERE / "released" / "0.1.0" / "demo.json").read_text(encoding="utf-8"))
    run = unpacked.run(prompt)
    outputs = unpacked.history(run.prompt_id)["outputs"]
    video = next(out["images"][0] for out in outputs.values() if out.get("images"))
    path = unpacked.base / "output" / video["subfolder"] / video["filename"]
    frames = list(read_frames(path))
    assert len(frames) == 80  # 5 s
    assert frames[0].shape == (64, 64, 3)
    assert frames[40].std() > 10
    assert path.read_bytes() == unpacked.view(video)


def test_the_page_gets_scripts_help_translations_and_templates(unpacked: ComfyServer) -> None:
    scripts = [name for name in unpacked.get("/extensions") if "live.js" in name]
    assert len(scripts) == 1
    assert b"registerExtension" in unpacked.get_bytes(scripts[0]), scripts
    assert unpacked.get("/i18n")["zh"]["nodeDefs"]["DummyForcingStreamingSampler"]["display_name"]
    templates = unpacked.get("/workflow_templates")[FOLDER]
    assert sorted(templates) == sorted(path.stem for path in (REPOSITORY / "workflows").glob("*.json"))
