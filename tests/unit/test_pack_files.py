"""The pack as files: the registry's entry, its pictures, and the archive that hosts install."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).parents[2]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


class TestRegistry:
    def test_entry(self) -> None:
        comfy = pyproject()["tool"]["comfy"]
        assert comfy["PublisherId"] and comfy["DisplayName"] == "Dummy Forcing"
        assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
        assert comfy["includes"] == []  # what is included by name brings caches along
        # The host would serve web/ under two names and run every script twice.
        assert "web" not in comfy and "WEB_DIRECTORY" in (ROOT / "__init__.py").read_text(encoding="utf-8")

    def test_name_is_one_the_registry_takes(self) -> None:
        name = pyproject()["project"]["name"]
        assert re.fullmatch(r"[a-z][a-z0-9_-]{0,99}", name)
        assert "comfyui" not in name

    def test_version_can_be_read_without_running_code(self) -> None:
        data = pyproject()
        assert data["project"]["dynamic"] == ["version"]
        source = (ROOT / data["tool"]["comfy"]["version"]["path"]).read_text(encoding="utf-8")
        assert re.findall(r"^(?:__version__|VERSION)\s*=\s*\"(\d+\.\d+\.\d+)\"$", source, re.M) != []

    @pytest.mark.parametrize(("key", "size"), [("Icon", (400, 400)), ("Banner", (1680, 720))])
    def test_pictures(self, key: str, size: tuple[int, int], tmp_path: Path) -> None:
        image_module = pytest.importorskip("PIL.Image")
        where = pyproject()["tool"]["comfy"][key].rpartition("docs/")[2]
        subprocess.run([sys.executable, ROOT / "docs" / "draw_icon.py", tmp_path], check=True, timeout=60)
        pictures = [image_module.open(path).convert("RGB") for path in (ROOT / "docs" / where, tmp_path / where)]
        kept, drawn = (torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8).float() for p in pictures)
        assert pictures[0].size == pictures[1].size == size
        assert kept.std() > 20
        assert (kept - drawn).abs().mean() < 2  # Pillow's smoothing differs a little between versions

    def test_the_host_has_all_that_is_imported(self) -> None:
        """So requirements.txt asks for nothing. The names are those of ComfyUI 0.27's own requirements."""
        host = {"torch", "numpy", "einops", "safetensors", "PIL", "av", "tqdm", "aiohttp", "transformers", "filelock"}
        host |= {
            "sentencepiece",
            "comfy",
            "comfy_extras",
            "comfy_api",
            "comfy_execution",
            "comfyui_version",
            "folder_paths",
            "server",
            "latent_preview",
        }
        optional = {"flash_attn", "flash_attn_interface", "triton", "ftfy"}  # each behind a check of its own
        found: dict[str, Path] = {}
        for path in [
            ROOT / "__init__.py",
            *(ROOT / "nodes").rglob("*.py"),
            *(ROOT / "dummyforcing_core").rglob("*.py"),
        ]:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0]: path for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    found[node.module.split(".")[0]] = path
        assert {"torch", "comfy", "einops"} <= set(found)
        assert {k: v for k, v in found.items() if k not in host | optional | sys.stdlib_module_names} == {}
        lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if line.strip() and not line.startswith("#")] == []


# The archive

NEEDED = [
    "__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "nodes/extension.py",
    "nodes/host/sampler.py", "dummyforcing_core/assets/demo_model.safetensors",
    "dummyforcing_core/assets/demo_codec.safetensors", "dummyforcing_core/models/wan.py", "web/live.js",
    "web/docs/DummyForcingClipSize.md", "web/docs/DummyForcingClipSize/zh.md", "workflows/1 Demo.json",
    "workflows/1 Demo.jpg", "locales/en/nodeDefs.json", "locales/zh/nodeDefs.json", "prompts/demo_world.txt",
    "docs/troubleshooting.md",
]  # fmt: skip
UNWANTED = [
    "tests/unit/test_x.py", "demo/train.py", "benchmarks/bench.py", ".ci/run", ".gitignore", ".comfyignore",
    "Makefile", "constraints.txt", "scripts/pack.py", "docs/icon.png", "docs/study.json", "docs/draw_icon.py",
    "nodes/__pycache__/x.pyc", "out/clip.mp4", "dummyforcing_core.egg-info/PKG-INFO",
]  # fmt: skip


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with our .comfyignore and pack.py, and a file of every kind. No name of it is another's part."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    root = tmp_path / "clone"
    for name in [*NEEDED, *UNWANTED]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}\n", encoding="utf-8")
    for name in (".comfyignore", "scripts/pack.py"):
        shutil.copy(ROOT / name, root / name)
    git(root, "init", "-q")
    git(root, "add", "--force", ".")
    return root


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True)


