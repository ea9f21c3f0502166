"""`generate`: the files it writes, what its report says, and what its options change."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dummyforcing_core.cli import common
from dummyforcing_core.cli.generate import slug
from dummyforcing_core.clips.video import read_frames
from dummyforcing_core.models import checkpoints
from dummyforcing_core.models.checkpoints import DEMO_PATH, read_checkpoint
from tests.unit.refusals import assert_refused, files

ROOT = Path(__file__).parents[2]
PROMPT = "a red circle on the left and a blue square on the right"
SMALL = "--size", "16x16"  # one token per frame
DEMO_SCALE = 6  # a demo clip's pixels are enlarged for the screen
FP32_BYTES = 4


def video_size(path: Path) -> tuple[int, int, int]:
    """(frames, width, height) of the whole decoded file."""
    frames = list(read_frames(path))
    assert {frame.shape for frame in frames} == {frames[0].shape}
    return len(frames), frames[0].shape[1], frames[0].shape[0]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def latent(path: Path) -> torch.Tensor:
    tensors = load_file(path)
    assert list(tensors) == ["latent"]
    return tensors["latent"]


class Made:
    """Runs `generate` into a folder and reads what it left."""

    def __init__(self, run, folder: Path, *words: object, model: object = "demo"):
        self.video, self.latents, self.report = (folder / name for name in ("c.mp4", "l.safetensors", "r.json"))
        self.result = run(
            "generate", "--model", model, "--prompt", PROMPT, "--device", "cpu", "--out", self.video,
            "--save-latents", self.latents, "--report", self.report, *words,
        )  # fmt: skip
        assert self.result.code == 0, self.result.err

    @property
    def latent(self) -> torch.Tensor:
        return latent(self.latents)

    @property
    def document(self) -> dict:
        return json.loads(self.report.read_text(encoding="utf-8"))

    @property
    def warnings(self) -> list[str]:
        return re.findall(r"warning: .*", self.result.err)


@pytest.fixture
def made(run, tmp_path: Path, tiny_demo):
    """made("--frames", 9) -> Made: a small clip of the bundled model's tiny stand-in, each in its own folder."""
    return lambda *words: Made(run, tmp_path / str(len(names(tmp_path))), *SMALL, *words)


@pytest.fixture(scope="module")
def clip(run, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A clip of the model that is really bundled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "DEMO_PATH", DEMO_PATH)
        return Made(run, tmp_path_factory.mktemp("shipped") / "new" / "folder", "--frames", 21)


class TestShippedModel:
    """Files, report and table of one clip; nothing here depends on how good the model is."""

    def test_files(self, clip: Made) -> None:
        assert names(clip.video.parent) == ["c.mp4", "l.safetensors", "r.json"]
        assert video_size(clip.video) == (21, 64 * DEMO_SCALE, 64 * DEMO_SCALE)
        assert clip.latent.shape == (1, 16, 6, 8, 8)
        assert clip.latent.dtype == torch.float32
        assert bool(clip.latent.isfinite().all())
        assert clip.latent.std() > 0

    def test_report(self, clip: Made) -> None:
        report = clip.document
        geometry = read_checkpoint(DEMO_PATH).info.geometry
        frame = 2 * 16 * geometry.dim * FP32_BYTES * geometry.num_layers  # K and V of 16 tokens
        memory = report["memory"]
        assert memory["history_bytes"] == {"predicted": 6 * frame, "actual": 6 * frame}
        assert memory["resident_bytes"] == {"predicted": 9 * frame, "actual": 9 * frame}
        assert memory["peak_bytes"]["actual"] == memory["peak_bytes"]["predicted"] >= 9 * frame
        assert memory["cached_frames"] == {"mean": 6, "max": 6, "context_ratio": 1.0}
        assert [(c["start_frame"], c["frames"]) for c in report["chunks"]] == [(0, 3), (3, 3)]
        assert all(c["diffuse_ms"] > 0 and c["decode_ms"] > 0 for c in report["chunks"])
        assert 0 < report["first_frame_ms"] < report["total_ms"]
        assert sum(v for k, v in report["derived"]["percent"].items() if k != "total") == pytest.approx(100)
        assert {
            "model": "demo",
            "family": "demo",
            "size": "64x64",
            "frames": 21,
            "seed": 0,
            "prompt": PROMPT,
        }.items() <= (report["conditions"].items())

    @pytest.mark.parametrize(
        "row",
        [
            r"model +demo",
            r"attention +torch scaled_dot_product_attention",
            r"initialisation +[\d.]+ +[\d.]+",
            r"diffusion +[\d.]+ +[\d.]+",
            r"decode +[\d.]+ +[\d.]+",
            r"total +[\d.]+ +100\.0",
            r" +0 +0\.\.2 +[\d.]+ +[\d.]+ +[\d.]+ +filling",
            r" +1 +3\.\.5 +[\d.]+ +[\d.]+ +[\d.]+ +filling",
            r"frames +21 \(6 latent\)",
            r"DiT-only +[\d.]+ FPS",
            r"end to end +[\d.]+ FPS",
            r"first frame after +[\d.]+ ms",
            r"history, MiB +([\d.]+) +\1",
            r"resident, MiB +([\d.]+) +\1",
            r"peak, MiB +([\d.]+) +\1",
            r"cached latents +mean 6\.00, max 6 per head",
            r"wrote .*c\.mp4",
        ],
    )
    def test_table(self, clip: Made, row: str) -> None:
        assert re.search(f"^{row}$", clip.result.out, re.MULTILINE), clip.result.out

    def test_known_words_bring_no_warning(self, clip: Made) -> None:
        assert clip.warnings == []


