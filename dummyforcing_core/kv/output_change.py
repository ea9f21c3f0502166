"""Output change: by how much a head's contribution to its layer changes if it keeps less of its history.

After Head Forcing's question (which heads need far frames), with another answer than attention mass: for a head h and
a memory m, the root mean square over tokens of |W_o,h (o_all - o_m)|, where o_all is the head's output over all keys it
sees, o_m over those that m would keep, and W_o,h the rows of the layer's output projection that belong to h. All from
one noisy pass: with the log-sum-exp of every part of the keys, the output over any union of parts follows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PlanError
from ..transfer import to_device
from .cache import Region
from .lse import attention_with_lse
from .plan import HeadMemory
from .scoring import whole_pass

SLICE_ELEMENTS = 2**22  # numbers of one slice of outputs held at once, in float32

Project = Callable[[int, Tensor], Tensor]
NEAR = "newest chunk"  # all but the far frames


def memory_options(chunk_frames: int) -> dict[str, HeadMemory]:
    """The memories that are asked about by default, for chunks of so many latent frames."""
    return {
        "nothing": HeadMemory(0, 0),
        "newest frame": HeadMemory(0, 1),
        NEAR: HeadMemory(0, chunk_frames),
        "first frame": HeadMemory(1, 0),
        "first and newest frame": HeadMemory(1, 1),
    }


@dataclass(frozen=True, eq=False)
class OutputChange:
    """options -- the memories asked about, by name; change -- (layers, heads, options) float32 on the CPU."""

    options: Mapping[str, HeadMemory]
    change: Tensor

    def __post_init__(self) -> None:
        if self.change.ndim != 3 or self.change.shape[2] != len(self.options):
            raise PlanError(
                f"expected changes (layers, heads, {len(self.options)}), got shape {tuple(self.change.shape)}; observe "
                "the heads again"
            )

    @property
    def far(self) -> Tensor:
        """What a head's output changes by without the frames before the newest chunk; (layers, heads)."""
        return self.change[..., list(self.options).index(NEAR)]

    def of(self, memory: HeadMemory) -> Tensor:
        """What it changes by under this memory; PlanError if heads were not asked about it."""
        known = list(self.options.values())
        if memory not in known:
            asked = ", ".join(f"{one.sink_frames} first and {one.recent_frames} newest" for one in known)
            raise PlanError(
                f"expected output change of heads that keep {memory.sink_frames} first and {memory.recent_frames} "
                f"newest frames, got a profile of {asked}; choose of these, or observe the clip itself, without a "
                "profile"
            )
        return self.change[..., known.index(memory)]

    @classmethod
    def mean(cls, changes: Sequence["OutputChange"]) -> "OutputChange":
        """The average of changes of one model, all with the same options."""
        return cls(changes[0].options, torch.stack([c.change for c in changes]).mean(0))


def gram_matrices(project: Callable[[Tensor], Tensor], heads: int, head_dim: int, like: Tensor) -> Tensor:
    """W W^T of every head's rows W (D, dim) of a projection that is only called: (heads, D, D) float32.

    project -- (n, heads * D) -> (n, dim), with a bias or without; `like` gives device and dtype
    """
    dim = heads * head_dim
    bias = project(like.new_zeros(1, dim)).float()
    grams = []
    for head in range(heads):
        unit = like.new_zeros(head_dim, dim)
        unit[:, head * head_dim : (head + 1) * head_dim].fill_diagonal_(1)
        rows = project(unit).float() - bias
        grams.append(rows @ rows.T)
    return torch.stack(grams)


class ChangeObservation:
    """Collects the output change of every head during one pass; an `Observer` of the cache.

    project -- (layer, tokens (n, heads * D)) -> (n, dim): the layer's output projection
    """

    def __init__(self, layers: int, heads: int, options: Mapping[str, HeadMemory], project: Project):
        self._options, self._project, self._heads = dict(options), project, heads
        self._grams: dict[int, Tensor] = {}
        self._change: list[list[Tensor | None]] = [[None] * heads for _ in range(layers)]

    def __call__(self, layer: int, heads: list[int], q: Tensor, k: Tensor, v: Tensor, regions: list[Region]) -> None:
        if layer not in self._grams:
            like = q.new_empty(0)
            self._grams[layer] = gram_matrices(lambda x: self._project(layer, x), self._heads, q.shape[3], like)
        kept, parts = _parts(regions, list(self._options.values()), q.device)
        grams = self._grams[layer][to_device(torch.tensor(heads), q.device)]
        energy = _energy(q, k, v, parts, to_device(kept, q.device), grams)
        change = (energy / (q.shape[0] * q.shape[1])).sqrt()
        for i, head in enumerate(heads):
            self._change[layer][head] = change[i]

    def result(self) -> OutputChange:
        """What was seen; PlanError if a head was not."""
        return OutputChange(self._options, whole_pass(self._change))


def _parts(regions: list[Region], options: list[HeadMemory], device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Tokens in parts that every option keeps whole or drops whole: (options, parts) bool, and every part's tokens."""
    frames = [frame for region in regions if region.name != "current" for frame in region.frames]
    kept_by = [_kept(frames, option) for option in options]
    parts: dict[tuple[bool, ...], list[Tensor]] = {}
    for region in regions:
        if not region.frames:
            continue
        tokens = torch.arange(region.start_token, region.stop_token, device=device).chunk(len(region.frames))
        for frame, part in zip(region.frames, tokens, strict=True):
            key = tuple(region.name == "current" or frame in kept for kept in kept_by)
            parts.setdefault(key, []).append(part)
    return torch.tensor(list(parts)).T, [torch.cat(part) for part in parts.values()]


def _kept(frames: list[int], memory: HeadMemory) -> set[int]:
    """Those of the history frames that a head of this memory would hold."""
    recent = len(frames) if memory.recent_frames is None else memory.recent_frames
    newest = sorted(frames)[max(len(frames) - recent, 0) :]
    return {*newest, *(frame for frame in frames if frame < memory.sink_frames)}


def _energy(q: Tensor, k: Tensor, v: Tensor, parts: list[Tensor], kept: Tensor, grams: Tensor) -> Tensor:
    """Sums over batch and tokens of |W (o_all - o_option)|^2, (heads, options); q, k, v (B, L, H, D)."""
    pairs = [attention_with_lse(q, k[:, tokens], v[:, tokens]) for tokens in parts]
    lse = torch.stack([lse for _, lse in pairs], dim=-1)  # (B, H, Lq, parts)
    weights = lse.softmax(-1)
    rows = max(1, SLICE_ELEMENTS // (q.shape[0] * q.shape[2] * q.shape[3]))
    total = q.new_zeros(q.shape[2], len(kept), dtype=torch.float32)
    for start in range(0, q.shape[1], rows):
        now = slice(start, start + rows)
        outs = torch.stack([out[:, now].float().transpose(1, 2) for out, _ in pairs], dim=-1)  # (B, H, rows, D, parts)
        for i, keeps in enumerate(kept):
            fewer = lse[:, :, now].masked_fill(~keeps, float("-inf")).softmax(-1)
            change = torch.einsum("bhqdp,bhqp->bhqd", outs, weights[:, :, now] - fewer)
            total[:, i] += torch.einsum("bhqd,hde,bhqe->h", change, grams, change)
    return total.clamp_min(0)
