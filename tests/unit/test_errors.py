"""What foreign text looks like in a message, whatever it holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dummyforcing_core.clips.report import RunReport
from dummyforcing_core.errors import MESSAGE, CheckpointError, DummyForcingError, OutputError, PlanError, shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a cat", "a cat"),
        ("一只猫　é 🐈", "一只猫 é 🐈"),
        ("a\r\n\tcat\x0b ", "a cat"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\u202etxt.\ud800", "\\u202etxt.\\ud800"),
        ("x" * 61, f"{'x' * 37} ... {'x' * 18}"),
        ("\x1b" * 60, r"\x1b" * 9 + r"\ ... 1b" + r"\x1b" * 4),
        (KeyError("a"), "'a'"),
        (None, "None"),
    ],
)
def test_foreign_text_becomes_one_short_line(text, line):
    assert shown(text) == line


@given(st.text(st.characters(codec=None)), st.integers(10, 200))
def test_nothing_in_it_reaches_a_terminal(text, longest):
    line = shown(text, longest)
    assert len(line) <= longest
    assert not any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 or 0xD800 <= ord(letter) < 0xE000 for letter in line)


@pytest.mark.parametrize("kind", [DummyForcingError, CheckpointError, PlanError, OutputError])
def test_every_error_is_bounded_and_says_its_name_shortly(kind):
    error = kind("x.json: \x00\n" + "y" * 90_000_000 + "; save it again")
    assert str(error).startswith("x.json: \\x00 y") and str(error).endswith("; save it again")
    assert len(str(error)) <= MESSAGE
    assert f"{kind.__module__}.{kind.__qualname__}" == "builtins.Dummy Forcing"


def test_a_report_prints_no_control_characters():
    report = RunReport({"prompt": "a \x1b[31mred circle\nand more"})
    assert "a \\x1b[31mred circle and more" in report.table()
    assert "\x1b" not in report.table() and "\\u001b" in report.to_json()


BYTES = bytes(range(128, 256)) * 2000
FILES = {
    "profile": ("p.json", ("--policy", "dummy", "--profile", "{}")),
    "schedule": ("s.txt", ("--schedule", "{}")),
    "story": ("s.jsonl", ("--schedule", "{}")),
    "prompts": ("p.txt", ("--prompts", "{}")),
    "model": ("m.pt", ("--model", "{}")),
    "weights": ("m.safetensors", ("--model", "{}")),
    "latents": ("l.safetensors", ("--start-latents", "{}")),
    "image": ("i.png", ("--start-image", "{}")),
    "LoRA": ("l.pt", ("--model", "{}", "--lora", "{}")),
    "VAE": ("v.pth", ("--model", "{}", "--vae", "{}")),
}
CONTENTS = {
    "bytes": BYTES,
    "text": b"\x1b[31m\x07 words " * 20_000,
    "JSON": b'{"format": "\\u001b' + b"x" * 90_000 + b'", "version": 7, "prompts": "y"}',
    "array": b"[" * 90_000,
}


ALL = [(kind, content) for kind in FILES for content in CONTENTS if kind != "prompts" or content == "bytes"]


@pytest.mark.parametrize(("kind", "content"), ALL)  # any text is a prompt
def test_nothing_of_a_foreign_file_reaches_the_terminal(run, tmp_path, kind, content):
    name, words = FILES[kind]
    (tmp_path / name).write_bytes(CONTENTS[content])
    text = () if kind in ("schedule", "story", "prompts") else ("--prompt", "a circle")
    out = tmp_path / ("clips" if kind in ("story", "prompts") else "c.mp4")
    result = run("generate", *text, *(word.format(tmp_path / name) for word in words), "--frames", "1", "--out", out)
    *warnings, error = result.err.splitlines()  # torch tells of odd files before it refuses them
    assert error.startswith("error: ") and all(line.startswith("warning: ") for line in warnings)
    assert max(map(len, (error, *warnings))) < 820
    assert not any(ord(letter) < 32 and letter != "\n" for letter in result.err + result.out)
    assert "\ufffd" not in result.err and not any("\x80" <= letter <= "\xff" for letter in result.err)