def test_policies_cost_what_they_are_priced_at(made, tiny_demo) -> None:
    frame = 2 * tiny_demo.dim * FP32_BYTES * tiny_demo.num_layers
    full = made("--frames", 45, "--policy", "full").document["memory"]
    window = made("--frames", 45, "--policy", "window", "--window", 9, "--sink", 3).document["memory"]
    for memory, history in ((full, 12), (window, 9 - 3)):
        assert memory["history_bytes"] == dict.fromkeys(("predicted", "actual"), history * frame)
        assert memory["resident_bytes"] == dict.fromkeys(("predicted", "actual"), (history + 3) * frame)


def test_a_window_that_holds_the_clip_changes_nothing(made) -> None:
    full = made("--frames", 21)
    assert torch.equal(full.latent, made("--frames", 21, "--policy", "window", "--window", 9, "--sink", 3).latent)
    narrow = made("--frames", 33, "--policy", "window", "--window", 6, "--sink", 0)
    wide = made("--frames", 33)
    assert torch.equal(narrow.latent[:, :, :6], wide.latent[:, :, :6])
    assert not torch.equal(narrow.latent[:, :, 6:], wide.latent[:, :, 6:])
    assert [c["window_full"] for c in narrow.document["chunks"]] == [False, True, True]


def test_the_seed_alone_decides(made) -> None:
    first, again, other = (made("--frames", 9, "--seed", seed) for seed in (5, 5, 6))
    assert torch.equal(first.latent, again.latent)
    assert first.video.read_bytes() == again.video.read_bytes()
    assert not torch.allclose(first.latent, other.latent, atol=1e-2)


@pytest.mark.parametrize(("asked", "made_frames"), [(1, 1), (2, 5), (8, 9), (80, 81), (81, 81)])
def test_a_video_has_the_frames_that_were_asked_for_of_whole_latents(made, asked: int, made_frames: int) -> None:
    clip = made("--frames", asked)
    assert video_size(clip.video)[0] == asked == clip.document["conditions"]["frames"]
    assert clip.document["derived"]["pixel_frames"] == made_frames
    assert clip.latent.shape[2] == (made_frames - 1) // 4 + 1


