"""The bundled demo model between the host's own nodes, and head profiles taken of it."""

from __future__ import annotations

from dataclasses import replace
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


def test_words_that_the_demo_does_not_know_are_told_once(
    prompt: Any, caplog: Any, demo: Any, stream: Any, canvas: Any, custom: Any, ours: Any
) -> None:
    """Weights are no words."""
    plain, wordy = prompt("a red circle"), prompt("a (red:1.3) circle with (sunglasses:1.3), photorealistic")
    assert torch.equal(plain[0][0], wordy[0][0])
    caplog.set_level("INFO")
    stream(demo[0], conditioning=wordy, latent=canvas(1))
    assert caplog.text.count("does not know: sunglasses, photorealistic (ignored)") == 1
    custom(demo[0], ours, torch.tensor([1.0, 0.5, 0.0]), canvas(1), cond=wordy)
    assert caplog.text.count("does not know: sunglasses, photorealistic (ignored)") == 2


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
    changes = part("dummyforcing_core.kv.output_change").OutputChange.mean(
        list(profiling.take_changes(denoise, loaded.family, plan))
    )
    torch.testing.assert_close(made.changes.change, changes.change, rtol=1e-2, atol=1e-3)
    (shown,) = profile.ui["dummyforcing_heads"]
    programming = part("dummyforcing_core.policies.head_programming")
    heads = made.scores.mass.shape[0] * made.scores.mass.shape[1]
    roles = [[programming.ROLES[r] for r in row] for row in programming.assign_roles(wanted.mass, round(heads / 2))]
    assert shown["roles"] == roles
    assert shown["change"] == made.changes.far.tolist()
    assert (made.family, made.fingerprint) == ("demo", loaded.info.fingerprint)
    assert image.ndim == 4 and image.shape[0] == 1 and image.shape[3] == 3 and 0 <= image.min() <= image.max() <= 1


