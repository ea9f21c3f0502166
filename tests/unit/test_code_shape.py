"""The shape of the code itself: short functions with few arguments, and loops that only their table knows by name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("dummyforcing_core", "nodes", "demo", "benchmarks", "scripts")
MOST_ARGUMENTS, MOST_LINES = 7, 45
# ComfyUI calls these by its own signature, or fills them from a node's inputs.
HOSTS = {
    "nodes/sampling.py": {"execute"},
    "nodes/policies.py": {"execute"},
    "nodes/long_memory.py": {"execute"},
    "nodes/host/session.py": {"sample"},
}
SCHEMAS = {"define_schema"}  # a list of inputs, as long as there are inputs


def functions(folder: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path.relative_to(ROOT).as_posix(), node


@pytest.mark.parametrize("folder", OURS)
def test_functions_are_short_and_take_few_arguments(folder: str) -> None:
    wrong = []
    for path, node in functions(folder):
        given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        count = sum(one.arg not in ("self", "cls") for one in given)
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if count > MOST_ARGUMENTS and node.name not in HOSTS.get(path, ()):
            wrong.append(f"{path}: {node.name} takes {count} arguments")
        if lines > MOST_LINES and node.name not in SCHEMAS:
            wrong.append(f"{path}: {node.name} has {lines} lines")
    assert not wrong


def test_no_bag_of_keywords_in_the_core() -> None:
    """A **kwargs would only hide the count."""
    assert not [f"{path}: {node.name}" for path, node in functions("dummyforcing_core") if node.args.kwarg]


def test_only_their_table_asks_for_loops_by_name() -> None:
    """Everything else asks the loop's row: a new loop is one row."""
    asking = []
    for folder in OURS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
                if any(isinstance(side, ast.Attribute) and side.attr == "loop" for side in sides):
                    asking.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not asking
