"""The README's table of graphics cards x size x policy, computed from the plans' own price.

python scripts/card_table.py          prints it

For Self-Forcing 1.3B in bf16, one clip of 60 s. Activations and decoding are what ComfyUI 0.27 reserves for one chunk
(its own formulas). With a profile, half of the heads that have a memory keep the first frame and half their neighbours.
1 GiB is left to the system. No card was used to make it.
"""

from dataclasses import replace

import torch

from dummyforcing_core.geometry import SIZES, LatentShape, made_size
from dummyforcing_core.kv.output_change import OutputChange, memory_options
from dummyforcing_core.loops.run import setting_of
from dummyforcing_core.loops.table import clip_kv_shape
from dummyforcing_core.models.denoiser import ModelGeometry
from dummyforcing_core.models.families import get_family
from dummyforcing_core.policies import DummyForcing, HeadForcing, Policy, SlidingWindow
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.vae.wan_vae import WanVAE, WanVAEConfig

GIB = 2**30
CARDS = (8, 12, 16, 24)
SYSTEM_GIB = 1.0
LAYERS, HEADS, DIM = 30, 12, 1536
PARAMETERS = 1_418_996_800
with torch.device("meta"):
    VAE_PARAMETERS = sum(parameter.numel() for parameter in WanVAE(WanVAEConfig()).parameters())
FAMILY = get_family("self_forcing")
MODEL = ModelGeometry(LAYERS, HEADS, DIM // HEADS, 16, torch.device("cpu"), torch.bfloat16)
OPTIONS = memory_options(FAMILY.chunk_frames)
PROFILE = replace(
    HeadProfile.assumed(LAYERS, HEADS), changes=OutputChange(OPTIONS, torch.ones(LAYERS, HEADS, len(OPTIONS)))
)
POLICIES: dict[str, Policy] = {
    "dense, window 21": SlidingWindow(21, 0),
    "window 12, sink 3": SlidingWindow(12, 3),
    "Dummy Forcing": DummyForcing(),
    "with a head profile": DummyForcing(profile=PROFILE),
    "Head Forcing, with a profile": HeadForcing(profile=PROFILE),
}


def needs(policy: Policy, size: str) -> tuple[float, float, float]:
    """GiB of K/V, of one chunk's activations, of decoding one chunk."""
    shape = LatentShape.of_pixels(*made_size(*SIZES[size]), 60 * 16 + 1)
    plan = policy.plan(setting_of(MODEL, shape, FAMILY))
    kv = plan.peak_bytes(clip_kv_shape(MODEL, shape, FAMILY))
    area = FAMILY.chunk_frames * shape.height * shape.width
    activations = area * 2 * 0.01 * DIM / 2222 * 2**20
    decode = 2200 * shape.height * shape.width * 64 * 2
    return kv / GIB, activations / GIB, decode / GIB


def verdict(card: int, kv: float, activations: float, decode: float) -> str:
    """How a run fits a card of so many GiB."""
    weights, vae, usable = PARAMETERS * 2 / GIB, VAE_PARAMETERS * 2 / GIB, card - SYSTEM_GIB
    if weights + vae + kv + max(activations, decode) <= usable:
        return "yes"
    if kv + activations > usable:
        return "no"
    if vae + decode > usable:
        return "tiles"
    return "waits" if weights + kv + activations <= usable else "offload"


def table() -> str:
    """Markdown."""
    lines = ["| | " + " | ".join(f"{card} GB" for card in CARDS) + " | K/V, GiB |", "|---" * (len(CARDS) + 2) + "|"]
    for size in ("480p", "720p", "1080p"):
        for name, policy in POLICIES.items():
            kv, activations, decode = needs(policy, size)
            cells = [verdict(card, kv, activations, decode) for card in CARDS]
            lines.append(f"| {size.upper()}, {name} | " + " | ".join(cells) + f" | {kv:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
