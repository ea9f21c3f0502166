"""Self-attention of a training sequence: clean history beside noisy chunks, all in one pass.

The sequence is [clean chunks 0..n-2 | copy 1 of noisy chunks 0..n-1 | copy 2 | ...]. A clean chunk
sees the clean chunks up to itself, a noisy one the clean chunks before it and itself: exactly what
it will find in the cache. One attention call per chunk costs far less than one masked call.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dummyforcing_core.kv.attention import attention
from dummyforcing_core.kv.rope import apply_rope, rope_table

from .world import CHUNK_FRAMES


class TeacherForcing:
    """`attend` of the model's forward for n chunks and some noisy copies on a rows x cols grid.

    history_chunks limits how many clean chunks before it a chunk sees (None: all of them).
    """

    def __init__(
        self, chunks: int, copies: int, rows: int, cols: int, head_dim: int, history_chunks: int | None = None
    ) -> None:
        clean = list(range(CHUNK_FRAMES * (chunks - 1)))
        noisy = list(range(CHUNK_FRAMES * chunks))
        self._rope = rope_table(clean + copies * noisy, rows, cols, head_dim)
        self._chunks, self._copies = chunks, copies
        self._tokens = CHUNK_FRAMES * rows * cols
        self._history = chunks if history_chunks is None else history_chunks

    attend = staticmethod(attention)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v (B, L, H, D) -> (B, L, H, D)."""
        q, k = (apply_rope(x, *self._rope).transpose(1, 2) for x in (q, k))
        v = v.transpose(1, 2)
        n, size = self._chunks, self._tokens
        out = []
        for index in range(n - 1 + self._copies * n):
            here = slice(index * size, (index + 1) * size)
            clean = index < n - 1
            chunk = index if clean else (index - (n - 1)) % n
            first = max(chunk - self._history, 0) * size
            past = slice(first, (chunk + 1) * size if clean else chunk * size)
            keys, values = k[:, :, past], v[:, :, past]
            if not clean:
                keys = torch.cat([keys, k[:, :, here]], 2)
                values = torch.cat([values, v[:, :, here]], 2)
            out.append(scaled_dot_product_attention(q[:, :, here], keys, values))
        return torch.cat(out, 2).transpose(1, 2)

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Training always reads the output."""
        raise NotImplementedError
