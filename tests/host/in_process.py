"""Tests in ``inside/`` run in ComfyUI's interpreter; each function is an item with the result it had there.

Collection reads the files' syntax and imports nothing.  The first of them to run starts one process for all that are
selected; the others only look up their result.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from .install import PACKS, find_comfy, make_base_directory

INSIDE = Path(__file__).resolve().parent / "inside"
TIMEOUT_S = 1500
RESULTS_KEY = pytest.StashKey["InsideResults"]()


class InsideFailure(Exception):
    """A test failed in the host; the text is that of the inner report."""


class InsideFile(pytest.File):
    """One file of ``inside/``."""

    def collect(self) -> Iterable[InsideItem]:
        for node in ast.parse(self.path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield InsideItem.from_parent(self, name=node.name, line=node.lineno - 1)


class InsideItem(pytest.Item):
    """One test function, with all its parameter sets."""

    def __init__(self, line: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.line = line

    @property
    def inner_id(self) -> str:
        return f"{self.path.name}::{self.name}"

    def setup(self) -> None:
        """The first of all runs them all: its setup is the time of the host's process."""
        stash = self.session.stash
        if RESULTS_KEY not in stash:
            chosen = [item.inner_id for item in self.session.items if isinstance(item, InsideItem)]
            stash[RESULTS_KEY] = run_inside(chosen, self.config)

    def runtest(self) -> None:
        self.session.stash[RESULTS_KEY].report(self.inner_id)

    @property
    def seconds(self) -> float:
        """What the test took in the host, all its parameter sets and fixtures."""
        return self.session.stash[RESULTS_KEY].seconds(self.inner_id)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, InsideFailure) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.line, f"inside ComfyUI: {self.name}"


class InsideResults:
    """What one inner run wrote, by test."""

    def __init__(self, lines: list[dict[str, Any]], output: str) -> None:
        self._lines, self._output = lines, output

    def _of(self, inner_id: str) -> list[dict[str, Any]]:
        return [one for one in self._lines if one["nodeid"] == inner_id or one["nodeid"].startswith(f"{inner_id}[")]

    def seconds(self, inner_id: str) -> float:
        """The inner test's own time."""
        return sum(one.get("duration", 0.0) for one in self._of(inner_id))

    def report(self, inner_id: str) -> None:
        """Passes, skips or raises as the inner test did; a test without a result failed by taking the process down."""
        file = inner_id.partition("::")[0]
        if broken := [one for one in self._lines if one["when"] == "collect" and one["nodeid"] in (file, "")]:
            raise InsideFailure(broken[0]["longrepr"])
        mine = self._of(inner_id)
        if failed := [one for one in mine if one["outcome"] == "failed"]:
            raise InsideFailure("\n".join(f"{one['nodeid']} ({one['when']})\n{one['longrepr']}" for one in failed))
        finished = [one for one in mine if one["when"] == "teardown"]
        if not finished:
            raise InsideFailure(f"{inner_id} gave no result; the host's process said last:\n{self._output[-6000:]}")
        if len(skipped := [one for one in mine if one["outcome"] == "skipped"]) == len(finished):
            pytest.skip(skipped[0]["longrepr"])


def run_inside(inner_ids: list[str], config: pytest.Config) -> InsideResults:
    """One process of the host's interpreter for these tests."""
    install = find_comfy()
    factory: pytest.TempPathFactory = config._tmp_path_factory  # type: ignore[attr-defined]
    base = make_base_directory(factory.mktemp("inside") / "base", PACKS)
    results = base / "results.jsonl"
    command = [str(install.python), str(INSIDE / "run.py"), str(install.directory), str(base), str(results)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    try:
        done = subprocess.run(
            [*command, *(str(INSIDE / inner_id) for inner_id in dict.fromkeys(inner_ids))],
            cwd=base, env=environment, timeout=TIMEOUT_S, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output = done.stdout
    except subprocess.TimeoutExpired as expired:
        output = f"{(expired.stdout or b'').decode(errors='replace')}\nstopped after {TIMEOUT_S} s"
    written = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return InsideResults([json.loads(line) for line in written], output)
