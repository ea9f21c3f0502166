"""Attention with its log-sum-exp: what outputs over parts of the keys are put together from."""

import torch
from torch import Tensor

from ..errors import PlanError

LOGITS = 2**24  # logits held at once where no fused kernel gives the log-sum-exp, in numbers


def attention_with_lse(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Output (B, Lq, H, D) of q (B, Lq, H, D) over k and v (B, Lk, H, D), and log-sum-exp (B, H, Lq) in float32.

    By torch's fused kernels where they can; else in float32, in slices of rows.
    """
    if fuses(q):
        out, lse = fused(*(x.transpose(1, 2) for x in (q, k, v)))
        return out.transpose(1, 2), lse
    rows = max(1, LOGITS // (q.shape[0] * q.shape[2] * k.shape[1]))
    outs, sums = [], []
    for part in q.split(rows, dim=1):
        logits = torch.einsum("bqhd,bkhd->bhqk", part.float(), k.float()) * q.shape[-1] ** -0.5
        outs.append(torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v.float()))
        sums.append(logits.logsumexp(-1))
    return torch.cat(outs, dim=1), torch.cat(sums, dim=2)


def fuses(q: Tensor) -> bool:
    """Whether `fused` serves tensors like this one: torch's flash kernels take halves, on Ampere and newer."""
    if q.device.type != "cuda":
        return q.device.type == "cpu"
    half = q.dtype in (torch.float16, torch.bfloat16)
    return half and torch.version.hip is None and torch.cuda.get_device_capability(q.device) >= (8, 0)


def fused(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp (B, H, Lq) of q, k, v (B, H, L, D), as torch's fused kernels return them together."""
    if not fuses(q):
        raise PlanError(
            f"log-sum-exp scoring needs the CPU, or CUDA (8.0, bf16 or fp16); use exact scoring on {q.device}"
        )
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[:2]
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]
