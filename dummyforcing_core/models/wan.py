"""The Wan2.1 transformer: modules with the official tensor names, and one forward pass over them.

The forward is a plain function over duck-typed modules and only *calls* submodules (it never reads a Linear's
`.weight`), so it runs unchanged over any Wan module whose layers carry the same names.
Architecture: Wan2.1 (arXiv 2503.20314, section 4.1). Per-frame modulation and external self-attention are what
autoregressive use adds.

Shape letters: B batch, C latent channels, T latent frames, h x w latent grid, HW tokens per frame,
L = T * HW tokens, H heads, D head_dim, S text tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from ..transfer import to_device

TextKV = Sequence[tuple[Tensor, Tensor]]
AttentionFn = Callable[[Tensor, Tensor, Tensor], Tensor]


class SelfAttention(Protocol):
    """What the forward asks of a memory: rotate, remember, attend.

    attend -- the attention function that it uses; text is attended to with the same
    """

    attend: AttentionFn

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v (B, L, H, D), normalised but not rotated; returns (B, L, H, D)."""
        ...

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Takes the last layer's keys and values of a pass whose output nobody reads."""
        ...


@dataclass(frozen=True)
class WanConfig:
    """Geometry of a Wan2.1 transformer; all sizes in channels, rows or counts."""

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    in_dim: int = 16
    out_dim: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


def _modulation(count: int, dim: int) -> nn.Parameter:
    """Random (1, count, dim). Not computed on the meta device: any arithmetic there imports the compiler, a second."""
    x = torch.empty(1, count, dim)
    return nn.Parameter(x if x.is_meta else x.normal_() / dim**0.5)


class Attention(nn.Module):
    def __init__(self, c: WanConfig):
        super().__init__()
        self.num_heads = c.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(c.dim, c.dim) for _ in range(4))
        self.norm_q = nn.RMSNorm(c.dim, eps=c.eps)
        self.norm_k = nn.RMSNorm(c.dim, eps=c.eps)


class Block(nn.Module):
    def __init__(self, c: WanConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.dim, eps=c.eps, elementwise_affine=False)
        self.self_attn = Attention(c)
        self.norm3 = nn.LayerNorm(c.dim, eps=c.eps)
        self.cross_attn = Attention(c)
        self.norm2 = nn.LayerNorm(c.dim, eps=c.eps, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(c.dim, c.ffn_dim), nn.GELU("tanh"), nn.Linear(c.ffn_dim, c.dim))
        self.modulation = _modulation(6, c.dim)


class Head(nn.Module):
    def __init__(self, c: WanConfig):
        super().__init__()
        pt, ph, pw = c.patch_size
        self.norm = nn.LayerNorm(c.dim, eps=c.eps, elementwise_affine=False)
        self.head = nn.Linear(c.dim, c.out_dim * pt * ph * pw)
        self.modulation = _modulation(2, c.dim)


class CausalWan(nn.Module):
    """Parameters of a Wan2.1 text-to-video transformer under their official names; call `forward` below on it."""

    def __init__(self, config: WanConfig):
        super().__init__()
        c = self.config = config
        self.patch_size = c.patch_size
        self.freq_dim = c.freq_dim
        self.patch_embedding = nn.Conv3d(c.in_dim, c.dim, kernel_size=c.patch_size, stride=c.patch_size)
        self.text_embedding = nn.Sequential(nn.Linear(c.text_dim, c.dim), nn.GELU("tanh"), nn.Linear(c.dim, c.dim))
        self.time_embedding = nn.Sequential(nn.Linear(c.freq_dim, c.dim), nn.SiLU(), nn.Linear(c.dim, c.dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(c.dim, 6 * c.dim))
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.num_layers))
        self.head = Head(c)


@dataclass
class Residual:
    """What the blocks added to the tokens in the last step that ran them: (B, L, dim)."""

    value: Tensor | None = None
    reuse: bool = False


def sinusoid(timesteps: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding, cosines first. timesteps (...) -> float32 (..., dim); angles in float64, so on the CPU."""
    t = timesteps.double()
    frequencies = 10_000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = t[..., None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1).float()


def time_embedding(
    model: Any, timesteps: Tensor, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Per-frame time signal of timesteps (B, T) = 1000 * sigma: e (B, T, dim) and modulation e0 (B, T, 6, dim).

    Timesteps on the CPU, both results in dtype on the model's device (None: the CPU).
    """
    e = model.time_embedding(to_device(sinusoid(timesteps, model.freq_dim).to(dtype), device))
    return e, model.time_projection(e).unflatten(-1, (6, -1))


def _heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1))


