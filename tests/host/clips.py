"""Released workflows as prompts, small enough for a CPU, and what to ask of the videos they make."""

from __future__ import annotations

import copy
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dummyforcing_core
from scripts.workflow_titles import TITLES
from tests.host.events import Run
from tests.host.install import REPOSITORY

HERE = Path(__file__).resolve().parent
WORKFLOWS = REPOSITORY / "workflows"
FILES = {name: WORKFLOWS / f"{title}.json" for name, title in TITLES.items()}
RELEASED = {f"{path.parent.name}/{path.stem}": path for path in sorted((HERE / "released").glob("*/*.json"))}
SAMPLER, CLIP_SIZE = "DummyForcingStreamingSampler", "DummyForcingClipSize"
WIDTH, HEIGHT = 64, 48
Prompt = dict[str, Any]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def small(prompt: Prompt) -> Prompt:
    """The same prompt at a size for a CPU, with the text encoder that no small file can replace replaced."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        if node["class_type"] == CLIP_SIZE:
            node["inputs"] |= {"preset": "custom", "width": WIDTH, "height": HEIGHT}
        if node["class_type"] == "ImageScale":
            node["inputs"] |= {"width": WIDTH, "height": HEIGHT}
        if node["class_type"] == "CLIPLoader":
            node["class_type"] = "StandInCLIPLoader"
    return prompt


def frames_of(seconds: float) -> int:
    """Frames of a video at 16 per second."""
    return math.ceil(16 * seconds)


def video(data: bytes) -> tuple[np.ndarray, dict[str, str]]:
    """Frames (f, H, W, 3) uint8 and the tags of a video."""
    av = pytest.importorskip("av")
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return np.stack(frames), dict(container.metadata)


def moves(frames: np.ndarray) -> bool:
    """Pixels differ inside the frames and from frame to frame."""
    return bool(frames[0].std() > 2 and np.abs(np.diff(frames.astype(np.int16), axis=0)).mean() > 0.05)


def posted(tags: dict[str, str]) -> Prompt:
    """The prompt in a video; the host adds a mark of its own to nodes that watch a file."""
    prompt = json.loads(tags["prompt"])
    return {node: {key: one[key] for key in ("class_type", "inputs")} for node, one in prompt.items()}


def only(prompt: Prompt, class_type: str) -> str:
    """The id of the one node of a class."""
    (node,) = [node for node, one in prompt.items() if one["class_type"] == class_type]
    return node


def report_of(prompt: Prompt, run: Run) -> str:
    return run.output(only(prompt, SAMPLER))["text"][0]


def released(name: str) -> Prompt:
    return small(read(HERE / "released" / dummyforcing_core.__version__ / f"{name}.json"))
