"""Text of the demo world: a prompt in plain English -> a context tensor.

    context, unknown = encode_prompt("a red circle on the left and a blue square, lights off")

The world has two shapes, A (named first, drawn on top) and B. A prompt fills eleven slots, one
context row each; there is no learned table, so the same words always give the same numbers.
A slot the prompt does not name keeps its slot code alone, which means "as before"
(for a place: A stands left, B right). Of more than two nouns the surplus is reported as unknown.
"""

import re

import torch

from .demo_words import ARTICLES, COLOUR, GLUE, KIND, LIGHT, MOTION, PHRASES, PLACE_COLUMN, PLACE_ROW, SPEED

TEXT_DIM = 64
SLOT_NAMES = (
    "A colour",
    "A kind",
    "A motion",
    "A speed",
    "A place",
    "B colour",
    "B kind",
    "B motion",
    "B speed",
    "B place",
    "light",
)
TEXT_LEN = len(SLOT_NAMES)
UNNAMED = -1
ABSENT = 3  # the value of "B kind" that says there is no second shape
FIELDS = ("colour", "kind", "motion", "speed", "place")
LIGHT_SLOT = 10

# First column of each field's one-hot value code; the slot code takes columns 0..10.
_VALUE_COLUMN = {"colour": 16, "kind": 22, "motion": 26, "speed": 30, "row": 33, "column": 36, "light": 39}
_CODE_SIZE = 4.0  # two or three ones among 64 numbers, scaled to about unit RMS


def _codes() -> torch.Tensor:
    """(TEXT_LEN, 10, TEXT_DIM): the row of every slot for value -1 (index 0) and values 0..8."""
    table = torch.zeros(TEXT_LEN, 10, TEXT_DIM)
    for slot in range(TEXT_LEN):
        table[slot, :, slot] = _CODE_SIZE
        field = "light" if slot == LIGHT_SLOT else FIELDS[slot % 5]
        for value in range(9):
            if field == "place":
                table[slot, value + 1, _VALUE_COLUMN["row"] + value // 3] = _CODE_SIZE
                table[slot, value + 1, _VALUE_COLUMN["column"] + value % 3] = _CODE_SIZE
            elif value < {"colour": 6, "kind": 4, "motion": 4, "speed": 3, "light": 2}[field]:
                table[slot, value + 1, _VALUE_COLUMN[field] + value] = _CODE_SIZE
    return table


_CODES = _codes()


def encode_slots(values: torch.Tensor) -> torch.Tensor:
    """values (..., TEXT_LEN) int, -1 = unnamed -> context (..., TEXT_LEN, TEXT_DIM) float32."""
    return _CODES[torch.arange(TEXT_LEN), values.long() + 1]


def encode_prompt(text: str) -> tuple[torch.Tensor, list[str]]:
    """Context (1, TEXT_LEN, TEXT_DIM) of one prompt, and its words outside the vocabulary."""
    values, unknown = parse_prompt(text)
    return encode_slots(torch.tensor([values])), unknown


def parse_prompt(text: str) -> tuple[list[int], list[str]]:
    """The eleven slot values of a prompt (-1 = unnamed), and the unknown words in order.

    Colours belong to the next noun; places, motions and speeds to the last noun before them,
    unless they stand between an article and the next noun ("a fast red ball").
    """
    items, unknown = _items(re.findall(r"[^\W_]+", text.lower()))
    shapes: list[dict[str, int]] = []
    pending: dict[str, int] = {}
    light = 1
    for (field, value, words), forward in zip(items, _goes_forward(items), strict=True):
        if field == LIGHT:
            light = value
        elif field == KIND:
            shapes.append(pending | ({"kind": value} if value >= 0 else {}))
            pending = {}
            if len(shapes) > 2:
                unknown.append(f"a third shape ({words})")
        elif field != "glue":
            (pending if forward or not shapes else shapes[-1]).setdefault(field, value)
    if shapes:  # "a ball that is red": nothing came after the colour
        shapes[-1] = pending | shapes[-1]
    return _slots(shapes[:2], light), unknown


def _items(words: list[str]) -> tuple[list[tuple[str, int, str]], list[str]]:
    """Words grouped into the longest known phrases as (field, value, words), and unknown words."""
    longest = max(len(p) for p in PHRASES)
    items: list[tuple[str, int, str]] = []
    unknown: list[str] = []
    i = 0
    while i < len(words):
        for n in range(min(longest, len(words) - i), 0, -1):
            phrase = tuple(words[i : i + n])
            if phrase in PHRASES:
                items.append((*PHRASES[phrase], " ".join(phrase)))
                break
        else:
            n = 1
            if words[i] in GLUE:
                items.append(("glue", 0, words[i]))
            else:
                unknown.append(words[i])
        i += n
    return items, unknown


def _goes_forward(items: list[tuple[str, int, str]]) -> list[bool]:
    """Whether each item describes the next noun: colours always, others between article and noun."""
    forward = [field == COLOUR for field, _, _ in items]
    for i, (_, _, words) in enumerate(items):
        if words not in ARTICLES:
            continue
        end = i + 1
        while end < len(items) and items[end][0] in (COLOUR, MOTION, SPEED, PLACE_ROW, PLACE_COLUMN):
            end += 1
        if end < len(items) and items[end][0] == KIND:
            forward[i:end] = [True] * (end - i)
    return forward


def _slots(shapes: list[dict[str, int]], light: int) -> list[int]:
    """Slot values of the shapes found; one noun alone means that B is absent."""
    values = [UNNAMED] * TEXT_LEN
    for index, shape in enumerate(shapes):
        place = UNNAMED
        if PLACE_ROW in shape or PLACE_COLUMN in shape:
            place = 3 * shape.get(PLACE_ROW, 1) + shape.get(PLACE_COLUMN, 1)
        values[5 * index : 5 * index + 5] = [
            *(shape.get(field, UNNAMED) for field in (COLOUR, KIND, MOTION, SPEED)),
            place,
        ]
    if len(shapes) == 1:
        values[5 + FIELDS.index("kind")] = ABSENT
    values[LIGHT_SLOT] = light
    return values
