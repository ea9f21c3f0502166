"""Prompts over time: the text form, the interactive JSONL, and what is refused."""

import json
from pathlib import Path

import pytest

from dummyforcing_core.clips.script import Script
from dummyforcing_core.errors import DummyForcingError


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("0 | a cat", ((0, "a cat"),)),
        ("0:00 | a\n0:15|b | c\n\n# no\n1:02.5 | d ", ((0, "a"), (60, "b | c"), (250, "d"))),
        ("  0:0 |  spaced out  \n 2.5 | x", ((0, "spaced out"), (10, "x"))),
    ],
)
def test_text_form(text, lines):
    assert Script.parse(text).lines == lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:00 | a\nb", r"line 2 is 'b'.*TIME \| PROMPT"),
        ("0:00 |  ", "line 1"),
        ("x:10 | a", "line 1"),
        ("0:05 | a", r"first prompt at latent frame 0, got starts \[20\]"),
        ("0 | a\n0:20 | b\n0:10 | c", r"rising order, got starts at latent frames \[0, 80, 40\]"),
        ("0 | a\n0:20 | b\n20 | c", "rising"),
        ("", "expected a first prompt at latent frame 0"),
    ],
)
def test_what_the_text_form_refuses(text, message):
    with pytest.raises(DummyForcingError, match=message):
        Script.parse(text)


@pytest.mark.parametrize("name", ["s.txt", "s.jsonl"])
def test_a_mark_in_front_is_no_text(tmp_path: Path, name: str):
    text = "0 | a cat" if name == "s.txt" else json.dumps({"prompts": ["a cat"]})
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [script.lines for script in Script.read(tmp_path / name)] == [((0, "a cat"),)]


def test_jsonl_is_one_clip_per_line():
    text = "\n".join(json.dumps({"prompts": [f"{i}a", f"{i}b", f"{i}c"]}) for i in range(2))
    assert [script.lines for script in Script.parse_jsonl(text, [40, 80])] == [
        ((0, "0a"), (40, "0b"), (80, "0c")),
        ((0, "1a"), (40, "1b"), (80, "1c")),
    ]


@pytest.mark.parametrize(
    ("text", "switches", "message"),
    [
        ('{"prompts": ["a"]}\n[1]', [], "line 2 is no object"),
        ('{"prompts": ["a"]}\n{"prompts": [}', [], "line 2 is not JSON"),
        ('{"prompt": "a"}', [], "line 1 is no object with"),
        ('{"prompts": ["a", 1]}', [40], "line 1"),
        ('{"prompts": ["a", "b"]}', [], "expected 1 switch frames for its 2 prompts, got 0"),
        ('{"prompts": ["a", "b"]}', [40, 80], r"got 2: \[40, 80\]"),
        ('{"prompts": ["a", "b", "c"]}', [80, 40], "rising"),
    ],
)
def test_what_jsonl_refuses(text, switches, message):
    with pytest.raises(DummyForcingError, match=message):
        Script.parse_jsonl(text, switches)


def test_files_are_told_apart_by_name_and_named_in_errors(tmp_path: Path):
    story, clips = tmp_path / "story.txt", tmp_path / "clips.jsonl"
    story.write_text("0 | ein Bär\n0:10 | ein Fuß", encoding="utf-8")
    clips.write_text('{"prompts": ["a", "b"]}', encoding="utf-8")
    assert Script.read(story)[0].prompts == ["ein Bär", "ein Fuß"]
    assert Script.read(clips, [12])[0].lines == ((0, "a"), (12, "b"))
    for path, switches, message in ((story, [3], "switch frames belong"), (tmp_path / "no.txt", [], "cannot read")):
        with pytest.raises(DummyForcingError, match=message) as error:
            Script.read(path, switches)
        assert path.name in str(error.value)


def test_a_repeated_prompt_per_chunk_is_no_switch():
    assert Script.per_chunk(["a", "a", "b", "a"], 3).lines == ((0, "a"), (6, "b"), (9, "a"))
    assert Script.constant("a").title == "a"


def test_a_blend_over_less_than_nothing_is_refused():
    assert Script.parse("0 | a\n1 | b").blend_chunks == 0
    assert Script(((0, "a"),), blend_chunks=2).blend_chunks == 2
    with pytest.raises(DummyForcingError, match=r"0 chunks or more, got -1"):
        Script(((0, "a"),), blend_chunks=-1)
