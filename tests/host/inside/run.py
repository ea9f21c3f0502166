"""Runs the tests of this folder in ComfyUI's interpreter: COMFY_PYTHON run.py COMFYUI_DIR BASE RESULTS [options].

RESULTS gets one JSON line per finished phase of a test: nodeid, when, outcome, longrepr, duration in seconds.
The outer tests start this (../in_process.py); by hand, BASE is any folder made by ``make_base_directory``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from bootstrap import start_comfy
from fixtures import Fixtures
from tiny_models import write_all

HERE = Path(__file__).resolve().parent


class Reporter:
    """Writes reports as they come, so that a crash loses nothing but the test it hit."""

    def __init__(self, results: Path) -> None:
        self._file = results.open("w", encoding="utf-8", buffering=1)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._write(report, report.when)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._write(report, "collect")

    def _write(self, report: Any, when: str) -> None:
        reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else report.longreprtext
        text = "".join(f"\n--- {title}\n{body}" for title, body in report.sections) if report.failed else ""
        line = {"nodeid": report.nodeid, "when": when, "outcome": report.outcome, "longrepr": reason + text}
        self._file.write(json.dumps({**line, "duration": getattr(report, "duration", 0.0)}) + "\n")


def main(comfy: str, base: str, results: str, *options: str) -> int:
    write_all(Path(base) / "models")
    start_comfy(Path(comfy), Path(base))
    settings = ["--import-mode=importlib", "-p", "no:cacheprovider", "-o", "addopts=", "-c", str(HERE / "inside.ini")]
    return int(pytest.main([*settings, *options], plugins=[Fixtures(Path(base)), Reporter(Path(results))]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
