"""What cannot be sampled is refused before the model is called, in one line that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

SIGMAS = torch.tensor([1.0, 0.5, 0.0])


def latent(*shape: int, **more: Any) -> dict[str, Any]:
    return {"samples": torch.zeros(*shape), **more}


def full(*shape: int) -> dict[str, Any]:
    return {"samples": torch.ones(*shape)}


@pytest.fixture
def guided(call: Any, conditioning: Any, canvas: Any, ours: Any) -> Callable[..., Any]:
    """SamplerCustomAdvanced with our SAMPLER and the guider of this name."""

    def run(model: Any, guider: str, samples: Any = None, **inputs: Any) -> Any:
        chosen = call(guider, model=model, **inputs).outputs[0]
        return call(
            "SamplerCustomAdvanced",
            noise=call("RandomNoise", noise_seed=1).outputs[0],
            guider=chosen, sampler=ours, sigmas=SIGMAS, latent_image=samples or canvas(),
        ).outputs[0]["samples"]  # fmt: skip

    return run


@pytest.mark.parametrize(
    "inputs, words",
    [
        ({"latent": latent(1, 16, 1, 512, 512)}, ["4096x4096", "832x480", "smaller clip"]),
        ({"latent": latent(1, 4, 7, 8, 8)}, ["got 4", "Clip Size"]),
        ({"latent": latent(1, 48, 7, 8, 8)}, ["got 48", "Clip Size"]),
        ({"latent": latent(1, 16, 8, 8)}, ["(1, 16, 8, 8)", "Clip Size"]),
        ({"latent": latent(1, 16, 7, 8, 8, noise_mask=torch.ones(1, 1, 7, 8, 8))}, ["mask"]),
        ({"sigmas": torch.tensor([1.0, 0.5])}, ["SIGMAS", "fall to 0"]),
        ({"sigmas": torch.tensor([0.0])}, ["SIGMAS"]),
        ({"sigmas": torch.tensor([1.0, 0.5, 0.5, 0.0])}, ["0.5"]),
        ({"sigmas": torch.tensor([0.5, 1.0, 0.0])}, ["0.5"]),
        ({"sigmas": torch.tensor([14.6, 7.0, 0.0])}, ["14.6"]),
        ({"sigmas": torch.tensor([])}, ["SIGMAS"]),
        ({"latent": latent(1, 128, 7, 8, 8)}, ["got 128", "another model", "Clip Size"]),
        (
            {"start_latent": latent(1, 16, 1, 4, 4)},
            ["start_latent is 32x32", "scale the image to 64x64", "Clip Size to 32x32"],
        ),
        (
            {"start_latent": latent(1, 16, 3, 4, 6)},
            ["start_latent is 48x32, this clip 64x64 pixels: set Clip Size to 48x32"],
        ),
        ({"start_latent": latent(1, 128, 1, 8, 8)}, ["(1, 128, 1, 8, 8)", "encode the image with this model's VAE"]),
        ({"start_latent": latent(1, 16, 8, 8)}, ["start"]),
        ({"start_latent": latent(3, 16, 1, 8, 8)}, ["start_latent of 1 clip, got 3", "batch_size"]),
        (
            {"start_latent": full(1, 16, 7, 8, 8)},
            ["start is 25 frames (1.562 s)", "25 frames (1.562 s) in all", "longer"],
        ),
        ({"start_latent": full(1, 16, 9, 8, 8)}, ["start is 33 frames (2.062 s)", "longer than 2.062 s"]),
        ({"start_latent": full(1, 16, 1, 8, 8), "latent": latent(1, 16, 1, 8, 8)}, ["start is 1 frame (0.062 s)"]),
        ({"start_latent": latent(1, 16, 3, 8, 8)}, ["empty canvas", "Clip Size", "VAE Encode"]),
        ({"latent": full(1, 16, 1, 8, 8)}, ["latent holds an image or clip", "start_latent", "Clip Size"]),
        ({"conditioning": []}, ["conditioning", "empty"]),
    ],
    ids=lambda value: None if isinstance(value, list) else next(iter(value)),
)
def test_streaming_sampler_refuses(
    stream: Any, ar_model: Any, refused: Any, model_calls: list, inputs: dict[str, Any], words: list[str]
) -> None:
    refused(lambda: stream(ar_model(), **inputs), *words)
    assert model_calls == []


def test_an_empty_canvas_is_refused(stream: Any, ar_model: Any, refused: Any) -> None:
    refused(lambda: stream(ar_model(), latent=latent(1, 16, 0, 8, 8)), "0")


def test_our_sampler_refuses_sizes_far_beyond_the_training(
    guided: Any, ar_model: Any, refused: Any, conditioning: Any
) -> None:
    huge = latent(1, 16, 1, 512, 512)
    refused(lambda: guided(ar_model(), "BasicGuider", huge, conditioning=conditioning(1)), "4096x4096", "832x480")


def test_combined_prompts_are_refused_and_named(
    call: Any, stream: Any, ar_model: Any, refused: Any, conditioning: Any
) -> None:
    both = call("ConditioningCombine", conditioning_1=conditioning(1), conditioning_2=conditioning(2)).outputs[0]
    refused(lambda: stream(ar_model(), conditioning=both), "same time", "Combine")


def test_our_sampler_refuses_guidance(
    guided: Any, ar_model: Any, refused: Any, conditioning: Any, model_calls: list
) -> None:
    both = {"positive": conditioning(1), "negative": conditioning(2)}
    refused(lambda: guided(ar_model(), "CFGGuider", cfg=4.5, **both), "got 4.5", "Basic Guider")
    assert guided(ar_model(), "CFGGuider", cfg=1.0, **both).isfinite().all()


def test_our_sampler_refuses_a_guider_of_two_prompts(
    guided: Any, ar_model: Any, refused: Any, conditioning: Any, model_calls: list
) -> None:
    """Its scales are not called cfg; it would call the model for three prompts over one cache."""
    prompts = {"cond1": conditioning(1), "cond2": conditioning(2), "negative": conditioning(3)}
    model = ar_model()
    refused(lambda: guided(model, "DualCFGGuider", cfg_conds=3.0, cfg_cond2_negative=2.0, **prompts), "Basic Guider")


def test_our_sampler_refuses_perp_neg(guided: Any, ar_model: Any, refused: Any, conditioning: Any) -> None:
    prompts = {"positive": conditioning(1), "negative": conditioning(2), "empty_conditioning": conditioning(3)}
    refused(lambda: guided(ar_model(), "PerpNegGuider", cfg=3.0, neg_scale=1.0, **prompts), "Basic Guider")


def test_a_patch_that_wants_the_negative_prompt_read_too_changes_nothing(
    guided: Any, ar_model: Any, conditioning: Any
) -> None:
    model = ar_model()
    both = {"positive": conditioning(1), "negative": conditioning(2)}
    plain = guided(model, "CFGGuider", cfg=1.0, **both)
    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(lambda told: told["denoised"], disable_cfg1_optimization=True)
    torch.testing.assert_close(guided(patched, "CFGGuider", cfg=1.0, **both), plain, rtol=0, atol=1e-5)


def test_our_sampler_refuses_masks(guided: Any, ar_model: Any, refused: Any, conditioning: Any) -> None:
    masked = latent(1, 16, 7, 8, 8, noise_mask=torch.ones(1, 1, 7, 8, 8))
    refused(lambda: guided(ar_model(), "BasicGuider", masked, conditioning=conditioning(1)), "mask")


@pytest.mark.parametrize(
    "node", ["ApplyDummyForcing", "ApplyCacheWindow", "ApplyHeadForcing", "ApplyHeadBudget", "TeaCache"]
)
def test_settings_refuse_other_architectures(call: Any, refused: Any, node: str) -> None:
    class Diffusion:
        in_dim = 36
        model_type = "i2v"

    class Model:
        class model:
            diffusion_model = Diffusion()

    refused(lambda: call(f"DummyForcing{node}", model=Model()), "Diffusion", "36", "Load AR Model")


@pytest.mark.parametrize(
    "node, inputs, words",
    [
        ("ApplyCacheWindow", {"window": 5, "sink": 3}, ["window", "5"]),
        ("ApplyCacheWindow", {"window": 2, "sink": 0}, ["window", "2"]),
        ("ApplyDummyForcing", {"observe_chunk": 40}, ["40", "last chunk"]),
        ("ApplyHeadForcing", {"observe_chunk": 40}, ["40", "last chunk"]),
        ("ApplyHeadBudget", {"observe_chunk": 40}, ["40", "last chunk"]),
        ("ApplyHeadBudget", {"unit": "GB of cache", "budget": 0.0}, ["at least", "the current chunk alone"]),
        ("ApplyHeadBudget", {"unit": "speed-up", "budget": 30.0}, ["at most 7", "30"]),
    ],
)
def test_settings_that_do_not_fit_the_clip_are_told_before_sampling(
    call: Any, clip: Any, ar_model: Any, refused: Any, model_calls: list, node: str, inputs: Any, words: list[str]
) -> None:
    model = call(f"DummyForcing{node}", model=ar_model(), **inputs).outputs[0]
    refused(lambda: clip(model), *words)
    assert model_calls == []


def test_a_checkpoint_that_gives_nan_is_told(stream: Any, ar_model: Any, refused: Any, tiny_vae: Any) -> None:
    model = ar_model()
    with torch.inference_mode():
        model.model.diffusion_model.head.head.weight.data.fill_(3e38)  # finite; what it makes is not
    refused(lambda: stream(model, vae=tiny_vae), "NaN", "chunk 1")


def test_a_missing_clip_is_told(call: Any, refused: Any) -> None:
    refused(lambda: call("DummyForcingPromptSchedule", clip=None, text="0:00 | a cat"), "CLIP", "umt5")


def test_decode_refuses_images(call: Any, tiny_vae: Any, refused: Any) -> None:
    refused(lambda: call("DummyForcingStreamingDecode", latent=latent(1, 16, 8, 8), vae=tiny_vae), "(1, 16, 8, 8)")


def test_latents_of_another_model_are_told_from_a_wrong_vae(
    call: Any, stream: Any, ar_model: Any, tiny_vae: Any, refused: Any
) -> None:
    ltx = latent(1, 128, 3, 8, 8)
    for run in (
        lambda: call("DummyForcingStreamingDecode", latent=ltx, vae=tiny_vae),
        lambda: stream(ar_model(), latent=ltx, vae=tiny_vae),
    ):
        assert "connect the Wan2.1 VAE" not in refused(run, "got 128", "another model's")


def test_clip_size_refuses_the_size_that_was_asked_for(call: Any, refused: Any) -> None:
    odd = {"preset": "custom", "width": 63, "height": 64}
    refused(
        lambda: call("DummyForcingClipSize", orientation="landscape", seconds=1.0, batch_size=1, **odd), "got 63x64"
    )


def test_errors_begin_with_their_words_on_the_page(part: Any) -> None:
    """The page shows a class by its module, and this pack's modules are named by the path of a folder."""
    from execution import full_type_name

    errors = part("dummyforcing_core.errors")
    assert "/" in errors.__name__
    for kind in (errors.DummyForcingError, errors.CheckpointError, errors.PlanError):
        assert full_type_name(kind) == "Dummy Forcing"


def test_a_toast_has_room_for_fault_and_remedy(
    call: Any, stream: Any, ar_model: Any, refused: Any, conditioning: Any, canvas: Any, tiny_vae: Any
) -> None:
    """About 110 characters, of which "Dummy Forcing: " takes 15."""
    model, both = (
        ar_model(),
        call("ConditioningCombine", conditioning_1=conditioning(1), conditioning_2=conditioning(2)),
    )
    ready = call("DummyForcingTeaCache", model=model).outputs[0]
    sampler = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    prompts = {"positive": conditioning(1), "negative": conditioning(2), "latent_image": canvas()}
    for run, words in (
        (lambda: call("KSampler", model=ready, **sampler, **prompts), "sample this MODEL with the Streaming Sampler"),
        (lambda: stream(model, start_latent=full(1, 16, 1, 4, 4)), "start_latent is 32x32"),
        (lambda: stream(model, conditioning=both.outputs[0]), "use one, or a Prompt Schedule"),
        (lambda: stream(model, latent=full(1, 16, 1, 8, 8)), "connect it to start_latent"),
        (lambda: stream(model, vae=tiny_vae, filename_prefix="x" * 300), "at most 200 bytes in filename_prefix"),
    ):
        assert words in refused(run)[:95]
