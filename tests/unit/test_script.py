"""Prompts over time: the text form, the interactive JSONL, and what is refused."""
# ruff: noqa: RUF001

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
    "text",
    [
        "0:00 a cat\n0:05 a dog",
        "0s: a cat\n5s - a dog",
        "0s a cat\n5 sec a dog",
        "00:00:00 | a cat\n00:00:05 | a dog",
        "[0:00] a cat\n(5s) a dog",
        "０：００｜a cat\n０：０５　a dog",
        "【0秒】a cat\n5秒：a dog",
        "从0:00 a cat\n从0:05 a dog",
        "从0:00开始 a cat\n从5秒起 a dog",
        "从0秒开始\uff0ca cat\n从5秒开始\uff0ca dog",
        "「0:00」a cat\n《0:05》a dog",
        "time 0:00 a cat\ntime 0:05 a dog",
        "0:00\u3002a cat\n0:05\u3002a dog",
        "0:00\uff0ca cat\n0:05\u3001a dog",
        "0:00-0:05 a cat\n0:05-0:10 | a dog",
        "0-5s: a cat\n5s to 10s: a dog",
        "00:00:00,000 --> 00:00:05,000 a cat\n00:00:05,000 --> 00:00:09,500 a dog",
        "- 0:00 a cat\n• 0:05 → a dog",
        "1. 0:00 a cat\n2) 0:05, a dog",
        "at 0:00 a cat\n@5s: a dog",
        "t=0 a cat\nt=5 a dog",
        "@0 a cat\n@5 a dog",
        "第0秒：a cat\n第5秒：a dog",
        "\ufeff0:00 a cat\n0:05 a dog",
        "0:00 \u2223 a cat\n0:05 ‖ a dog",
        "0: a cat\n5 - a dog",
        "0 min | a cat\n\n  # no\n＃ no\n0m5s | a dog",
    ],
)
def test_times_as_people_write_them(text):
    assert Script.parse(text).lines == Script.of_text(text).lines == ((0, "a cat"), (20, "a dog"))


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ("0:03 | 3 cats", "3 cats"),
        ("0:03 -5 degrees", "-5 degrees"),
        ("0:03 - 5 dogs play", "5 dogs play"),
        ("0:03 | 0:05 | on a clock", "0:05 | on a clock"),
        ("3s: 16:9 cinema", "16:9 cinema"),
        ("0:03一只猫", "一只猫"),
        ("0:03 | a man; 5 seconds later", "a man; 5 seconds later"),
        ("0:03 | a clock at 10:10, scene 2 | rain", "a clock at 10:10, scene 2 | rain"),
    ],
)
def test_what_a_prompt_begins_with_stays_in_it(line, prompt):
    assert Script.parse(f"0:00 | a\n{line}").lines[1] == (12, prompt)


