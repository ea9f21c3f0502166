"""The one attention seam: q (B, Lq, H, D), k and v (B, Lk, H, D) -> (B, Lq, H, D), dense, unmasked.

Backends are picked by capability, never by device name. All masks of this project are made of *which* keys are
handed in, so no backend needs one.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BackendError, shown

AttentionFn = Callable[[Tensor, Tensor, Tensor], Tensor]
HALF = (torch.float16, torch.bfloat16)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's fused attention (flash, cuDNN, memory-efficient or the CPU's flash, as torch finds fit)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention written out in float32: the oracle. Materialises the scores."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k.float()) * q.shape[-1] ** -0.5
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v.float()).to(q.dtype)


def flash2(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention-2 (package flash-attn)."""
    from flash_attn import flash_attn_func

    return flash_attn_func(q, k, v)


def flash3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention-3 (package flash-attn-3, module flash_attn_interface)."""
    from flash_attn_interface import flash_attn_func

    out = flash_attn_func(q, k, v)
    return out[0] if isinstance(out, tuple) else out


def _flash_why_not(module: str, min_sm: tuple[int, int], max_sm: tuple[int, int]):
    def why_not(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        if importlib.util.find_spec(module) is None:
            return f"module {module} is not installed"
        if device.type != "cuda":
            return f"needs a CUDA device, this is {device.type}"
        if dtype not in HALF:
            return f"needs bf16 or fp16, this is {dtype}"
        if head_dim > 256 or head_dim % 8:
            return f"needs a head_dim of at most 256, divisible by 8; this is {head_dim}"
        capability = torch.cuda.get_device_capability(device)
        if not min_sm <= capability <= max_sm:
            return f"needs compute capability {min_sm[0]}.{min_sm[1]} to {max_sm[0]}.{max_sm[1]}, this is {capability}"
        return None

    return why_not


@dataclass(frozen=True)
class Backend:
    """One way to compute attention; `why_not(device, dtype, head_dim)` is None where it can serve."""

    name: str
    title: str
    run: AttentionFn
    why_not: Callable[[torch.device, torch.dtype, int], str | None] = lambda device, dtype, head_dim: None


# Order is preference: the first that fits is what "auto" picks. The reference comes last and always fits.
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("flash3", "FlashAttention-3", flash3, _flash_why_not("flash_attn_interface", (9, 0), (9, 0))),
        Backend("flash2", "FlashAttention-2", flash2, _flash_why_not("flash_attn", (8, 0), (12, 1))),
        Backend("sdpa", "torch scaled_dot_product_attention", sdpa),
        Backend("reference", "plain torch in float32 (slow, exact)", reference),
    )
}


@cache
def choose(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> Backend:
    """The backend called `name`, or for "auto" the first that can serve; says why a named one cannot."""
    if name == "auto":
        return next(b for b in BACKENDS.values() if b.why_not(device, dtype, head_dim) is None)
    if name not in BACKENDS:
        raise BackendError(f"unknown attention backend '{shown(name)}'; known: auto, {', '.join(BACKENDS)}")
    reason = BACKENDS[name].why_not(device, dtype, head_dim)
    if reason:
        raise BackendError(f"attention backend '{shown(name)}' cannot be used here: {reason}; use --attention auto")
    return BACKENDS[name]


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention through the best backend for these tensors."""
    return choose("auto", q.device, q.dtype, q.shape[-1]).run(q, k, v)
