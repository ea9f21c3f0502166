"""Long attention goes in parts that can be left; short attention goes through as it is."""

import pytest
import torch
from torch import Tensor

from dummyforcing_core.kv import interruptible as parts
from dummyforcing_core.kv.attention import reference, sdpa
from dummyforcing_core.kv.interruptible import BLOCK, interruptible


def tokens(length: int, seed: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, 2, 8, generator=torch.Generator().manual_seed(seed))


class Counted:
    """Attention that notes how many queries it was asked."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.rows.append(q.shape[1])
        return reference(q, k, v)


def test_a_short_call_goes_through_whole() -> None:
    counted = Counted()
    q, k, v = tokens(300, 0), tokens(40, 1), tokens(40, 2)
    assert torch.equal(interruptible(counted)(q, k, v), reference(q, k, v))
    assert counted.rows == [300]


@pytest.mark.parametrize("length", [2 * BLOCK, 2 * BLOCK + 1, 3 * BLOCK - 1])
@pytest.mark.parametrize("attend", [sdpa, reference])
def test_parts_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, length: int, attend) -> None:
    monkeypatch.setattr(parts, "CPU_PAIRS", 2 * BLOCK * 40)
    q, k, v = tokens(length, 0), tokens(40, 1), tokens(40, 2)
    torch.testing.assert_close(interruptible(attend)(q, k, v), attend(q, k, v))


def test_parts_are_whole_blocks_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CPU_PAIRS", 2 * 40 * (2 * BLOCK + 5))
    counted = Counted()
    interruptible(counted)(tokens(5 * BLOCK + 3, 0), tokens(40, 1), tokens(40, 2))
    assert counted.rows == [2 * BLOCK, 2 * BLOCK, BLOCK + 3]


def test_more_keys_than_a_part_may_have_leave_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CPU_PAIRS", 1)
    counted = Counted()
    interruptible(counted)(tokens(2 * BLOCK, 0), tokens(40, 1), tokens(40, 2))
    assert counted.rows == [BLOCK, BLOCK]


class Cancelled(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_cancel_ends_a_call_between_two_parts(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    monkeypatch.setattr(parts, "CPU_PAIRS", 1)
    counted = Counted()

    def check() -> None:
        if len(counted.rows) == after:
            raise Cancelled

    with pytest.raises(Cancelled):
        interruptible(counted, check)(tokens(9 * BLOCK, 0), tokens(40, 1), tokens(40, 2))
    assert len(counted.rows) == after


class Event:
    """A GPU's, done after it was asked three times."""

    def __init__(self) -> None:
        self.asked = 0

    def query(self) -> bool:
        self.asked += 1
        return self.asked > 3


def test_the_host_stays_near_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.time, "sleep", lambda seconds: None)
    handed = parts.deque([Event(), Event(), Event(), Event()])
    checks: list[int] = []
    parts._keep_near(handed, lambda: checks.append(len(handed)))
    assert checks == [4, 4, 4, 3, 3, 3] and len(handed) == parts.AHEAD


def test_a_cancel_does_not_wait_for_the_gpu() -> None:
    def check() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        parts._keep_near(parts.deque([Event(), Event(), Event()]), check)