@pytest.mark.parametrize(("size", "width", "height"), [("96x64", 96, 64), ("16X48", 16, 48)])
def test_other_sizes(made, size: str, width: int, height: int) -> None:
    clip = made("--frames", 5, "--size", size)
    assert clip.latent.shape == (1, 16, 2, height // 8, width // 8)
    assert video_size(clip.video) == (5, width * DEMO_SCALE, height * DEMO_SCALE)
    assert clip.document["conditions"]["size"] == f"{width}x{height}"


@pytest.mark.parametrize(("dtype", "name"), [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")])
def test_dtypes(made, tiny_demo, dtype: str, name: str) -> None:
    clip = made("--frames", 9, "--dtype", dtype)
    report = clip.document
    width = 4 if dtype == "fp32" else 2
    assert report["conditions"]["dtype"] == name
    assert report["memory"]["history_bytes"]["actual"] == 3 * 2 * tiny_demo.dim * width * tiny_demo.num_layers
    assert (clip.latent - made("--frames", 9).latent).abs().mean() < 0.05


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_attention_backends(made, backend: str) -> None:
    assert torch.allclose(made("--frames", 9, "--attention", backend).latent, made("--frames", 9).latent, atol=1e-4)


def test_unknown_words_are_named(run, tiny_demo, tmp_path: Path) -> None:
    prompt = "a red circle and a zeppelin over the fjord, zeppelin"
    result = run("generate", "--prompt", prompt, "--frames", 1, *SMALL, "--out", tmp_path / "c.mp4")
    assert result.code == 0
    warning = next(line for line in result.err.splitlines() if line.startswith("warning: "))
    assert warning.count("zeppelin") == warning.count("fjord") == 1
    assert "circle" not in warning


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        (("--frames", 85, "--policy", "full"), 1),
        (("--frames", 81, "--policy", "full"), 0),
        (("--frames", 85), 0),
        (("--frames", 85, "--policy", "window"), 0),
    ],
)
def test_full_beyond_the_trained_range_warns_once(made, words: tuple, warned: int) -> None:
    clip = made(*words)
    assert len(clip.warnings) == warned
    assert all("22 latent frames" in text and "policy window, window 12, sink 3" in text for text in clip.warnings)


class TestPromptFile:
    """--prompts: a folder of clips that can be resumed."""

    LINES = "\n# a comment\n  a red circle  \n\na blue square: fast/slow?\n#a green circle\na red circle\n"
    CLIPS = ("000_a_red_circle", "001_a_blue_square_fast_slow", "002_a_red_circle")
    ALL = tuple(sorted(f"{name}.{suffix}" for name in CLIPS for suffix in ("json", "mp4")))

    @pytest.fixture
    def batch(self, run, tiny_demo, tmp_path: Path):
        file, folder = tmp_path / "prompts.txt", tmp_path / "clips"
        file.write_text(self.LINES, encoding="utf-8")
        return folder, lambda: run("generate", "--prompts", file, "--frames", 21, *SMALL, "--out", folder)

    def test_one_clip_per_line(self, batch) -> None:
        folder, generate = batch
        result = generate()
        assert result.code == 0, result.err
        assert names(folder) == list(self.ALL)
        assert all(video_size(folder / f"{name}.mp4")[0] == 21 for name in self.CLIPS)
        first, second, third = (json.loads((folder / f"{n}.json").read_text(encoding="utf-8")) for n in self.CLIPS)
        assert first["conditions"]["prompt"] == third["conditions"]["prompt"] == "a red circle"
        assert second["conditions"]["prompt"] == "a blue square: fast/slow?"

    def test_only_what_is_missing_is_made(self, batch) -> None:
        folder, generate = batch
        generate()
        (folder / f"{self.CLIPS[1]}.mp4").unlink()
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        result = generate()
        assert result.code == 0
        assert re.findall(r"^wrote .*?(\d{3})_", result.out, re.MULTILINE) == ["001"]
        assert result.out.count("is there already, skipped") == 2
        after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert sorted(after) == list(self.ALL)
        assert {name for name in after if after[name] != before.get(name)} == {
            f"{self.CLIPS[1]}.mp4",
            f"{self.CLIPS[1]}.json",
        }

    def test_a_finished_folder_loads_no_model(self, batch, monkeypatch: pytest.MonkeyPatch) -> None:
        _, generate = batch
        generate()
        monkeypatch.setattr(
            "dummyforcing_core.clips.pipeline.load_demo_model", lambda *_: pytest.fail("loaded a model")
        )
        result = generate()
        assert result.code == 0
        assert result.out.count("is there already") == 3

    def test_an_interrupted_clip_is_made_again(self, batch, monkeypatch: pytest.MonkeyPatch) -> None:
        folder, generate = batch
        interrupt(monkeypatch, chunk=1, step=2, clip=2)
        assert generate().code == 130
        part = folder / f"{self.CLIPS[1]}.part.mp4"
        assert names(folder) == [*(f"{self.CLIPS[0]}.{suffix}" for suffix in ("json", "mp4")), part.name]
        assert video_size(part)[0] == 9
        monkeypatch.undo()
        result = generate()
        assert result.code == 0
        assert names(folder) == list(self.ALL)
        assert result.out.count("is there already") == 1
        assert video_size(folder / f"{self.CLIPS[1]}.mp4")[0] == 21


class TestAnotherClipInTheFolder:
    """Clips that are there must be what is asked for now; what was not asked for is never skipped in silence."""

    LINES = "a red circle\na blue square\n"

    @pytest.fixture
    def batch(self, run, tiny_demo, tmp_path: Path):
        """batch(words...) -> Result; `lines` are the prompts, or the .jsonl if they begin with a brace."""
        folder = tmp_path / "clips"

        def go(*words: object, lines: str = self.LINES):
            file = tmp_path / ("s.jsonl" if lines.startswith("{") else "p.txt")
            file.write_text(lines, encoding="utf-8")
            source = "--schedule" if file.suffix == ".jsonl" else "--prompts"
            return run("generate", source, file, *SMALL, "--frames", 21, "--out", folder, *words)

        assert go().code == 0
        return folder, go

    @pytest.mark.parametrize(
        ("words", "lines", "message"),
        [
            (("--seed", 1), LINES, "000_a_red_circle.mp4 was made with, got 1"),
            (("--frames", 9), LINES, "was made with, got 9"),
            (("--size", "32x16"), LINES, "was made with, got '32x16'"),
            (("--model", "{demo}"), LINES, "was made with, got 'demo_model.safetensors'"),
            (("--start-image", "none.png"), LINES, "expected start image 'none', which"),
            (("--start-latents", "none.safetensors"), LINES, "expected start latents 'none', which"),
            (("--vae", "vae.safetensors"), LINES, "expected vae 'none', which"),
            (("--lora", "a.pt", "--lora-strength", "0.5"), LINES, "was made with, got 'a.pt x 0.5'"),
            ((), "a red circle\na blue, square!", "expected prompt 'a blue square', which"),
            (("--switch-frames", "3"), '{"prompts": ["a red circle", "x"]}', "was made with, got [3]"),
        ],
    )
    def test_conditions_that_need_no_model(
        self, batch, monkeypatch: pytest.MonkeyPatch, words: tuple, lines: str, message: str
    ) -> None:
        folder, go = batch
        before = files(folder)
        (folder / "000_a_blue_square.mp4").write_bytes(b"of another list")
        monkeypatch.setattr("dummyforcing_core.cli.generate.load", lambda *_: pytest.fail("loaded a model"))
        words = tuple(str(checkpoints.DEMO_PATH) if word == "{demo}" else word for word in words)
        result = go(*words, lines=lines)
        assert_refused(result.code, result.err, message)
        assert "choose another folder, or delete it" in result.err
        assert files(folder) == before | {"000_a_blue_square.mp4": b"of another list"}

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--policy", "full"), "policy 'SlidingWindow(window_frames=12, sink_frames=3)'"),
            (("--dtype", "bf16"), "dtype 'float32'"),
            (("--skip-steps", "2"), "skipped steps 'none'"),
        ],
    )
    def test_conditions_that_need_the_model(self, batch, words: tuple, message: str) -> None:
        folder, go = batch
        (folder / "000_a_red_circle.mp4").unlink()
        before = files(folder)
        result = go(*words)
        assert_refused(
            result.code, result.err, f"expected {message}, which {folder / '001_a_blue_square.mp4'} was made with, got"
        )
        assert files(folder) == before

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--switch-frames", "6"), "made with, got [6]"),
            (("--switch-frames", "3", "--blend-chunks", "1"), "made with, got 1"),
        ],
    )
    def test_where_prompts_switch(self, batch, words: tuple, message: str) -> None:
        _, go = batch
        lines = '{"prompts": ["a green triangle", "a blue square"]}'
        assert go("--switch-frames", "3", lines=lines).code == 0
        assert "is there already" in go("--switch-frames", "3", lines=lines).out
        result = go(*words, lines=lines)
        assert_refused(result.code, result.err, message)

    @pytest.mark.parametrize("report", [None, b"", b"\xff", b"[]", b'{"conditions": 3}', b'{"conditions": {}}'])
    def test_a_clip_without_a_readable_report_is_taken_as_it_is(self, batch, report: bytes | None) -> None:
        folder, go = batch
        for path in folder.glob("*.json"):
            path.unlink() if report is None else path.write_bytes(report)
        result = go("--seed", 1)
        assert result.code == 0, result.err
        assert result.out.count("is there already") == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A red circle: fast/slow?", "a_red_circle_fast_slow"),
        ("Красный круг", "красный_круг"),
        ("一只猫: 跑步", "一只猫_跑步"),
        ("cafe\u0301 au lait", "caf\u00e9_au_lait"),
        ("x" * 47 + " y", "x" * 47),
        ("字" * 60, "字" * 48),
        ("../..\\:*?\0\n", "clip"),
        ("a\udc80b", "a_b"),
    ],
)
def test_a_name_says_what_the_prompt_was(text: str, name: str) -> None:
    assert slug(text) == name
    assert len(f"000_{name}.json.4194304.tmp".encode()) < 256


