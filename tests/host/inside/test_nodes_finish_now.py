"""Finish now: the clip ends after the current chunk, what was made so far goes on, and the next run is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def finish_after(part: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``finish_after(2)``: somebody presses the button while chunk 2 is shown."""
    view = part("nodes.host.live").LiveView

    def use(chunk_number: int) -> None:
        real = view.chunk

        def chunk(self: Any, result: Any, pixels: Any) -> None:
            real(self, result, pixels)
            if result.span.chunk + 1 == chunk_number:
                self.finish_asked.set()

        monkeypatch.setattr(view, "chunk", chunk)

    return use


def fingerprint(pack: Any, **inputs: Any) -> Any:
    node = pack.nodes["DummyForcingStreamingSampler"]
    return node.fingerprint_inputs(**{"seed": 3, "fps": 16, "filename_prefix": "video/streaming", **inputs})


@pytest.mark.parametrize("vae", [False, True])
def test_a_clip_ends_where_it_is_asked_to(
    stream: Any, ar_model: Any, canvas: Any, tiny_vae: Any, part: Any, finish_after: Any, vae: bool, monkeypatch: Any
) -> None:
    model, inputs = ar_model(), {"vae": tiny_vae} if vae else {}
    whole = stream(model, latent=canvas(12)).outputs[0]["samples"]
    finish_after(2)
    done = stream(model, latent=canvas(12), **inputs)
    latents = done.outputs[0]["samples"]
    assert latents.shape[2] == 6
    torch.testing.assert_close(latents, whole[:, :, :6], rtol=0, atol=0)
    assert "note: ended early after 2 of 4 chunks" in done.outputs[2]
    if vae:
        source = done.outputs[1][0].get_stream_source()
        assert ".part" not in source
        assert len(list(part("dummyforcing_core.clips.video").read_frames(Path(source)))) == 21
    assert part("nodes.host.live")._running == {}


def test_the_host_does_not_answer_the_next_run_from_its_cache(
    stream: Any, ar_model: Any, canvas: Any, finish_after: Any, pack: Any
) -> None:
    untouched = fingerprint(pack, seed=4)
    before = fingerprint(pack)
    stream(ar_model(), latent=canvas(12))
    assert fingerprint(pack) == before, "a whole clip may be reused"
    finish_after(1)
    stream(ar_model(), latent=canvas(12))
    assert fingerprint(pack) != before
    assert fingerprint(pack) == fingerprint(pack)
    assert fingerprint(pack, seed=4) == untouched


def test_the_hosts_cache_key_changes_when_the_seed_is_linked(
    stream: Any, ar_model: Any, canvas: Any, finish_after: Any, pack: Any
) -> None:
    """A linked input comes to fingerprint_inputs as None."""
    before = fingerprint(pack, seed=None)
    finish_after(1)
    stream(ar_model(), latent=canvas(12))
    assert fingerprint(pack, seed=None) != before


@pytest.mark.parametrize("start, last", [(0, 3), (5, 2)])
def test_asking_in_the_last_chunk_is_no_early_end(
    stream: Any, ar_model: Any, finish_after: Any, start: int, last: int
) -> None:
    """A start is a chunk too, however long."""
    finish_after(last)
    begun = {"start_latent": {"samples": torch.randn(1, 16, start, 8, 8)}} if start else {}
    done = stream(ar_model(), **begun)
    assert done.outputs[0]["samples"].shape[2] == 7
    assert "ended early" not in done.outputs[2]


def test_the_next_run_of_the_node_starts_unasked(
    stream: Any, ar_model: Any, canvas: Any, finish_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context():
        finish_after(1)
        assert stream(ar_model(), latent=canvas(9)).outputs[0]["samples"].shape[2] == 3
        monkeypatch.undo()
    assert stream(ar_model(), latent=canvas(9)).outputs[0]["samples"].shape[2] == 9


def test_without_a_vae_the_video_output_blocks_and_says_why(stream: Any, ar_model: Any) -> None:
    (blocked,) = stream(ar_model()).outputs[1]
    assert type(blocked).__name__ == "ExecutionBlocker" and "VAE" in blocked.message
