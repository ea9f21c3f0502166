"""The harness around a real server: prompts, events, previews, files, refusals, interruption."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from tests.host.events import parse_binary
from tests.host.inside.tiny_models import CAUSAL_WAN_FILE, VAE_FILE
from tests.host.server import ComfyServer, PromptRefused


def preview(**inputs: Any) -> dict[str, Any]:
    """A prompt of one probe node, '9'."""
    defaults = {"steps": 3, "seconds_per_step": 0.0, "fail": False, "format": "png"}
    return {"9": {"class_type": "HarnessPreview", "inputs": {**defaults, **inputs}}}


def stock_causal_wan(frames: int = 9) -> dict[str, Any]:
    """ComfyUI's own autoregressive path on the tiny files: noise to a saved picture."""
    nodes = {
        "1": ("UNETLoader", {"unet_name": CAUSAL_WAN_FILE, "weight_dtype": "default"}),
        "2": ("HarnessConditioning", {"seed": 1, "tokens": 512}),
        "3": ("EmptyARVideoLatent", {"width": 64, "height": 48, "length": frames, "batch_size": 1}),
        "4": ("SamplerARVideo", {"num_frame_per_block": 1}),
        "5": ("BasicScheduler", {"model": ["1", 0], "scheduler": "simple", "steps": 2, "denoise": 1.0}),
        "6": ("BasicGuider", {"model": ["1", 0], "conditioning": ["2", 0]}),
        "7": ("RandomNoise", {"noise_seed": 3}),
        "8": ("SamplerCustomAdvanced", {"noise": ["7", 0], "guider": ["6", 0], "sampler": ["4", 0],
                                        "sigmas": ["5", 0], "latent_image": ["3", 0]}),
        "10": ("VAELoader", {"vae_name": VAE_FILE}),
        "11": ("VAEDecode", {"samples": ["8", 0], "vae": ["10", 0]}),
        "12": ("SaveImage", {"images": ["11", 0], "filename_prefix": "stock"}),
    }  # fmt: skip
    return {node_id: {"class_type": name, "inputs": inputs} for node_id, (name, inputs) in nodes.items()}


def test_the_server_knows_stock_and_probe_nodes(server: ComfyServer) -> None:
    known = server.object_info()
    assert len(known) > 400
    assert known["HarnessPreview"]["python_module"] == "custom_nodes.ComfyUI-Harness-Probe"
    assert server.object_info("SamplerARVideo")["output"] == ["SAMPLER"]
    with pytest.raises(KeyError):
        server.object_info("NoSuchNode")


def test_every_stock_node_file_loaded(server: ComfyServer) -> None:
    assert "IMPORT FAILED" not in server.log


def test_custom_events_come_in_order_with_files_to_view(server: ComfyServer) -> None:
    run = server.run(preview(steps=4))
    told = [event.data for event in run.of_type("harness.probe")]
    assert [one["step"] for one in told] == [1, 2, 3, 4]
    assert {(one["node"], one["prompt_id"]) for one in told} == {("9", run.prompt_id)}
    pixels = [Image.open(io.BytesIO(server.view(one["images"][0]))).getpixel((5, 5)) for one in told]
    assert pixels == [(red, 160, 40) for red in (63, 127, 191, 255)]
    assert run.output("9")["probe"] == told[-1]["images"]
    assert run.events[0].type == "execution_start" and run.outcome == "execution_success"


def test_a_second_client_hears_no_events_of_the_first_ones_prompt(server: ComfyServer) -> None:
    other = server.connect()
    try:
        server.run(preview())
        mine = other.follow(server.post(preview(), listener=other), 60)
        assert len(mine.of_type("harness.probe")) == 3
        assert {event.data["prompt_id"] for event in mine.of_type("harness.probe")} == {mine.prompt_id}
    finally:
        other.close()


def test_stock_causal_wan_runs_and_previews_name_their_node(server: ComfyServer) -> None:
    run = server.run(stock_causal_wan())
    images = run.output("12")["images"]
    assert len(images) == 9
    assert Image.open(io.BytesIO(server.view(images[0]))).size == (64, 48)
    previews = [event for event in run.previews if event.type == "b_preview_with_metadata"]
    assert previews, [event.type for event in run.events]
    assert {event.data["node_id"] for event in previews} == {"8"}
    assert Image.open(io.BytesIO(previews[0].image or b"")).size > (0, 0)
    history = server.history(run.prompt_id)
    assert history["status"]["status_str"] == "success" and history["outputs"]["12"]["images"] == images


def test_a_cached_prompt_executes_nothing_and_free_clears_it(server: ComfyServer) -> None:
    server.run(stock_causal_wan(frames=5))
    again = server.run(stock_causal_wan(frames=5))
    assert "8" in again.of_type("execution_cached")[0].data["nodes"]
    server.free()  # acted on by the queue's thread, before or after the next prompt
    runs = [server.run(stock_causal_wan(frames=5)) for _ in range(3)]
    assert any(run.of_type("execution_cached")[0].data["nodes"] == [] for run in runs)


def test_a_prompt_that_does_not_validate_is_refused_with_its_reasons(server: ComfyServer) -> None:
    with pytest.raises(PromptRefused, match=r"node 9 .HarnessPreview.*min.*steps") as refused:
        server.post(preview(steps=0))
    assert set(refused.value.node_errors) == {"9"}
    with pytest.raises(PromptRefused):
        server.post({"1": {"class_type": "NoSuchNode", "inputs": {}}})


def test_a_failing_node_ends_the_run_with_its_error(server: ComfyServer) -> None:
    run = server.follow(server.post(preview(fail=True)))
    assert run.outcome == "execution_error"
    assert run.error.strip() == "ValueError: the probe was told to fail"
    assert len(run.of_type("harness.probe")) == 1
    with pytest.raises(KeyError, match="told to fail"):
        run.output("9")
    with pytest.raises(AssertionError, match="told to fail"):
        server.run(preview(fail=True))


def test_interrupting_stops_a_running_prompt_and_the_server_goes_on(server: ComfyServer) -> None:
    prompt_id = server.post(preview(steps=2000, seconds_per_step=0.05))
    first = server.wait_for("harness.probe", prompt_id)
    assert first.data["step"] == 1
    server.interrupt(prompt_id)
    run = server.follow(prompt_id)
    assert run.outcome == "execution_interrupted"
    assert len(run.of_type("harness.probe")) < 2000
    assert server.run(preview(steps=1)).outcome == "execution_success"


def test_following_a_prompt_that_never_ends_times_out(server: ComfyServer) -> None:
    with pytest.raises(TimeoutError, match="did not end"):
        server.follow("no-such-prompt", timeout_s=0.2)


def test_binary_messages_are_parsed_as_the_page_parses_them() -> None:
    plain = parse_binary(bytes([0, 0, 0, 1, 0, 0, 0, 2]) + b"PNG")
    assert (plain.type, plain.data, plain.image) == ("b_preview", {"format": 2}, b"PNG")
    metadata = b'{"node_id":"4"}'
    rich = parse_binary(bytes([0, 0, 0, 4, 0, 0, 0, len(metadata)]) + metadata + b"JPG")
    assert (rich.data, rich.image) == ({"node_id": "4"}, b"JPG")
    assert parse_binary(bytes([0, 0, 0, 9]) + b"xx").type == "binary_9"
