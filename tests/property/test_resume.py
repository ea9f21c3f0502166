"""A clip that goes on behind chunks that are made already is, bit for bit, the clip that was made at once."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dummyforcing_core.errors import PlanError
from dummyforcing_core.loops.run import ChunkResult, Made, MemoryLog, Run, StoredKV
from dummyforcing_core.loops.table import sample
from dummyforcing_core.policies import Full, Policy
from tests.property.test_policy_matrix import FAMILIES, POLICY_CASES, VARIANTS, clip

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RUNS = {
    f"{name}-{loop}-{kind}": (policy, loop, kind)
    for name, policy in POLICY_CASES.items()
    for loop in FAMILIES
    for kind in ("a prompt switch", "a given start")
    if not (kind == "a given start" and loop == "rolling")
}


class Stills:
    """Encodes a frame as the mean of all that was pushed up to it, and more: it must be asked at the right moment."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.asked: list[int] = []

    def push(self, latents: Tensor) -> None:
        self.seen += latents.unbind(2)

    def at(self, frame: int) -> Tensor:
        self.asked.append(frame)
        return (torch.stack(self.seen[: frame + 1], 2).mean(2, keepdim=True) + frame / 100).clone()


def made_of(chunks: list[ChunkResult]) -> Made:
    """What a file of the finished chunks holds."""
    by_start = {chunk.span.start: chunk.latent.clone() for chunk in chunks}
    stills = dict(chunk.still for chunk in chunks if chunk.still is not None)
    log = tuple(chunk.log for chunk in chunks if chunk.log is not None)
    assert len(log) == len(chunks)
    return Made(lambda span: by_start[span.start], log, chunks[-1].window if chunks else (), stills)


def cuts(run: Run, chunks: list[ChunkResult]) -> Iterator[tuple[int, list[ChunkResult], Stills]]:
    for done in range(len(chunks) + 1):
        stills = Stills()
        yield done, list(sample(replace(run, made=made_of(chunks[:done]), still=stills))), stills


@pytest.mark.parametrize(("policy", "loop", "kind"), RUNS.values(), ids=RUNS)
def test_a_clip_goes_on_from_any_chunk_bit_for_bit(policy: Policy, loop: str, kind: str) -> None:
    run = clip(policy, FAMILIES[loop], VARIANTS[kind])
    whole = list(sample(replace(run, still=Stills())))
    for done, rest, _ in cuts(run, whole):
        assert [chunk.span for chunk in rest] == [chunk.span for chunk in whole[done:]]
        for ours, theirs in zip(rest, whole[done:], strict=True):
            assert torch.equal(ours.latent, theirs.latent), (done, ours.span)
            assert (ours.plan, ours.banked, ours.history_bytes) == (theirs.plan, theirs.banked, theirs.history_bytes)
            assert ours.log == theirs.log


@pytest.mark.parametrize("loop", ["recompute", "restarts"])
def test_what_was_encoded_is_not_encoded_again(loop: str) -> None:
    run = clip(POLICY_CASES["full"], FAMILIES[loop], VARIANTS["plain"], frames=30)
    stills = Stills()
    whole = list(sample(replace(run, still=stills)))
    told = [chunk.still[0] for chunk in whole if chunk.still is not None]
    assert told and told == stills.asked
    for done, _, again in cuts(run, whole):
        assert again.asked == [chunk.still[0] for chunk in whole[done:] if chunk.still is not None]


STORED = {
    f"{name}-{loop}-{kind}": (policy, loop, kind)
    for name, policy in POLICY_CASES.items()
    for loop in ("chunks", "re-caching")
    for kind in ("a prompt switch", "a given start")
}


