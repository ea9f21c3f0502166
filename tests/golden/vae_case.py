"""H: the Wan VAE's streamed decode, for every way to cut the clip."""

import torch
from cases import Directory, Errors

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


def vae_stream(directory: Directory, case: str) -> Errors:
    """H: recorded layout (B, C, T, h, w), raw pixels. Geometry is that of the recorded weights."""
    params, recorded, errors = directory.document(case).get("params", {}), directory.tensors(case), Errors()
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
    latents, theirs = recorded["latents_model_space"], recorded["pixels_full"]
    decoder = WanVAEDecoder(vae, clamp=False)
    for name, sizes in cuts(latents.shape[2]).items():
        decoder.reset()
        ours = [decoder.push(chunk) for chunk in latents.split(sizes, dim=2)]
        errors.check(f"pixels_full {name}", torch.cat([*ours, decoder.flush()], dim=2), theirs, LIMIT)
        # The decoder goes frame by frame; here each layer takes the whole chunk at once.
        state = State()
        ours = [vae.decode(chunk, state) for chunk in latents.split(sizes, dim=2)]
        errors.check(f"pixels_full {name} at once", torch.cat(ours, dim=2), theirs, LIMIT)
    if "pixels_first_frame_only" in recorded:
        first = vae.decode(latents[:, :, :1], State())
        errors.check("pixels_first_frame_only", first, recorded["pixels_first_frame_only"], LIMIT)
    return errors
