"""Loops of the host: nodes that run again as copies, under ids that no page knows."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.host.clips import SAMPLER, video
from tests.host.server import ComfyServer

TIMES = 3


def looped_demo() -> dict[str, Any]:
    """The demo's clip of seed 5, three times, each with a seed and a name of its own."""
    nodes = {
        "1": ("DummyForcingLoadDemoModel", {}),
        "2": ("CLIPTextEncode", {"clip": ["1", 1], "text": "a red circle on the left moving sideways"}),
        "3": ("DummyForcingClipSize", {"preset": "custom", "orientation": "landscape", "seconds": 1.0, "batch_size": 1,
                                       "width": 64, "height": 64}),
        "4": (SAMPLER, {"model": ["1", 0], "conditioning": ["2", 0], "latent": ["3", 0], "vae": ["1", 2], "seed": 5,
                        "fps": 16.0, "filename_prefix": "loop/0"}),
        "5": ("HarnessLoop", {"latent": ["4", 0], "times": TIMES}),
    }  # fmt: skip
    return {node_id: {"class_type": name, "inputs": inputs} for node_id, (name, inputs) in nodes.items()}


def test_every_turn_of_a_loop_is_a_clip_of_its_own_shown_at_the_node_of_the_page(server: ComfyServer) -> None:
    run = server.run(looped_demo())
    told = [event.data for event in run.of_type("dummyforcing.chunk")]
    assert {one["node"] for one in told} == {"4"}
    assert [one["outcome"] for one in told if not one["running"]] == ["done"] * TIMES
    assert {one["prompt"] for one in told if "prompt" in one} == {"a red circle on the left moving sideways"}

    turns = [event.data for event in run.of_type("executed") if "images" in (event.data["output"] or {})]
    assert [one["display_node"] for one in turns] == ["4"] * TIMES and len({one["node"] for one in turns}) == TIMES
    files = [one["output"]["images"][0] for one in turns]
    assert sorted(file["filename"] for file in files) == [f"{number}_00001_.mp4" for number in range(TIMES)]
    clips = [video(server.view(file))[0].astype(np.int16) for file in files]
    assert all(clip.shape == (16, 64, 64, 3) for clip in clips)
    apart = [np.abs(one - other).mean() for one in clips for other in clips if one is not other]
    assert min(apart) > 0.3, "two turns made the same clip"
    seeds = {
        line.split()[-1] for one in turns for line in one["output"]["text"][0].splitlines() if line.startswith("seed")
    }
    assert seeds == {"5", "6", "7"}
