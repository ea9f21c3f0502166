"""Pages that have our live view: they need no pictures for the host's own, which would outlive it.

The host's page keeps a picture that comes late, over a slow link, until the next run, and shows it in place of the
finished video.
"""

from typing import Any

from .bodies import said

WATCH = "/dummyforcing/watch"

# By the name that the host's websocket gave them.
_watching: set[str] = set()


def add_watch_route(host: Any) -> None:
    """POST /dummyforcing/watch {"client": name}: the page of that name has our live view. 400 for another body."""
    from aiohttp import web

    @host.routes.post(WATCH)
    async def watch(request: Any) -> Any:
        client = await said(request, "client")
        if not client:
            return web.json_response({"error": 'expected {"client": name}, the name of a page as text'}, status=400)
        _watching.add(client)
        _watching.intersection_update(host.sockets)  # pages that are open
        return web.json_response({})


def is_watched(host: Any) -> bool:
    """Whether the page that queued the run shows it by our script; `host` is None where there is no server."""
    return host is not None and host.client_id in _watching
