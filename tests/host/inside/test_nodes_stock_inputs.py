"""What stock nodes put on prompts, and VAEs, texts and names that do not fit: one line, before anything is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


def on(conditioning: list, **options: Any) -> list:
    return [[tensor, {**given, **options}] for tensor, given in conditioning]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start_percent": 0.0, "end_percent": 0.5}, ("time range", "Prompt Schedule")),
        ({"start_percent": 0.5, "end_percent": 1.0}, ("time range",)),
        ({"area": (4, 8, 0, 0)}, ("an area",)),
        ({"mask": torch.zeros(1, 64, 64), "mask_strength": 1.0}, ("a mask",)),
        ({"concat_latent_image": torch.zeros(1, 16, 7, 8, 8)}, ("image to video", "start_latent")),
    ],
)
def test_what_a_stream_cannot_follow_is_one_line(
    stream: Any, ar_model: Any, conditioning: Any, refused: Any, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    refused(lambda: stream(ar_model(), conditioning=on(conditioning(1), **options)), "the conditioning carries", *words)


def test_options_that_change_nothing_pass(stream: Any, ar_model: Any, conditioning: Any) -> None:
    plain = stream(ar_model(), conditioning=conditioning(1)).outputs[0]["samples"]
    options = {"start_percent": 0.0, "end_percent": 1.0, "mask": torch.ones(1, 64, 64), "mask_strength": 1.0}
    same = stream(ar_model(), conditioning=on(conditioning(1), **options)).outputs[0]["samples"]
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("second", [False, True])
def test_text_of_another_width_is_told_before_anything_is_made(
    call: Any, stream: Any, ar_model: Any, conditioning: Any, refused: Any, model_calls: list, second: bool
) -> None:
    narrow = [[torch.zeros(1, 77, 768), {}]]
    if second:
        narrow = call("DummyForcingPromptAt", previous=conditioning(1), next=narrow, seconds=0.75).outputs[0]
    refused(lambda: stream(ar_model(), conditioning=narrow), "got 768", "umt5-xxl, type wan")
    assert model_calls == []


class ImageVAE:
    latent_channels, latent_dim, vae_dtype = 16, 2, torch.float32
    first_stage_model = object()


class SmallVAE(ImageVAE):
    latent_channels = 4


@pytest.mark.parametrize(("vae", "words"), [(ImageVAE, "decodes images of 16"), (SmallVAE, "decodes images of 4")])
def test_a_vae_of_another_kind_is_told_before_anything_is_made(
    call: Any, stream: Any, ar_model: Any, refused: Any, model_calls: list, vae: type, words: str
) -> None:
    refused(lambda: stream(ar_model(), vae=vae()), words, "connect the Wan2.1 VAE")
    assert model_calls == []
    latent = {"samples": torch.zeros(1, 16, 3, 8, 8)}
    for given in (vae(), None):
        refused(lambda given=given: call("DummyForcingStreamingDecode", latent=latent, vae=given, fps=16), "Wan2.1 VAE")


@pytest.mark.parametrize("prefix", ["video/", "", "video/streaming", "  ", "video/.", "./video//"])
def test_no_prefix_overwrites_the_clip_before(
    stream: Any, ar_model: Any, canvas: Any, tiny_vae: Any, prefix: str
) -> None:
    files = [
        Path(clip.get_stream_source())
        for seed in (1, 2)
        for clip in stream(
            ar_model(), latent=canvas(3, batch=2), vae=tiny_vae, seed=seed, filename_prefix=prefix
        ).outputs[1]
    ]
    assert len(set(files)) == 4 and all(file.is_file() for file in files)
    assert all(file.name.strip("._0123456789mp") for file in files), "a name is more than a number"


@pytest.mark.parametrize(
    "prefix, name", [('what*is?"this|<now>', "what_is__this__now_"), ("a:b", "a_b"), ("folder\\file", "folder/file")]
)
def test_names_are_such_that_windows_takes_them(part: Any, prefix: str, name: str) -> None:
    file = part("nodes.host.files").OutputFile(prefix, 64, 64)
    file.abandon()
    assert file.path.as_posix().endswith(f"/{name}_00001_.mp4")


def test_a_number_that_another_comfyui_is_writing_is_left_to_it(
    stream: Any, ar_model: Any, canvas: Any, tiny_vae: Any, part: Any
) -> None:
    def made() -> Path:
        made = stream(ar_model(), latent=canvas(3), vae=tiny_vae, filename_prefix="shared")
        return Path(made.outputs[1][0].get_stream_source())

    first = made()
    second, third = (first.with_name(f"shared_{n:05}_.mp4") for n in (2, 3))
    assert first.name == "shared_00001_.mp4"
    program = (
        "import sys; from pathlib import Path; from dummyforcing_core.ownership import owned\n"
        "with owned(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    root = Path(part("dummyforcing_core").__file__).parents[1]
    command = [sys.executable, "-c", program, str(second)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        assert made() == third
        other.communicate()
    assert not second.exists() and not list(first.parent.glob(".*"))


def test_lines_with_a_number_sign_are_not_spoken(part: Any) -> None:
    class Clip:
        said: list[str] = []  # noqa: RUF012

        def tokenize(self, text: str) -> str:
            self.said.append(text)
            return text

        def encode_from_tokens_scheduled(self, tokens: str) -> list:
            return [[torch.zeros(1, 1, 4096), {}]]

    scheduled = part("nodes.host.prompts").scheduled
    for text in ("# note\na cat", "# a | b\na cat", "  # 0:03 | dog\na cat"):
        scheduled(Clip(), text)
    assert Clip.said == ["a cat"] * 3


@pytest.mark.parametrize("name", [".", "..", ".json", "sub/", "", "../x", " . "])
def test_names_that_no_list_would_show_are_refused(part: Any, refused: Any, name: str) -> None:
    refused(lambda: part("nodes.host.files").new_profile_path(name), "no name for a head profile")


def test_a_profile_that_was_not_found_cannot_be_saved(call: Any, refused: Any) -> None:
    missing = call("DummyForcingLoadHeadProfile", name="of_a_friend.json").outputs[0]
    refused(lambda: call("DummyForcingSaveHeadProfile", head_profile=missing, name="mine"), "nothing to save")


def test_heads_are_not_scored_on_an_image(call: Any, ar_model: Any, conditioning: Any, refused: Any) -> None:
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    inputs = {"model": ar_model(), "conditioning": conditioning(1), "latent": latent, "seed": 0, "chunks": 2}
    refused(lambda: call("DummyForcingProfileHeads", **inputs), "expected a video latent")


@pytest.mark.parametrize("family", ["rolling_forcing", "causal_forcing_long"])
def test_rolling_windows_are_scored_whatever_number_of_chunks_is_asked_for(
    call: Any, ar_model: Any, canvas: Any, conditioning: Any, family: str
) -> None:
    model = call("DummyForcingLoadARModel", model="self_forcing_tiny.safetensors", family=family).outputs[0]
    inputs = {"model": model, "conditioning": conditioning(1), "latent": canvas(3), "seed": 0, "chunks": 2}
    profile = call("DummyForcingProfileHeads", **inputs).outputs[0]
    assert profile.family == family and bool(profile.scores.mass.isfinite().all())


def test_trims_are_compared_and_not_the_whole_file(
    call: Any, part: Any, stream: Any, ar_model: Any, canvas: Any, tiny_vae: Any
) -> None:
    whole = stream(ar_model(), latent=canvas(6), vae=tiny_vae, filename_prefix="trim/whole").outputs[1][0]  # 21 frames
    trimmed = whole.as_trimmed(0.5, 0.5, strict_duration=False)
    joined = call("DummyForcingCompareClips", first=trimmed, second=trimmed).outputs[0]
    read = part("dummyforcing_core.clips.video").read_frames
    frames = np.stack(list(read(Path(joined.get_stream_source()))))
    assert len(frames) == 8


def test_causvid_looks_at_the_chunk_that_is_asked_for_in_every_clip_that_has_it(
    call: Any, stream: Any, canvas: Any, ar_model: Any
) -> None:
    model = call("DummyForcingLoadARModel", model="self_forcing_tiny.safetensors", family="causvid").outputs[0]
    dummy = call("DummyForcingApplyDummyForcing", model=model, dummy_ratio=0.5, observe_chunk=4).outputs[0]
    assert stream(dummy, latent=canvas(24)).outputs[0]["samples"].shape[2] == 24  # the second clip has two chunks


def test_the_clean_clip_of_the_sampler_is_the_clip(part: Any, call: Any, ar_model: Any, conditioning: Any) -> None:
    import comfy.samplers

    seen: list[torch.Tensor] = []
    guider = comfy.samplers.CFGGuider(ar_model())
    guider.inner_set_conds({"positive": conditioning(1)})
    guider.set_cfg(1.0)
    family = part("dummyforcing_core.models.families").get_family("self_forcing")
    sigmas = part("nodes.host.sigmas").sigmas_of(family.schedule)
    latent = torch.zeros(1, 16, 7, 8, 8)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    made = guider.sample(
        noise,
        latent,
        part("nodes.host.chunks").full_clip_sampler(),
        sigmas,
        callback=lambda step, x0, x, total: seen.append(x0),
        seed=0,
    )
    assert [x0.shape[2] for x0 in seen] == [1, 1, 7]
    torch.testing.assert_close(guider.model_patcher.model.process_latent_out(seen[-1].to(made)), made)
