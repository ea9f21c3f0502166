"""docs/adding-a-*.md, done for real in a copy of the project: their code put where they say, their commands run."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^```(\w+)(?: file=(\S+))?(?: (behind|before|instead)=\"([^\"]*)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
TEXTS_MISSING = ("locales", "web/docs")  # what the node's guide leaves to its reader


@dataclass(frozen=True)
class Block:
    """A fenced block of a guide: code for a file, whole, beside a line of it or instead of it, or commands."""

    language: str
    file: str
    where: str
    line: str
    text: str


def blocks(guide: str) -> list[Block]:
    text = (ROOT / "docs" / guide).read_text(encoding="utf-8")
    return [Block(*(part or "" for part in match)) for match in FENCE.findall(text)]


def put(block: Block, project: Path) -> None:
    """Writes a new file, or the block where the one line is that it names."""
    path = project / block.file
    if not block.where:
        assert not path.exists(), f"{block.file} is there already"
        path.write_text(block.text, encoding="utf-8")
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    places = [number for number, line in enumerate(lines) if line.rstrip("\n") == block.line]
    assert len(places) == 1, f"{block.file} has {len(places)} lines {block.line!r}"
    at = places[0] + (block.where == "behind")
    kept = lines[at + (block.where == "instead") :]
    path.write_text("".join([*lines[:at], block.text, *kept]), encoding="utf-8")


def run(command: str, project: Path) -> str:
    words = command.replace("python ", f"{sys.executable} ", 1)
    done = subprocess.run(words, shell=True, cwd=project, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guides touch, copied."""
    folder = tmp_path_factory.mktemp("guides") / "project"
    for name in ("dummyforcing_core", "nodes", "tests/property", "tests/unit", "locales", "web"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/conftest.py", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("*.png"))
    return folder


def follow(guide: str, project: Path) -> list[str]:
    """Does all that a guide says, in its order; what its commands printed. What it wrote is linted."""
    printed, written = [], set()
    for block in blocks(guide):
        if block.language == "python":
            put(block, project)
            written.add(block.file)
        elif block.language == "sh":
            commands = [line for line in block.text.splitlines() if line.startswith("python ")]
            printed += [run(command, project) for command in commands if "test_pack_texts" not in command]
    files = " ".join(sorted(written))
    run(f"python -m ruff check {files} && {sys.executable} -m ruff format --check {files}", project)
    return printed


def test_a_policy(project: Path) -> None:
    *clips, tests = follow("adding-a-policy.md", project)
    assert "Layered(shallow_share=0.5, near_frames=6)" in clips[0]
    assert (project / "compared" / "layered.mp4").is_file()
    assert re.search(r"\d+ passed", tests) and "failed" not in tests


def test_a_family(project: Path) -> None:
    listed, tests = follow("adding-a-family.md", project)
    assert "My Forcing 1.3B" in listed and "window 15" in listed
    assert re.search(r"\d+ passed", tests) and "failed" not in tests


def test_a_node(project: Path) -> None:
    """Put in place it compiles, and the texts' own test names exactly what the guide says is left to write."""
    follow("adding-a-node.md", project)
    for name in ("policies.py", "extension.py"):
        compile((project / "nodes" / name).read_text(encoding="utf-8"), name, "exec")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_pack_texts.py"]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "DummyForcingApplyLayered" in done.stdout
