"""Attention that can be left in the middle.

Between two layers Python has its say, and with it Ctrl-C and a host's cancel. But one call over the tokens of a large
picture takes minutes on a CPU, and a GPU is handed a whole pass long before it has done its first layer.
"""

import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from .attention import AttentionFn

CPU_PAIRS, GPU_PAIRS = 2**26, 2**30  # queries times keys of a part: about a second of a 1.3B model, on a slow one
BLOCK = 128  # queries: kernels work in such blocks, so parts of whole blocks cost nothing
AHEAD = 2  # parts that a GPU is handed before it has done them: enough to keep it busy


def interruptible(attend: AttentionFn, check: Callable[[], None] = lambda: None) -> AttentionFn:
    """`attend` in parts of so many queries that none takes long, with `check` before each; raise in it to cancel.

    Short calls go through as they are, and nothing waits for them.
    """
    handed: deque[torch.cuda.Event] = deque()

    def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        check()
        pairs = CPU_PAIRS if q.device.type == "cpu" else GPU_PAIRS
        rows = max(pairs // (q.shape[0] * k.shape[1]) // BLOCK, 1) * BLOCK
        if rows >= q.shape[1]:
            return attend(q, k, v)
        out = torch.empty_like(q)
        for start in range(0, q.shape[1], rows):
            check()
            part = slice(start, start + rows)
            out[:, part] = attend(q[:, part], k, v)
            if q.device.type == "cuda":
                handed.append(torch.cuda.current_stream(q.device).record_event())
                _keep_near(handed, check)
        return out

    return attended


def _keep_near(handed: "deque[torch.cuda.Event]", check: Callable[[], None]) -> None:
    """Returns when the GPU has only `AHEAD` parts before it."""
    while len(handed) > AHEAD:
        if handed[0].query():
            handed.popleft()
        else:
            check()
            time.sleep(0.002)
