"""A server that is killed in the middle of a clip, started again, and told to go on; then longer, a branch, a final."""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.host.install import PACKS, ComfyInstall, make_base_directory
from tests.host.server import ComfyServer

SAMPLER, SECONDS = "4", 6.0
CHUNKS = 9  # of 25 latent frames

GRAPH: dict[str, Any] = {
    "1": {"class_type": "DummyForcingLoadDemoModel", "inputs": {}},
    "2": {
        "class_type": "DummyForcingPromptSchedule",
        "inputs": {"clip": ["1", 1], "text": "0:00 | a red circle on the left\n0:03 | a green circle, lights off"},
    },
    "3": {
        "class_type": "DummyForcingClipSize",
        "inputs": {
            "preset": "custom", "orientation": "landscape", "seconds": SECONDS, "batch_size": 1,
            "width": 64, "height": 64,
        },
    },
    SAMPLER: {
        "class_type": "DummyForcingStreamingSampler",
        "inputs": {
            "model": ["5", 0], "conditioning": ["2", 0], "latent": ["3", 0], "vae": ["1", 2], "seed": 7, "fps": 16,
            "filename_prefix": "video/kill", "crf": 0, "take": "off",
        },
    },
    "5": {"class_type": "DummyForcingApplyHeadForcing", "inputs": {"model": ["1", 0]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def killed(comfyui: ComfyInstall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server of its own."""
    base = make_base_directory(tmp_path_factory.mktemp("killed") / "base", PACKS)
    server = ComfyServer(comfyui, base)
    with server:
        yield server


def graph(server: ComfyServer, seconds: float = SECONDS, **sampler: Any) -> dict[str, Any]:
    made = copy.deepcopy(GRAPH)
    made["3"]["inputs"]["seconds"] = seconds
    made[SAMPLER]["inputs"] |= sampler
    for node in made.values():  # what is left out has the node's default
        wanted = server.object_info(node["class_type"])["input"].get("required", {})
        node["inputs"] = {
            **{name: one[1]["default"] for name, one in wanted.items() if len(one) > 1 and "default" in one[1]},
            **node["inputs"],
        }
    return made


def frames(server: ComfyServer, output: dict[str, Any]) -> np.ndarray:
    av = pytest.importorskip("av")
    (file,) = output["images"]
    with av.open(io.BytesIO(server.view(file))) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def run(server: ComfyServer, **sampler: Any) -> tuple[np.ndarray, str]:
    done = server.run(graph(server, **sampler)).output(SAMPLER)
    return frames(server, done), done["text"][0]


def kill_after(server: ComfyServer, latents: Path, size: int, **sampler: Any) -> None:
    server.post(graph(server, **sampler))
    deadline = time.monotonic() + 120
    while not latents.exists() or latents.stat().st_size < size:
        assert time.monotonic() < deadline, server.log_tail()
        time.sleep(0.002)
    server.kill()
    server.__enter__()


def test_a_killed_server_goes_on_to_the_same_clip(killed: ComfyServer) -> None:
    server, takes = killed, killed.base / "output" / "takes"
    whole, _ = run(server)
    assert len(whole) == 16 * SECONDS
    kill_after(server, takes / "story_00001" / "latents.take", 60_000, take="new", take_name="story")
    told = server.get("/dummyforcing/takes")
    assert told["takes"] == ["story_00001"]
    assert told["unfinished"]["name"] == "story_00001" and 1 <= told["unfinished"]["chunks"] < CHUNKS
    _, report = run(server, seed=8, seconds=0.5)
    assert "take story_00001 is unfinished" in report
    done, report = run(server, take="go on", take_name="story_00001")
    np.testing.assert_array_equal(done, whole)
    assert f"gone on behind {told['unfinished']['chunks']} chunks" in " ".join(report.split())
    assert server.get("/dummyforcing/takes")["unfinished"] is None


def test_then_it_is_made_longer_branched_and_decoded_again(killed: ComfyServer) -> None:
    server = killed
    whole, _ = run(server, seconds=9.0)
    longer, _ = run(server, seconds=9.0, take="go on", take_name="story_00001")
    np.testing.assert_array_equal(longer, whole)
    branch, report = run(server, seconds=9.0, take="branch", take_name="story_00001", from_chunk=6, seed=99)
    np.testing.assert_array_equal(branch[:69], whole[:69])  # 18 latent frames
    assert (branch[73:] != whole[73:]).any()
    assert "story_00001_branch_00001" in report
    again = graph(server, seconds=9.0, take="go on", take_name="story_00001")
    again["6"] = {
        "class_type": "DummyForcingDecodeTake",
        "inputs": {"take": [SAMPLER, 4], "vae": ["1", 2], "fps": 0, "filename_prefix": "video/final", "crf": 0},
    }
    ran = server.run(again)
    np.testing.assert_array_equal(frames(server, ran.output("6")), whole)


def test_the_same_prompt_again_is_answered_from_the_cache(killed: ComfyServer) -> None:
    server = killed
    prompt = graph(server, seconds=12.0, take="go on", take_name="story_00001")
    assert server.run(prompt).output(SAMPLER)["images"]
    again = server.run(prompt)
    assert SAMPLER not in [event.data.get("node") for event in again.of_type("executing")]


def test_killed_between_any_two_chunks(killed: ComfyServer) -> None:
    """Twice in one clip, at other places."""
    server, takes = killed, killed.base / "output" / "takes"
    whole, _ = run(server, seed=21)
    latents = takes / "twice_00001" / "latents.take"
    kill_after(server, latents, 20_000, seed=21, take="new", take_name="twice")
    size = latents.stat().st_size
    kill_after(server, latents, size + 30_000, seed=21, take="go on", take_name="twice_00001")
    done, _ = run(server, seed=21, take="go on", take_name="twice_00001")
    np.testing.assert_array_equal(done, whole)