def interrupt(monkeypatch: pytest.MonkeyPatch, chunk: int, step: int, clip: int = 1) -> None:
    """Makes the clip-th time that this model call is reached a Ctrl-C."""
    reached = 0

    def on_step(self: object, span, at: int) -> None:
        nonlocal reached
        reached += (span.chunk, at) == (chunk, step)
        if reached == clip:
            raise KeyboardInterrupt

    monkeypatch.setattr(common.Progress, "_step", on_step)


def test_ctrl_c_keeps_what_was_finished(run, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, chunk=2, step=3)
    files = "--out", tmp_path / "c.mp4", "--save-latents", tmp_path / "l.safetensors", "--report", tmp_path / "r.json"
    result = run("generate", "--prompt", PROMPT, "--frames", 45, *SMALL, *files)
    assert result.code == 130
    assert "Traceback" not in result.err
    assert names(tmp_path) == ["c.part.mp4", "l.safetensors"]
    assert f"21 frames, plays in {tmp_path / 'c.part.mp4'}; its latents" in result.err
    assert load_file(tmp_path / "l.safetensors")["latent"].shape[2] == 6
    assert video_size(tmp_path / "c.part.mp4") == (21, 16 * DEMO_SCALE, 16 * DEMO_SCALE)


def test_ctrl_c_before_the_first_chunk_leaves_nothing(
    run, tiny_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, chunk=0, step=1)
    result = run("generate", "--prompt", PROMPT, "--frames", 45, *SMALL, "--out", tmp_path / "c.mp4")
    assert result.code == 130
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for one process there")
def test_sigint_ends_a_real_process(checkpoint: Path, embedding: Path, tmp_path: Path) -> None:
    # A shell may have started the tests with SIGINT ignored, which children inherit.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from dummyforcing_core.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    words = (
        "generate", "--model", checkpoint, "--family", "self_forcing", "--text-embedding", embedding, "--device", "cpu",
        "--size", "64x64", "--policy", "window", "--frames", 80001, "--prompt", PROMPT, "--out", tmp_path / "c.mp4",
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    part = tmp_path / "c.part.mp4"
    try:
        until = time.monotonic() + 120
        while not (part.exists() and part.stat().st_size) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert names(tmp_path) == ["c.part.mp4"]
    frames, width, height = video_size(part)
    assert (frames % 12, width, height) == (9, 64, 64)  # whole chunks: 9 + 12 n frames


