"""Rotary position embedding over (frame, row, column), as in Wan2.1 (arXiv 2503.20314, section 4.1)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..transfer import to_device

THETA = 10_000.0


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Complex pairs given to (frame, row, column); head_dim 128 gives (22, 21, 21)."""
    spatial = head_dim // 6
    return head_dim // 2 - 2 * spatial, spatial, spatial


def _axis(positions: np.ndarray, pairs: int, device: torch.device | str | None) -> Tensor:
    """Unit complex rotations of one axis as float32 (2, positions, pairs): cosines, sines. Angles in float64."""
    angles = np.outer(positions, THETA ** (-np.arange(pairs, dtype=np.float64) / pairs))
    return to_device(torch.from_numpy(np.stack((np.cos(angles), np.sin(angles))).astype(np.float32)), device)


def rope_table(
    frames: Sequence[int] | Tensor,
    rows: int,
    cols: int,
    head_dim: int,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines for tokens in (frame, row, column) order.

    `frames` holds one absolute latent-frame index per frame; there is no upper limit. Angles are formed in
    float64 on the CPU, so the table is exact at any index and on devices without float64.
    Returns two float32 tensors (len(frames) * rows * cols, head_dim // 2).
    """
    index = np.asarray(frames.tolist() if isinstance(frames, Tensor) else frames, dtype=np.float64)
    time_pairs, row_pairs, col_pairs = axis_pairs(head_dim)
    grid = (2, len(index), rows, cols, -1)
    table = torch.cat(
        (
            _axis(index, time_pairs, device)[:, :, None, None].expand(grid),
            _axis(np.arange(rows), row_pairs, device)[:, None, :, None].expand(grid),
            _axis(np.arange(cols), col_pairs, device)[:, None, None, :].expand(grid),
        ),
        dim=-1,
    ).flatten(1, 3)
    return table[0], table[1]


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates interleaved channel pairs of x (B, L, H, D) by tables (L, D/2); same dtype out, float32 inside."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)
