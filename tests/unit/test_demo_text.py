"""The demo's prompts: English in, slot values and a context tensor out."""

import pytest
import torch

from demo.prompts import describe, sample_clips
from dummyforcing_core.text.demo_text import (
    ABSENT,
    LIGHT_SLOT,
    SLOT_NAMES,
    TEXT_DIM,
    TEXT_LEN,
    encode_prompt,
    encode_slots,
    parse_prompt,
)

RED, YELLOW, GREEN, CYAN, BLUE, MAGENTA = range(6)
CIRCLE, SQUARE, TRIANGLE = range(3)
STILL, SIDEWAYS, UP_DOWN, DIAGONAL = range(4)
SLOW, NORMAL, FAST = range(3)


def named(prompt: str) -> dict[str, int]:
    values, unknown = parse_prompt(prompt)
    assert unknown == []
    return {name: value for name, value in zip(SLOT_NAMES, values, strict=True) if value >= 0}


def test_a_full_sentence():
    assert named(
        "A red circle on the left moving up and down fast and a blue square at the top right standing still, lights off"
    ) == {
        "A colour": RED, "A kind": CIRCLE, "A motion": UP_DOWN, "A speed": FAST, "A place": 3,
        "B colour": BLUE, "B kind": SQUARE, "B motion": STILL, "B place": 2,
        "light": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a crimson ball and a purple box", {"A colour": RED, "A kind": CIRCLE, "B colour": MAGENTA, "B kind": SQUARE}),
        ("a fast green cube and a slow disc", {"A colour": GREEN, "A speed": FAST, "B kind": CIRCLE, "B speed": SLOW}),
        ("a shape and a yellow thing", {"B colour": YELLOW}),
        ("a cyan triangle in the middle and a ball at the bottom left", {"A place": 4, "B place": 6}),
        ("a box moving to the left and a ball moving diagonally slowly", {"A motion": SIDEWAYS, "B motion": DIAGONAL}),
        ("a ball that is red and a box", {"A kind": CIRCLE, "B colour": RED}),
        ("a ball and a box that is red", {"B colour": RED}),
        ("the top right red ball and the box at the bottom", {"A place": 2, "A colour": RED, "B place": 7}),
    ],
)
def test_words_find_their_noun(prompt, expected):
    values = named(prompt)
    assert expected.items() <= values.items()


def test_one_noun_means_no_second_shape():
    assert named("a red ball") == {"A colour": RED, "A kind": CIRCLE, "B kind": ABSENT, "light": 1}


def test_no_noun_leaves_both_shapes_unnamed():
    assert named("lights off") == {"light": 0}
    assert named("") == {"light": 1}


def test_unknown_words_are_returned_in_order():
    assert parse_prompt("a furry red ball riding a box")[1] == ["furry", "riding"]
    assert parse_prompt("a ball, a box and a triangle")[1] == ["a third shape (triangle)"]


def test_describe_and_parse_are_inverse():
    slots = sample_clips(300, 4, torch.Generator().manual_seed(3)).slots.flatten(0, 1)
    for values in slots.tolist():
        assert parse_prompt(describe(values)) == (values, [])
    assert len({tuple(values) for values in slots.tolist()}) > 600


def test_every_slot_and_value_has_its_own_row():
    counts = [6, 3, 4, 3, 9, 6, 4, 4, 3, 9, 2]
    rows = []
    for slot, count in enumerate(counts):
        values = torch.full((count + 1, TEXT_LEN), -1)
        values[:, slot] = torch.arange(-1, count)
        rows.append(encode_slots(values)[:, slot])
    rows = torch.cat(rows)
    assert len(rows.unique(dim=0)) == len(rows) == sum(counts) + len(counts)


def test_context_shape_and_light():
    context, unknown = encode_prompt("a red ball, lights off")
    lit, _ = encode_prompt("a red ball")
    assert context.shape == (1, TEXT_LEN, TEXT_DIM) and context.dtype == torch.float32 and unknown == []
    assert (context != lit).any(2).nonzero().tolist() == [[0, LIGHT_SLOT]]
