"""Nodes that test prompts need and ComfyUI lacks: conditioning without a text encoder, a talkative output node."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import av
import folder_paths
import torch
from comfy import model_management
from comfy_api.latest import ComfyExtension, io
from PIL import Image

EVENT = "harness.probe"
"""One per step: {node, prompt_id, step, steps, images: [{filename, subfolder, type}]}."""


class ProbeConditioning(io.ComfyNode):
    """Seeded noise in the shape of umT5's output, so that Wan runs without its 11 GB text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HarnessConditioning",
            display_name="Harness Conditioning",
            category="harness",
            inputs=[io.Int.Input("seed", default=0, min=0, max=2**31), io.Int.Input("tokens", default=512, min=1)],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, seed: int, tokens: int) -> io.NodeOutput:
        embedding = torch.randn(1, tokens, 4096, generator=torch.Generator().manual_seed(seed))
        return io.NodeOutput([[embedding, {}]])


class ProbePreview(io.ComfyNode):
    """Counts its steps: each writes a coloured picture or clip to the temp folder and tells the page of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HarnessPreview",
            display_name="Harness Preview",
            category="harness",
            inputs=[
                io.Int.Input("steps", default=3, min=1, max=10_000),
                io.Float.Input("seconds_per_step", default=0.0, min=0.0, max=60.0),
                io.Boolean.Input("fail", default=False),
                io.Combo.Input("format", options=["png", "mp4"], default="png"),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        return time.time()  # never served from the cache

    @classmethod
    def execute(cls, steps: int, seconds_per_step: float, fail: bool, format: str) -> io.NodeOutput:
        picture: dict[str, str] = {}
        for step in range(1, steps + 1):
            model_management.throw_exception_if_processing_interrupted()
            picture = _write(step, steps, format)
            _tell_page({"node": cls.hidden.unique_id, "step": step, "steps": steps, "images": [picture]})
            if fail:
                raise ValueError("the probe was told to fail")
            time.sleep(seconds_per_step)
        return io.NodeOutput(ui={"probe": [picture]})  # not "images": the page would draw them a second time


class ProbeLoop(io.ComfyNode):
    """Runs the node behind its input again as a loop does: by copies that are shown at that node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HarnessLoop",
            display_name="Harness Loop",
            category="harness",
            inputs=[io.Latent.Input("latent", raw_link=True), io.Int.Input("times", default=3, min=1)],
            outputs=[io.Latent.Output()],
            hidden=[io.Hidden.dynprompt],
            is_output_node=True,
            enable_expand=True,
        )

    @classmethod
    def execute(cls, latent: list, times: int) -> io.NodeOutput:
        from comfy_execution.graph_utils import GraphBuilder

        body, graph = cls.hidden.dynprompt.get_node(latent[0]), GraphBuilder()
        last = latent
        for number in range(1, times):
            changed = {"seed": body["inputs"]["seed"] + number, "filename_prefix": f"loop/{number}"}
            copy = graph.node(body["class_type"], **{**body["inputs"], **changed})
            copy.set_override_display_id(latent[0])
            last = copy.out(0)
        return io.NodeOutput(last, expand=graph.finalize())


class ProbeExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [ProbeConditioning, ProbePreview, ProbeLoop]


def _write(step: int, steps: int, kind: str) -> dict[str, str]:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"probe_{uuid.uuid4().hex}.{kind}"
    picture = Image.new("RGB", (64, 48), (255 * step // steps, 160, 40))
    if kind == "png":
        picture.save(folder / name)
    else:
        with av.open(folder / name, "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = *picture.size, "yuv420p"
            for frame in [av.VideoFrame.from_image(picture)] * 8:
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return {"filename": name, "subfolder": "", "type": "temp"}


def _tell_page(message: dict[str, Any]) -> None:
    from comfy_execution.utils import get_executing_context
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)  # the attribute itself is missing outside a server
    context = get_executing_context()
    if server is not None:
        prompt_id = context.prompt_id if context else None
        server.send_sync(EVENT, {**message, "prompt_id": prompt_id}, server.client_id)
