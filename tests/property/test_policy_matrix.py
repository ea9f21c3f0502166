"""Every registered policy over every loop: with a prompt switch, a given start, two clips at once.

Bytes are the plan's; grouped attention equals a loop over heads, and dense attention over the frames that the regions
name; history stays as it is, bit for bit, while a chunk is denoised.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv import cache as cache_module
from dummyforcing_core.kv.cache import Held, KVCache
from dummyforcing_core.kv.group_buffer import HeadRange
from dummyforcing_core.kv.plan import HeadMemory
from dummyforcing_core.loops.run import Run
from dummyforcing_core.loops.table import LOOPS, sample
from dummyforcing_core.models.denoiser import Step, WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import POLICIES, Policy
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule
from tests.property.oracle import rotate
from tests.property.policy_cases import CASES
from tests.property.tiny import HEADS, LAYERS, context, tiny_model

MODEL = tiny_model(sharpness=3)
A, B = context(0), context(1)
LEVELS = Schedule((1.0, 0.6))
FAMILIES = {
    "chunks": Family("tiny", "Tiny", "tests", window_frames=9, sink_frames=1, trained_frames=999),
    "re-caching": Family(
        "tiny", "Tiny re-cache", "tests", window_frames=9, sink_frames=3, trained_frames=999, recache=True
    ),
    "rolling": Family(
        "tiny",
        "Tiny rolling",
        "tests",
        steps=(1000, 500),
        window_frames=9,
        sink_frames=3,
        trained_frames=999,
        loop="rolling",
    ),
    "recompute": Family("tiny", "Tiny", "tests", window_frames=6, trained_frames=999, loop="recompute"),
    "restarts": Family("tiny", "Tiny", "tests", trained_frames=12, overlap_frames=3, loop="restarts"),
}


@dataclass(frozen=True)
class Variant:
    """What a clip has beside its policy and its loop."""

    switch: bool = False
    given: int = 0
    batch: int = 1


VARIANTS = {
    "plain": Variant(),
    "a prompt switch": Variant(switch=True),
    "a given start": Variant(given=4),
    "two clips, a switch": Variant(switch=True, batch=2),
}
POLICY_CASES = {f"{name} {kind}".strip(): policy for name, row in CASES.items() for kind, policy in row.items()}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # no VAE for stills; clips beyond the trained length


def clip(policy: Policy, family: Family, variant: Variant, frames: int = 18) -> Run:
    shape = LatentShape(variant.batch, 16, frames, 4, 4)
    start = None
    if variant.given:
        size = (variant.batch, 16, variant.given, 4, 4)
        start = torch.randn(size, generator=torch.Generator().manual_seed(7))
    prompts = PromptSchedule(((0, A), (8, B))) if variant.switch else PromptSchedule.constant(A)
    noise = SeededNoise(0, shape, family.chunk_frames)
    return Run(WanDenoiser(MODEL), shape, LEVELS, prompts, policy, family, noise, start)


def every(*loops: str):
    """The matrix: policy x loop x variant, without what a loop cannot hold."""
    return pytest.mark.parametrize(
        ("policy", "loop", "variant"),
        [
            pytest.param(policy, FAMILIES[loop], variant, id=f"{name}-{loop}-{kind}")
            for name, policy in POLICY_CASES.items()
            for loop in loops or FAMILIES
            for kind, variant in VARIANTS.items()
            if not (variant.given and loop == "rolling")
        ],
    )


def latents(run: Run) -> Tensor:
    return torch.cat([chunk.latent for chunk in sample(run)], dim=2)


def test_every_policy_and_every_loop_are_in_the_matrix() -> None:
    assert set(CASES) == set(POLICIES), "a policy that is registered needs its row in policy_cases.py"
    assert {family.loop for family in FAMILIES.values()} == set(LOOPS)


@every()
def test_bytes_are_the_plans(policy: Policy, loop: Family, variant: Variant) -> None:
    for chunk in sample(clip(policy, loop, variant)):
        assert chunk.resident_bytes == chunk.predicted_resident_bytes
        assert chunk.history_bytes <= chunk.predicted_history_bytes  # a ring that grew is not full yet
        assert chunk.peak_bytes <= chunk.predicted_peak_bytes
        assert chunk.latent.isfinite().all()


@contextmanager
def one_group_per_head() -> Iterator[None]:
    """Caches that keep every head in a buffer of its own and attend head by head."""

    def alone(memories: list[HeadMemory], slots: list[Held]) -> list[tuple[list[int], list[HeadRange]]]:
        ranges = [HeadRange(0, 1, m, list(h.slots), set(h.banked)) for m, h in zip(memories, slots, strict=True)]
        return [([head], [one]) for head, one in enumerate(ranges)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "_groups", alone)
        yield


@every()
def test_grouped_equals_a_loop_over_heads(policy: Policy, loop: Family, variant: Variant) -> None:
    grouped = latents(clip(policy, loop, variant))
    with one_group_per_head():
        alone = latents(clip(policy, loop, variant))
    assert float((grouped - alone).abs().max()) < 2e-4 * float(grouped.abs().max())


class Steady(WanDenoiser):
    """Looks at all history before and after every denoising pass."""

    def __init__(self) -> None:
        super().__init__(MODEL)
        self.passes = 0

    def __call__(self, x: Tensor, sigma: Tensor, text: Tensor, step: Step) -> Tensor | None:
        before = _history(step.cache)
        out = super().__call__(x, sigma, text, step)
        after = _history(step.cache)
        for (frames, k, v), (frames_after, k_after, v_after) in zip(before, after, strict=True):
            assert frames == frames_after and torch.equal(k, k_after) and torch.equal(v, v_after)
        self.passes += len(before[0][0]) > 0
        return out


def _history(cache: KVCache) -> list[tuple[list[int], Tensor, Tensor]]:
    """Copies of what every head holds."""
    held = (cache.export(layer, head) for layer in range(LAYERS) for head in range(HEADS))
    return [(frames, k.clone(), v.clone()) for frames, k, v in held]


@every()
def test_history_stays_as_it_is_across_passes(policy: Policy, loop: Family, variant: Variant) -> None:
    """Within a pass nothing is committed: commit and repack come between passes."""
    denoise = Steady()
    latents(replace(clip(policy, loop, variant), denoise=denoise))
    assert denoise.passes > 2 or policy == POLICY_CASES["dummy bare"]


class Dense:
    """Every committed frame's raw K and V, layer by layer, taken from what the model hands to the cache."""

    def __init__(self) -> None:
        self.frames: dict[int, dict[int, tuple[Tensor, Tensor]]] = {layer: {} for layer in range(LAYERS)}
        self.staged: dict[int, tuple[Tensor, Tensor]] = {}
        self.compared = 0

    def check(self, cache: KVCache, layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
        """The pass' output against dense attention over the frames that each head's regions name."""
        grid = cache.shape.rows, cache.shape.cols
        for head in range(HEADS):
            regions = cache.regions(layer, head)
            history = [frame for region in regions if region.name != "current" for frame in region.frames]
            own = [rotate(x[:, :, head], list(cache.query_frames), *grid) for x in (q, k)]
            keys, values = [own[1]], [v[:, :, head].double()]
            for frame in history:
                past_k, past_v = self.frames[layer][frame]
                keys.append(rotate(past_k[:, :, head], [frame], *grid))
                values.append(past_v[:, :, head].double())
            scores = own[0] @ torch.cat(keys, 1).transpose(1, 2) * q.shape[-1] ** -0.5
            expected = scores.softmax(-1) @ torch.cat(values, 1)
            assert float((expected - out[:, :, head]).abs().max()) < 1e-4, (layer, head, cache.query_frames)
            self.compared += len(history)


@every("chunks", "re-caching")
def test_grouped_equals_dense_over_the_frames_named(
    policy: Policy, loop: Family, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = Dense()
    call, store, commit = KVCache.__call__, KVCache.store, KVCache.commit

    def noted_call(cache: KVCache, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dense.staged[layer] = k, v
        out = call(cache, layer, q, k, v)
        dense.check(cache, layer, q, k, v, out)
        return out

    def noted_store(cache: KVCache, layer: int, k: Tensor, v: Tensor) -> None:
        dense.staged[layer] = k, v
        store(cache, layer, k, v)

    def noted_commit(cache: KVCache) -> None:
        for layer, (k, v) in dense.staged.items():
            tokens = cache.shape.frame_tokens
            kept = (x[:, -len(cache.pass_frames) * tokens :] for x in (k, v))  # a re-cache has more queries than keys
            parts = zip(*(x.split(tokens, dim=1) for x in kept), strict=True)
            dense.frames[layer].update(zip(cache.pass_frames, parts, strict=True))
        commit(cache)

    monkeypatch.setattr(KVCache, "__call__", noted_call)
    monkeypatch.setattr(KVCache, "store", noted_store)
    monkeypatch.setattr(KVCache, "commit", noted_commit)
    latents(clip(policy, loop, variant))
    assert dense.compared > 0 or policy == POLICY_CASES["dummy bare"]
