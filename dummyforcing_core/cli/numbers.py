"""Whole numbers on the command line."""

import argparse
import re

from ..errors import shown

LARGEST = 2**63 - 1  # what every file and library holds


def whole(text: str) -> int:
    """A whole number that fits 64 bits; longer ones would fill the messages that name them."""
    if not re.fullmatch(r"\s*[-+]?[0-9]{1,19}\s*", text) or abs(int(text)) > LARGEST:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of at most 19 digits, got '{shown(text, 40)}'; write e.g. 5"
        )
    return int(text)


def whole_numbers(text: str) -> list[int]:
    """ "40,80" as numbers."""
    if not re.fullmatch(r"\s*[0-9]{1,12}(\s*,\s*[0-9]{1,12})*\s*", text):
        raise argparse.ArgumentTypeError(f"expected whole numbers, got '{shown(text)}'; write e.g. 40,80,120")
    return [int(part) for part in text.split(",")]
