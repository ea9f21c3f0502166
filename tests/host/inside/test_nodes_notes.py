"""Lines of the Streaming Sampler's report, for what does not do what was hoped; the page shows them while it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

PROMPT = "a red circle"


def notes(called: Any) -> list[str]:
    lines = [line for line in called.outputs[2].splitlines() if line.startswith("note: ")]
    return [line for line in lines if "no VAE is connected" not in line]


@pytest.fixture(scope="session")
def demo(call: Any) -> tuple[Any, Any, Any]:
    """MODEL, CLIP, VAE."""
    return call("DummyForcingLoadDemoModel").outputs


@pytest.fixture
def told(call: Any, demo: Any, stream: Any) -> Any:
    """``told("a red circle", ...)``: the notes of a clip of the demo model."""

    def run(text: str = PROMPT, **inputs: Any) -> list[str]:
        prompt = call("CLIPTextEncode", clip=demo[1], text=text).outputs[0]
        return notes(stream(demo[0], **{"conditioning": prompt, "vae": demo[2], **inputs}))

    return run


@pytest.fixture
def heard(part: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the page hears."""
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(part("nodes.host.live").LiveView, "send", lambda view, **details: events.append(details))
    return events


def test_nothing_is_said_of_a_clip_as_it_should_be(told: Any, heard: list) -> None:
    assert told() == []
    assert all("notes" not in event for event in heard)


def test_unknown_words_and_empty_prompts_of_the_demo(told: Any, call: Any, demo: Any, heard: list) -> None:
    line = "note: the demo world does not know: sunglasses, photorealistic (ignored)"
    assert told("a red circle with sunglasses, photorealistic sunglasses") == [line]
    shown = [event["notes"] for event in heard if "notes" in event]
    assert len(shown) > 2 and all(notes == [line.removeprefix("note: ")] for notes in shown)  # as long as it runs
    assert told(" ") == ["note: a prompt is empty: say what is to be seen"]
    schedule = call("DummyForcingPromptSchedule", clip=demo[1], text="0:00 a red unicorn\n0:01 a dragon").outputs[0]
    assert ["unicorn" in note or "dragon" in note for note in told(conditioning=schedule)] == [True, True]
    (long,) = told("x" * 4000)
    assert len(long) < 300


def test_the_demo_at_a_size_it_does_not_know(told: Any, canvas: Any) -> None:
    (note,) = told(latent=canvas(1, width=34, height=8))
    assert "64x64" in note and "272x64 is 4.2 times the area" in note


def test_a_start_that_the_demo_does_not_know(part: Any, told: Any) -> None:
    def start(image: torch.Tensor) -> Any:
        codec = part("dummyforcing_core.clips.demo_assets").load_demo_codec()
        return {"samples": codec.encode(image.permute(3, 0, 1, 2)[None] * 2 - 1)}

    (note,) = told(start_latent=start(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))))
    assert "no picture of the demo world" in note


def test_how_much_was_given(call: Any, demo: Any, stream: Any, canvas: Any, told: Any) -> None:
    prompt = call("CLIPTextEncode", clip=demo[1], text=PROMPT).outputs[0]
    first = stream(demo[0], conditioning=prompt, latent=canvas(3))
    assert "given start" not in first.outputs[2]
    on = stream(demo[0], conditioning=prompt, start_latent=first.outputs[0])
    assert "given start" in on.outputs[2] and "9 frames (3 latent)" in on.outputs[2]
    assert notes(on) == []


def test_prompts_that_change_in_a_family_not_made_for_them(
    stream: Any, ar_model: Any, conditioning: Any, call: Any
) -> None:
    def clip(family: str, first: int, second: int) -> list[str]:
        later = call("DummyForcingPromptAt", previous=conditioning(first), next=conditioning(second), seconds=0.75)
        return notes(stream(ar_model(family), conditioning=later.outputs[0]))

    (note,) = clip("self_forcing", 1, 2)
    assert "not trained on prompts that change" in note
    assert clip("self_forcing", 1, 1) == clip("longlive", 1, 2) == []


def test_a_policy_that_replaced_another(call: Any, stream: Any, ar_model: Any) -> None:
    def window(model: Any, frames: int = 12) -> Any:
        return call("DummyForcingApplyCacheWindow", model=model, window=frames, sink=3).outputs[0]

    def dummies(model: Any) -> Any:
        return call("DummyForcingApplyDummyForcing", model=model).outputs[0]

    assert notes(stream(window(ar_model()))) == notes(stream(window(window(ar_model())))) == []
    (note,) = notes(stream(window(dummies(ar_model()))))
    assert "replaced the settings of Apply Dummy Forcing" in note and "the last is Apply Cache Window" in note
    (note,) = notes(stream(dummies(window(dummies(ar_model())))))
    assert "replaced the settings of Apply Cache Window" in note
    assert "the last is Apply Cache Window" in notes(stream(window(window(ar_model()), 9)))[0]


