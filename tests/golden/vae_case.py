"""H: the Wan VAE's streamed decode, for every way to cut the clip."""

import torch
from recorded import Case
from torch import Tensor

from dummyforcing_core.vae.wan_vae import WanVAE, WanVAEConfig
from dummyforcing_core.vae.wan_vae_blocks import State
from dummyforcing_core.vae.wan_vae_stream import WanVAEDecoder

LIMIT = 5e-5


def cuts(frames: int) -> dict[str, list[int]]:
    """Names of chunkings of `frames` latent frames, and their chunk lengths."""
    named = {"whole": [frames], "1_by_1": [1] * frames}
    for first, size in ((3, 3), (1, 2), (1, 3)):
        sizes = [min(first, frames)]
        while sum(sizes) < frames:
            sizes.append(min(size, frames - sum(sizes)))
        named["+".join(map(str, sizes))] = sizes
    return named


def vae_stream(case: Case) -> None:
    """H: recorded layout (B, C, T, h, w), raw pixels. Geometry is that of the recorded weights."""
    params, recorded = case.params, case.recorded
    weights = {name[2:]: tensor.float() for name, tensor in recorded.items() if name.startswith("w.")}
    defaults = WanVAEConfig()
    config = WanVAEConfig(
        dim=weights["decoder.head.0.gamma"].shape[0],
        mult=tuple(params.get("dim_mult", defaults.mult)),
        res_blocks=params.get("num_res_blocks", defaults.res_blocks),
        time_halved=tuple(params.get("temperal_downsample", defaults.time_halved)),
        encoder="encoder.conv1.weight" in weights,
    )
    vae = WanVAE(config).eval()
    vae.load_state_dict(weights)
    latents = recorded["latents_model_space"]
    if "pixels_full" in recorded:
        _check_cuts(case, vae, latents)
    case.check("pixels_first_frame_only", vae.decode(latents[:, :, :1], State()), LIMIT)


def _check_cuts(case: Case, vae: WanVAE, latents: Tensor) -> None:
    """The clip's pixels, however its latents are cut."""
    theirs, decoder = case.recorded["pixels_full"], WanVAEDecoder(vae, clamp=False)
    for name, sizes in cuts(latents.shape[2]).items():
        decoder.reset()
        ours = [decoder.push(chunk) for chunk in latents.split(sizes, dim=2)]
        case.compare(f"pixels_full {name}", torch.cat([*ours, decoder.flush()], dim=2), theirs, LIMIT)
        # The decoder goes frame by frame; here each layer takes the whole chunk at once.
        state = State()
        ours = [vae.decode(chunk, state) for chunk in latents.split(sizes, dim=2)]
        case.compare(f"pixels_full {name} at once", torch.cat(ours, dim=2), theirs, LIMIT)