def text_kv(model: Any, context: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Cross-attention keys and values per layer, each (B, S, H, D), of text features (B, S, text_dim).

    They depend on the prompt alone: once per prompt is enough.
    """
    context = model.text_embedding(context)
    pairs = []
    for block in model.blocks:
        attn = block.cross_attn
        k, v = attn.norm_k(attn.k(context)), attn.v(context)
        pairs.append((_heads(k, attn.num_heads), _heads(v, attn.num_heads)))
    return pairs


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, T*HW, dim) * (1 + scale) + shift, with one (B, T, dim) set per frame."""
    frames = x.unflatten(1, (shift.shape[1], -1))
    return torch.addcmul(shift[:, :, None], frames, 1 + scale[:, :, None]).flatten(1, 2)


def _gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + y * gate with one (B, T, dim) gate per frame."""
    split = (gate.shape[1], -1)
    return torch.addcmul(x.unflatten(1, split), y.unflatten(1, split), gate[:, :, None]).flatten(1, 2)


def _cross_attention(attn: Any, x: Tensor, kv: tuple[Tensor, Tensor], attend: AttentionFn) -> Tensor:
    """x (B, L, dim) over one prompt's K/V. K/V of batch n*B split L into n equal spans, one prompt each."""
    k, v = kv
    spans = max(k.shape[0] // x.shape[0], 1)
    q = rearrange(_heads(attn.norm_q(attn.q(x)), attn.num_heads), "b (n l) h d -> (b n) l h d", n=spans)
    k, v = (y.expand(q.shape[0], -1, -1, -1) for y in (k, v))
    return attn.o(rearrange(attend(q, k, v), "(b n) l h d -> b (n l) (h d)", n=spans))


def _blocks(model: Any, x: Tensor, e0: Tensor, text: TextKV, memory: SelfAttention, output: bool) -> Tensor | None:
    """All transformer blocks over tokens x (B, L, dim); None if the last layer only stored K/V."""
    last = len(model.blocks) - 1
    for layer, block in enumerate(model.blocks):
        modulation = block.modulation.to(x)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (modulation[:, None] + e0.to(x)).unbind(2)
        attn = block.self_attn
        y = _modulate(block.norm1(x), shift, scale)
        k, v = _heads(attn.norm_k(attn.k(y)), attn.num_heads), _heads(attn.v(y), attn.num_heads)
        if layer == last and not output:
            memory.store(layer, k, v)
            return None
        q = _heads(attn.norm_q(attn.q(y)), attn.num_heads)
        x = _gated(x, attn.o(memory(layer, q, k, v).flatten(2)), gate)
        x = x + _cross_attention(block.cross_attn, block.norm3(x), text[layer], memory.attend)
        x = _gated(x, block.ffn(_modulate(block.norm2(x), ffn_shift, ffn_scale)), ffn_gate)
    return x


def forward(
    model: Any,
    x: Tensor,
    time: Tensor | tuple[Tensor, Tensor],
    text: TextKV,
    memory: SelfAttention,
    output: bool = True,
    residual: "Residual | None" = None,
) -> Tensor | None:
    """Velocity (noise minus clean) of latents x (B, C, T, h, w); h and w must be multiples of the patch.

    time    -- timesteps (B, T) = 1000 * sigma, on the CPU, or the pair that `time_embedding` made of them
    text    -- what `text_kv` made of the prompt
    memory  -- self-attention of every layer goes through it
    output  -- False: only K/V are wanted; everything after the last layer's K/V is left out, None returned
    residual -- what the blocks added in an earlier step: added again instead of running them, or recorded
    """
    e, e0 = time if isinstance(time, tuple) else time_embedding(model, time, x.dtype, x.device)
    grid = [size // p for size, p in zip(x.shape[2:], model.patch_size, strict=True)]
    x = model.patch_embedding(x).flatten(2).transpose(1, 2)
    if residual is not None and residual.reuse and residual.value is not None:
        x = x + residual.value
    else:
        before = x
        y = _blocks(model, x, e0, text, memory, output)
        if y is None:
            return None
        x = y
        if residual is not None:
            residual.value = x - before
    shift, scale = (model.head.modulation.to(x)[:, None] + e.to(x)[:, :, None]).unbind(2)
    x = model.head.head(_modulate(model.head.norm(x), shift, scale))
    pt, ph, pw = model.patch_size
    t, rows, cols = grid
    return rearrange(x, "b (t r w) (pt ph pw c) -> b c (t pt) (r ph) (w pw)", t=t, r=rows, w=cols, pt=pt, ph=ph, pw=pw)


__all__ = [
    "CausalWan",
    "Residual",
    "SelfAttention",
    "TextKV",
    "WanConfig",
    "forward",
    "sinusoid",
    "text_kv",
    "time_embedding",
]
