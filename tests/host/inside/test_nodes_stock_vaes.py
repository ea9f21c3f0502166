"""The demo's VAE in every node of the host that takes one: what works with the host's own Wan2.1 VAE works with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stock_nodes import small_inputs, stock_nodes

OF_ONE_LAYOUT = {"conv_out_channels", "first_stage_model"}
"""What the host sets for weights of Wan's layout, and what is a property of the demo's."""


@pytest.fixture
def demo(call: Any) -> tuple[Any, Any, Any]:
    """MODEL, CLIP, VAE."""
    return call("DummyForcingLoadDemoModel").outputs


@pytest.fixture
def given(demo: Any, conditioning: Any) -> dict[str, Any]:
    """A small value for each kind of socket; the VAE is left to the test."""
    draw = torch.Generator().manual_seed(0)
    return {
        "MODEL": demo[0],
        "CLIP": demo[1],
        "CONDITIONING": conditioning(0),
        "IMAGE": torch.rand(5, 64, 64, 3, generator=draw),
        "MASK": torch.ones(5, 64, 64),
        "LATENT": {"samples": torch.randn(1, 16, 2, 8, 8, generator=draw)},
        "AUDIO": {"waveform": torch.zeros(1, 2, 4096), "sample_rate": 44100},
        "COMFY_AUTOGROW_V3": {},
    }


def shapes(value: Any) -> Any:
    """The tensors in a node's outputs by their shapes; None for anything else, and "not finite" for what is not."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape) if value.isfinite().all() else "not finite"
    if isinstance(value, dict):
        return {key: shapes(one) for key, one in value.items()}
    return [shapes(one) for one in value] if isinstance(value, list | tuple) else None


def test_it_has_what_the_host_gives_to_every_vae(demo: Any, tiny_vae: Any) -> None:
    import comfy.model_management

    assert vars(tiny_vae).keys() - vars(demo[2]).keys() <= OF_ONE_LAYOUT
    assert type(demo[2].patcher) is type(tiny_vae.patcher) and demo[2].patcher.model is demo[2].first_stage_model
    assert demo[2].model_size() == comfy.model_management.module_size(demo[2].first_stage_model) > 0
    assert (demo[2].device, demo[2].output_device) == (tiny_vae.device, tiny_vae.output_device)


def test_every_stock_node_works_with_it_or_says_why_not(
    part: Any, call: Any, demo: Any, given: Any, tiny_vae: Any
) -> None:
    own: type[Exception] = part("dummyforcing_core.errors").DummyForcingError
    made, wrong = set(), []
    for name in stock_nodes("VAE"):
        outcomes: list[Any] = []
        for vae in (tiny_vae, demo[2]):
            try:
                outcomes.append(shapes(call(name, **small_inputs(name, {**given, "VAE": vae})).outputs))
            except Exception as error:
                outcomes.append(error)
        stock, ours = outcomes
        if isinstance(ours, own):
            fine = isinstance(stock, Exception) and "\n" not in str(ours)
        elif isinstance(ours, Exception):  # an error that has nothing to do with the VAE
            fine = type(ours) is type(stock) and str(ours).replace("DemoVAE", "VAE") == str(stock)
        else:
            fine = ours == stock
            made.add(name)
        if not fine:
            wrong.append(f"{name}: {stock!r} with the host's VAE, {ours!r} with the demo's")
    assert not wrong, "\n".join(wrong)
    assert len(made) > 30 and {"VAEDecode", "VAEDecodeTiled", "VAEEncode", "VAEEncodeTiled", "VAEEncodeForInpaint",
                               "WanImageToVideo", "VAESave"} <= made  # fmt: skip


def test_tiles_give_the_whole_picture(call: Any, demo: Any) -> None:
    vae, draw = demo[2], torch.Generator().manual_seed(0)
    images = torch.rand(9, 128, 160, 3, generator=draw)
    latent = call("VAEEncode", vae=vae, pixels=images).outputs[0]
    tiled = call("VAEEncodeTiled", vae=vae, pixels=images, tile_size=64, overlap=16).outputs[0]
    torch.testing.assert_close(tiled["samples"], latent["samples"], rtol=0, atol=1e-4)
    whole = call("VAEDecode", vae=vae, samples=latent).outputs[0]
    sizes = {"tile_size": 64, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
    pieces = call("VAEDecodeTiled", vae=vae, samples=latent, **sizes).outputs[0]
    assert pieces.shape == whole.shape and (pieces - whole).abs().mean() < 0.03


@pytest.mark.parametrize("side", [(24, 40), (20, 64), (64, 72)])
def test_sides_that_are_no_multiple_of_16_keep_what_fits(call: Any, demo: Any, side: tuple[int, int]) -> None:
    height, width = side
    images = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(0))
    latent = call("VAEEncode", vae=demo[2], pixels=images).outputs[0]["samples"]
    assert latent.shape == (1, 16, 1, height // 8, width // 8)
    trimmed = demo[2].vae_encode_crop_pixels(images)[:, : height // 16 * 16, : width // 16 * 16]
    wanted = call("VAEEncode", vae=demo[2], pixels=trimmed).outputs[0]["samples"]
    torch.testing.assert_close(latent[..., : height // 16 * 2, : width // 16 * 2], wanted, rtol=0, atol=1e-5)


def test_latents_and_pixels_of_others_are_one_line(call: Any, demo: Any, refused: Any) -> None:
    def decode(*shape: int) -> Any:
        return lambda: call("VAEDecode", vae=demo[2], samples={"samples": torch.zeros(shape)})

    refused(decode(1, 16, 8, 8), "(1, 16, 8, 8)", "connect")
    refused(decode(1, 4, 2, 8, 8), "(1, 4, 2, 8, 8)")
    refused(lambda: call("VAEEncode", vae=demo[2], pixels=torch.zeros(1, 64, 64, 1)), "three colours")
    refused(lambda: demo[2].first_stage_model.vocoder, "has no vocoder", "connect the VAE")
    assert not hasattr(demo[2].first_stage_model, "vocoder")


def test_a_device_that_is_chosen_for_it(call: Any, demo: Any, canvas: Any) -> None:
    """As on a machine with several: the host asks for a second copy of the network."""
    import comfy.model_management

    chosen = call("SelectVAEDevice", vae=demo[2], device="default").outputs[0]
    latent = {"samples": torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0))}
    wanted = call("VAEDecode", vae=demo[2], samples=latent).outputs[0]
    torch.testing.assert_close(call("VAEDecode", vae=chosen, samples=latent).outputs[0], wanted, rtol=0, atol=0)
    chosen.patcher = chosen.patcher.deepclone_multigpu(comfy.model_management.vae_device())
    chosen.first_stage_model = chosen.patcher.model
    assert chosen.first_stage_model is chosen.patcher.model is not demo[2].first_stage_model
    torch.testing.assert_close(call("VAEDecode", vae=chosen, samples=latent).outputs[0], wanted, rtol=0, atol=0)


def test_it_is_freed_with_its_last_owner(call: Any, collected: Any) -> None:
    import weakref

    import comfy.model_management

    vae = call("DummyForcingLoadDemoModel").outputs[2]
    network = weakref.ref(vae.first_stage_model)
    call("VAEDecode", vae=vae, samples={"samples": torch.zeros(1, 16, 1, 8, 8)})
    del vae
    comfy.model_management.unload_all_models()
    collected()
    assert network() is None
