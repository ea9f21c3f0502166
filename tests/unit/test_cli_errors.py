"""Bad input: exit 2, one line on stderr that begins with "error:", no traceback, no file left."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dummyforcing_core.__main__ import build_parser
from dummyforcing_core.cli import vbench
from dummyforcing_core.cli.clip_arguments import asked_clip
from dummyforcing_core.cli.common import load, read_prompts
from dummyforcing_core.clips.video import VideoWriter, frame_count
from dummyforcing_core.models import checkpoints
from dummyforcing_core.models.wan import CausalWan, WanConfig
from tests.unit.refusals import assert_refused, files

ROOT = Path(__file__).parents[2]
DEMO = "--model", "demo", "--prompt", "a red circle", "--frames", "9", "--size", "16x16", "--device", "cpu"


# Words after the good ones above, and what the message must hold; {tmp} is a folder with the regular file "file".
BAD_WORDS: dict[str, tuple[str, str]] = {
    "zero frames": ("--frames 0", "ask for at least 1"),
    "negative frames": ("--frames -5", "expected 1 frame or more, got -5"),
    "frames in words": ("--frames many", "--frames: expected a whole number of at most 19 digits, got 'many'"),
    "odd size": ("--size 101x64", "even sides from 2 to 8192 pixels, got 101x64; use e.g. 100x64"),
    "size zero": ("--size 0x64", "even sides"),
    "malformed size": ("--size 64", "WIDTHxHEIGHT"),
    "malformed size, words": ("--size axb", "WIDTHxHEIGHT"),
    "unknown family": ("--family nope", "unknown model family 'nope'; known families: causal_forcing"),
    "family of another model": ("--family self_forcing", "--family demo or none for --model demo, got self_forcing"),
    "unknown policy": ("--policy nope", "unknown policy 'nope'; known policies: full, window"),
    "unknown attention backend": ("--attention nope", "known: auto, flash3, flash2, sdpa, reference"),
    "attention backend that cannot serve": ("--attention flash2", "cannot be used here"),
    "unknown dtype": ("--dtype int4", "known dtypes: bf16, fp16, fp32"),
    "unknown device": ("--device warp", "device 'warp' cannot be used"),
    "device with no memory": ("--device meta", "device 'meta' cannot be used"),
    "device without its module": ("--device hpu", "device 'hpu' cannot be used"),
    "window < sink + chunk": ("--policy window --window 5 --sink 3", "expected a window of at least 6 frames"),
    "negative sink": ("--policy window --window 12 --sink -1", "expected --sink of 0 or more, got -1"),
    "window with full": ("--policy full --window 12", "--window: expected --policy window"),
    "sink with full": ("--policy full --sink 3", "--sink: expected --policy window"),
    "two kinds of prompt": ("--prompts {tmp}/file", "not allowed with argument"),
    "unknown option": ("--colour red", "unrecognized arguments: --colour red"),
    "missing model file": ("--model {tmp}/none.pt", "no such file"),
    "model without a suffix": ("--model {tmp}/file", "file type '(none)'"),
    "no .mp4": ("--out {tmp}/clip.avi", "expected --out to end in .mp4"),
    "no suffix": ("--out {tmp}/clip", "expected --out to end in .mp4"),
    "folder under a file": ("--out {tmp}/file/clip.mp4", "cannot make the folder"),
    "latents under a file": ("--save-latents {tmp}/file/a/l.safetensors", "cannot make the folder"),
    "report under a file": ("--report {tmp}/file/r.json", "cannot make the folder"),
    "report is a folder": ("--report {tmp}", "that is a folder"),
    "two outputs of one name": ("--out {tmp}/c.mp4 --report {tmp}/x/../c.mp4", "--out and --report name the same file"),
    "the growing video's name": ("--out {tmp}/c.mp4 --report {tmp}/c.part.mp4", "the unfinished video and --report"),
    "latents over a start": ("--start-latents {tmp}/file --save-latents {tmp}/file", "--start-latents and --save-la"),
    "report over a profile": ("--policy dummy --profile {tmp}/file --report {tmp}/file", "--profile and --report name"),
    "switch without a schedule": ("--switch-frames 3", "--switch-frames has no effect here: --schedule is not given"),
    "LoRA strength alone": ("--lora-strength 0.5", "--lora-strength has no effect here: --lora is not given"),
    "LoRA strength NaN": ("--lora {tmp}/file --lora-strength nan", "expected a finite number, got 'nan'"),
    "LoRA strength infinite": ("--lora {tmp}/file --lora-strength -inf", "expected one argument"),
    "LoRA strength in words": ("--lora {tmp}/file --lora-strength much", "expected a finite number, got 'much'"),
    "offload of the demo": ("--offload", "--offload has no effect on the demo model"),
    "offload of the demo's file": ("--model {demo} --offload", "--offload has no effect on the demo model"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_words(run, tiny_demo, tmp_path: Path, case: str) -> None:
    words, message = BAD_WORDS[case]
    (tmp_path / "file").write_bytes(b"kept")
    result = run("generate", "--out", tmp_path / "clip.mp4", *DEMO, *_filled(words, tmp_path))
    assert_refused(result.code, result.err, message)
    assert result.err.count("\n") == 1
    assert files(tmp_path) == {"file": b"kept"}


def _filled(words: str, folder: Path) -> list[str]:
    return words.replace("{tmp}", str(folder)).replace("{demo}", str(checkpoints.DEMO_PATH)).split()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "required"),
        (("paint",), "invalid choice: 'paint'"),
        (("generate", "--out", "c.mp4"), "one of the arguments --prompt --prompts --schedule is required"),
        (("generate", "--prompt", "a circle"), "required: --out"),
    ],
)
def test_incomplete_commands(run, words: tuple[str, ...], message: str) -> None:
    result = run(*words)
    assert_refused(result.code, result.err, message)


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (None, (), "cannot read the prompts"),
        (b"", (), "holds no prompt"),
        (b"# only\n\n   \n# comments\n", (), "holds no prompt"),
        (b"\xff\xfe\x00", (), "UTF-8"),
        (b"a circle", ("--report", "r.json"), "with --prompts"),
    ],
)
def test_bad_prompt_files(run, tmp_path: Path, content: bytes | None, more: tuple[str, ...], message: str) -> None:
    if content is not None:
        (tmp_path / "p.txt").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    result = run("generate", "--prompts", tmp_path / "p.txt", "--out", tmp_path / "clips", *more)
    assert_refused(result.code, result.err, message)
    assert sorted(tmp_path.iterdir()) == before


def truncated(path: Path, state: dict) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:5000])


def lora(path: Path, state: dict) -> None:
    names = [f"diffusion_model.{name[:-7]}" for name in state if name.endswith(".q.weight")]
    torch.save({f"{name}.lora_{side}.weight": torch.zeros(2, 2) for name in names for side in "AB"}, path)


def broken(path: Path, state: dict) -> None:
    torch.save(state | {"head.head.bias": state["head.head.bias"] * float("nan")}, path)


BAD_CHECKPOINTS = {
    "truncated": (truncated, "truncated, corrupt or not a .pt file"),
    "foreign": (lambda path, state: torch.save({"model.diffusion_model.input_blocks.0.weight": torch.zeros(3)}, path),
                "not a Wan checkpoint"),
    "no weights": (lambda path, state: path.write_bytes(b"<html>"), "not a .pt file"),
    "one tensor missing": (lambda path, state: torch.save({k: v for k, v in state.items() if k != "head.modulation"},
                           path), "1 missing: head.modulation"),
    "one tensor too many": (lambda path, state: torch.save(state | {"extra": torch.zeros(2)}, path), "surplus: extra"),
    "LoRA": (lora, "LoRA"),
    "Wan2.2 5B": (lambda path, state: torch.save(state | {"patch_embedding.weight": torch.zeros(256, 48, 1, 2, 2)},
                  path), "Wan2.2 5B"),
    "NaN": (broken, "m.pt: head.head.bias holds NaN or infinity"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_bad_checkpoints(run, tiny_config: WanConfig, embedding: Path, tmp_path: Path, case: str) -> None:
    write, message = BAD_CHECKPOINTS[case]
    torch.manual_seed(0)
    write(tmp_path / "m.pt", dict(CausalWan(tiny_config).state_dict()))
    outputs = tmp_path / "new"
    result = run(
        "generate", "--model", tmp_path / "m.pt", "--family", "self_forcing", "--text-embedding", embedding, "--prompt",
        "x", "--frames", 9, "--size", "32x32", "--device", "cpu", "--out", outputs / "clip.mp4", "--save-latents",
        outputs / "l.safetensors", "--report", outputs / "r.json",
    )  # fmt: skip
    assert_refused(result.code, result.err, message)
    assert list(outputs.iterdir()) == []


def test_a_checkpoint_of_an_unknown_family(run, checkpoint: Path, embedding: Path, tmp_path: Path) -> None:
    words = "--text-embedding", embedding, "--prompt", "x", "--frames", 1, "--out", tmp_path / "c.mp4"
    result = run("generate", "--model", checkpoint, *words)
    assert_refused(result.code, result.err, "pass --family with one of")
    result = run("generate", "--model", checkpoint, "--family", "nope", *words)
    assert_refused(result.code, result.err, "unknown model family 'nope'")
    assert files(tmp_path) == {}


BAD_EMBEDDINGS = {
    "wrong width": ({"a": torch.zeros(7, 31)}, "(rows, 32)"),
    "no rows": ({"a": torch.zeros(0, 32)}, "1 to 512 rows"),
    "too many rows": ({"a": torch.zeros(513, 32)}, "1 to 512 rows"),
    "one axis": ({"a": torch.zeros(32)}, "(rows, 32)"),
    "a number": ({"a": torch.tensor(1.0)}, "(rows, 32)"),
    "two tensors": ({"a": torch.zeros(7, 32), "b": torch.zeros(7, 32)}, "expected one tensor"),
    "no tensor": ({}, "expected one tensor"),
    "no safetensors": (b"text", "corrupt or not a .safetensors file"),
    "no file": (None, "no such file"),
    "NaN": ({"a": torch.full((7, 32), torch.nan)}, "NaN or infinity"),
    "whole numbers": ({"a": torch.zeros(7, 32, dtype=torch.int64)}, "floating point"),
    "none given": ("", "needs --text-embedding FILE.safetensors"),
}


@pytest.mark.parametrize("case", BAD_EMBEDDINGS)
def test_bad_embeddings(run, checkpoint: Path, tmp_path: Path, case: str) -> None:
    content, message = BAD_EMBEDDINGS[case]
    path = tmp_path / "text.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        save_file(content, path)
    words = () if case == "none given" else ("--text-embedding", path)
    result = run(
        "generate", "--model", checkpoint, "--family", "self_forcing", "--prompt", "x", "--frames", 1, "--out",
        tmp_path / "new" / "c.mp4", *words,
    )  # fmt: skip
    assert_refused(result.code, result.err, message)
    assert result.err.count("\n") == 1
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("chunk", [0, 1])
def test_full_disk(run, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    write, calls = VideoWriter._write_bytes, 0

    def full(self: VideoWriter, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls <= chunk:
            return write(self, data)
        self._torn = True
        self._file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(VideoWriter, "_write_bytes", full)
    names = {"--out": "c.mp4", "--save-latents": "l.safetensors", "--report": "r.json"}
    result = run("generate", *DEMO, "--frames", 33, *(w for o, n in names.items() for w in (o, tmp_path / n)))
    assert calls == chunk + 1
    assert_refused(result.code, result.err, "the disk is full; free some space")
    left = ["c.part.mp4", "l.safetensors"] if chunk else ["l.safetensors"]
    assert sorted(files(tmp_path)) == left and all(f"{tmp_path / name}" in result.err for name in left)
    assert load_file(tmp_path / "l.safetensors")["latent"].shape[2] == 3 * (chunk + 1)
    if chunk:
        assert frame_count(tmp_path / "c.part.mp4") == 9
    monkeypatch.setattr(VideoWriter, "_write_bytes", write)
    go_on = "--start-latents", tmp_path / "l.safetensors", "--out", tmp_path / "rest.mp4"
    assert run("generate", *DEMO, "--frames", 33, *go_on).code == 0
    assert frame_count(tmp_path / "rest.mp4") == 33


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("generate", "--prompt", "a circle", "--frames", "0", "--out", "{tmp}/c.mp4"), "ask for at least 1"),
        (("generate", "--model", "{tmp}/m.safetensors", "--prompt", "x", "--out", "{tmp}/c.mp4"), "truncated, corrupt"),
    ],
)
def test_as_a_process(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"\x00" * 100)
    command = [sys.executable, "-m", "dummyforcing_core", *(word.replace("{tmp}", str(tmp_path)) for word in words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert_refused(done.returncode, done.stderr, message)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(files(tmp_path)) == ["m.safetensors"]


def text_pair(command: str, folder: Path) -> list[object]:
    """Words of a command with two prompts."""
    (folder / "two.txt").write_text("a cat\na dog\n", encoding="utf-8")
    (folder / "two.jsonl").write_text('{"prompts": ["a cat", "a dog"]}\n', encoding="utf-8")
    (folder / "s.txt").write_text("0 | a cat\n0:01 | a dog\n", encoding="utf-8")
    return {
        "prompts": ["generate", "--prompts", folder / "two.txt", "--out", folder / "out"],
        "jsonl": ["generate", "--schedule", folder / "two.jsonl", "--switch-frames", 3, "--out", folder / "out"],
        "schedule": ["generate", "--schedule", folder / "s.txt", "--out", folder / "out" / "c.mp4"],
        "profile": ["profile", "--prompts", folder / "two.txt", "--out", folder / "out" / "p.json"],
        "vbench": ["vbench", "--prompts", folder / "two.txt", "--out", folder / "out"],
    }[command]


@pytest.mark.parametrize("command", ["prompts", "jsonl", "schedule", "profile", "vbench"])
def test_one_saved_text_for_two_prompts(run, checkpoint: Path, embedding: Path, tmp_path: Path, command: str) -> None:
    words = "--model", checkpoint, "--family", "self_forcing", "--text-embedding", embedding, "--device", "cpu"
    result = run(*text_pair(command, tmp_path), *words, "--size", "32x32", "--frames", 21)
    assert_refused(
        result.code,
        result.err,
        "expected one prompt for --text-embedding, which is one text, got 2; use --text-encoder",
    )
    assert [name for name in files(tmp_path / "out") if name.endswith(("mp4", "json"))] == []


@pytest.mark.parametrize("source", ["--prompt", "--schedule"])
def test_a_prompt_that_is_no_unicode(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr("dummyforcing_core.cli.common.load_pipeline", lambda *_: pytest.fail("loaded a model"))
    (tmp_path / "s.jsonl").write_text(r'{"prompts": ["a \udc80 circle"]}', encoding="utf-8")
    words = {"--prompt": "a \udc80 circle", "--schedule": tmp_path / "s.jsonl"}[source]
    out = tmp_path / ("c.mp4" if source == "--prompt" else "clips")
    result = run("generate", source, words, "--frames", 1, "--size", "16x16", "--device", "cpu", "--out", out)
    assert_refused(result.code, result.err, r"the prompt 'a \udc80 circle' is no Unicode text")


def test_a_mark_in_front_of_the_prompts(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbf# a comment\na cat\n")
    assert read_prompts(tmp_path / "p.txt") == ["a cat"]


COMMAND = [sys.executable, "-m", "dummyforcing_core", "models"]
BUFFERED = {**os.environ, "PYTHONUNBUFFERED": ""}
MORE_AND_LESS_THAN_A_BUFFER = pytest.mark.parametrize("words", [[], ["--family", "self_forcing"]])


@MORE_AND_LESS_THAN_A_BUFFER
def test_nobody_reads_the_output(words: list[str]) -> None:
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=ROOT, env=BUFFERED, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, b"")


@MORE_AND_LESS_THAN_A_BUFFER
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_to_a_full_disk(words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, *words], cwd=ROOT, env=BUFFERED, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert_refused(done.returncode, done.stderr, "cannot write the output: No space left on device")
    assert done.stderr.count("\n") == 1


def test_an_error_of_another_file_is_not_taken_for_stdouts(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "gone", "some.file")

    monkeypatch.setattr("dummyforcing_core.cli.models.chosen_sources", broken)
    result = run("models")
    assert (result.code, result.err) == (2, "error: some.file: gone; name another path\n")


@pytest.mark.parametrize(("words", "strength"), [((), 1.0), (("--lora-strength", "0"), 0.0)])
def test_a_loras_strength(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], strength: float) -> None:
    read: list[tuple[Path, float]] = []
    monkeypatch.setattr("dummyforcing_core.cli.common.load_pipeline", lambda *_: None)
    monkeypatch.setattr("dummyforcing_core.cli.common.Lora.read", lambda *given: read.append(given))
    known = "vbench", "--prompts", "p", "--out", "o", "--device", "cpu", "--lora", "l.pt"
    args = build_parser(known).parse_args([*known, *words])
    load(args)
    assert read == [(Path("l.pt"), strength)]
    assert vbench._asked(args, asked_clip(args))["lora"] == f"l.pt x {strength:g}"
