"""What the bank of a clip holds: the Streaming Sampler's pictures of it, its report, and what the page hears."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

FRAMES = 24  # latent frames: eight chunks
DEMO_LINES = "0:00 a red circle on the left\n0:01.5 a blue square on the right\n0:03 a red circle on the left"


@pytest.fixture(scope="session")
def banked(part: Any) -> Any:
    """``banked(model)``: the MODEL under a policy whose heads keep the ends of past episodes."""

    def under(model: Any, **options: Any) -> Any:
        policy = part("dummyforcing_core.policies").HeadForcing(
            **{"num_memory": 1, "novelty": 0.0, "reclassify_chunks": 99, **options}
        )
        return part("nodes.host.settings").with_policy(model, policy, ())

    return under


@pytest.fixture(scope="session")
def episodes(call: Any, conditioning: Any) -> Any:
    """A prompt that changes after two chunks, and back."""
    later = call("DummyForcingPromptAt", previous=conditioning(1), next=conditioning(2), seconds=1.5).outputs[0]
    return call("DummyForcingPromptAt", previous=later, next=conditioning(1), seconds=3).outputs[0]


@pytest.fixture
def heard(part: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a page is told, as JSON."""
    told: list[dict[str, Any]] = []
    view = part("nodes.host.live").LiveView
    monkeypatch.setattr(view, "send", lambda view, **details: told.append(json.loads(json.dumps(details))))
    return told


