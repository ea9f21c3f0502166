"""What the page sees while a clip is made: progress, the newest chunk as a small video, and a way to stop early."""

import asyncio
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
from PIL import Image

from ...dummyforcing_core.clips.video import clip_bytes
from ...dummyforcing_core.errors import shown
from ...dummyforcing_core.loops.run import ChunkResult
from .bodies import said
from .takes import take_names, unfinished
from .watching import add_watch_route, is_watched

EVENT = "dummyforcing.chunk"
FINISH, PREVIEW, TAKES = "/dummyforcing/finish", "/dummyforcing/preview", "/dummyforcing/takes"
MOST_TAKES = 500
PREVIEW_PX = 512

# Runs that a page may look at or end early, by node id. Entries live as long as their run.
_running: dict[str, "LiveView"] = {}
# The last one that ended: a page may still be fetching its last chunk.
_ended: dict[str, "LiveView"] = {}
# How often a clip with these widgets was ended early: the host must not answer the next one from its cache.
early_ends: Counter[tuple] = Counter()


def server() -> Any:
    """The host's server, None where nodes run without one."""
    try:
        from server import PromptServer
    except ImportError:
        return None
    return getattr(PromptServer, "instance", None)


def add_routes() -> None:
    """POST /dummyforcing/finish {"node": id}: the run of that node ends after its current chunk. 400 for another body.

    GET /dummyforcing/preview?node=ID: its newest chunk as mp4 (the host's page may load media from its server only),
    or 204 before the first one. GET /dummyforcing/takes: the names of takes, the newest first, and of the one that was
    left unfinished. And the route of `watching`.
    """
    if server() is None:
        return
    from aiohttp import web

    def unknown(node: str) -> Any:
        return web.json_response({"error": f"node {shown(node) or '(none)'} is not sampling"}, status=404)

    @server().routes.post(FINISH)
    async def finish(request: Any) -> Any:
        node = await said(request, "node")
        if not node:
            return web.json_response({"error": 'expected {"node": id}, the id of a node as text'}, status=400)
        view = _running.get(node)
        if view is None:
            return unknown(node)
        view.finish_asked.set()
        return web.json_response({"node": node})

    @server().routes.get(PREVIEW)
    async def preview(request: Any) -> Any:
        node = request.query.get("node", "")
        view = _running.get(node) or _ended.get(node)
        if view is None:
            return unknown(node)
        if not view.newest:
            return web.Response(status=204)
        return web.Response(body=view.newest, content_type="video/mp4", headers={"Cache-Control": "no-store"})

    @server().routes.get(TAKES)
    async def takes(request: Any) -> Any:
        names, left = await asyncio.to_thread(lambda: (take_names(), unfinished()))
        return web.json_response({"takes": names[:MOST_TAKES], "unfinished": left})

    add_watch_route(server())


def remember_early_end(*widgets: Any) -> None:
    """A clip with these widgets was ended early. The host shows fingerprint_inputs None in place of a linked one."""
    for key in itertools.product(*((value, None) for value in widgets)):
        early_ends[key] += 1


@contextmanager
def live_view(node: str | None, chunks: int, calls: int, fps: Fraction, **about: str) -> Iterator["LiveView"]:
    """A view of one run, registered while it lasts. `about`: what the page shows of it beside its progress."""
    view = LiveView(str(node or ""), chunks, calls, fps)
    view.about |= about
    _running[view.node] = view
    view.send(running=True, chunk=0, chunks=chunks, **view.about)
    outcome = "failed"
    try:
        yield view
        outcome = "done"
    except comfy.model_management.InterruptProcessingException:
        outcome = "stopped"
        raise
    finally:
        view.close()
        _ended.clear()
        _ended[view.node] = view
        if _running.get(view.node) is view:
            del _running[view.node]
        left = {"part": view.part} if view.kept and outcome != "done" else {}
        view.send(running=False, outcome=outcome, kept=view.kept, **left)


