"""Fits the demo codec: principal components for the encoder, a few minutes of Adam for the decoder.

python -m demo.train_codec --minutes 4 --out dummyforcing_core/assets/demo_codec.safetensors
"""

import argparse
import time
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import save_file

from dummyforcing_core.vae.demo_codec import LATENT_CHANNELS, PATCH_FRAMES, PATCH_PX, DemoCodec

from .prompts import sample_clips
from .world import render

LATENT_FRAMES = 12


def patches_of(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (B, 4t, 3, H, W) -> patches (B, t, h, w, 3*4*8*8), the encoder's order."""
    return rearrange(pixels, "b (t f) c (h y) (w x) -> b t h w (c f y x)", f=PATCH_FRAMES, y=PATCH_PX, x=PATCH_PX)


def clip_pixels(count: int, generator: torch.Generator) -> torch.Tensor:
    """Random stretches (count, 4*LATENT_FRAMES, 3, H, W) of clips, lit and dark."""
    clips = sample_clips(count, 7, generator)
    first = 1 + 4 * int(torch.randint(20 - LATENT_FRAMES, (1,), generator=generator))
    return render(clips, first, first + 4 * LATENT_FRAMES)


def fit_encoder(codec: DemoCodec, generator: torch.Generator, clips: int = 160) -> float:
    """Sets mean and matrix from rendered patches; returns the share of variance kept."""
    moment = torch.zeros(codec.encoder_mean.numel(), codec.encoder_mean.numel(), dtype=torch.float64)
    total, count = torch.zeros(codec.encoder_mean.numel(), dtype=torch.float64), 0
    for _ in range(clips // 8):
        patches = patches_of(clip_pixels(8, generator)).flatten(0, 3)
        moment += (patches.T @ patches).double()
        total += patches.sum(0).double()
        count += len(patches)
    mean = total / count
    variance, vectors = torch.linalg.eigh(moment / count - mean.outer(mean))
    variance, vectors = variance.flip(0).clamp(min=0), vectors.flip(1)
    kept = variance[:LATENT_CHANNELS]
    # Half-way whitening: strong components stay stronger than weak ones. Overall variance is 1.
    scale = kept**-0.25
    scale /= (scale**2 * kept).mean().sqrt()
    codec.encoder_mean.copy_(mean)
    codec.encoder_matrix.copy_((vectors[:, :LATENT_CHANNELS] * scale).T)
    return float(kept.sum() / variance.sum())


def psnr(codec: DemoCodec, pixels: torch.Tensor) -> float:
    """Round trip of pixels (B, 4t, 3, H, W), in dB over the range [-1, 1]."""
    with torch.no_grad():
        error = (reconstruct(codec, pixels).clamp(-1, 1) - pixels).square().mean()
    return float(10 * torch.log10(4 / error))


def reconstruct(codec: DemoCodec, pixels: torch.Tensor, noise: float = 0.0) -> torch.Tensor:
    """Encode, add Gaussian noise of this size to the latents, decode: (B, 4t, 3, H, W)."""
    latents = (patches_of(pixels) - codec.encoder_mean) @ codec.encoder_matrix.T
    latents = latents + noise * torch.randn_like(latents)
    frames = codec.decode_frame(rearrange(latents, "b t h w c -> (b t) c h w"))
    return rearrange(frames, "(b t) c f y x -> b (t f) c y x", b=len(pixels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("dummyforcing_core/assets/demo_codec.safetensors"))
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    codec = DemoCodec()
    print(f"encoder keeps {fit_encoder(codec, generator):.4f} of the variance", flush=True)
    held_out = clip_pixels(8, torch.Generator().manual_seed(args.seed + 1000))
    optimizer = torch.optim.Adam(codec.decoder.parameters(), lr=1e-3, betas=(0.9, 0.99))
    begin, step, budget = time.monotonic(), 0, 60 * args.minutes
    while (elapsed := time.monotonic() - begin) < budget:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * (1 - elapsed / budget) + 1e-6
        pixels = clip_pixels(3, generator)
        # The generator's latents are never exact: a little noise makes the decoder forgiving.
        difference = reconstruct(codec, pixels, noise=0.06) - pixels
        loss = difference.square().mean() + 0.05 * difference.abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step}  {elapsed:.0f} s  loss {loss:.5f}  held-out {psnr(codec, held_out):.2f} dB", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in codec.state_dict().items()}, args.out)
    print(
        f"wrote {args.out}: {sum(p.numel() for p in codec.parameters())} decoder parameters, "
        f"{psnr(codec, held_out):.2f} dB held out"
    )


if __name__ == "__main__":
    main()
