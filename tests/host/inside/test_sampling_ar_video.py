"""With the full cache our sampler is the host's own `ar_video`: live on the same draws, and on recorded runs of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "data"
SIGMAS = torch.tensor([1.0, 0.9375, 0.83333333, 0.625, 0.0])
LIMIT = 1e-4
"""Of latents with values up to about 10; another order of the same float32 sums moves them by less than 3e-5."""


@contextmanager
def drawn_by_host() -> Iterator[list[Tensor]]:
    """What torch.randn_like gave while the host sampled."""
    drawn: list[Tensor] = []
    real = torch.randn_like

    def recorded(*args: Any, **kwargs: Any) -> Tensor:
        drawn.append(real(*args, **kwargs))
        return drawn[-1].clone()

    torch.randn_like = recorded
    try:
        yield drawn
    finally:
        torch.randn_like = real


@pytest.fixture
def replayed(part: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``replayed(initial, drawn, steps, given)``: our seeded noise is this instead. `given`: there is a start."""

    def use(initial: Tensor, drawn: list[Tensor], steps: int, given: bool = False) -> None:
        def noise(step: int, span: Any) -> Tensor:
            if step == 0:
                return initial[:, :, span.start : span.stop]
            return drawn[(span.chunk - given) * (steps - 1) + step - 1]

        monkeypatch.setattr(part("nodes.host.session").Session, "seeded_noise", lambda session, shape: noise)

    return use


def host_run(call: Any, custom: Any, model: Any, frames_per_block: int, latent: Any) -> tuple[Tensor, list[Tensor]]:
    sampler = call("SamplerARVideo", num_frame_per_block=frames_per_block).outputs[0]
    with drawn_by_host() as drawn:
        samples = custom(model, sampler, SIGMAS, latent)
    return samples, drawn


@pytest.mark.parametrize(
    "family, block, frames, batch",
    [
        ("self_forcing", 3, 7, 2),
        ("self_forcing", 3, 9, 1),
        ("self_forcing", 3, 2, 1),
        ("causal_forcing_framewise", 1, 4, 1),
        ("causal_forcing_framewise", 1, 3, 2),
    ],
)
def test_sampler_equals_the_hosts_on_the_same_draws(
    call: Any, custom: Any, ours: Any, ar_model: Any, canvas: Any, replayed: Any,
    family: str, block: int, frames: int, batch: int,
) -> None:  # fmt: skip
    model, latent = ar_model(family), canvas(frames, batch)
    assert type(model.model.diffusion_model).__name__ == "CausalWanModel"
    theirs, drawn = host_run(call, custom, model, block, latent)
    assert len(drawn) == 3 * -(-frames // block)
    replayed(torch.empty(0), drawn, 4)  # the first noise comes with the host's NOISE
    mine = custom(model, ours, SIGMAS, latent)
    assert theirs.std() > 0.5
    torch.testing.assert_close(mine, theirs, rtol=0, atol=LIMIT)


def test_a_model_of_more_heads_and_layers_equals_the_hosts_too(
    call: Any, custom: Any, ours: Any, ar_model: Any, canvas: Any, replayed: Any, files: Path
) -> None:
    """As a 14B model's: heads are counted from its width."""
    from tiny_models import write_wan

    write_wan(files / "Wan2.1-T2V-14B-AR.safetensors", causal=True, seed=2, heads=5, layers=3)
    model = ar_model("Wan2.1-T2V-14B-AR.safetensors", family="self_forcing")
    theirs, drawn = host_run(call, custom, model, 3, canvas(6))
    replayed(torch.empty(0), drawn, 4)
    torch.testing.assert_close(custom(model, ours, SIGMAS, canvas(6)), theirs, rtol=0, atol=LIMIT)


def test_the_comparison_can_fail(call: Any, custom: Any, ours: Any, ar_model: Any, canvas: Any, replayed: Any) -> None:
    theirs, drawn = host_run(call, custom, ar_model(), 3, canvas())
    replayed(torch.empty(0), drawn, 4)
    narrow = call("DummyForcingApplyCacheWindow", model=ar_model(), window=4, sink=0).outputs[0]
    other = custom(narrow, ours, SIGMAS, canvas())
    torch.testing.assert_close(other[:, :, :3], theirs[:, :, :3], rtol=0, atol=LIMIT)  # nothing is dropped yet
    assert (other - theirs).abs().max() > 100 * LIMIT


def test_streaming_sampler_equals_the_host_from_its_image_start(
    call: Any, custom: Any, clip: Any, ar_model: Any, tiny_vae: Any, replayed: Any
) -> None:
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(5))
    started, latent = call(
        "ARVideoI2V", model=ar_model(), vae=tiny_vae, start_image=image, width=64, height=64, length=25
    ).outputs
    theirs, drawn = host_run(call, custom, started, 3, latent)
    first = call("RandomNoise", noise_seed=11).outputs[0].generate_noise(latent)
    replayed(first, drawn, 4, given=True)
    encoded = call("VAEEncode", vae=tiny_vae, pixels=image).outputs[0]
    mine = clip(ar_model(), latent=latent, start_latent=encoded, sigmas=SIGMAS)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=LIMIT)
    torch.testing.assert_close(mine[:, :, :1], encoded["samples"], rtol=0, atol=LIMIT)


@pytest.fixture
def golden_file(files: Path) -> Callable[[str], str]:
    """The golden weights under a name of this family, text rows padded to the width that the host expects."""

    def write(family: str) -> str:
        weights = {name: tensor.float() for name, tensor in load_file(GOLDEN / "weights.safetensors").items()}
        text = weights["text_embedding.0.weight"]
        weights["text_embedding.0.weight"] = torch.nn.functional.pad(text, (0, 4096 - text.shape[1]))
        name = f"golden_{family}.safetensors"
        save_file(weights, files / name)
        return name

    return write


@pytest.mark.parametrize("case", sorted(path.stem for path in GOLDEN.glob("G_*.json")))
def test_streaming_sampler_replays_the_recorded_host(
    clip: Any, ar_model: Any, replayed: Any, golden_file: Any, case: str
) -> None:
    params = json.loads((GOLDEN / f"{case}.json").read_text(encoding="utf-8"))["params"]
    recorded = load_file(GOLDEN / f"{case}.safetensors")
    family = {3: "self_forcing", 1: "causal_forcing_framewise"}[params["num_frame_per_block"]]
    initial = load_file(GOLDEN / params["noise_file"])["init"].float()[:, : params["frames"]].transpose(1, 2)
    draws = [recorded[name] for name in sorted(recorded) if name.startswith("renoise_")]
    given = params["initial_latent_frames"]
    replayed(initial, draws, params["steps"], given=bool(given))
    context = load_file(GOLDEN / "text.safetensors")["context_a"].float()
    made = clip(
        ar_model(golden_file(family), family=family),
        conditioning=[[torch.nn.functional.pad(context, (0, 4096 - context.shape[2])), {}]],
        latent={"samples": torch.zeros(1, 16, params["frames"], *params["grid_hw_latent"])},
        sigmas=torch.tensor(params["sigmas"]),
        **({"start_latent": {"samples": recorded["initial_latent"]}} if given else {}),
    )
    torch.testing.assert_close(made, recorded["output"], rtol=0, atol=1e-4)
