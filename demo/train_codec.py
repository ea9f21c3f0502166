"""Fits the demo codec: principal components for the encoder, a few minutes of Adam for the decoder.

python -m demo.train_codec --minutes 4 --out dummyforcing_core/assets/demo_codec.safetensors
"""

import argparse
import time
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file

from dummyforcing_core.vae.demo_codec import LATENT_CHANNELS, PATCH_FRAMES, PATCH_PX, DemoCodec

from .cases import plain_clips
from .measure import step_sizes, steps
from .optimizer import Muon
from .prompts import sample_clips
from .world import render

LATENT_FRAMES = 6
BETWEEN = 6


def patches_of(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (B, 4t, 3, H, W) -> patches (B, t, h, w, 3*4*8*8), the encoder's order."""
    return rearrange(pixels, "b (t f) c (h y) (w x) -> b t h w (c f y x)", f=PATCH_FRAMES, y=PATCH_PX, x=PATCH_PX)


def clip_pixels(count: int, generator: torch.Generator) -> torch.Tensor:
    """Random stretches (count, 4*LATENT_FRAMES, 3, H, W) of clips, lit and dark; one in four is a clip's beginning."""
    clips = sample_clips(count, 7, generator)
    if torch.rand((), generator=generator) < 0.25:
        pixels = render(clips, 0, 4 * LATENT_FRAMES - 3)
        return torch.cat([pixels[:, :1].expand(-1, 3, -1, -1, -1), pixels], 1)  # as the encoder pads it
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
    frames: torch.Tensor = codec.decoder(rearrange(latents, "b t h w c -> b t c h w"))[0]
    return frames


def loss_of(codec: DemoCodec, pixels: torch.Tensor, step_weight: float) -> torch.Tensor:
    """Errors of the picture and of its steps in time: without the second, motion waits for the next latent.

    Squares of steps from one latent frame to the next, where each brings news, count BETWEEN times."""
    # The generator's latents are never exact: noise makes the decoder forgiving.
    made = reconstruct(codec, pixels, noise=0.08 * float(torch.rand(())))
    picture, motion = made - pixels, steps(made) - steps(pixels)
    motion[:, PATCH_FRAMES - 1 :: PATCH_FRAMES] *= BETWEEN**0.5
    loss: torch.Tensor = picture.square().mean() + 0.05 * picture.abs().mean()
    return loss + step_weight * (motion.square().mean() + 0.05 * motion.abs().mean())


def evenness(codec: DemoCodec, pixels: torch.Tensor) -> str:
    """Mean size of a step in levels of 255, inside a latent frame and between two; the truth has one for both."""
    with torch.no_grad():
        inside, between = step_sizes(reconstruct(codec, pixels).clamp(-1, 1))
    return f"step {inside:.2f} inside, {between:.2f} between"


def fit_decoder(codec: DemoCodec, args: argparse.Namespace, generator: torch.Generator) -> str:
    """Trains the decoder for so long on one thread; returns its figures on clips that were held out."""
    held_out = clip_pixels(8, torch.Generator().manual_seed(args.seed + 1000))
    even = render(plain_clips(8))[:, 1:]  # the first frame is padded
    print("truth: step {:.2f} inside, {:.2f} between".format(*step_sizes(even)), flush=True)
    parameters = list(codec.decoder.parameters())
    optimizers = [
        Muon([p for p in parameters if p.dim() > 1], args.muon_lr, weight_decay=0.0),
        torch.optim.Adam([p for p in parameters if p.dim() == 1], 2e-3, betas=(0.9, 0.99)),
    ]
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    begin, step, budget = time.monotonic(), 0, 60 * args.minutes
    while (elapsed := time.monotonic() - begin) < budget:
        loss = loss_of(codec, clip_pixels(3, generator), args.step_weight)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 50) * (1 - elapsed / budget) + 1e-6
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        if step % 100 == 0:
            figures = f"{psnr(codec, held_out):.2f} dB, {evenness(codec, even)}"
            print(f"step {step}  {elapsed:.0f} s  loss {float(loss.detach()):.5f}  held out {figures}", flush=True)
    return f"{psnr(codec, held_out):.2f} dB, {evenness(codec, even)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=18.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step-weight", type=float, default=2.0, help="of errors from frame to frame")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--encoder", type=Path, metavar="FILE", help="keep this codec's encoder: a model's latents")
    start.add_argument("--start", type=Path, metavar="FILE", help="go on from this codec, its encoder as it is")
    parser.add_argument("--out", type=Path, default=Path("dummyforcing_core/assets/demo_codec.safetensors"))
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(args.seed)
    codec = DemoCodec().to(memory_format=torch.channels_last)  # convolutions this small run faster so
    if args.start:
        codec.load_state_dict({name: tensor.float() for name, tensor in load_file(args.start).items()})
    elif args.encoder:
        tensors = load_file(args.encoder)
        codec.encoder_mean.copy_(tensors["encoder_mean"])
        codec.encoder_matrix.copy_(tensors["encoder_matrix"])
    else:
        print(f"encoder keeps {fit_encoder(codec, generator):.4f} of the variance", flush=True)
    figures = fit_decoder(codec, args, generator)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in codec.state_dict().items()}, args.out)
    print(f"wrote {args.out}: {sum(p.numel() for p in codec.parameters())} decoder parameters, held out {figures}")


if __name__ == "__main__":
    main()
