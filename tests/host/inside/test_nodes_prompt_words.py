"""What the page is told of a clip's prompts and memory, and which pages are sent the host's own preview."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

AT, SCHEDULE = "DummyForcingPromptAt", "DummyForcingPromptSchedule"


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


GRAPH = {
    "1": node("CLIPTextEncode", text="a cat", clip=["0", 0]),
    "2": node("CLIPTextEncode", text="a dog", clip=["0", 0]),
    "3": node(AT, previous=["1", 0], next=["2", 0], seconds=2.5),
    "4": node("ConditioningZeroOut", conditioning=["3", 0]),
    "5": node("Sampler", conditioning=["4", 0]),
    "6": node("CLIPTextEncode", text=["0", 0], clip=["0", 0]),
    "7": node("Sampler", conditioning=["6", 0]),
    "8": node("Sampler", conditioning=["8", 0]),
}


def entries(count: int, **options: Any) -> list:
    return [[torch.zeros(1, 2, 4), dict(options)] for _ in range(count)]


def test_the_words_typed_into_the_nodes_before_a_sampler_are_found(part: Any) -> None:
    words = part("nodes.host.prompt_words").words_of
    assert words(entries(2), GRAPH, "5").texts == ("a cat", "a dog")
    assert words(entries(1), GRAPH, "7").texts == ("",), "a text that comes over a link"
    assert words(entries(1), GRAPH, "8").texts == ("",), "a graph that goes in a circle"
    assert words(entries(3), GRAPH, "5").texts == ("", "", ""), "another node made more prompts of them"
    assert words(entries(1), None, None).texts == words([], GRAPH, "5").texts == ("",)


def test_a_schedule_carries_its_own_words_and_they_change_with_the_chunk(part: Any) -> None:
    prompts, words = part("nodes.host.prompts"), part("nodes.host.prompt_words")
    clip = SimpleNamespace(
        tokenize=lambda text: text,
        encode_from_tokens_scheduled=lambda text: [[torch.full((1, 2, 4), float(len(text))), {}]],
    )
    made = prompts.scheduled(clip, "0:00 | a cat\n0:03 | a large dog")
    said = words.words_of(made[::-1], {}, "5")
    assert said.texts == ("a cat", "a large dog")
    schedule = part("dummyforcing_core.prompts").PromptSchedule(((0, made[0][0]), (12, made[1][0])))
    assert [said.at(schedule, start) for start in (0, 9, 12, 15)] == ["a cat", "a cat", "a large dog", "a large dog"]


def test_every_event_of_a_running_clip_names_the_memory_and_the_prompt(
    stream: Any, ar_model: Any, canvas: Any, part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(part("nodes.host.live").LiveView, "send", lambda view, **details: told.append(details))
    stream(ar_model(), latent=canvas(6))
    running = [one for one in told if one["running"]]
    assert {one["chunk"] for one in running} == {0, 1, 2}
    assert all(one["memory"].startswith("SlidingWindow, window frames") and "prompt" in one for one in running)


@pytest.mark.parametrize("watching", [True, False])
def test_a_page_with_our_view_is_sent_no_picture_for_the_hosts(
    stream: Any, ar_model: Any, canvas: Any, tiny_vae: Any, part: Any, monkeypatch: pytest.MonkeyPatch, watching: bool
) -> None:
    live = part("nodes.host.live")
    pictures = []

    class Bar:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
            pictures.extend([preview] if preview else [])

    monkeypatch.setattr(live.comfy.utils, "ProgressBar", Bar)
    host = SimpleNamespace(client_id="page", sockets={"page": None}, send_sync=lambda *_: None)
    monkeypatch.setattr(live, "server", lambda: host)
    monkeypatch.setattr(part("nodes.host.watching"), "_watching", {"page"} if watching else {"another"})
    monkeypatch.setattr(live, "_graph", lambda host: "")
    stream(ar_model(), latent=canvas(9), vae=tiny_vae)
    assert bool(pictures) is not watching
