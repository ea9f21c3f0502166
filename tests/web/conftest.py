"""Tests of the page: see tests/host/README.md."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.host.plugin import find_chromium, register
from tests.host.server import ComfyServer
from tests.web.browser import FLAGS, VIEWPORT, ComfyPage

PAGE_KEY = pytest.StashKey[tuple[ComfyPage, Path]]()


def pytest_configure(config: pytest.Config) -> None:
    register(config)


@pytest.fixture(scope="session")
def browser(_server: ComfyServer) -> Iterator[ComfyPage]:
    """The session's one page; tests take ``page``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        page = chromium.new_page(viewport={"width": VIEWPORT[0], "height": VIEWPORT[1]})
        opened = ComfyPage(page, _server)
        opened.open()
        yield opened
        chromium.close()


@pytest.fixture
def page(
    browser: ComfyPage, server: ComfyServer, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[ComfyPage]:
    """An empty graph in the classic look; a failed test leaves failure.png in its tmp_path and says where."""
    browser.reset()
    request.node.stash[PAGE_KEY] = (browser, tmp_path / "failure.png")
    yield browser


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The page's picture and complaints go into the report of a failed test."""
    report = yield
    if report.when == "call" and report.failed and (held := item.stash.get(PAGE_KEY, None)) is not None:
        page, picture = held
        said = "\n".join(f"{one.text} ({one.address})" for one in page.complaints)
        report.sections.append(("the page", f"{page.screenshot(picture)}\n{said}"))
    return report
