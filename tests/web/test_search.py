"""Double-click and a word: the node that people mean stands first.

The page ranks by names alone; an alias only lets a node be found, behind names that begin so and behind popular ones
that are nearly spelled so.  Words that the host's own nodes are named by are not listed here: docs/log.md has them.
"""

from __future__ import annotations

import pytest

from tests.web.browser import ComfyPage

FIRST = {
    "causvid": "Load AR Model",
    "rolling": "Load AR Model",
    "self-forcing": "Load AR Model",
    "longlive": "Load AR Model",
    "demo": "Load Demo Model",
    "long video": "Streaming Sampler",
    "streaming sampler": "Streaming Sampler",
    "dummy forcing": "Apply Dummy Forcing",
    "teacache": "TeaCache (AR)",
    "prompt schedule": "Prompt Schedule",
    "1080p": "Clip Size",
    "head map": "Profile Heads",
}


@pytest.mark.parametrize("words", FIRST)
def test_the_node_that_is_meant_stands_first(page: ComfyPage, words: str) -> None:
    page.page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.page.get_by_placeholder("Add a node").fill(words)
    first = page.page.locator("[role=option],[data-testid=result-item]").first
    first.get_by_text(FIRST[words], exact=True).wait_for()
    page.page.keyboard.press("Escape")
