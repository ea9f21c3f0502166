"""A stream's LATENT and VIDEO, and SIGMAS and guiders for it, with every node of the host that takes or makes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stock_nodes import small_inputs, stock_nodes

FRAMES = 9  # pixel frames of three latent ones


@pytest.fixture(scope="module")
def demo(call: Any) -> tuple[Any, Any, Any]:
    """MODEL, CLIP, VAE."""
    return call("DummyForcingLoadDemoModel").outputs


@pytest.fixture(scope="module")
def prompt(call: Any, demo: Any) -> Any:
    return call("CLIPTextEncode", clip=demo[1], text="a red circle on the left moving sideways").outputs[0]


@pytest.fixture
def made(stream: Any, demo: Any, prompt: Any, canvas: Any) -> Any:
    """A clip of the demo: its LATENT and its VIDEO."""
    done = stream(demo[0], conditioning=prompt, latent=canvas(3), vae=demo[2])
    return done.outputs[0], done.outputs[1][0]


def choices(spec: Any, name: str) -> Iterator[Any]:
    """Every value of a widget with choices; a dynamic one brings inputs of its own, as the executor hands them over."""
    options = spec[0] if isinstance(spec[0], list) else spec[1]["options"]
    for option in options:
        if not isinstance(option, dict):
            yield option
            continue
        inputs = {key: one for kind in option["inputs"].values() for key, one in kind.items()}
        fixed = {key: one[1]["default"] for key, one in inputs.items() if "default" in one[1]}
        nested = [key for key, one in inputs.items() if "options" in one[1] and key not in fixed]
        for values in [{key: value} for key in nested for value in choices(inputs[key], key)] or [{}]:
            yield {name: option["key"], **fixed, **values}


def test_every_format_and_codec_saves_the_clip(call: Any, made: Any, base: Path, part: Any) -> None:
    import nodes

    read = part("dummyforcing_core.clips.video").read_frames
    wanted = np.stack(list(read(Path(made[1].get_stream_source())))).astype(int)
    declared = nodes.NODE_CLASS_MAPPINGS["SaveVideo"].INPUT_TYPES()["required"]
    ways = [{"format": value} for value in choices(declared["format"], "format")]
    if "codec" in declared:
        ways = [{**way, "codec": codec} for way in ways for codec in choices(declared["codec"], "codec")]
    for number, way in enumerate(ways):
        call("SaveVideo", video=made[1], filename_prefix=f"saved/{number}", **way)
        (file,) = (base / "output" / "saved").glob(f"{number}_*")
        frames = np.stack(list(read(file))).astype(int)
        assert frames.shape == wanted.shape and np.abs(frames - wanted).mean() < 6, way
    assert len(ways) >= 2, ways


def test_every_stock_node_takes_the_video(call: Any, made: Any) -> None:
    tried = set()
    for name in stock_nodes("VIDEO"):
        images = torch.zeros(FRAMES, 64, 64, 3)
        stock = call("CreateVideo", images=images, fps=16.0).outputs[0]
        outcomes: list[Any] = []
        for video in (stock, made[1]):
            try:
                outcomes.append(len(call(name, **small_inputs(name, {"VIDEO": video})).outputs))
            except Exception as error:
                outcomes.append(type(error))
        assert outcomes[0] == outcomes[1], f"{name}: {outcomes}"
        tried.add(name)
    parts = call("GetVideoComponents", video=made[1]).outputs
    assert parts[0].shape == (FRAMES, 64, 64, 3) and parts[2] == 16
    assert {"SaveVideo", "GetVideoComponents"} <= tried


def test_what_every_stock_node_makes_of_the_latent_is_decoded_or_refused(
    part: Any, call: Any, made: Any, demo: Any
) -> None:
    own: type[Exception] = part("dummyforcing_core.errors").DummyForcingError
    read = part("dummyforcing_core.clips.video").read_frames
    decoded, wrong = set(), []
    for name in stock_nodes("LATENT", "LATENT"):
        try:
            changed = call(name, **small_inputs(name, {"LATENT": made[0], "MASK": torch.ones(1, 64, 64)})).outputs[0]
            samples = changed["samples"]
        except Exception:
            continue
        if not isinstance(samples, torch.Tensor):
            continue
        try:
            video = call("DummyForcingStreamingDecode", latent=changed, vae=demo[2]).outputs[0][0]
            frames = len(list(read(Path(video.get_stream_source()))))
            decoded.add(name)
            fine = 0 < frames <= 4 * samples.shape[2] - 3
        except Exception as error:
            fine = isinstance(error, own)
            frames = error
        if not fine:
            wrong.append(f"{name}: {frames!r}")
    assert not wrong, "\n".join(wrong)
    assert {"LatentFlip", "LatentBlend", "LatentAdd"} <= decoded


def test_sigmas_of_every_stock_node_sample_a_stream_or_are_refused(
    part: Any, call: Any, demo: Any, prompt: Any, stream: Any, canvas: Any
) -> None:
    own: type[Exception] = part("dummyforcing_core.errors").DummyForcingError
    levels = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    streamed, wrong = set(), []
    values = {"MODEL": demo[0], "SIGMAS": levels, "FLOAT_CURVE": None}
    for name in (*stock_nodes("MODEL", "SIGMAS"), *stock_nodes("SIGMAS", "SIGMAS")):
        sigmas = call(name, **small_inputs(name, values)).outputs[0]
        try:
            clip = stream(demo[0], conditioning=prompt, latent=canvas(3), sigmas=sigmas).outputs[0]["samples"]
            fine = bool(clip.isfinite().all())
            streamed.add(name)
        except Exception as error:
            fine = isinstance(error, own)
            clip = error
        if not fine:
            wrong.append(f"{name} {sigmas}: {clip!r}")
    assert not wrong, "\n".join(wrong)
    assert {"BasicScheduler", "SDTurboScheduler"} <= streamed


@pytest.mark.parametrize("settings", [False, True])
def test_every_stock_guider_samples_a_stream_or_is_refused(
    part: Any, call: Any, demo: Any, prompt: Any, ours: Any, canvas: Any, settings: bool
) -> None:
    own: type[Exception] = part("dummyforcing_core.errors").DummyForcingError
    model = call("DummyForcingApplyDummyForcing", model=demo[0]).outputs[0] if settings else demo[0]
    noise = call("RandomNoise", noise_seed=1).outputs[0]
    seen: dict[str, Any] = {}
    for name in stock_nodes("MODEL", "GUIDER"):
        guider = call(name, **small_inputs(name, {"MODEL": model, "CONDITIONING": prompt})).outputs[0]
        levels = torch.tensor([1.0, 0.6, 0.0])
        inputs = {"noise": noise, "guider": guider, "sampler": ours, "sigmas": levels, "latent_image": canvas(3)}
        try:
            seen[name] = bool(call("SamplerCustomAdvanced", **inputs).outputs[0]["samples"].isfinite().all())
        except Exception as error:
            seen[name] = type(error)
    assert seen["BasicGuider"] is True and seen["CFGGuider"] is own
    assert set(seen.values()) <= {True, own}, seen
