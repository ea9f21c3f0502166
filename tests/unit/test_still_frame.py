"""Stills: decoded once beside the loop, against a decoder that gets the whole clip at once."""

from functools import partial

import pytest
import torch
from torch import Tensor

from dummyforcing_core.errors import OutputError
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.loops.recompute import recompute
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models.denoiser import ModelGeometry, Step
from dummyforcing_core.models.families import Family
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import Full
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule
from dummyforcing_core.vae.still_frame import DecodedStills, KeptStills
from dummyforcing_core.vae.wan_vae import State, WanVAE, WanVAEConfig
from dummyforcing_core.vae.wan_vae_stream import WanVAEDecoder, encode


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(WanVAEConfig(dim=4, res_blocks=1)).requires_grad_(False).eval()


def latents(frames: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 16, frames, 2, 4, generator=torch.Generator().manual_seed(3))


def expected(vae: WanVAE, clip: Tensor, frame: int) -> Tensor:
    """Pixel 4 * frame of the whole clip is the last one of latent `frame`."""
    pixels = vae.decode(clip, State()).clamp(-1, 1)
    return vae.encode(pixels[:, :, 4 * frame : 4 * frame + 1], State())


def stills(vae: WanVAE, frames: int = 3) -> DecodedStills:
    return DecodedStills(WanVAEDecoder(vae), partial(encode, vae), frames)


@pytest.mark.parametrize("cut", [[3, 3, 3], [1, 3, 3], [7], [1] * 9, [2, 5, 1]])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_frame_right_before_the_kept_latents(vae: WanVAE, cut: list[int], batch: int) -> None:
    clip, hook, done = latents(sum(cut), batch), stills(vae), 0
    for count in cut:
        hook.push(clip[:, :, done : done + count])
        done += count
        for frame in range(max(0, done - 3), done):
            still = hook.at(frame)
            assert still.shape == (batch, 16, 1, 2, 4)
            torch.testing.assert_close(still, expected(vae, clip[:, :, :done], frame), rtol=0, atol=1e-5)


def test_it_is_neither_the_latent_nor_another_frame(vae: WanVAE) -> None:
    clip, hook = latents(6), stills(vae)
    hook.push(clip)
    assert float((hook.at(3) - clip[:, :, 3:4]).abs().max()) > 1e-2
    assert float((hook.at(3) - expected(vae, clip, 4)).abs().max()) > 1e-4


@pytest.mark.parametrize("frame", [-1, 0, 2, 6, 100])
def test_frames_that_are_not_there_are_refused(vae: WanVAE, frame: int) -> None:
    hook = stills(vae)
    with pytest.raises(OutputError, match="none are there"):
        hook.at(frame)
    hook.push(latents(6))
    with pytest.raises(OutputError, match=r"\[3, 4, 5\] are there") as refused:
        hook.at(frame)
    assert "\n" not in str(refused.value)


def test_a_context_of_no_frames_is_refused(vae: WanVAE) -> None:
    with pytest.raises(OutputError, match="at least 1"):
        stills(vae, 0)


@pytest.mark.parametrize("cut", [[33], [1] * 33, [9, 12, 12], [2, 0, 30, 1]])
def test_pixels_that_were_decoded_anyway_give_the_same_stills(vae: WanVAE, cut: list[int]) -> None:
    clip = latents(9)
    beside, kept = stills(vae), KeptStills(partial(encode, vae), 3)
    for pixels in WanVAEDecoder(vae).push(clip).split(cut, dim=2):
        kept.keep(pixels)
    beside.push(clip)
    assert all(torch.equal(kept.at(frame), beside.at(frame)) for frame in (6, 7, 8))
    with pytest.raises(OutputError, match=r"\[6, 7, 8\] are there"):
        kept.at(5)


def test_latents_that_nobody_decoded_are_told_of(vae: WanVAE) -> None:
    kept = KeptStills(partial(encode, vae), 3)
    kept.push(latents(3))
    with pytest.raises(OutputError, match="none are there; decode every chunk before the next one is made"):
        kept.at(0)


class Random:
    """Denoises to random latents and keeps every context it is given to read."""

    geometry = ModelGeometry(1, 1, 2, 16, torch.device("cpu"), torch.float32)

    def __init__(self, clip: Tensor):
        self.clip, self.made, self.read = clip, 0, list[Tensor]()

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        if not step.output:
            self.read.append(x)
            return None
        self.made += 3
        return self.clip[:, :, self.made - 3 : self.made]

    def time_signal(self, sigma: float, modulation: bool) -> Tensor:
        raise AssertionError


def test_the_loop_reads_stills_of_its_own_clip(vae: WanVAE) -> None:
    """On real pixels: the first context frame of chunk j is what the VAE makes of the last pixel of frame 3j - 3."""
    clip = latents(12)
    denoise, shape = Random(clip), LatentShape(1, 16, 12, 2, 4)
    family, noise = Family("krea", "Krea", "tests", window_frames=6, trained_frames=999), SeededNoise(0, shape, 3)
    prompts = PromptSchedule.constant(torch.zeros(1, 1, 1))
    for _ in recompute(Run(denoise, shape, Schedule((1.0,)), prompts, Full(), family, noise, still=stills(vae))):
        pass
    first, *later = denoise.read
    assert torch.equal(first, clip[:, :, :3])
    assert len(later) == 2
    for chunk, read in enumerate(later, start=2):
        c = 3 * chunk
        torch.testing.assert_close(read[:, :, :1], expected(vae, clip[:, :, :c], c - 3), rtol=0, atol=1e-5)
        assert torch.equal(read[:, :, 1:], clip[:, :, c - 2 : c])