class LiveView:
    """Progress of one run of so many chunks and model calls."""

    def __init__(self, node: str, chunks: int, calls: int, fps: Fraction):
        self.node, self.finish_asked = node, threading.Event()
        self.newest = b""  # the newest chunk as mp4
        self.kept = False  # whether frames of the clip are on disk
        self.part = ""  # where, below the output folder, until it is whole
        self.about: dict[str, Any] = {}  # what holds now: the memory in force, the prompt, notes
        self._chunks, self._calls, self._fps = chunks, calls, fps
        self._begun = 0  # model calls
        # Beside the sampling, one after the other: previews are encoded, and the page hears of chunks in their order.
        self._worker, self._encoding = ThreadPoolExecutor(1), threading.Lock()
        self._began = time.perf_counter()
        self._frames = 0  # pixel frames so far
        self._bar = comfy.utils.ProgressBar(calls)

    def tell(self, notes: Sequence[str]) -> None:
        """Shows what the report will say of the clip while its first chunk is made."""
        for note in notes:
            logging.warning("Dummy Forcing: %s", note)
        if notes:
            self.about["notes"] = [*notes]
            self.send(running=True, chunk=0, chunks=self._chunks, **self.about)

    def step(self) -> None:
        """A model call begins."""
        self._bar.update_absolute(self._begun, self._calls)
        self._begun += 1

    def chunk(self, chunk: ChunkResult, pixels: np.ndarray) -> None:
        """A finished chunk and its pixels (f, H, W, 3) uint8, maybe a preview's."""
        self._frames += len(pixels)
        done = chunk.span.chunk + 1
        spent = time.perf_counter() - self._began
        details = {
            "chunk": done,
            "chunks": self._chunks,
            "fps": round(self._frames / spent, 2),
            # A given start is there before the first call.
            "seconds_left": round(spent / self._begun * max(self._calls - self._begun, 0), 1) if self._begun else None,
            "kv_mib": round(chunk.resident_bytes / 2**20, 1),
            "device_mib": _device_mib(),
            **self.about,
        }
        if len(pixels) and self._encoding.acquire(blocking=False):  # else the page has not even got the last one
            self._beside(self._encode, pixels)
        self._beside(self.send, running=True, **details)
        # The host's own preview, where our script is not there.
        if len(pixels) and done > 1 and not is_watched(server()):
            picture = ("JPEG", Image.fromarray(pixels[-1]), PREVIEW_PX)
            self._bar.update_absolute(self._begun, self._calls, picture)

    def decoding(self, chunk: int, chunks: int) -> None:
        """Sampling is over; chunk `chunk` of those made is decoded."""
        self._beside(self.send, running=True, chunk=chunks, chunks=chunks, decoding=chunk)

    def _beside(self, job: Callable[..., None], *args: Any, **details: Any) -> None:
        self._worker.submit(job, *args, **details).add_done_callback(_log_failure)

    def _encode(self, pixels: np.ndarray) -> None:
        try:
            self.newest = clip_bytes(pixels, self._fps, PREVIEW_PX)
        finally:
            self._encoding.release()

    def close(self) -> None:
        """Waits until the page has heard everything."""
        self._worker.shutdown(wait=True)

    def send(self, **details: Any) -> None:
        """One event to the page that queued this run; nothing where there is no page."""
        host = server()
        if host is not None and self.node:
            host.send_sync(EVENT, {"node": self.node, "graph": _graph(host), **details}, host.client_id)


def _log_failure(job: Future) -> None:
    if error := job.exception():
        logging.error("Dummy Forcing: the live view failed; the clip goes on", exc_info=error)


def _graph(host: Any) -> str:
    """The id of the workflow that runs: node ids repeat in every tab of the page. "" for prompts without one."""
    for running in list(host.prompt_queue.currently_running.values()):
        workflow = (running[3].get("extra_pnginfo") or {}).get("workflow") or {}
        return str(workflow.get("id") or "")
    return ""


def _device_mib() -> float:
    device = comfy.model_management.get_torch_device()
    if device.type == "cpu":
        return 0.0
    total = comfy.model_management.get_total_memory(device)
    return round((total - comfy.model_management.get_free_memory(device)) / 2**20, 1)
