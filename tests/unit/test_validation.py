"""docs/validation.md: every number of README's tables, and every table of numbers in the documentation, has its row."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dummyforcing_core.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?: ?(?:%|x|GiB|ms|FPS|s|px))?")
CLAIM = re.compile(r"\d+(?:\.\d+)? ?%|\d+(?:\.\d+)? million|\d+(?:\.\d+)?x (?:faster|slower)|\d+(?:\.\d+)? FPS|\de-\d")
OTHERS = ["demo/README.md", "docs/story.md", "docs/study.md", "docs/troubleshooting.md", "docs/vbench.md"]


def rows() -> list[list[str]]:
    """The page's rows, cell by cell."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """(heading, its lines) of a Markdown page."""
    parts = re.split(r"^#+ (.*)$", text, flags=re.MULTILINE)
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        yield heading.strip(), body.splitlines()


def numbers_of(lines: list[str]) -> list[str]:
    """Numbers that stand alone in table cells; headers and the first column, which name things, are left out."""
    tables = re.findall(r"(?:^\|.*\n)+", "\n".join(lines) + "\n", re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()[2:]]
    cells = (cell.strip() for line in lines for cell in line.strip("|").split("|")[1:])
    return [cell for cell in cells if NUMBER.fullmatch(cell)]


def uncovered(text: str, document: str) -> list[str]:
    """What a page claims, number by number, without a row that names its section and the number."""
    missing = []
    for heading, lines in sections(text):
        known = {one.strip() for row in rows() if row[0] == f"{document}, {heading}" for one in row[1].split(",")}
        claims = numbers_of(lines) + CLAIM.findall("\n".join(lines))
        missing += [f"{heading}: {claim}" for claim in claims if claim not in known]
    return missing


def test_every_number_of_the_readme_has_a_row() -> None:
    assert not uncovered((ROOT / "README.md").read_text(encoding="utf-8"), "README.md")


@pytest.mark.parametrize("claim", ["| a | 7.77 |", "It is 9.1x faster.", "79 % of them."])
def test_a_number_without_one_is_found(claim: str) -> None:
    table = "| what | figure |\n|---|---|\n" if claim.startswith("|") else ""
    assert uncovered(f"## The demo model\n{table}{claim}\n", "README.md")


@pytest.mark.parametrize("document", OTHERS)
def test_other_pages_tables_are_covered(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    covered = {row[0].removeprefix(f"{document}, ") for row in rows() if row[0].startswith(document)}
    assert covered
    bare = [heading for heading, lines in sections(text) if numbers_of(lines) and heading not in covered]
    assert "every section" in covered or not bare


def test_no_row_names_a_section_that_is_gone() -> None:
    for row in rows():
        document, _, heading = row[0].partition(", ")
        if heading and heading != "every section":
            text = (ROOT / document).read_text(encoding="utf-8")
            assert heading in [name for name, _ in sections(text)], row[0]


def test_commands_and_results_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for row in rows():
        for path in re.findall(r"`([\w./-]+\.(?:md|json|png|py))`", " ".join(row)):
            assert (ROOT / path).exists(), path
        for command in re.findall(r"`((?:python|make) [^`]+)`", row[3]):
            words = command.split()
            if words[0] == "make":
                assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), command
            elif words[1] != "-m":
                assert (ROOT / words[1]).is_file(), command
            elif words[2] == "dummyforcing_core":
                assert words[3] in COMMANDS, command
            else:
                assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), command


def test_every_row_says_of_what_kind_it_is() -> None:
    assert {row[2] for row in rows()} <= {"measured", "computed", "quoted"}
    assert all(len(row) == 6 for row in rows())