def test_without_a_vae_the_report_begins_with_that(call: Any, demo: Any, stream: Any, refused: Any) -> None:
    prompt = call("CLIPTextEncode", clip=demo[1], text=PROMPT).outputs[0]
    done = stream(demo[0], conditioning=prompt)
    assert done.outputs[2].startswith("note: no VAE is connected: only LATENT was made, VIDEO is empty\n")
    graph = {"2": {"class_type": "SaveVideo", "inputs": {"video": ["1", 1], "format": "auto"}}}
    wired = {"conditioning": prompt, "unique_id": "1", "prompt": graph}
    refused(lambda: stream(demo[0], **wired), "VIDEO is connected, a VAE is not", "Load VAE")
    assert stream(demo[0], vae=demo[2], **wired).outputs[1]
    graph["2"]["inputs"]["video"] = ["1", 0]
    stream(demo[0], **wired)


@pytest.mark.parametrize("fps, times", [(48, "3x"), (24, "1.5x"), (11.99, "0.749x"), (23.976, ""), (12, ""), (16, "")])
def test_a_rate_that_changes_the_speed_of_motion(told: Any, canvas: Any, fps: float, times: str) -> None:
    said = told(fps=fps, latent=canvas(1))
    assert said == ([f"note: motion is made for 16 fps: at {fps:g} it plays {times} as fast"] if times else [])


def test_what_a_stream_reads_past_on_a_prompt(told: Any, call: Any, demo: Any, canvas: Any) -> None:
    prompt = call("CLIPTextEncode", clip=demo[1], text=PROMPT).outputs[0]
    guided = call("FluxGuidance", conditioning=prompt, guidance=3.5).outputs[0]
    assert told(conditioning=guided, latent=canvas(1)) == [
        "note: the conditioning carries guidance (FluxGuidance), which has no effect on a stream"
    ]
    for node, inputs in (
        ("ConditioningZeroOut", {}),
        ("ConditioningSetAreaStrength", {"strength": 0.5}),
    ):
        changed = call(node, conditioning=prompt, **inputs).outputs[0]
        (note,) = told(conditioning=changed, latent=canvas(1))
        assert "zeroed out" in note or "a strength" in note
    same = call("ConditioningSetAreaStrength", conditioning=prompt, strength=1.0).outputs[0]
    assert told(conditioning=same, latent=canvas(1)) == []


@pytest.fixture(scope="module")
def loras(base: Path) -> None:
    folder = base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    pair = {"lora_A.weight": torch.randn(4, 256), "lora_B.weight": torch.randn(256, 4)}
    fits = {f"diffusion_model.blocks.0.self_attn.q.{side}": part for side, part in pair.items()}
    other = {f"diffusion_model.double_blocks.0.img_attn.{side}": part.clone() for side, part in pair.items()}
    save_file(fits, folder / "note_fits.safetensors")
    save_file(fits | other, folder / "note_half.safetensors")
    save_file(other, folder / "note_flux.safetensors")
    peft = {f"base_model.model.blocks.0.self_attn.q.{side[:6]}.default.weight": part for side, part in pair.items()}
    torch.save({"generator_lora": peft}, folder / "note_lora.pt")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("note_fits.safetensors", ""),
        ("note_half.safetensors", "2 of its 4 tensors do not fit"),
        ("note_flux.safetensors", "changes nothing: none of its 2 tensors fit"),
        ("note_lora.pt", "LongLive's lora.pt, goes into Load AR Model"),
    ],
)
def test_what_of_a_stock_lora_does_not_fit_is_named(
    call: Any, ar_model: Any, conditioning: Any, canvas: Any, loras: None, name: str, words: str
) -> None:
    model = call("LoraLoaderModelOnly", model=ar_model(), lora_name=name, strength_model=1.0).outputs[0]
    graph = {
        "3": {"class_type": "LoraLoaderModelOnly", "inputs": {"model": ["2", 0], "lora_name": name}},
        "5": {"class_type": "DummyForcingApplyCacheWindow", "inputs": {"model": ["3", 0]}},
        "1": {"class_type": "DummyForcingStreamingSampler", "inputs": {"model": ["5", 0], "seed": 1}},
        "9": {"class_type": "LoraLoaderModelOnly", "inputs": {"model": ["2", 0], "lora_name": "elsewhere"}},
    }
    inputs = {"conditioning": conditioning(1), "latent": canvas(1), "seed": 1}
    made = notes(call("DummyForcingStreamingSampler", model=model, prompt=graph, **inputs))
    assert [words in note and name in note for note in made] == ([True] if words else [])


def test_loras_of_strength_0_and_files_that_are_gone_say_nothing(part: Any, loras: None) -> None:
    before = part("nodes.host.notes")._loras_before
    graph = {
        "1": {"inputs": {"model": ["2", 0]}},
        "2": {"inputs": {"model": ["3", 0], "lora_name": "a", "strength_model": 0}},
        "3": {"inputs": {"model": ["1", 0], "lora_name": "b"}},
    }
    assert list(before(graph, "1")) == ["b"]
    assert list(part("nodes.host.notes")._lora_notes(None, graph, "1")) == []
