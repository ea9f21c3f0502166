"""Fixtures and reporting for every test that needs ComfyUI; tests/host and tests/web register this one module."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections import Counter
from collections.abc import Generator, Iterator

import pytest

from .in_process import InsideItem
from .inside.tiny_models import write_all
from .install import PACKS, ComfyInstall, ComfyMissing, find_comfy, make_base_directory
from .server import ComfyServer

NAME = "comfyui-host"
REQUIRED = "COMFYUI_REQUIRED"
"""Environment variable: 1 makes a missing ComfyUI or browser an error instead of a skip."""

_SKIPPED = pytest.StashKey[Counter[str]]()
SERVER_KEY = pytest.StashKey[ComfyServer]()


def register(config: pytest.Config) -> None:
    """Adds this module as a plugin, once however many conftest files ask."""
    if not config.pluginmanager.hasplugin(NAME):
        config.pluginmanager.register(sys.modules[__name__], NAME)


def find_chromium() -> str | None:
    """The program that CHROMIUM names, or the first Chromium on the path."""
    names = [os.environ["CHROMIUM"]] if "CHROMIUM" in os.environ else ["chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if (found := shutil.which(name))), None)


def missing_for(fixtures: set[str], inside: bool) -> str | None:
    """Why a test with these fixtures cannot run here, and what to set; None if it can."""
    if inside or fixtures & {"comfyui", "server", "page", "browser"}:
        try:
            find_comfy()
        except ComfyMissing as missing:
            return f"ComfyUI not found ({missing}): {{count}} host tests SKIPPED; set COMFYUI_DIR"
    if fixtures & {"server", "page", "browser"} and importlib.util.find_spec("websocket") is None:
        return "websocket-client not installed: {count} host tests SKIPPED; pip install -e '.[test,browser]'"
    if fixtures & {"page", "browser"}:
        if importlib.util.find_spec("playwright") is None:
            return "Playwright not installed: {count} page tests SKIPPED; pip install -e '.[test,browser]'"
        if find_chromium() is None:
            return "Chromium not found: {count} page tests SKIPPED; install it or set CHROMIUM"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what cannot run, and counts it for the summary."""
    skipped = config.stash.setdefault(_SKIPPED, Counter())
    known: dict[tuple[frozenset[str], bool], str | None] = {}
    for item in items:
        key = frozenset(getattr(item, "fixturenames", ())), isinstance(item, InsideItem)
        if key not in known:
            known[key] = missing_for(set(key[0]), key[1])
        if reason := known[key]:
            skipped[reason] += 1
            item.add_marker(pytest.mark.skip(reason=reason.partition(": {count}")[0]))
    if skipped and os.environ.get(REQUIRED) == "1":
        raise pytest.UsageError(*(reason.format(count=count) for reason, count in skipped.items()))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    """One loud line for each thing that is missing, below the list of what was skipped."""
    yield
    for reason, count in config.stash.get(_SKIPPED, Counter()).items():
        terminalreporter.write_line(reason.format(count=count), yellow=True, bold=True)


@pytest.fixture(scope="session")
def comfyui() -> ComfyInstall:
    """The ComfyUI under test."""
    return find_comfy()


@pytest.fixture(scope="session")
def _server(comfyui: ComfyInstall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = make_base_directory(tmp_path_factory.mktemp("server") / "base", PACKS)
    write_all(base / "models")
    with ComfyServer(comfyui, base) as running:
        yield running


@pytest.fixture
def server(_server: ComfyServer, request: pytest.FixtureRequest) -> ComfyServer:
    """The session's one server, with the pack, the probe pack and the tiny models; its log is shown on failure."""
    request.node.stash[SERVER_KEY] = _server
    _server.mark_log()
    return _server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the server logged during a failed test goes into its report."""
    report = yield
    if isinstance(item, InsideItem) and report.when == "call":
        report.duration = item.seconds  # what it took in the host, for --durations
    if report.failed and (server := item.stash.get(SERVER_KEY, None)) is not None:
        report.sections.append(("ComfyUI's log during this test", server.log_since_mark()))
    return report
