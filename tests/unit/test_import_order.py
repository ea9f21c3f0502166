"""Arrows one way: the folders of the core import downwards in the order that docs/architecture.md states, and no module
anywhere imports one that imports it."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "dummyforcing_core"


def _order() -> dict[str, int]:
    """Folder -> floor, the lowest is 0, as the one line of docs/architecture.md that begins with "cli >" has it."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^cli > .*$", text, re.MULTILINE)
    floors = [floor.split(",") for floor in reversed(line.split(" > "))]
    return {folder.strip(): height for height, floor in enumerate(floors) for folder in floor}


def _imported(path: Path, package: Path) -> set[str]:
    """Dotted names below `package` that a module imports, wherever in it. `a.b` may be a module or a name in one."""
    here = path.relative_to(package).parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level - 1 > len(here):
                continue  # leaves the package: the nodes import the core
            base = here[: len(here) - node.level + 1]
            source = [*base, *(node.module or "").split(".")] if node.module else list(base)
            names |= {".".join([*source, alias.name]) for alias in node.names}
    return names


def _graph(package: Path) -> dict[str, set[str]]:
    """module -> modules of the same package that it imports."""
    modules = {".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")}
    graph = {}
    for module, path in modules.items():
        found = set()
        for name in _imported(path, package):
            parents = (name, name.rpartition(".")[0], f"{name}.__init__", f"{name.rpartition('.')[0]}.__init__")
            found |= {parent.lstrip(".") for parent in parents if parent.lstrip(".") in modules}
        graph[module] = found - {module}
    return graph


def test_every_folder_of_the_core_has_its_floor() -> None:
    folders = {path.parent.name for path in CORE.glob("*/__init__.py")}
    assert folders | {"leaves"} == set(_order())


def test_folders_import_downwards_only() -> None:
    order = _order()

    def floor(module: str) -> int:
        folder, dot, _ = module.partition(".")
        return order[folder] if dot else order["leaves"]

    wrong = [
        f"{module} -> {imported}"
        for module, found in _graph(CORE).items()
        for imported in found
        if module != "__main__" and imported != "__init__"
        if floor(imported) > floor(module)
        or (floor(imported) == floor(module) and _folder(imported) != _folder(module))
    ]
    assert not wrong


def _folder(module: str) -> str:
    return module.rpartition(".")[0]


@pytest.mark.parametrize("package", [CORE, ROOT / "nodes"], ids=lambda path: path.name)
def test_no_circle(package: Path) -> None:
    assert list(TopologicalSorter(_graph(package)).static_order())
    assert len(_graph(package)) > 10


def test_nodes_know_their_host_folder_and_not_the_other_way_round() -> None:
    graph = _graph(ROOT / "nodes")
    assert not [module for module, found in graph.items() if module.startswith("host.") for f in found if "." not in f]
