"""Prompts over time: the same schedule however it was built, switches where they belong, and re-caching."""

# ruff: noqa: RUF001

from __future__ import annotations

from typing import Any

import pytest
import torch

CLOSE = {"rtol": 0.0, "atol": 2e-5}


class Clip:
    """A text encoder of the host's interface: every text has its own features."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def tokenize(self, text: str, **kwargs: Any) -> str:
        self.texts.append(text)
        return text

    def encode_from_tokens_scheduled(self, tokens: str, **kwargs: Any) -> list[Any]:
        generator = torch.Generator().manual_seed(sum(map(ord, tokens)))
        return [[torch.randn(1, 16, 4096, generator=generator), {"pooled_output": None}]]


@pytest.fixture
def schedule(call: Any) -> Any:
    return lambda text: call("DummyForcingPromptSchedule", clip=Clip(), text=text).outputs[0]


@pytest.fixture
def at(call: Any) -> Any:
    """``at(previous, "text", seconds)``: Prompt At with a text encoder."""

    def add(previous: list, text: str, seconds: float) -> Any:
        encoded = Clip().encode_from_tokens_scheduled(text)
        return call("DummyForcingPromptAt", previous=previous, next=encoded, seconds=seconds).outputs[0]

    return add


def frames_of(part: Any, ar_model: Any, conditioning: list, fps: float) -> list[int]:
    """The latent frames at which a guider's conditions speak."""
    import comfy.sampler_helpers

    converted = comfy.sampler_helpers.convert_cond(conditioning)
    for condition in converted:
        condition["model_conds"] = {"c_crossattn": type("Cond", (), {"cond": condition["cross_attn"]})()}
    prompts, by_tensor = part("nodes.host.prompts").prompts_of(converted, fps)
    assert set(by_tensor) == {id(tensor) for _, tensor in prompts.entries}
    return [start for start, _ in prompts.entries]


@pytest.mark.parametrize(
    "fps, frames", [(16, [0, 8, 60, 242]), (24, [0, 12, 90, 363]), (8, [0, 4, 30, 121]), (16.0, [0, 8, 60, 242])]
)
def test_seconds_are_those_of_the_video(part: Any, ar_model: Any, schedule: Any, fps: float, frames: list[int]) -> None:
    """4 pixel frames are one latent frame, at whatever rate they are shown."""
    text = "# a story\n0:00 | one\n0:02 | two\n\n0:15 | three\n1:00.5 | four"
    assert frames_of(part, ar_model, schedule(text), fps) == frames


def test_a_chain_of_prompt_at_is_the_schedule(part: Any, ar_model: Any, schedule: Any, at: Any, clip: Any) -> None:
    written = schedule("0 | one\n0.5 | two\n1.25 | three")
    chained = at(at(schedule("one"), "two", 0.5), "three", 1.25)
    assert frames_of(part, ar_model, written, 16) == frames_of(part, ar_model, chained, 16) == [0, 2, 5]
    model = ar_model("causal_forcing_framewise")
    torch.testing.assert_close(clip(model, conditioning=written), clip(model, conditioning=chained), rtol=0, atol=0)


def test_prompt_at_changes_neither_of_its_inputs(schedule: Any, at: Any) -> None:
    first = schedule("one")
    before = repr(first)
    at(first, "two", 1.0)
    assert repr(first) == before and len(first) == 1


def test_a_switch_changes_only_what_comes_after_it(clip: Any, ar_model: Any, schedule: Any) -> None:
    model = ar_model()
    constant, switched = (clip(model, conditioning=schedule(t)) for t in ("0 | one", "0 | one\n0.75 | two"))
    torch.testing.assert_close(switched[:, :, :3], constant[:, :, :3], **CLOSE)
    assert (switched[:, :, 3:6] - constant[:, :, 3:6]).abs().max() > 1e-3
    late = clip(model, conditioning=schedule("0 | one\n1 | two"))  # frame 4, inside the second chunk
    torch.testing.assert_close(late[:, :, :6], constant[:, :, :6], **CLOSE)
    assert (late[:, :, 6:] - constant[:, :, 6:]).abs().max() > 1e-3
    beyond = clip(model, conditioning=schedule("0 | one\n9 | two"))
    torch.testing.assert_close(beyond, constant, **CLOSE)


def test_an_unused_prompt_is_in_the_report(stream: Any, ar_model: Any, schedule: Any) -> None:
    heard = stream(ar_model(), conditioning=schedule("0 | one\n1.5 | two"))
    assert "never heard" not in heard.outputs[2]
    late = stream(ar_model(), conditioning=schedule("0 | one\n1.6 | two"))  # the last chunk begins at frame 6
    assert "note: the prompt of 0:01.5" not in late.outputs[2]
    assert (
        "note: the prompt of 0:01.75 is never used: the clip's last chunk begins at 0:01.5"
        in (stream(ar_model(), conditioning=schedule("0 | one\n1.75 | two")).outputs[2])
    )


def test_equal_prompts_are_no_switch(clip: Any, ar_model: Any, schedule: Any, model_calls: list) -> None:
    model = ar_model("longlive")
    once = clip(model, conditioning=schedule("0 | one"))
    calls = len(model_calls)
    model_calls.clear()
    torch.testing.assert_close(clip(model, conditioning=schedule("0 | one\n0.75 | one")), once, **CLOSE)
    assert len(model_calls) == calls