@pytest.mark.parametrize(
    "text",
    ["a cat", "3 cats play", "80s disco", "16:9 cinema of a cat", "1920 - Paris", "2 min walk", "5 seconds of fame",
     "0.5 mm lens", "24 frames of a film", "80 ms of light",
     "十分可爱的猫", "三分球", "在3秒内\uff0c猫跳了起来", "a cat\nin the rain", "3: the return"],
)  # fmt: skip
def test_text_without_a_time_is_one_prompt_of_all_its_lines(text):
    assert Script.of_text(f"# of mine\n {text}\n").lines == ((0, text),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:00 | a\nb", r"line 2 begins with no time: 'b'; write TIME \| PROMPT"),
        ("a cat\n0:05 a dog", "line 1 begins with no time: 'a cat'"),
        ("0:00 a cat\n3 cats play", "line 2 begins with no time: '3 cats play'"),
        ("0:00 a cat\n16:9 cinema", "line 2 begins with no time"),
        ("0 a cat\n5 a dog", "line 1 begins with no time: '0 a cat'"),
        ("0:00a cat", "line 1 begins with no time"),
        ("-0:05 | a", "line 1 begins with no time"),
        ("0:00:00:05 | a", "line 1 begins with no time"),
        ("cinematic | 4k", "line 1 begins with no time"),
        ('{"0": "a cat",\n"16": "a dog"}', "line 1 begins with no time"),
        ("1234567 | a", "line 1 begins with no time"),
        ("\n0:00 |  ", r"line 2 \(0:00\) has no prompt"),
        ("0:00\n0:05", r"line 1 \(0:00\) has no prompt"),
        ("0 | a\n1:75 | b", "line 2: 1:75 has more than 59 minutes or seconds; write 2:15"),
        ("0 | a\n1:60:00 b", "line 2: 1:60:00 has more than 59"),
        ("0 | a\n1m75s b", "line 2: 1m75s has more than 59 minutes or seconds; write 2:15"),
        ("0:05 | a", "expected a first prompt at 0:00, got 0:05 on line 1"),
        ("9:16 portrait", r"got 9:16 on line 1.*write 0:00 \| in front, if 9:16 belongs to the prompt"),
        ("0 | a\n0:20 | b\n0:10.5 | c", r"rising times, got line 3 \(0:10.5\) after line 2 \(0:20\)"),
        ("0 | a\n0:20 | b\n20 | c", "lines 2 and 3 both start at 0:20"),
        ("0 | a\n5 | b\n5.1 | c", r"line 2 \(0:05\) and line 3 \(0:05.1\) are too close.*0.25 seconds"),
        ("0:00-0:03 a\n0:05 b", r"line 1 \(0:00\) ends at 0:03, and line 2 \(0:05\) is the next"),
        ("0 | a\n5s-3s b", r"line 2 \(0:05\) ends at 0:03, before it began"),
        ("0:00|a cat|0:05|a dog", r"line 1 \(0:00\) holds a second time, '\|0:05'; give it a line of its own"),
        ("0.0s a cat; 5.0s a dog", r"line 1 \(0:00\) holds a second time"),
        ("0:00 | a cat 0:05 | a dog", r"line 1 \(0:00\) holds a second time"),
        ("[0] a cat\n[5] a dog", r"line 1 begins with no time: '\[0\] a cat'"),
        ("", "expected a prompt, got an empty text"),
        ("# only\n\n # words", "expected a prompt, got an empty text"),
    ],
)
def test_what_is_refused_by_line_and_time(text, message):
    with pytest.raises(DummyForcingError, match=message) as error:
        Script.of_text(text)
    assert "latent" not in str(error.value)


def test_a_schedule_has_times_and_every_prompt_is_a_text():
    with pytest.raises(DummyForcingError, match="line 1 begins with no time"):
        Script.parse("3 cats play")  # a file that is called a schedule
    for make in (lambda: Script.parse(""), lambda: Script.constant(" \n"), lambda: Script(((0, "a"), (4, "")))):
        with pytest.raises(DummyForcingError, match="expected a prompt, got an empty text"):
            make()


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


@pytest.mark.parametrize(
    "text",
    ["frame 0: a cat\nframe 80: a dog", "0f a cat\n80f a dog", "0ms a cat\n5000ms a dog", "0.0 a cat\n5.0 a dog",
     "Scene 1 (0:00): a cat", "零秒: a cat\n五秒: a dog"],
)  # fmt: skip
def test_what_was_meant_as_a_time_is_no_prompt(text):
    with pytest.raises(DummyForcingError, match="line 1 begins with no time"):
        Script.of_text(text)


def test_a_minute_and_a_half():
    assert Script.parse("0 | a\n1分半 | b").lines == ((0, "a"), (360, "b"))


def test_a_line_ends_where_an_editor_shows_it():
    assert Script.parse("0 | a\u2028b\x0cc\r\n5 | d").lines == ((0, "a\u2028b\x0cc"), (20, "d"))
    (script,) = Script.parse_jsonl('{"prompts": ["a\u2028b"]}\n', [])
    assert script.lines == ((0, "a\u2028b"),)
