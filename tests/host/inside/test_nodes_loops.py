"""Every family through the nodes gives what the core gives on its own modules: schedules, loops and policies alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

FRAMES = 15
FILE = "self_forcing_tiny.safetensors"
FAMILIES = (
    "self_forcing", "causal_forcing_2step", "causvid", "krea_realtime", "rolling_forcing", "causal_forcing_long",
)  # fmt: skip


def length_of(family: Any) -> int:
    """Long enough for a second clip, where a family starts anew."""
    return 24 if family.overlap_frames else FRAMES


def alone(
    part: Any, files: Path, name: str, policy: Any, features: torch.Tensor, later: torch.Tensor | None = None
) -> torch.Tensor:
    """The core's loop over its own modules; `later` is active from frame 6 on. Latents in the model's space."""
    loaded = part("dummyforcing_core.models.checkpoints").load_model(files / FILE, name)
    shape = part("dummyforcing_core.geometry").LatentShape(1, 16, length_of(loaded.family), 8, 8)
    noise = part("dummyforcing_core.noise").SeededNoise(3, shape, loaded.family.chunk_frames)
    entries = ((0, features),) if later is None else ((0, features), (6, later))
    prompts = part("dummyforcing_core.prompts").PromptSchedule(entries)
    denoise = part("dummyforcing_core.models.denoiser").WanDenoiser(loaded.model)
    run = part("dummyforcing_core.loops.run").Run(
        denoise, shape, loaded.family.schedule, prompts, policy, loaded.family, noise
    )
    chunks = part("dummyforcing_core.loops.table").sample(run)
    return torch.cat([chunk.latent for chunk in chunks], dim=2)


@pytest.mark.filterwarnings("ignore:.*there is no VAE")
@pytest.mark.parametrize("dummy", [False, True], ids=["dense", "dummy forcing"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_host_gives_what_the_core_gives(
    part: Any, files: Path, call: Any, clip: Any, canvas: Any, conditioning: Any, name: str, dummy: bool
) -> None:
    policies = part("dummyforcing_core.policies")
    family = part("dummyforcing_core.models.families").get_family(name)
    model = call("DummyForcingLoadARModel", model=FILE, family=name).outputs[0]
    policy = policies.SlidingWindow(family.default_window_frames, family.sink_frames)
    if dummy:
        policy = policies.DummyForcing()
        model = call("DummyForcingApplyDummyForcing", model=model).outputs[0]
    text = conditioning(1)
    made = model.model.process_latent_in(clip(model, conditioning=text, latent=canvas(length_of(family))))
    expected = alone(part, files, name, policy, text[0][0])
    assert made.shape == expected.shape
    assert float((made - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@pytest.mark.filterwarnings("ignore:.*there is no VAE")
@pytest.mark.parametrize("name", ["self_forcing", "longlive", "krea_realtime", "rolling_forcing"])
def test_prompts_switch_alike(
    part: Any, files: Path, call: Any, clip: Any, canvas: Any, conditioning: Any, name: str
) -> None:
    policies = part("dummyforcing_core.policies")
    family = part("dummyforcing_core.models.families").get_family(name)
    model = call("DummyForcingLoadARModel", model=FILE, family=name).outputs[0]
    first, second = conditioning(1), conditioning(2)
    both = call("DummyForcingPromptAt", previous=first, next=second, seconds=1.5).outputs[0]
    made = model.model.process_latent_in(clip(model, conditioning=both, latent=canvas(FRAMES)))
    policy = policies.SlidingWindow(family.default_window_frames, family.sink_frames)
    expected = alone(part, files, name, policy, first[0][0], second[0][0])
    assert float((made - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    assert not torch.equal(made, model.model.process_latent_in(clip(model, conditioning=first, latent=canvas(FRAMES))))


def test_what_rolling_windows_cannot_do_is_one_line(
    call: Any, files: Path, stream: Any, canvas: Any, refused: Any
) -> None:
    model = call("DummyForcingLoadARModel", model=FILE, family="rolling_forcing").outputs[0]
    given = {"latent": canvas(FRAMES), "start_latent": {"samples": torch.ones(1, 16, 1, 8, 8)}}
    refused(lambda: stream(model, **given), "expected no given start, got one", "Rolling Forcing")


@pytest.mark.parametrize(
    ("name", "title", "frames", "stills"),
    [
        ("krea_realtime", "Krea Realtime 14B", 15, 3),  # the first chunk has no context, the second keeps frame 0
        ("causvid", "CausVid 1.3B", 42, 2),  # clips of 21, 18 more, 3 more
    ],
)
def test_stills_are_encoded_through_the_hosts_vae(
    call: Any, files: Path, stream: Any, canvas: Any, tiny_vae: Any, name: str, title: str, frames: int, stills: int
) -> None:
    model = call("DummyForcingLoadARModel", model=FILE, family=name).outputs[0]
    seen: list[tuple[int, ...]] = []
    decoded: list[int] = []  # latents
    decoder = tiny_vae.first_stage_model.decoder
    hook = decoder.register_forward_hook(lambda module, args, out: decoded.append(args[0].shape[2]))
    encode = tiny_vae.encode
    tiny_vae.encode = lambda pixels: seen.append(tuple(pixels.shape)) or encode(pixels)
    try:
        made = stream(model, latent=canvas(frames), vae=tiny_vae)
    finally:
        del tiny_vae.encode
        hook.remove()
    assert sum(decoded) == frames, "the stills come out of the video's own decoding"
    assert seen == [(1, 64, 64, 3)] * stills
    assert "re-encoded" not in made.outputs[2]
    plain = stream(model, latent=canvas(frames))
    assert f"note: {title} begins its context with a re-encoded pixel frame" in plain.outputs[2]
    assert not torch.equal(made.outputs[0]["samples"], plain.outputs[0]["samples"])


@pytest.mark.parametrize("vae", [False, True])
@pytest.mark.parametrize(
    ("name", "frames", "given"),
    [("krea_realtime", 13, 1), ("krea_realtime", 13, 4), ("causvid", 42, 3), ("causvid", 42, 20), ("causvid", 42, 21)],
)
def test_a_given_start_of_any_length_goes_on(
    part: Any,
    call: Any,
    files: Path,
    stream: Any,
    canvas: Any,
    tiny_vae: Any,
    name: str,
    frames: int,
    given: int,
    vae: bool,
) -> None:
    """Also where the loop yields it before the model was called once."""
    model = call("DummyForcingLoadARModel", model=FILE, family=name).outputs[0]
    start = torch.randn(1, 16, given, 8, 8, generator=torch.Generator().manual_seed(9))
    done = stream(
        model,
        latent=canvas(frames),
        start_latent={"samples": start},
        seed=3,
        **({"vae": tiny_vae} if vae else {}),
    )
    made = done.outputs[0]["samples"]
    assert made.shape[2] == frames and made.isfinite().all()
    torch.testing.assert_close(made[:, :, :given], start, rtol=0, atol=1e-5)
    if vae:
        video = Path(done.outputs[1][0].get_stream_source())
        assert len(list(part("dummyforcing_core.clips.video").read_frames(video))) == 4 * frames - 3
