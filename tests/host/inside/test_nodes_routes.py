"""The pack's routes, served by the web framework that the host serves them with, under whatever is sent to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

Asked = Callable[..., tuple[int, str]]


@pytest.fixture
def asked(part: Any, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """``asked("post", "/dummyforcing/finish", data=...)``: the status and text of the answer."""
    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer

    live = part("nodes.host.live")
    routes = web.RouteTableDef()
    host = SimpleNamespace(routes=routes, sockets={"page": None})
    monkeypatch.setattr(live, "server", lambda: host)
    live.add_routes()

    async def ask(method: str, path: str, **request: Any) -> tuple[int, str]:
        application = web.Application()
        application.add_routes(routes)
        async with TestClient(TestServer(application)) as client:
            answer = await client.request(method, path, **request)
            return answer.status, await answer.text()

    return lambda *request, **more: asyncio.run(ask(*request, **more))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b"7", b'"node"', b"{}", b'{"node": null}', b'{"node": ""}',
     b'{"node": ["1"]}', b'{"node": {"a": 1}}', b'{"node": true}', b'{"node": 1.5}', b'{"node": NaN}'],
)  # fmt: skip
def test_another_body_is_refused(asked: Asked, body: bytes) -> None:
    status, text = asked("post", "/dummyforcing/finish", data=body)
    assert status == 400
    assert json.loads(text)["error"].startswith('expected {"node": id}')


def test_an_unknown_encoding_is_refused(asked: Asked) -> None:
    kind = {"Content-Type": "application/json; charset=none-such"}
    assert asked("post", "/dummyforcing/finish", data=b"{}", headers=kind)[0] == 400


@pytest.mark.parametrize("node", ["9", "\x1b[31m" + "x" * 90_000, 10**50], ids=["unknown", "huge", "number"])
def test_a_node_that_is_not_sampling_is_named_shortly(asked: Asked, node: Any) -> None:
    status, text = asked("post", "/dummyforcing/finish", json={"node": node})
    assert status == 404 and len(text) < 200 and "\x1b" not in json.loads(text)["error"]
    assert f"node {str(node)[:1]}" in text or "x1b" in text


def test_previews_of_unknown_nodes(asked: Asked) -> None:
    for query in ("", "?node=", "?node=" + "x" * 4000, "?other=1", "?node=%00"):
        status, text = asked("get", f"/dummyforcing/preview{query}")
        assert status == 404 and len(text) < 200


def test_a_running_node_is_ended(asked: Asked, part: Any) -> None:
    live = part("nodes.host.live")
    view = live._running["7"] = live.LiveView("", 1, 1, 16)
    try:
        for node in ("7", 7):
            view.finish_asked.clear()
            assert asked("post", "/dummyforcing/finish", json={"node": node}) == (200, '{"node": "7"}')
            assert view.finish_asked.is_set()
    finally:
        del live._running["7"]
        view.close()


def test_only_open_pages_are_remembered_as_watching(asked: Asked, part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    watching = part("nodes.host.watching")
    monkeypatch.setattr(watching, "_watching", {"closed by now"})
    assert asked("post", "/dummyforcing/watch", json={"client": "page"}) == (200, "{}")
    assert asked("post", "/dummyforcing/watch", json={"client": "x" * 90_000}) == (200, "{}")
    assert watching._watching == {"page"}
    for body in (b"{", b"[]", b"{}", b'{"client": null}', b'{"client": ["page"]}'):
        status, text = asked("post", "/dummyforcing/watch", data=body)
        assert status == 400 and json.loads(text)["error"].startswith('expected {"client": name}')
