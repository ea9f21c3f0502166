"""taew2_1 and lighttaew2_1 as Load VAE knows them: streamed, with the pixels of the host's own decode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

EXACT = {"rtol": 0.0, "atol": 2e-5}


@pytest.fixture(scope="session")
def tiny_decoder(call: Any, base: Path) -> Callable[..., Any]:
    """``tiny_decoder(torch.float16)``: the VAE of a random file of that dtype, by which the host tells them apart."""
    from comfy.taesd.taehv import TAEHV
    from safetensors.torch import save_file

    def load(dtype: torch.dtype = torch.float32) -> Any:
        draws = torch.Generator().manual_seed(0)
        weights = {
            name: (torch.randn(tensor.shape, generator=draws) / max(1, tensor[0].numel()) ** 0.5).to(dtype)
            for name, tensor in TAEHV(latent_channels=16).state_dict().items()
        }
        name = f"taew2_1_{dtype}.safetensors"
        save_file(weights, base / "models" / "vae" / name)
        return call("VAELoader", vae_name=name).outputs[0]

    return load


def latents_of(frames: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 16, frames, 4, 6, generator=torch.Generator().manual_seed(5))


def whole(vae: Any, latents: Tensor) -> Tensor:
    with torch.inference_mode():
        return vae.decode(latents).permute(0, 4, 1, 2, 3) * 2 - 1


def streamed(stream: Any, latents: Tensor, cuts: list[int]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([*(stream.push(piece) for piece in latents.split(cuts, 2)), stream.flush()], 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("cuts", [[1], [7], [3, 3, 1], [1] * 7, [2, 0, 5]])
def test_any_cut_gives_the_hosts_own_pixels(
    part: Any, tiny_decoder: Any, dtype: torch.dtype, batch: int, cuts: list[int]
) -> None:
    vae, latents = tiny_decoder(dtype), latents_of(sum(cuts), batch)
    decoder = part("nodes.host.decoder")
    assert decoder.streams(vae)
    expected = whole(vae, latents)
    assert expected.std() > 0.02
    got = streamed(decoder.stream_of(vae), latents, cuts)
    assert got.shape == (batch, 3, 4 * sum(cuts) - 3, 32, 48)
    torch.testing.assert_close(got, expected.clamp(-1, 1), **EXACT)


def test_what_it_keeps_does_not_grow_and_reset_forgets_it(part: Any, tiny_decoder: Any) -> None:
    vae, latents = tiny_decoder(), latents_of(6)
    stream = part("nodes.host.decoder").stream_of(vae)
    kept = []
    with torch.inference_mode():
        for frame in latents.split(1, dim=2):
            stream.push(frame)
            (memory,) = stream._memories
            kept.append(sum(past.untyped_storage().nbytes() for past in memory if past is not None))
    assert len(set(kept)) == 1 and kept[0] > 0
    stream.reset()
    torch.testing.assert_close(streamed(stream, latents, [6]), whole(vae, latents).clamp(-1, 1), **EXACT)


def test_tiles_that_hold_the_frame_change_nothing_and_smaller_ones_little(part: Any, tiny_decoder: Any) -> None:
    vae = tiny_decoder()
    latents = torch.randn(2, 16, 4, 10, 14, generator=torch.Generator().manual_seed(6))
    stream_of, wanted = part("nodes.host.decoder").stream_of, whole(vae, latents).clamp(-1, 1)
    torch.testing.assert_close(streamed(stream_of(vae, (32, 32)), latents, [3, 1]), wanted, **EXACT)
    tiled = streamed(stream_of(vae, (8, 8)), latents, [3, 1])
    assert tiled.shape == wanted.shape and (tiled - wanted).abs().max() > 1e-4  # it did tile
    assert torch.corrcoef(torch.stack([tiled.flatten(), wanted.flatten()]))[0, 1] > 0.8


def test_out_of_memory_once_goes_on_in_tiles(
    part: Any, stream: Any, ar_model: Any, canvas: Any, tiny_decoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management

    vae, model, calls = tiny_decoder(), ar_model(), []
    untouched = stream(model, latent=canvas(9, batch=2), vae=vae)
    last = vae.first_stage_model.decoder[-1]
    forward = last.forward

    def failing(x: Tensor) -> Tensor:
        calls.append(x.shape)
        if len(calls) == 5:  # in the middle of the second chunk
            raise comfy.model_management.OOM_EXCEPTION("out of memory")
        return forward(x)

    monkeypatch.setattr(last, "forward", failing)
    done = stream(model, latent=canvas(9, batch=2), vae=vae)
    assert len(calls) > 9
    torch.testing.assert_close(done.outputs[0]["samples"], untouched.outputs[0]["samples"], rtol=0, atol=0)
    read = part("dummyforcing_core.clips.video").read_frames
    for ours, theirs in zip(done.outputs[1], untouched.outputs[1], strict=True):
        clips = [np.stack(list(read(Path(v.get_stream_source())))) for v in (ours, theirs)]
        np.testing.assert_array_equal(*clips)  # the frame is smaller than a tile


def test_a_file_that_the_host_takes_for_another_models_is_told_of(
    stream: Any, ar_model: Any, tiny_decoder: Any
) -> None:
    line = "Load VAE took this tiny decoder for HunyuanVideo's"
    assert line in stream(ar_model(), vae=tiny_decoder(torch.float16)).outputs[2]
    assert line not in stream(ar_model(), vae=tiny_decoder(torch.float32)).outputs[2]


def test_stills_of_a_tiny_vae_are_told_of(call: Any, files: Any, stream: Any, canvas: Any, tiny_decoder: Any) -> None:
    model = call("DummyForcingLoadARModel", model="self_forcing_tiny.safetensors", family="krea_realtime").outputs[0]
    report = stream(model, latent=canvas(9), vae=tiny_decoder()).outputs[2]
    assert "Krea Realtime 14B begins its context with a re-encoded pixel frame, and this VAE is a tiny one" in report


def test_latents_of_another_model_are_refused(part: Any, tiny_decoder: Any, refused: Any) -> None:
    stream = part("nodes.host.decoder").stream_of(tiny_decoder())
    refused(lambda: stream.push(torch.zeros(1, 48, 2, 6, 8)), "48", "VAE of the model")


def test_a_tiny_decoder_of_another_model_decodes_at_the_end(part: Any) -> None:
    from comfy.taesd.taehv import TAEHV

    class Other:
        first_stage_model = TAEHV(latent_channels=48)  # Wan2.2's: patches of 2 x 2

    assert not part("nodes.host.decoder").streams(Other())


def test_the_clip_is_decoded_while_it_is_made(
    part: Any, stream: Any, ar_model: Any, tiny_decoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, pushed = tiny_decoder(), []
    kind = type(part("nodes.host.decoder").stream_of(vae))
    push = kind.push
    monkeypatch.setattr(kind, "push", lambda self, latents: pushed.append(latents.shape[2]) or push(self, latents))
    done = stream(ar_model(), vae=vae)
    assert pushed == [3, 3, 1]
    frames = part("dummyforcing_core.clips.video").read_frames(Path(done.outputs[1][0].get_stream_source()))
    shown = np.stack(list(frames)).astype(np.float32)
    truth = (whole(vae, done.outputs[0]["samples"])[0].permute(1, 2, 3, 0) + 1).clamp(0, 2) * 127.5
    assert shown.shape == truth.shape == (25, 64, 64, 3)
    blocks = [x.reshape(25, 8, 8, 8, 8, 3).mean((2, 4)) for x in (shown, truth.numpy())]  # h264 keeps no finer noise
    assert np.abs(blocks[0] - blocks[1]).mean() < 4