class TestCheckpointFile:
    """A tiny checkpoint in Self-Forcing's container, with its text as a file."""

    def test_runs_and_says_that_it_is_a_preview(self, run, checkpoint: Path, embedding: Path, tmp_path: Path) -> None:
        words = "--family", "self_forcing", "--text-embedding", embedding, "--size", "64x64", "--frames", 21
        clip = Made(run, tmp_path, *words, model=checkpoint)
        assert len(clip.warnings) == 1
        assert "preview" in clip.warnings[0]
        assert "--save-latents" in clip.warnings[0]
        assert video_size(clip.video) == (21, 64, 64)
        assert clip.latent.shape == (1, 16, 6, 8, 8)
        report = clip.document
        assert report["conditions"]["model"] == checkpoint.name
        assert report["conditions"]["family"] == "self_forcing"
        frame = 2 * 16 * 256 * FP32_BYTES * 2
        assert report["memory"]["history_bytes"] == {"predicted": 6 * frame, "actual": 6 * frame}

    def test_frame_wise_family_takes_one_frame_per_chunk(
        self, run, checkpoint: Path, embedding: Path, tmp_path: Path
    ) -> None:
        words = "--family", "causal_forcing_framewise", "--text-embedding", embedding, "--size", "32x32", "--frames", 9
        clip = Made(run, tmp_path, *words, model=checkpoint)
        assert [c["frames"] for c in clip.document["chunks"]] == [1, 1, 1]

    def test_default_size_is_480p(self, run, checkpoint: Path, embedding: Path, tmp_path: Path) -> None:
        words = "--family", "self_forcing", "--text-embedding", embedding, "--frames", 1
        clip = Made(run, tmp_path, *words, model=checkpoint)
        assert video_size(clip.video) == (1, 832, 480)

    def test_the_text_matters(self, run, checkpoint: Path, embedding: Path, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        other = tmp_path / "other.safetensors"
        save_file({"embedding": 3 * load_file(embedding)["embedding"].flip(0) + 1}, other)
        words = "--family", "self_forcing", "--size", "32x32", "--frames", 9
        one = Made(run, tmp_path / "1", *words, "--text-embedding", embedding, model=checkpoint)
        two = Made(run, tmp_path / "2", *words, "--text-embedding", other, model=checkpoint)
        assert not torch.equal(one.latent, two.latent)


def test_help_says_that_the_demo_is_enlarged(run) -> None:
    assert "shows every pixel six times larger" in " ".join(run("generate", "--help").out.split())