def run_pack(root: Path, *words: str | Path, code: int = 0) -> str:
    command = [sys.executable, root / "scripts" / "pack.py", *words]
    done = subprocess.run(command, cwd=root.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


class TestArchive:
    def test_what_is_in_and_what_is_out(self, clone: Path, tmp_path: Path) -> None:
        (clone / "nodes" / "untracked.py").write_text("secret", encoding="utf-8")
        target = tmp_path / "new folder" / "pack.zip"
        out = run_pack(clone, target)
        with zipfile.ZipFile(target) as archive:
            assert archive.testzip() is None
            assert sorted(archive.namelist()) == sorted(NEEDED)
            assert archive.read("README.md") == b"content of README.md\n"
        assert f"{len(NEEDED)} files" in out and "MiB" in out
        assert [path.name for path in target.parent.iterdir()] == ["pack.zip"]

    def test_the_work_tree_counts_and_equal_files_give_equal_bytes(self, clone: Path, tmp_path: Path) -> None:
        first, second = tmp_path / "a.zip", tmp_path / "b.zip"
        run_pack(clone, first)
        os.utime(clone / "LICENSE", (10**9, 10**9))
        (clone / "README.md").chmod(0o600)
        run_pack(clone, second)
        assert first.read_bytes() == second.read_bytes()
        (clone / "LICENSE").write_text("changed, not committed", encoding="utf-8")
        run_pack(clone, second)
        assert zipfile.ZipFile(second).read("LICENSE") == b"changed, not committed"

    def test_names_beyond_ascii(self, clone: Path, tmp_path: Path) -> None:
        (clone / "workflows" / "démo 一.json").write_text("{}", encoding="utf-8")
        git(clone, "add", ".")
        run_pack(clone, tmp_path / "a.zip")
        assert "workflows/démo 一.json" in zipfile.ZipFile(tmp_path / "a.zip").namelist()

    def test_the_archive_never_holds_itself(self, clone: Path) -> None:
        for _ in range(2):
            run_pack(clone, clone / "nodes" / "pack.zip")
            git(clone, "add", "nodes/pack.zip")
        assert "nodes/pack.zip" not in zipfile.ZipFile(clone / "nodes" / "pack.zip").namelist()

    def test_default_place(self, clone: Path) -> None:
        run_pack(clone)
        assert (clone / "dist" / "dummyforcing.zip").is_file()

    def test_a_missing_file_is_named(self, clone: Path, tmp_path: Path) -> None:
        (clone / "LICENSE").unlink()
        (tmp_path / "a.zip").write_bytes(b"the last good one")
        assert "LICENSE" in run_pack(clone, tmp_path / "a.zip", code=2)
        assert (tmp_path / "a.zip").read_bytes() == b"the last good one"

    def test_too_large(self, clone: Path, tmp_path: Path) -> None:
        (clone / "nodes" / "big.bin").write_bytes(
            torch.randint(256, (15 * 2**20 + 1,), dtype=torch.uint8).numpy().tobytes()
        )
        git(clone, "add", ".")
        assert "15 at most" in run_pack(clone, tmp_path / "a.zip", code=2)
        assert not list(tmp_path.glob("a.zip*"))

    def test_outside_git(self, clone: Path, tmp_path: Path) -> None:
        shutil.rmtree(clone / ".git")
        error = run_pack(clone, tmp_path / "a.zip", code=2)
        assert error.startswith("error: ") and error.count("\n") == 1
        assert not (tmp_path / "a.zip").exists()

    def test_every_page_of_the_tree_would_be_packed(self, clone: Path, tmp_path: Path) -> None:
        """The real names of nodes, translations, pages and core under the real .comfyignore."""
        folders = ("nodes", "dummyforcing_core", "web", "locales", "workflows")
        names = [p.relative_to(ROOT) for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file()]
        names = [name for name in names if "__pycache__" not in name.parts]
        for name in names:
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_text("x", encoding="utf-8")
        git(clone, "add", ".")
        run_pack(clone, tmp_path / "a.zip")
        packed = set(zipfile.ZipFile(tmp_path / "a.zip").namelist())
        assert {name.as_posix() for name in names} <= packed and len(names) > 100
