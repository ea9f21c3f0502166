"""The repository as a package: what it needs, what it imports, what would break on another system."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).parents[2]
CORE = ROOT / "dummyforcing_core"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
OPTIONAL = ("av", "PIL", "tqdm", "comfy", "flash_attn", "flash_attn_interface")
SOURCES = sorted([*CORE.rglob("*.py"), *(ROOT / "demo").rglob("*.py")])


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(file: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def wanted() -> list[Requirement]:
    """What the package and its extras need."""
    extras = project()["optional-dependencies"]
    return [Requirement(text) for text in [*project()["dependencies"], *chain(*extras.values())]]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', 0)}"


class TestRequirements:
    def test_python_and_extras(self) -> None:
        assert project()["requires-python"] == ">=3.10"
        names = {Requirement(text).name for text in project()["optional-dependencies"]["standalone"]}
        assert names == {"torch", "av", "pillow", "tqdm", "numpy", "einops", "safetensors", "filelock"}
        assert "torch" not in {Requirement(text).name for text in project()["dependencies"]}

    def test_only_the_core_is_packaged(self) -> None:
        setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
        assert setup["packages"]["find"]["include"] == ["dummyforcing_core*"]
        assert setup["package-data"] == {"dummyforcing_core": ["assets/*"]}

    def test_the_host_gets_no_torch_and_no_pins(self) -> None:
        found = requirements("requirements.txt")
        assert {r.name for r in found} <= {"einops", "safetensors"}
        assert [str(r) for r in found if r.specifier or r.url or r.extras] == []

    def test_constraints_are_exact(self) -> None:
        for pin in requirements("constraints.txt"):
            assert re.fullmatch(r"==[\d.]+", str(pin.specifier)), pin
        assert "torch==2.13.0" in map(str, requirements("constraints.txt"))

    @pytest.mark.parametrize("python", PYTHONS)
    def test_every_python_gets_one_pin_that_fits(self, python: str) -> None:
        system = {"python_version": python, "python_full_version": f"{python}.0"}
        pins: dict[str, list[str]] = {}
        for pin in requirements("constraints.txt"):
            if pin.marker is None or pin.marker.evaluate(system):
                pins.setdefault(pin.name, []).append(str(pin.specifier).removeprefix("=="))
        assert {name: versions for name, versions in pins.items() if len(versions) != 1} == {}
        assert set(pins) == {r.name for r in wanted()}
        for requirement in wanted():
            assert pins[requirement.name][0] in requirement.specifier, requirement


class TestImports:
    def test_the_whole_core_imports_without_what_is_optional(self) -> None:
        program = f"""
import importlib, pkgutil, sys
for name in {OPTIONAL!r}:
    sys.modules[name] = None  # importing it raises
import dummyforcing_core
modules = [m.name for m in pkgutil.walk_packages(dummyforcing_core.__path__, "dummyforcing_core.")]
assert "dummyforcing_core.cli.generate" in modules
for name in modules:
    importlib.import_module(name)
assert [name for name in sys.modules if name.split(".")[0] in {OPTIONAL!r} and sys.modules[name]] == []
"""
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: path.relative_to(CORE).as_posix())
    def test_relative_and_never_the_host(self, path: Path) -> None:
        bad = []
        for node in ast.walk(tree(path)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            tops = {module.split(".")[0] for module in modules}
            if tops & {
                "dummyforcing_core",
                "demo",
                "tests",
                "nodes",
                "comfy",
                "comfy_extras",
                "comfy_api",
                "folder_paths",
            }:
                bad.append(where(path, node))
        assert bad == []


def opens_text_without_encoding(call: ast.Call) -> bool:
    """Whether a call is open / read_text / write_text in text mode that leaves the encoding to the system."""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in named or None in named:
        return False
    if isinstance(call.func, ast.Attribute) and call.func.attr in ("read_text", "write_text"):
        return len(call.args) <= (call.func.attr == "write_text")
    if isinstance(call.func, ast.Name) and call.func.id == "open":
        first = 1
    elif isinstance(call.func, ast.Attribute) and call.func.attr == "open":
        owner = ast.unparse(call.func.value).split(".")[-1].lstrip("_")
        if owner in ("av", "import_av()", "Image", "codec_context", "context", "os", "webbrowser"):
            return False  # pictures, videos, codecs
        first = 0 if owner not in ("io", "gzip", "tarfile", "zipfile") else 1
    else:
        return False
    mode = named.get("mode", call.args[first] if len(call.args) > first else None)
    return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))


@pytest.mark.parametrize(
    ("code", "flagged"),
    [
        ("open('x')", True),
        ("open('x', 'w')", True),
        ("open('x', 'wb')", False),
        ("open('x', mode='rb')", False),
        ("open('x', encoding='utf-8')", False),
        ("path.open()", True),
        ("path.open('ab')", False),
        ("path.read_text()", True),
        ("path.read_text(encoding='utf-8')", False),
        ("path.write_text('x')", True),
        ("path.write_text('x', 'utf-8')", False),
        ("self._av.open(memory, 'w', format='mp4')", False),
    ],
)
def test_the_scan_itself(code: str, flagged: bool) -> None:
    call = ast.parse(code).body[0].value
    assert opens_text_without_encoding(call) is flagged


def test_every_text_file_names_its_encoding() -> None:
    assert len(SOURCES) > 30
    calls = ((path, node) for path in SOURCES for node in ast.walk(tree(path)) if isinstance(node, ast.Call))
    assert [where(path, call) for path, call in calls if opens_text_without_encoding(call)] == []


def own_files() -> Iterator[Path]:
    """Files of the repository, without what tools and runs leave in it."""
    for folder, subfolders, files in os.walk(ROOT):
        subfolders[:] = [
            n for n in subfolders if n[0] != "." and n not in ("out", "build", "node_modules", "__pycache__")
        ]
        yield from (Path(folder, name) for name in files)


def test_file_names_work_everywhere() -> None:
    names = [path.relative_to(ROOT).as_posix() for path in own_files()]
    assert "dummyforcing_core/__main__.py" in names
    assert [name for name in names if re.search(r'[:<>"|?*\\]|[. ](/|$)', name)] == []
    assert len({name.lower() for name in names}) == len(names)
    reserved = re.compile(r"(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)", re.IGNORECASE)
    assert [name for name in names if reserved.search(name)] == []


def test_tests_run_in_a_clone_with_a_hyphen_and_never_import_its_root(tmp_path: Path) -> None:
    clone = tmp_path / "my-clone-1.0"
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(CORE, clone / "dummyforcing_core", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", clone)
    (clone / "__init__.py").write_text("raise RuntimeError('the root was imported')\n", encoding="utf-8")
    (clone / "tests").mkdir()
    (clone / "tests" / "test_small.py").write_text(
        "from pathlib import Path\n"
        "import dummyforcing_core.geometry as geometry\n"
        "def test_small():\n"
        "    assert geometry.pixel_frames(21) == 81\n"
        "    assert Path(geometry.__file__).is_relative_to(Path(__file__).parents[1])\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=clone,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
