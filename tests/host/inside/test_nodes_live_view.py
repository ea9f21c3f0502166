"""The live view beside the sampling: what the page hears of chunks, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def heard(part: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a page is told."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(part("nodes.host.live").LiveView, "send", lambda view, **details: told.append(details))
    return told


@pytest.fixture
def previews(part: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable], None]:
    """``previews(encoder)``: the encoder of previews from here on."""
    return lambda encoder: monkeypatch.setattr(part("nodes.host.live"), "clip_bytes", encoder)


def chunks(told: list[dict[str, Any]]) -> list[int]:
    return [one["chunk"] for one in told if one["running"]]


def test_the_page_hears_of_chunks_in_their_order_however_slow_a_preview_is(
    stream: Any,
    ar_model: Any,
    canvas: Any,
    tiny_vae: Any,
    part: Any,
    heard: list[dict[str, Any]],
    previews: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = part("nodes.host.live").LiveView
    encoded: list[int] = []
    last_chunk_done = threading.Event()
    real = view.chunk

    def chunk(self: Any, result: Any, pixels: Any) -> None:
        real(self, result, pixels)
        if result.span.chunk == 3:
            last_chunk_done.set()

    def slow(pixels: Any, *how: Any) -> bytes:
        assert last_chunk_done.wait(120)
        encoded.append(len(pixels))
        return b"mp4"

    monkeypatch.setattr(view, "chunk", chunk)
    previews(slow)
    stream(ar_model(), latent=canvas(12), vae=tiny_vae)
    assert chunks(heard) == [0, 1, 2, 3, 4]
    assert encoded == [9], "previews of chunks that came meanwhile are left out"
    assert heard[-1]["outcome"] == "done"


def test_a_preview_that_fails_costs_the_page_nothing_else(
    stream: Any, ar_model: Any, canvas: Any, tiny_vae: Any, heard: list[dict[str, Any]], previews: Any, caplog: Any
) -> None:
    def broken(*_: Any) -> bytes:
        raise OSError("no encoder")

    previews(broken)
    assert stream(ar_model(), latent=canvas(6), vae=tiny_vae).outputs[0]["samples"].shape[2] == 6
    assert chunks(heard) == [0, 1, 2] and heard[-1]["outcome"] == "done"
    assert "the live view failed; the clip goes on" in caplog.text and "no encoder" in caplog.text


def test_a_clip_that_was_stopped_names_the_part_that_plays(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fractions import Fraction

    from comfy.model_management import InterruptProcessingException

    live, heard = part("nodes.host.live"), []
    monkeypatch.setattr(live.LiveView, "send", lambda view, **details: heard.append(details))

    def stopped() -> None:
        with live.live_view("1", 1, 1, Fraction(16)) as view:
            view.kept, view.part = True, "video/clip_00001_.part.mp4"
            raise InterruptProcessingException

    with pytest.raises(InterruptProcessingException):
        stopped()
    ended = {"running": False, "outcome": "stopped", "kept": True, "part": "video/clip_00001_.part.mp4"}
    assert heard[-1] == ended
