"""The bundled demo model between the host's own nodes, and head profiles taken of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

PROMPT = "a red circle on the left moving sideways and a blue square"


@pytest.fixture(scope="session")
def demo(call: Any) -> tuple[Any, Any, Any]:
    """MODEL, CLIP, VAE."""
    return call("DummyForcingLoadDemoModel").outputs


@pytest.fixture
def prompt(call: Any, demo: Any) -> Any:
    """``prompt("a red circle")``: CONDITIONING from the stock text encoder node."""
    return lambda text=PROMPT: call("CLIPTextEncode", clip=demo[1], text=text).outputs[0]


@pytest.fixture
def profile(call: Any, demo: Any, prompt: Any, canvas: Any) -> Any:
    """What Profile Heads answers for the demo model."""
    return call("DummyForcingProfileHeads", model=demo[0], conditioning=prompt(), latent=canvas(), seed=5, chunks=4)


def test_the_demo_workflow(call: Any, demo: Any, prompt: Any, stream: Any, part: Any) -> None:
    model = call("DummyForcingApplyDummyForcing", model=demo[0]).outputs[0]
    latent = call("DummyForcingClipSize", preset="custom", width=64, height=64, seconds=2.0).outputs[0]
    assert latent["samples"].shape == (1, 16, 9, 8, 8)
    done = stream(model, conditioning=prompt(), latent=latent, vae=demo[2], seed=0)
    frames = np.stack(
        list(part("dummyforcing_core.clips.video").read_frames(Path(done.outputs[1][0].get_stream_source())))
    )
    assert frames.shape == (32, 64, 64, 3)
    left, right = frames[0, :, :32].astype(int), frames[0, :, 32:].astype(int)
    assert (left[..., 0] - left[..., 2]).max() > 80, "no red on the left"
    assert (right[..., 2] - right[..., 0]).max() > 80, "no blue on the right"
    stock = call("VAEDecode", vae=demo[2], samples=done.outputs[0]).outputs[0]
    assert stock.shape == (33, 64, 64, 3)  # latents are whole
    assert np.abs(stock[:32].numpy() * 255 - frames).mean() < 6


def test_a_size_beyond_its_world_is_told_in_the_report(demo: Any, prompt: Any, stream: Any, canvas: Any) -> None:
    made = stream(demo[0], conditioning=prompt(), latent=canvas(1, height=12, width=12), vae=demo[2])
    assert "96x96 is 2.2 times the area" in made.outputs[2]
    assert "times the area" not in stream(demo[0], conditioning=prompt(), latent=canvas(1)).outputs[2]


def test_the_stock_vae_nodes_go_there_and_back(call: Any, demo: Any, prompt: Any, stream: Any, canvas: Any) -> None:
    made = stream(demo[0], conditioning=prompt(), latent=canvas(5)).outputs[0]
    images = call("VAEDecode", vae=demo[2], samples=made).outputs[0]
    assert images.shape == (17, 64, 64, 3) and images.min() >= 0 and images.max() <= 1 and images.std() > 0.05
    again = call("VAEEncode", vae=demo[2], pixels=images).outputs[0]["samples"]
    assert again.shape == made["samples"].shape
    back = call("VAEDecode", vae=demo[2], samples={"samples": again}).outputs[0]
    assert (back - images).abs().mean() < 0.03
    image = call("VAEEncode", vae=demo[2], pixels=images[:1]).outputs[0]["samples"]
    torch.testing.assert_close(image, again[:, :, :1], rtol=0, atol=1e-4)


def test_going_on_from_an_encoded_image(call: Any, demo: Any, prompt: Any, stream: Any, canvas: Any) -> None:
    made = stream(demo[0], conditioning=prompt(), latent=canvas(5)).outputs[0]
    image = call("VAEDecode", vae=demo[2], samples=made).outputs[0][:1]
    start = call("VAEEncode", vae=demo[2], pixels=image).outputs[0]
    done = stream(demo[0], conditioning=prompt(), latent=canvas(7), start_latent=start, vae=demo[2])
    shown = call("VAEDecode", vae=demo[2], samples=done.outputs[0]).outputs[0]
    assert shown.shape[0] == 25 and (shown[0] - image[0]).abs().mean() < 0.05


def test_words_that_the_demo_does_not_know_are_told(prompt: Any, caplog: Any) -> None:
    plain = prompt("a red circle")
    assert caplog.text.count("does not know") == 0
    wordy = prompt("a red circle with sunglasses, photorealistic")
    assert "sunglasses" in caplog.text and "photorealistic" in caplog.text
    assert torch.equal(plain[0][0], wordy[0][0])


def test_the_same_engine_without_the_host_makes_the_same_clip(
    demo: Any, prompt: Any, clip: Any, canvas: Any, part: Any
) -> None:
    families = part("dummyforcing_core.models.families")
    geometry = part("dummyforcing_core.geometry")
    loaded = part("dummyforcing_core.models.checkpoints").load_demo_model()
    family = families.get_family("demo")
    shape = geometry.LatentShape(1, 16, 7, 8, 8)
    context, _ = part("dummyforcing_core.text.demo_text").encode_prompt(PROMPT)
    run = part("dummyforcing_core.loops.run").Run(
        part("dummyforcing_core.models.denoiser").WanDenoiser(loaded.model),
        shape,
        family.schedule,
        part("dummyforcing_core.prompts").PromptSchedule.constant(context),
        part("dummyforcing_core.policies").SlidingWindow(family.default_window_frames, family.sink_frames),
        family,
        part("dummyforcing_core.noise").SeededNoise(3, shape, family.chunk_frames),
    )
    alone = torch.cat([chunk.latent for chunk in part("dummyforcing_core.loops.table").sample(run)], 2)
    torch.testing.assert_close(clip(demo[0], conditioning=prompt(), latent=canvas()), alone, rtol=0, atol=2e-4)


def test_profile_heads_scores_as_the_core_does(profile: Any, part: Any, demo: Any) -> None:
    profiling, geometry = part("dummyforcing_core.evaluation.profiling"), part("dummyforcing_core.geometry")
    loaded = part("dummyforcing_core.models.checkpoints").load_demo_model()
    context, _ = part("dummyforcing_core.text.demo_text").encode_prompt(PROMPT)
    plan = profiling.ProfilePlan(
        [part("dummyforcing_core.prompts").PromptSchedule.constant(context)], [5], geometry.LatentShape(1, 16, 12, 8, 8)
    )
    denoise = part("dummyforcing_core.models.denoiser").WanDenoiser(loaded.model)
    samples = [one.scores for one in profiling.take_samples(denoise, loaded.family, plan)]
    wanted = part("dummyforcing_core.kv.scoring").HeadScores.mean(samples)
    made, image = profile.outputs
    torch.testing.assert_close(made.scores.mass, wanted.mass, rtol=0, atol=1e-4)
    (shown,) = profile.ui["dummyforcing_heads"]
    programming = part("dummyforcing_core.policies.head_programming")
    heads = made.scores.mass.shape[0] * made.scores.mass.shape[1]
    roles = [[programming.ROLES[r] for r in row] for row in programming.assign_roles(wanted.mass, round(heads / 2))]
    assert shown["roles"] == roles
    assert (made.family, made.fingerprint) == ("demo", loaded.info.fingerprint)
    assert image.ndim == 4 and image.shape[0] == 1 and image.shape[3] == 3 and 0 <= image.min() <= image.max() <= 1


def test_a_saved_profile_comes_back_and_narrows_the_first_chunk(
    call: Any, demo: Any, profile: Any, stream: Any, prompt: Any, base: Path, part: Any
) -> None:
    call("DummyForcingSaveHeadProfile", head_profile=profile.outputs[0], name="mine")
    assert (base / "models" / "dummyforcing_profiles" / "mine.json").is_file()
    loaded = call("DummyForcingLoadHeadProfile", name="mine.json").outputs[0]
    torch.testing.assert_close(loaded.scores.mass, profile.outputs[0].scores.mass, rtol=0, atol=1e-6)
    assert loaded.fingerprint == profile.outputs[0].fingerprint
    model = call("DummyForcingApplyDummyForcing", model=demo[0], head_profile=loaded).outputs[0]
    plan = part("nodes.host.settings").settings_of(model).policy.plan(_setting(part, model))
    assert {role for row in plan.roles for role in row} == {"sink", "neighbour", "dummy"}
    report = stream(model, conditioning=prompt()).outputs[2]
    assert "note:" not in report


def _setting(part: Any, model: Any) -> Any:
    geometry, family = part("nodes.host.denoiser").geometry_of(model), part("nodes.host.settings").family_of(model)[0]
    return part("dummyforcing_core.policies").Setting(geometry.layers, geometry.heads, family, 3, 7, 0)


def test_a_profile_that_is_not_here_is_noted_and_the_clip_is_made(
    call: Any, demo: Any, stream: Any, prompt: Any, clip: Any
) -> None:
    missing = call("DummyForcingLoadHeadProfile", name="from_somebody_else.json").outputs[0]
    model = call("DummyForcingApplyDummyForcing", model=demo[0], head_profile=missing).outputs[0]
    done = stream(model, conditioning=prompt())
    assert "note: head profile from_somebody_else.json is not on this machine" in done.outputs[2]
    online = call("DummyForcingApplyDummyForcing", model=demo[0]).outputs[0]
    torch.testing.assert_close(done.outputs[0]["samples"], clip(online, conditioning=prompt()), rtol=0, atol=0)
    cleared = call("DummyForcingApplyDummyForcing", model=model).outputs[0]
    assert "note:" not in stream(cleared, conditioning=prompt()).outputs[2]


@pytest.mark.parametrize("name", ["", "  ", "../outside", "a/../../b", "/etc/x"])
def test_profile_names_stay_in_their_folder(call: Any, profile: Any, refused: Any, name: str, base: Path) -> None:
    refused(lambda: call("DummyForcingSaveHeadProfile", head_profile=profile.outputs[0], name=name), "plain name")


def test_a_profile_of_other_heads_is_refused(call: Any, ar_model: Any, profile: Any, refused: Any) -> None:
    refused(lambda: call("DummyForcingApplyDummyForcing", model=ar_model(), head_profile=profile.outputs[0]), "2 x 2")


def test_too_few_chunks_for_a_score_are_told(
    call: Any, ar_model: Any, refused: Any, conditioning: Any, canvas: Any
) -> None:
    framewise = {"conditioning": conditioning(1), "latent": canvas(), "chunks": 2}
    refused(lambda: call("DummyForcingProfileHeads", model=ar_model("causal_forcing_framewise"), **framewise), "chunks")


def test_compare_clips_finds_no_difference_between_equal_clips(
    call: Any, demo: Any, prompt: Any, stream: Any, part: Any, canvas: Any
) -> None:
    one, other = (
        stream(demo[0], conditioning=prompt(), vae=demo[2], seed=s, latent=canvas(3)).outputs[1][0] for s in (0, 1)
    )
    same = call("DummyForcingCompareClips", first=one, second=one)
    joined = np.stack(
        list(part("dummyforcing_core.clips.video").read_frames(Path(same.outputs[0].get_stream_source())))
    )
    assert joined.shape[0] == 9 and joined.shape[2] >= 128
    differing = call("DummyForcingCompareClips", first=one, second=other)
    assert same.outputs[1] != differing.outputs[1]