@pytest.mark.parametrize(("policy", "loop", "kind"), STORED.values(), ids=STORED)
def test_a_clip_goes_on_from_stored_keys_and_values(policy: Policy, loop: str, kind: str) -> None:
    """Chunks up to the stored ones are read by no pass; a bank's rule that looks at keys has them read all the same."""
    run = clip(policy, FAMILIES[loop], VARIANTS[kind])
    snapshots: dict[int, list[list[tuple[Tensor, Tensor]]]] = {}

    def store(span, latent: Tensor, cache) -> None:
        layers = range(cache.plan.layers)
        snapshots[span.chunk] = [[(k.clone(), v.clone()) for k, v in cache.stored(layer)] for layer in layers]

    whole = list(sample(replace(run, on_commit=store)))
    rule = whole[-1].plan.bank
    read = Counted(run.denoise)
    for done in range(1, len(whole)):
        for chunk in {0, done // 2, done - 1}:
            if chunk not in snapshots:  # a given start
                continue
            made = replace(made_of(whole[:done]), stored=StoredKV(chunk, snapshots[chunk].__getitem__))
            read.clean.clear()
            rest = list(sample(replace(run, denoise=read, made=made)))
            assert [x.latent.flatten().tolist() for x in rest] == [x.latent.flatten().tolist() for x in whole[done:]]
            assert [(x.plan, x.banked, x.log) for x in rest] == [(x.plan, x.banked, x.log) for x in whole[done:]]
            if not (rule is not None and rule.reads_keys) and not policy.may_observe_again and not run.recaches:
                assert len(read.clean) == len(whole) - 1 - chunk


class Counted:
    """Counts the passes that are made to be remembered."""

    def __init__(self, denoise) -> None:
        self._denoise, self.clean = denoise, list[int]()

    def __getattr__(self, name: str):
        return getattr(self._denoise, name)

    def __call__(self, x, sigma, context, step):
        if not float(sigma.max()):
            self.clean.append(x.shape[2])
        return self._denoise(x, sigma, context, step)


@pytest.mark.parametrize(("policy", "loop", "kind"), RUNS.values(), ids=RUNS)
def test_a_memory_that_is_made_anew_is_the_same_memory(policy: Policy, loop: str, kind: str) -> None:
    """Behind chunks of another log, the run's own policy plans; a look at heads that needs their making is refused."""
    run = clip(policy, FAMILIES[loop], VARIANTS[kind])
    whole = list(sample(replace(run, still=Stills())))
    other = MemoryLog(Full().plan(run.setting))
    watches = loop not in ("chunks", "re-caching", "restarts") or policy.observed_step is not None
    for done in range(1, len(whole)):
        made = replace(made_of(whole[:done]), log=(other,) * done, fresh=done)
        looked = any(chunk.log.observed for chunk in whole[:done])
        try:
            rest = list(sample(replace(run, made=made, still=Stills())))
        except PlanError as error:
            assert "needs no look at chunk" in str(error) and watches
            continue
        assert not (looked and watches)
        for ours, theirs in zip(rest, whole[done:], strict=True):
            assert torch.equal(ours.latent, theirs.latent), (done, ours.span)
            assert (ours.plan, ours.banked, ours.log) == (theirs.plan, theirs.banked, theirs.log)


@pytest.mark.parametrize("loop", FAMILIES)
def test_another_policy_goes_on_and_can_be_gone_on_with_itself(loop: str) -> None:
    run = clip(POLICY_CASES["full"], FAMILIES[loop], VARIANTS["a prompt switch"])
    whole = list(sample(replace(run, still=Stills())))
    narrow = replace(run, policy=POLICY_CASES["window narrow"])
    done = len(whole) // 2
    made = replace(made_of(whole[:done]), fresh=done)
    branch = list(sample(replace(narrow, made=made, still=Stills())))
    assert all(bool(chunk.latent.isfinite().all()) for chunk in branch)
    assert not torch.equal(branch[-1].latent, whole[-1].latent)
    again = replace(made_of([*whole[:done], *branch[:1]]), fresh=done)
    for ours, theirs in zip(sample(replace(narrow, made=again, still=Stills())), branch[1:], strict=True):
        assert torch.equal(ours.latent, theirs.latent) and ours.log == theirs.log
