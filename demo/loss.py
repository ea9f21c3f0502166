"""What the demo model is trained on: velocity errors of noisy chunks beside a clean history."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dummyforcing_core.models import wan
from dummyforcing_core.text.demo_text import encode_slots
from dummyforcing_core.vae.demo_codec import DemoCodec

from .model import CONFIG
from .prompts import sample_clips
from .teacher_forcing import TeacherForcing
from .world import CHUNK_FRAMES, Clips, render

SCHEDULE = torch.tensor([1.0, 0.9375, 0.83333, 0.625])
LOST_SHARE = 0.2


@dataclass(frozen=True)
class Batch:
    """What one forward trains on: B clips of n chunks and how they are shown."""

    clips: int
    chunks: int
    copies: int


def sample_sigmas(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Half from the sampler's four values, half continuous with shift 5."""
    u = torch.rand(shape, generator=generator)
    steps = SCHEDULE[torch.randint(len(SCHEDULE), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.5, steps, 5 * u / (1 + 4 * u))


def per_frame(chunk_values: Tensor) -> Tensor:
    """(B, chunks) -> (B, 3 * chunks)."""
    return chunk_values.repeat_interleave(CHUNK_FRAMES, 1)


def loss_of(model: wan.CausalWan, codec: DemoCodec, batch: Batch, generator: torch.Generator, drift: float) -> Tensor:
    """Mean squared velocity error, damped below sigma 0.5: x0 error^2 / max(sigma, 0.5)^2."""
    with torch.no_grad():
        clips = sample_clips(batch.clips, batch.chunks, generator)
        x0 = codec.encode(render(clips).transpose(1, 2))
        context = encode_slots(clips.slots)  # (B, n, S, text_dim)
    b, n, copies = batch.clips, batch.chunks, batch.copies
    # Sometimes only recent chunks are visible, as under a sliding window.
    window = None
    if n > 3 and torch.rand((), generator=generator) < 0.3:
        window = int(torch.randint(2, 5, (), generator=generator))
    attend = TeacherForcing(n, copies, x0.shape[3] // 2, x0.shape[4] // 2, CONFIG.head_dim, window)
    order = [*range(n - 1), *(copies * [*range(n)])]
    text = wan.text_kv(model, context[:, order].flatten(0, 1))

    history = x0[:, :, : CHUNK_FRAMES * (n - 1)]
    if n > 1 and torch.rand((), generator=generator) < drift:
        history = own_predictions(model, x0, context, window, generator)
    if n > 3 and torch.rand((), generator=generator) < LOST_SHARE:
        history = with_a_shape_lost(codec, clips, history, generator)
    # A little noise on the history: at sampling time it is the model's own, never perfect.
    level = 0.15 * torch.rand(b, n - 1, generator=generator) * (torch.rand(b, n - 1, generator=generator) < 0.7)
    level = per_frame(level)[:, None, :, None, None]
    history = history + level * torch.randn(history.shape, generator=generator)

    sigma = sample_sigmas((b, copies * n), generator)
    target = x0.repeat(1, 1, copies, 1, 1)
    velocity, noise = predict(model, history, target, sigma, text, attend, generator)
    weight = (sigma / sigma.clamp(min=0.5)).square()
    error = (velocity - (noise - target)).square().mean((1, 3, 4)).unflatten(1, (-1, CHUNK_FRAMES)).mean(2)
    return (weight * error).mean()


def predict(
    model: wan.CausalWan,
    history: Tensor,
    target: Tensor,
    sigma: Tensor,
    text: wan.TextKV,
    attend: TeacherForcing,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Velocity of the noisy chunks and the noise that was put on them, both shaped like target."""
    noise = torch.randn(target.shape, generator=generator)
    s = per_frame(sigma)[:, None, :, None, None]
    sequence = torch.cat([history, (1 - s) * target + s * noise], 2)
    times = torch.cat([torch.zeros(len(sigma), history.shape[2]), 1000 * per_frame(sigma)], 1)
    return wan.forward(model, sequence, times, text, attend)[:, :, history.shape[2] :], noise


@torch.no_grad()
def with_a_shape_lost(codec: DemoCodec, clips: Clips, history: Tensor, generator: torch.Generator) -> Tensor:
    """History in which one shape of every clip is missing from some chunk on.

    A model that lost a shape behind the other one has to learn that the prompt still wants it.
    """
    kept = clips.present.clone()
    kept[torch.arange(len(clips)), torch.randint(2, (len(clips),), generator=generator)] = False
    without = codec.encode(render(replace(clips, present=kept)).transpose(1, 2))
    chunks = history.shape[2] // CHUNK_FRAMES
    first = CHUNK_FRAMES * int(torch.randint(1, chunks, (), generator=generator))
    return torch.cat([history[:, :, :first], without[:, :, first : history.shape[2]]], 2)


@torch.no_grad()
def own_predictions(
    model: wan.CausalWan, x0: Tensor, context: Tensor, window: int | None, generator: torch.Generator
) -> Tensor:
    """History made of the model's own one-step predictions of each chunk, from random noise levels."""
    clips, n = context.shape[:2]
    attend = TeacherForcing(n, 1, x0.shape[3] // 2, x0.shape[4] // 2, CONFIG.head_dim, window)
    text = wan.text_kv(model, context[:, [*range(n - 1), *range(n)]].flatten(0, 1))
    history = x0[:, :, : CHUNK_FRAMES * (n - 1)]
    sigma = SCHEDULE[torch.randint(1, len(SCHEDULE), (clips, n), generator=generator)]
    velocity, noise = predict(model, history, x0, sigma, text, attend, generator)
    guess = x0 + per_frame(sigma)[:, None, :, None, None] * (noise - x0 - velocity)
    return guess[:, :, : history.shape[2]]


@torch.no_grad()
def held_out_errors(model: wan.CausalWan, codec: DemoCodec, chunks: int = 7, clips: int = 16) -> list[float]:
    """x0 error at sigma 1 of every chunk, on fixed clips with their true history."""
    generator = torch.Generator().manual_seed(12345)
    data = sample_clips(clips, chunks, generator)
    x0 = codec.encode(render(data).transpose(1, 2))
    attend = TeacherForcing(chunks, 1, x0.shape[3] // 2, x0.shape[4] // 2, CONFIG.head_dim)
    order = [*range(chunks - 1), *range(chunks)]
    text = wan.text_kv(model, encode_slots(data.slots)[:, order].flatten(0, 1))
    history = x0[:, :, : CHUNK_FRAMES * (chunks - 1)]
    velocity, noise = predict(model, history, x0, torch.ones(clips, chunks), text, attend, generator)
    error = (noise - velocity - x0).square().mean((0, 1, 3, 4))
    return error.unflatten(0, (-1, CHUNK_FRAMES)).mean(1).tolist()
