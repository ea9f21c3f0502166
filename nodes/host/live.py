"""What the page sees while a clip is made: progress, the newest chunk as a small video, and a way to stop early."""

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from PIL import Image

from ...dummyforcing_core.rollout import ChunkResult
from ...dummyforcing_core.video import clip_bytes

EVENT = "dummyforcing.chunk"
ROUTE = "/dummyforcing/finish"
PREVIEW_PX = 512

# Runs that a page may end early, by node id. Entries live as long as their run.
_running: dict[str, threading.Event] = {}


def server() -> Any:
    """The host's server, None where nodes run without one."""
    try:
        from server import PromptServer
    except ImportError:
        return None
    return getattr(PromptServer, "instance", None)


def add_routes() -> None:
    """POST /dummyforcing/finish {"node": id}: the run of that node ends after its current chunk."""
    if server() is None:
        return
    from aiohttp import web

    @server().routes.post(ROUTE)
    async def finish(request: Any) -> Any:
        node = str((await request.json()).get("node", ""))
        flag = _running.get(node)
        if flag is None:
            return web.json_response({"error": f"node {node or '(none)'} is not sampling"}, status=404)
        flag.set()
        return web.json_response({"node": node})


@contextmanager
def live_view(node: str | None, chunks: int, steps: int, fps: int) -> Iterator["LiveView"]:
    """A view of one run, registered while it lasts."""
    view = LiveView(str(node or ""), chunks, steps, fps)
    _running[view.node] = view.finish_asked
    try:
        yield view
    finally:
        if _running.get(view.node) is view.finish_asked:
            del _running[view.node]
        view.send(running=False)


class LiveView:
    """Progress of one run. `steps` are model calls per chunk, the clean pass included."""

    def __init__(self, node: str, chunks: int, steps: int, fps: int):
        self.node, self.finish_asked = node, threading.Event()
        self._chunks, self._steps, self._fps = chunks, steps, fps
        self._began = time.perf_counter()
        self._frames = 0
        self._bar = comfy.utils.ProgressBar(chunks * steps, node_id=node or None)

    def step(self, done: int) -> None:
        """`done` model calls lie behind."""
        self._bar.update_absolute(done, self._chunks * self._steps)

    def chunk(self, chunk: ChunkResult, pixels: np.ndarray) -> None:
        """A finished chunk and its pixels (f, H, W, 3) uint8, maybe a preview's."""
        self._frames += len(pixels)
        done = chunk.span.chunk + 1
        spent = time.perf_counter() - self._began
        details = {
            "chunk": done,
            "chunks": self._chunks,
            "fps": round(self._frames / spent, 2),
            "seconds_left": round(spent / done * (self._chunks - done), 1),
            "kv_mib": round(chunk.resident_bytes / 2**20, 1),
            "device_mib": _device_mib(),
        }
        if len(pixels):
            small = shrunk(pixels)
            details["video"] = base64.b64encode(clip_bytes(small, self._fps)).decode("ascii")
            picture = ("JPEG", Image.fromarray(small[-1]), PREVIEW_PX)
            self._bar.update_absolute(done * self._steps, self._chunks * self._steps, picture)
        self.send(running=True, **details)

    def send(self, **details: Any) -> None:
        """One event to the page that queued this run; nothing where there is no page."""
        host = server()
        if host is not None and self.node:
            host.send_sync(EVENT, {"node": self.node, **details}, host.client_id)


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """Frames (f, H, W, 3) uint8 with sides of at most PREVIEW_PX, even."""
    height, width = pixels.shape[1:3]
    ratio = min(1.0, PREVIEW_PX / max(height, width))
    size = [max(2, round(side * ratio) // 2 * 2) for side in (height, width)]
    if size == [height, width]:
        return pixels
    frames = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(frames, size=size, mode="area")
    return small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _device_mib() -> float:
    device = comfy.model_management.get_torch_device()
    if device.type == "cpu":
        return 0.0
    total = comfy.model_management.get_total_memory(device)
    return round((total - comfy.model_management.get_free_memory(device)) / 2**20, 1)
