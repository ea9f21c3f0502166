"""The README's table of cards is what the script computes."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(ROOT / "scripts" / "card_table.py"))


def test_the_readme_has_the_computed_table(script: dict) -> None:
    assert script["table"]() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_key_value_bytes_by_hand(script: dict) -> None:
    kv, activations, decode = script["needs"](script["POLICIES"]["dense, window 21"], "480p")
    window = 30 * 12 * 21 * 1560 * 128 * 2 * 2
    assert kv == pytest.approx(window * 31 / 30 / 2**30, rel=1e-3)  # one layer is there twice while it is re-packed
    assert activations == pytest.approx(3 * 60 * 104 * 2 * 0.01 * 1536 / 2222 / 1024, rel=1e-6)
    assert decode == pytest.approx(2200 * 60 * 104 * 128 / 2**30, rel=1e-6)


def test_a_larger_card_is_never_worse(script: dict) -> None:
    order = ["no", "tiles", "offload", "waits", "yes"]
    for size in ("480p", "720p", "1080p"):
        for policy in script["POLICIES"].values():
            verdicts = [order.index(script["verdict"](card, *script["needs"](policy, size))) for card in range(4, 80)]
            assert verdicts == sorted(verdicts)
            assert verdicts[0] < verdicts[-1] == 4
