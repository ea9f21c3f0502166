"""A CLIP without weights: umt5-xxl has one size only, 24 layers of 4096, and no small file can take its place."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from comfy_api.latest import ComfyExtension, io

TOKENS, TEXT_DIM = 512, 4096


class StandInCLIP:
    """Every text has noise of its own, in the shape of umt5-xxl's output."""

    def tokenize(self, text: str, **_: Any) -> dict[str, str]:
        return {"text": text}

    def encode_from_tokens_scheduled(self, tokens: dict[str, str], **_: Any) -> list[Any]:
        generator = torch.Generator().manual_seed(zlib.crc32(tokens["text"].encode()))
        return [[torch.randn(1, TOKENS, TEXT_DIM, generator=generator) * 0.1, {"pooled_output": None}]]


class StandInCLIPLoader(io.ComfyNode):
    """CLIPLoader's inputs and output."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        widgets = [io.String.Input(name, default="") for name in ("clip_name", "type", "device")]
        return io.Schema(node_id="StandInCLIPLoader", category="harness", inputs=widgets, outputs=[io.Clip.Output()])

    @classmethod
    def execute(cls, clip_name: str, type: str, device: str) -> io.NodeOutput:
        return io.NodeOutput(StandInCLIP())


class StandInExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [StandInCLIPLoader]


async def comfy_entrypoint() -> StandInExtension:
    return StandInExtension()