def test_profiling_asks_the_host_for_room_for_the_widest_memory(
    call: Any, demo: Any, prompt: Any, canvas: Any, part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, asked = part("nodes.host.session"), []
    reserve = session.reserve
    monkeypatch.setattr(session, "reserve", lambda model, size: (asked.append(size), reserve(model, size)))
    call("DummyForcingProfileHeads", model=demo[0], conditioning=prompt(), latent=canvas(), seed=5, chunks=4)
    denoiser, policies = part("nodes.host.denoiser"), part("dummyforcing_core.policies")
    family = part("dummyforcing_core.models.families").get_family("demo")
    shape = part("dummyforcing_core.geometry").LatentShape(1, 16, 12, 8, 8)
    wide = part("nodes.host.memory").kv_bytes(
        denoiser.geometry_of(demo[0]), shape, policies.own_policy(family), family, 0, 0
    )
    assert asked == [wide] and wide > 0


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
    report = stream(model, conditioning=prompt(), vae=demo[2]).outputs[2]
    assert "note:" not in report


def _setting(part: Any, model: Any) -> Any:
    geometry, family = part("nodes.host.denoiser").geometry_of(model), part("nodes.host.settings").family_of(model)[0]
    return part("dummyforcing_core.policies").Setting(geometry.layers, geometry.heads, family, 3, 7, 0)


WITH_PROFILE = pytest.mark.parametrize("node", ["ApplyDummyForcing", "ApplyHeadForcing", "ApplyHeadBudget"])


@WITH_PROFILE
def test_a_profile_that_is_not_here_is_noted_and_the_clip_is_made(
    call: Any, demo: Any, stream: Any, prompt: Any, clip: Any, node: str
) -> None:
    missing = call("DummyForcingLoadHeadProfile", name="from_somebody_else.json").outputs[0]
    model = call(f"DummyForcing{node}", model=demo[0], head_profile=missing).outputs[0]
    done = stream(model, conditioning=prompt())
    assert "note: head profile from_somebody_else.json is not on this machine" in done.outputs[2]
    online = call(f"DummyForcing{node}", model=demo[0]).outputs[0]
    torch.testing.assert_close(done.outputs[0]["samples"], clip(online, conditioning=prompt()), rtol=0, atol=0)
    cleared = call(f"DummyForcing{node}", model=model).outputs[0]
    assert "note: head profile" not in stream(cleared, conditioning=prompt(), vae=demo[2]).outputs[2]


@pytest.mark.parametrize("name", ["", "  ", "../outside", "a/../../b", "/etc/x"])
def test_profile_names_stay_in_their_folder(call: Any, profile: Any, refused: Any, name: str, base: Path) -> None:
    refused(lambda: call("DummyForcingSaveHeadProfile", head_profile=profile.outputs[0], name=name), "plain name")


@WITH_PROFILE
def test_a_profile_of_other_heads_is_refused(call: Any, ar_model: Any, profile: Any, refused: Any, node: str) -> None:
    refused(lambda: call(f"DummyForcing{node}", model=ar_model(), head_profile=profile.outputs[0]), "2 x 2")


@WITH_PROFILE
def test_a_profile_of_version_1_serves_who_goes_by_masses(
    call: Any, demo: Any, profile: Any, stream: Any, prompt: Any, refused: Any, node: str
) -> None:
    old = replace(profile.outputs[0], changes=None)
    by = {"ApplyDummyForcing": ("cost", "mass"), "ApplyHeadForcing": ("roles_by", "mass")}.get(node)
    if by:
        model = call(f"DummyForcing{node}", model=demo[0], head_profile=old, **dict([by])).outputs[0]
        assert "note: head profile" not in stream(model, conditioning=prompt(), vae=demo[2]).outputs[2]
    changes = {} if by is None else {by[0]: "output_change"}
    refused(
        lambda: call(f"DummyForcing{node}", model=demo[0], head_profile=old, **changes), "version 1", "Profile Heads"
    )


def test_dummies_by_output_change_and_with_a_profile_of_it(
    call: Any, demo: Any, profile: Any, clip: Any, prompt: Any, canvas: Any
) -> None:
    made = {}
    for name, inputs in {"mass": {"cost": "mass"}, "change": {"cost": "output_change"}}.items():
        model = call("DummyForcingApplyDummyForcing", model=demo[0], head_profile=profile.outputs[0], **inputs)
        made[name] = clip(model.outputs[0], conditioning=prompt(), latent=canvas(13))
    assert (made["mass"] - made["change"]).abs().max() > 1e-3


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


def test_stock_clip_nodes_work_and_change_nothing(call: Any, demo: Any, prompt: Any, base: Path, stream: Any) -> None:
    from safetensors.torch import save_file

    (base / "models" / "loras").mkdir(parents=True, exist_ok=True)
    save_file(
        {"diffusion_model.x.lora_A.weight": torch.ones(1, 1)}, base / "models" / "loras" / "demo_none.safetensors"
    )
    clip, plain = demo[1], prompt()
    lora = {"lora_name": "demo_none.safetensors", "strength_model": 1.0, "strength_clip": 1.0}
    model, patched = call("LoraLoader", model=demo[0], clip=clip, **lora).outputs
    changed = [
        patched,
        call("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-2).outputs[0],
        call("CLIPMergeSimple", clip1=clip, clip2=patched, ratio=0.5).outputs[0],
        call("CLIPMergeAdd", clip1=clip, clip2=clip).outputs[0],
        call("CLIPMergeSubtract", clip1=clip, clip2=clip, multiplier=1.0).outputs[0],
        call("CLIPAttentionMultiply", clip=clip, q=1.1, k=1.1, v=1.1, out=1.1).outputs[0],
        call("SetClipHooks", clip=clip, apply_to_conds=True, schedule_clip=False).outputs[0],
    ]
    for other in changed:
        encoded = call("CLIPTextEncode", clip=other, text=PROMPT).outputs[0]
        assert torch.equal(encoded[0][0], plain[0][0])
        written = call("DummyForcingPromptSchedule", clip=other, text=PROMPT).outputs[0]
        assert torch.equal(written[0][0], plain[0][0])
    assert stream(model, conditioning=encoded).outputs[0]["samples"].isfinite().all()


def test_stock_encoders_of_other_models_and_saving_are_refused(call: Any, demo: Any, refused: Any) -> None:
    clip = demo[1]
    refused(lambda: call("CLIPTextEncodeFlux", clip=clip, clip_l="a", t5xxl="a", guidance=3.5), "t5xxl", "Encode")
    refused(lambda: call("CLIPTextEncodeSD3", clip=clip, clip_l="a", clip_g="a", t5xxl="a"), "another kind of model")
    refused(lambda: call("CLIPSave", clip=clip, filename_prefix="x"), "no weights to save")


def test_the_example_schedule_is_in_its_words(call: Any, demo: Any, part: Any) -> None:
    made = call("DummyForcingPromptSchedule", clip=demo[1]).outputs[0]
    assert len(made) == 2
    assert [note for _, options in made for note in options[part("nodes.host.prompts").NOTES]] == []


@pytest.fixture
def clip_of(demo: Any, prompt: Any, stream: Any, canvas: Any) -> Any:
    def make(frames: int, fps: float, side: int = 8) -> Any:
        latent = canvas(frames, height=side, width=side)
        return stream(demo[0], conditioning=prompt(), vae=demo[2], latent=latent, fps=fps).outputs[1][0]

    return make


def test_unequal_rates_are_compared_by_time(call: Any, clip_of: Any, part: Any) -> None:
    slow, fast = clip_of(6, 8), clip_of(6, 16)  # 21 frames each
    made = call("DummyForcingCompareClips", first=slow, second=fast)
    report = made.outputs[1]
    assert "note: the clips play at 8 and 16 fps: compared by time, the side by side plays at 16" in report
    assert "note: the clips are 2.625 s and 1.312 s long: the difference is of the first 1.312 s" in report
    video = part("dummyforcing_core.clips.video")
    frames = list(video.read_frames(Path(made.outputs[0].get_stream_source())))
    assert len(frames) == 42 and made.outputs[0].get_frame_rate() == 16
    assert [line.split()[1:] for line in report.splitlines() if line.startswith("frames")] == [["21", "21"]]


def test_clips_of_under_a_second_and_of_unequal_sizes(call: Any, clip_of: Any) -> None:
    short = clip_of(2, 16)
    same = call("DummyForcingCompareClips", first=short, second=short).outputs[1]
    assert "difference of the two, levels of 255: 0.00" in same and "last second" not in same and "note" not in same
    report = call("DummyForcingCompareClips", first=short, second=clip_of(2, 16, 6)).outputs[1]
    assert "note: the clips are 64x64 and 48x48 pixels: there is no difference" in report
    assert "difference of the two" not in report


def test_a_compared_file_carries_the_workflow(call: Any, clip_of: Any) -> None:
    import av

    clip, graph = clip_of(1, 16), {"1": {"class_type": "X", "inputs": {}}}
    made = call("DummyForcingCompareClips", first=clip, second=clip, prompt=graph).outputs[0]
    with av.open(made.get_stream_source()) as file:
        assert "class_type" in file.metadata["prompt"]
