"""Clips of the demo model through the project's own rollout, in batches."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.loops.run import ChunkResult, Run
from dummyforcing_core.loops.table import sample
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import DEMO, get_family
from dummyforcing_core.models.wan import CausalWan
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import Policy
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.text.demo_text import encode_prompt
from dummyforcing_core.vae.demo_codec import DemoCodec

from .world import CHUNK_FRAMES, SIZE_PX


def generate(model: CausalWan, prompts: Sequence[Sequence[str]], policy: Policy, seed: int) -> Tensor:
    """Latents (B, 16, 3 * chunks, 8, 8) of B clips, one prompt per chunk each; clip b uses seed + b."""
    return torch.cat([chunk.latent for chunk in make(run_of(WanDenoiser(model), prompts, policy, seed))], 2)


def run_of(denoise: WanDenoiser, prompts: Sequence[Sequence[str]], policy: Policy, seed: int) -> Run:
    """B clips as one run, likewise: a clip is the same alone and beside others."""
    chunks = len(prompts[0])
    shape = LatentShape(len(prompts), 16, CHUNK_FRAMES * chunks, SIZE_PX // 8, SIZE_PX // 8)
    contexts: list[Tensor] = []
    for chunk in range(chunks):
        context = torch.cat([_context(clip[chunk]) for clip in prompts])
        # The same tensor again means the same prompts: their text K/V are kept.
        contexts.append(contexts[-1] if contexts and torch.equal(contexts[-1], context) else context)
    family = get_family(DEMO)
    schedule = PromptSchedule.per_chunk(contexts, CHUNK_FRAMES)
    noise = SeededNoise(seed, shape, CHUNK_FRAMES)
    return Run(denoise, shape, family.schedule, schedule, policy, family, noise)


def make(run: Run) -> list[ChunkResult]:
    """Its chunks, without the warning of caches beyond the trained range: they are part of what is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return list(sample(run))


def decode(codec: DemoCodec, latents: Tensor) -> Tensor:
    """Latents (B, 16, T, h, w) -> pixels (B, 4(T-1)+1, 3, H, W) in [-1, 1]."""
    return codec.decoder_stream().push(latents).transpose(1, 2)


def _context(prompt: str) -> Tensor:
    context, unknown = encode_prompt(prompt)
    if unknown:
        raise ValueError(f"the prompt {prompt!r} has words outside the demo's vocabulary: {', '.join(unknown)}")
    return context