@pytest.fixture
def chunks(part: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The chunks that were made."""
    made: list[Any] = []
    view = part("nodes.host.live").LiveView
    real = view.chunk

    def chunk(self: Any, result: Any, pixels: Any) -> None:
        made.append(result)
        real(self, result, pixels)

    monkeypatch.setattr(view, "chunk", chunk)
    return made


@pytest.fixture
def written(part: Any, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """All that was written of the videos, (B, f, H, W, 3) uint8."""
    frames: list[np.ndarray] = []
    output = part("nodes.host.clip_output").ClipOutput
    real = output._written

    def keep(self: Any, pixels: Any) -> np.ndarray:
        frames.append(real(self, pixels))
        return frames[-1]

    monkeypatch.setattr(output, "_written", keep)
    return frames


def pictures(written: list[np.ndarray], latents: Any) -> torch.Tensor:
    """The last pixel frame of these latent frames, clip after clip."""
    video = np.concatenate(written, axis=1)
    return torch.from_numpy(np.concatenate([item[[4 * latent for latent in latents]] for item in video])).float() / 255


@pytest.mark.parametrize("batch", [1, 2])
def test_the_pictures_are_those_of_the_banked_frames(
    stream: Any, ar_model: Any, banked: Any, episodes: Any, canvas: Any, tiny_vae: Any, chunks: Any, written: Any,
    batch: int,
) -> None:  # fmt: skip
    done = stream(
        banked(ar_model("longlive")), conditioning=episodes, latent=canvas(FRAMES, batch), vae=tiny_vae, unique_id="7"
    )
    held = chunks[-1].banked
    assert len(held) == 6 and max(held) < FRAMES - 3, "from the past, not the newest chunk"
    image = done.outputs[3]
    assert image.dtype == torch.float32 and image.shape == (6 * batch, 64, 64, 3)
    assert torch.equal(image, pictures(written, held))


def test_the_page_and_the_report_say_which_seconds(
    stream: Any, ar_model: Any, banked: Any, episodes: Any, canvas: Any, tiny_vae: Any, chunks: Any, heard: Any
) -> None:
    done = stream(
        banked(ar_model("longlive")), conditioning=episodes, latent=canvas(FRAMES), vae=tiny_vae, unique_id="7"
    )
    told = [event["remembers"] for event in heard if event.get("chunk")]
    assert len(told) == len(chunks) and told[0] == []
    for stretches, chunk in zip(told, chunks, strict=True):
        covered = {frame for start, stop in stretches for frame in range(round(16 * start), round(16 * stop))}
        assert covered == {frame for frame in range(200) if -(-frame // 4) in chunk.banked}
    assert told[-1] != told[2] != []
    table = done.outputs[2]
    assert "-- remembered --" in table
    assert len(re.findall(r"^from 0:\d\d\.\d\d on", table, re.MULTILINE)) == sum(
        now != before for before, now in pairwise(told)
    )


def test_without_a_bank_there_is_the_last_frame_and_nothing_is_said(
    stream: Any, ar_model: Any, canvas: Any, tiny_vae: Any, written: Any, heard: Any
) -> None:
    done = stream(ar_model(), latent=canvas(4), vae=tiny_vae, unique_id="7")
    assert torch.equal(done.outputs[3], pictures(written, [3]))
    assert "remember" not in done.outputs[2]
    assert not any(event.get("remembers") for event in heard)


def test_a_cut_clip_gives_what_its_video_shows(
    stream: Any, call: Any, ar_model: Any, tiny_vae: Any, written: Any
) -> None:
    """48 of 49 frames: of the last latent frame three are shown."""
    size = call("DummyForcingClipSize", preset="custom", width=64, height=64, seconds=3.0).outputs[0]
    image = stream(ar_model(), latent=size, vae=tiny_vae).outputs[3]
    video = np.concatenate(written, axis=1)
    assert video.shape[1] == 48
    assert torch.equal(image, torch.from_numpy(video[:, -1]).float() / 255)


def test_a_clip_that_is_decoded_at_its_end_gives_the_same(
    stream: Any, part: Any, ar_model: Any, banked: Any, episodes: Any, canvas: Any, tiny_vae: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def made() -> Any:
        model = banked(ar_model("longlive"))
        return stream(model, conditioning=episodes, latent=canvas(FRAMES), vae=tiny_vae).outputs

    live = made()
    monkeypatch.setattr(part("nodes.host.clip_job"), "fits_together", lambda *_: False)
    later = made()
    assert "decoding waits for the last chunk" in later[2]
    assert torch.equal(later[3], live[3]) and len(live[3]) == 6


def test_decoding_once_in_memory_that_does_not_grow(
    stream: Any, part: Any, ar_model: Any, banked: Any, episodes: Any, canvas: Any, tiny_vae: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    kept: list[int] = []
    frames = part("nodes.host.remembered").RememberedFrames
    real = frames.committed

    def committed(self: Any, *chunk: Any) -> None:
        real(self, *chunk)
        kept.append(len(self._pixels))
        assert all(one.base is None for one in self._pixels.values()), "a view keeps its whole chunk"

    monkeypatch.setattr(frames, "committed", committed)
    stream(banked(ar_model("longlive")), conditioning=episodes, latent=canvas(60), vae=tiny_vae)
    assert len(kept) == 20 and max(kept) <= 6 + 6, "the bank, and the ring of heads that are not told apart yet"
    assert max(kept[3:]) <= 6 + 3


def test_without_a_vae_it_is_refused_where_it_is_used(stream: Any, ar_model: Any, canvas: Any, refused: Any) -> None:
    graph = {"2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 3]}}}
    wired = {"latent": canvas(1), "unique_id": "1", "prompt": graph}
    refused(lambda: stream(ar_model(), **wired), "remembered is connected, a VAE is not", "Load VAE")
    graph["2"]["inputs"]["images"] = ["1", 0]
    assert type(stream(ar_model(), **wired).outputs[3]).__name__ == "ExecutionBlocker"


def test_the_demo_remembers_at_another_rate(
    call: Any, stream: Any, banked: Any, chunks: Any, written: Any, heard: Any
) -> None:
    model, clip, vae = call("DummyForcingLoadDemoModel").outputs[:3]
    prompts = call("DummyForcingPromptSchedule", clip=clip, text=DEMO_LINES).outputs[0]
    size = call("DummyForcingClipSize", preset="custom", width=64, height=64, seconds=4.0).outputs[0]
    done = stream(banked(model, num_memory=4), conditioning=prompts, latent=size, vae=vae, fps=24.0, unique_id="7")
    held = chunks[-1].banked
    assert held and torch.equal(done.outputs[3], pictures(written, held))
    last = [event["remembers"] for event in heard if event.get("chunk")][-1]
    assert last[0][0] == pytest.approx(max(0, 4 * held[0] - 3) / 24)
