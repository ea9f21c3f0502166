"""Finding ComfyUI, the base directory, and what the terminal says when there is none; needs no ComfyUI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host.in_process import InsideFailure, InsideResults
from tests.host.install import REPOSITORY, ComfyInstall, ComfyMissing, find_comfy, make_base_directory


def checkout(path: Path, interpreter: str | None = ".venv/bin/python") -> Path:
    (path / "comfy").mkdir(parents=True)
    (path / "main.py").touch()
    if interpreter:
        program = path / interpreter
        program.parent.mkdir(parents=True)
        program.touch(mode=0o755)
    return path


def test_comfyui_dir_comes_before_home(tmp_path: Path) -> None:
    home = checkout(tmp_path / "home" / "comfy" / "ComfyUI")
    named = checkout(tmp_path / "named", "venv/bin/python")
    assert find_comfy({}, tmp_path / "home") == ComfyInstall(home, home / ".venv/bin/python")
    assert find_comfy({"COMFYUI_DIR": str(named)}, tmp_path / "home").python == named / "venv/bin/python"


def test_an_interpreter_can_be_named(tmp_path: Path) -> None:
    bare = checkout(tmp_path / "bare", interpreter=None)
    environment = {"COMFYUI_DIR": str(bare), "COMFYUI_PYTHON": sys.executable}
    assert find_comfy(environment).python == Path(sys.executable)
    with pytest.raises(ComfyMissing, match="no program"):
        find_comfy({**environment, "COMFYUI_PYTHON": str(tmp_path / "nothing")})


@pytest.mark.parametrize("make", ["nothing", "no interpreter", "no comfy folder"])
def test_what_is_missing_is_said(tmp_path: Path, make: str) -> None:
    target = tmp_path / "target"
    if make == "no interpreter":
        checkout(target, interpreter=None)
    elif make == "no comfy folder":
        checkout(target)
        (target / "comfy").rmdir()
    with pytest.raises(ComfyMissing, match=r"no \.venv" if make == "no interpreter" else "holds no"):
        find_comfy({"COMFYUI_DIR": str(target)})


def test_a_named_directory_does_not_fall_back_to_home(tmp_path: Path) -> None:
    checkout(tmp_path / "comfy" / "ComfyUI")
    with pytest.raises(ComfyMissing, match="elsewhere"):
        find_comfy({"COMFYUI_DIR": str(tmp_path / "elsewhere")}, tmp_path)


def test_only_folders_that_are_packs_are_linked(tmp_path: Path) -> None:
    pack, folder = tmp_path / "pack", tmp_path / "folder"
    pack.mkdir()
    folder.mkdir()
    (pack / "__init__.py").touch()
    base = make_base_directory(tmp_path / "base", {"A": pack, "B": folder})
    assert [entry.name for entry in (base / "custom_nodes").iterdir()] == ["A"]
    assert (base / "custom_nodes" / "A").resolve() == pack
    assert (base / "models").is_dir()


def run_pytest(tmp_path: Path, *options: str, required: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COMFYUI_DIR": str(tmp_path / "none"), "COMFYUI_REQUIRED": "01"[required]}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, text=True, capture_output=True, timeout=300)


def test_without_comfyui_the_summary_counts_what_was_skipped(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path, "tests/host/inside/test_harness.py", "tests/host/test_harness.py", "tests/web/test_harness.py"
    )
    collected = run_pytest(tmp_path, "--collect-only", "-q", "tests/host/inside/test_harness.py").stdout
    inside = sum("::test_" in line for line in collected.splitlines())
    lines = [line for line in done.stdout.splitlines() if line.startswith("ComfyUI not found")]
    assert done.returncode == 0 and len(lines) == 1, done.stdout
    assert "SKIPPED; set COMFYUI_DIR" in lines[0] and str(tmp_path / "none") in lines[0]
    assert int(lines[0].partition("): ")[2].split()[0]) > inside > 5
    assert "1 passed" in done.stdout  # parsing binary messages needs no host


def test_a_required_comfyui_that_is_missing_is_an_error(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "tests/host/test_harness.py", required=True)
    assert done.returncode not in (0, 5)
    assert "ComfyUI not found" in done.stdout + done.stderr


# ---- what becomes of an inner result


def line(nodeid: str, when: str, outcome: str, longrepr: str = "") -> dict[str, object]:
    return {"nodeid": nodeid, "when": when, "outcome": outcome, "longrepr": longrepr}


def phases(nodeid: str, call: str, longrepr: str = "") -> list[dict[str, object]]:
    return [
        line(nodeid, "setup", "passed"),
        line(nodeid, "call", call, longrepr),
        line(nodeid, "teardown", "passed"),
    ]


def test_an_inner_pass_passes_and_a_longer_name_is_another_test() -> None:
    InsideResults(phases("test_a.py::test_x", "passed") + phases("test_a.py::test_xy", "failed"), "").report(
        "test_a.py::test_x"
    )


def test_one_failing_parameter_set_fails_the_item_with_its_text() -> None:
    lines = phases("test_a.py::test_x[1]", "passed") + phases("test_a.py::test_x[2]", "failed", "assert 1 == 2")
    with pytest.raises(InsideFailure, match=r"test_x\[2\].*\n.*1 == 2"):
        InsideResults(lines, "").report("test_a.py::test_x")


def test_a_teardown_error_a_crash_and_a_broken_file_fail() -> None:
    bad_teardown = [*phases("test_a.py::test_x", "passed")[:2], line("test_a.py::test_x", "teardown", "failed", "left")]
    with pytest.raises(InsideFailure, match="left"):
        InsideResults(bad_teardown, "").report("test_a.py::test_x")
    with pytest.raises(InsideFailure, match=r"no result.*\n.*Segmentation"):
        InsideResults(phases("test_a.py::test_x", "passed")[:1], "Segmentation fault").report("test_a.py::test_x")
    with pytest.raises(InsideFailure, match="SyntaxError"):
        InsideResults([line("test_a.py", "collect", "failed", "SyntaxError")], "").report("test_a.py::test_x")


def test_an_inner_skip_skips_only_if_every_parameter_set_did() -> None:
    skip = [line("test_a.py::test_x[1]", "setup", "skipped", "why"), line("test_a.py::test_x[1]", "teardown", "passed")]
    with pytest.raises(pytest.skip.Exception, match="why"):
        InsideResults(skip, "").report("test_a.py::test_x")
    InsideResults(skip + phases("test_a.py::test_x[2]", "passed"), "").report("test_a.py::test_x")