def test_longlive_reads_its_window_again_at_a_switch(
    clip: Any, ar_model: Any, schedule: Any, model_calls: list
) -> None:
    text = "0 | one\n0.75 | two"
    clip(ar_model("longlive"), conditioning=schedule(text))
    passes = [shape[2] for shape, sigma, output in model_calls if sigma == 0]
    assert sorted(passes) == [1, 3, 3, 3]  # three clean passes, and the three frames before the switch once more
    model_calls.clear()
    clip(ar_model("self_forcing"), conditioning=schedule(text))
    assert len([1 for _, sigma, _ in model_calls if sigma == 0]) == 3


def test_what_is_wrong_with_a_schedule_is_told_by_line_and_time(schedule: Any, refused: Any) -> None:
    refused(lambda: schedule("0:05 | one"), "0:00", "0:05 on line 1")
    refused(lambda: schedule("0:00 | one\n0:00 | two"), "lines 1 and 2 both start at 0:00")
    refused(lambda: schedule("0:00 | one\n# no\n0:20 two\n0:10 three"), "line 4 (0:10) after line 3 (0:20)")
    refused(lambda: schedule("0:00 | one\nsoon | two"), "line 2", "soon")
    refused(lambda: schedule("0:00 | one\n1:75 | two"), "line 2", "1:75", "2:15")
    refused(lambda: schedule("0 one\n5 two"), "line 1", "'0 one'")
    for empty in ("", " \n", "# only"):
        refused(lambda text=empty: schedule(text), "empty")
    refused(lambda: schedule("0:00 |"), "line 1 (0:00) has no prompt")


@pytest.mark.parametrize("text", ["0:00 one\n0:05 two", "0s: one\n5s - two", "[0:00] one\n０：０５｜two"])
def test_a_schedule_needs_no_bars(part: Any, ar_model: Any, call: Any, text: str) -> None:
    clip = Clip()
    made = call("DummyForcingPromptSchedule", clip=clip, text=text).outputs[0]
    assert clip.texts == ["one", "two"]
    assert frames_of(part, ar_model, made, 16) == [0, 20]


def test_prompt_at_wants_later_times(schedule: Any, at: Any, refused: Any) -> None:
    chained = at(schedule("one"), "two", 5.0)
    refused(lambda: at(chained, "three", 5.0), "starts at 0:05", "later")
    refused(lambda: at(chained, "three", 2.0), "starts at 0:02", "later")


def test_prompt_at_wants_one_prompt(call: Any, schedule: Any, refused: Any) -> None:
    two = schedule("0 | one\n1 | two")
    refused(lambda: call("DummyForcingPromptAt", previous=schedule("one"), next=two, seconds=9.0), "got 2")


def test_times_that_fall_into_one_latent_frame_are_told(
    clip: Any, ar_model: Any, schedule: Any, at: Any, refused: Any
) -> None:
    close = at(at(schedule("one"), "two", 0.5), "three", 0.6)
    refused(lambda: clip(ar_model(), conditioning=close), "same time")


@pytest.mark.parametrize("text", ["a cat", "  a cat\n", "0:00 | a cat", "0 | a cat", "0:00 a cat"])
def test_one_prompt_may_be_written_without_a_time(call: Any, text: str) -> None:
    clip = Clip()
    assert len(call("DummyForcingPromptSchedule", clip=clip, text=text).outputs[0]) == 1
    assert clip.texts == ["a cat"]


def test_several_lines_without_a_time_are_one_prompt(call: Any) -> None:
    clip = Clip()
    call("DummyForcingPromptSchedule", clip=clip, text="a cat\nin the rain")
    assert clip.texts == ["a cat\nin the rain"]


def test_the_report_lists_the_switches(stream: Any, ar_model: Any, schedule: Any, at: Any, call: Any) -> None:
    def line(**inputs: Any) -> str:
        report = " ".join(stream(ar_model("causal_forcing_framewise"), **inputs).outputs[2].split())
        return report[report.index(" prompts ", report.index("-- run --")) + 1 : report.index(" steps ")]

    assert line(conditioning=schedule("0 | one")) == "prompts 1"
    written = schedule("0:00 | a cat sits at a window\n0:01 | the cat jumps down and runs into the garden")
    assert line(conditioning=written) == (
        "prompts 2: 0:00 a cat sits at a window; 0:01 the cat jumps down and runs into..."
    )
    many = schedule("\n".join(f"{n / 4} | number {n}" for n in range(9)))
    assert line(conditioning=many).endswith("number 5; and 3 more")


def test_the_words_of_stock_text_encoders_are_read_from_the_queued_graph(part: Any) -> None:
    words = part("nodes.host.prompt_words").words_of
    graph = {
        "1": {"inputs": {"conditioning": ["2", 0]}},
        "2": {"class_type": "DummyForcingPromptAt", "inputs": {"previous": ["3", 0], "next": ["5", 0], "seconds": 300}},
        "3": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["4", 0], "guidance": 3.5}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "one", "clip": ["9", 0]}},
        "5": {"class_type": "CLIPTextEncode", "inputs": {"text": "two", "clip": ["9", 0]}},
    }
    entries = [[None, {}], [None, {part("nodes.host.prompts").STARTS: 300.0}]]
    assert str(words(entries, graph, "1")) == "2: 0:00 one; 5:00 two"
    assert str(words(entries, None, None)) == "2: 0:00; 5:00"
