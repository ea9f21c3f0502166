"""Floating-point operations of one chunk, counted from the geometry: matrix products only, a multiply-add is two."""

from dataclasses import dataclass
from math import prod

from dummyforcing_core.kv.plan import HeadPlan, KVShape
from dummyforcing_core.models.wan import WanConfig


@dataclass(frozen=True)
class ChunkFlops:
    """One chunk, all its passes. `self_attention` is what a head plan changes; text K/V (once per prompt) is left out.

    linear -- projections, feed-forward, patch embedding and head; cross_attention -- its two products alone
    """

    linear: int
    cross_attention: int
    self_attention: int

    @property
    def total(self) -> int:
        return self.linear + self.cross_attention + self.self_attention

    @property
    def attention_share(self) -> float:
        """The share of self-attention in all of it."""
        return self.self_attention / self.total

    def __add__(self, other: "ChunkFlops") -> "ChunkFlops":
        return ChunkFlops(
            self.linear + other.linear,
            self.cross_attention + other.cross_attention,
            self.self_attention + other.self_attention,
        )


def layer_keys(plan: HeadPlan, shape: KVShape, history_frames: int) -> list[int]:
    """Per layer, the latent frames of keys that its heads see in one pass, summed over the heads."""
    return [
        sum(min(history_frames, memory.capacity_frames(shape.clip_frames)) + shape.pass_frames for memory in row)
        for row in plan.memories
    ]


def pass_flops(
    config: WanConfig, plan: HeadPlan, shape: KVShape, history_frames: int, output: bool = True
) -> ChunkFlops:
    """One pass through the blocks with that much history; without output the last layer only makes K and V."""
    queries = shape.batch * shape.pass_frames * shape.frame_tokens
    layers = config.num_layers - (not output)
    linear = 12 * queries * config.dim**2 + 4 * queries * config.dim * config.ffn_dim  # q k v o, cross q o, ffn
    per_key_frame = 4 * queries * shape.frame_tokens * shape.head_dim
    return ChunkFlops(
        linear * layers + (0 if output else 4 * queries * config.dim**2),
        layers * 4 * queries * config.text_len * config.dim,
        per_key_frame * sum(layer_keys(plan, shape, history_frames)[:layers]),
    )


def chunk_flops(
    config: WanConfig, plan: HeadPlan, shape: KVShape, history_frames: int, steps: int, skipped: int = 0
) -> ChunkFlops:
    """`steps` denoising passes, of which `skipped` leave out the blocks, and the clean pass."""
    queries = shape.batch * shape.pass_frames * shape.frame_tokens
    patch = 2 * queries * prod(config.patch_size) * config.dim
    ends = ChunkFlops((steps + 1) * patch * config.in_dim + steps * patch * config.out_dim, 0, 0)
    denoising = pass_flops(config, plan, shape, history_frames)
    return sum([denoising] * (steps - skipped), ends + pass_flops(config, plan, shape, history_frames, output=False))
