"""--text-encoder on the command line: prompts to video without saved features; files of the demo family."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")
pytest.importorskip("sentencepiece")
pytest.importorskip("ftfy")

from dummyforcing_core.clips import pipeline
from dummyforcing_core.clips.video import read_frames
from dummyforcing_core.models import checkpoints
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.text import umt5
from dummyforcing_core.text.demo_text import TEXT_DIM, TEXT_LEN
from dummyforcing_core.text.umt5 import TextEncoder
from dummyforcing_core.vae.streaming import to_uint8
from dummyforcing_core.vae.tiny_vae import TinyStream
from dummyforcing_core.vae.tiny_vae_file import load_tiny_decoder
from dummyforcing_core.vae.wan_vae import WanVAE, WanVAEConfig
from tests.unit import tiny_umt5 as tiny
from tests.unit.refusals import assert_refused, files
from tests.unit.test_tiny_vae import seeded_weights
from tests.unit.tiny_umt5 import PROMPT

OTHER = "two dogs run along the river"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ComfyUI's single file, as wide as the tiny checkpoint's text."""
    spiece = tiny.spiece_model()
    state = tiny.state_of(tiny.make_model(len(tiny.pieces_of(spiece))))
    path = tmp_path_factory.mktemp("umt5") / "umt5_xxl_fp16.safetensors"
    return tiny.save_comfy({name: tensor.half() for name, tensor in state.items()}, spiece, path)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    save_file(WanVAE(WanVAEConfig(dim=8, encoder=True)).state_dict(), path)
    return path


@pytest.fixture
def words(checkpoint: Path, encoder: Path) -> list[object]:
    """generate's arguments for the smallest clip, but for the prompt and the output."""
    return ["--model", checkpoint, "--family", "self_forcing", "--text-encoder", encoder, "--size", "32x32", "--frames",
            9, "--device", "cpu"]  # fmt: skip


def rows(encoder: Path, prompt: str) -> torch.Tensor:
    features = TextEncoder(encoder, text_dim=tiny.DIM)(prompt)[0]
    return features[: int(features.abs().sum(-1).nonzero().max()) + 1]


def latent(path: Path) -> torch.Tensor:
    return load_file(path)["latent"]


def test_a_prompt_to_a_video(run, words, vae: Path, encoder: Path, checkpoint: Path, tmp_path: Path) -> None:
    out, latents = tmp_path / "c.mp4", tmp_path / "l.safetensors"
    result = run("generate", *words, "--vae", vae, "--prompt", PROMPT, "--out", out, "--save-latents", latents)
    assert result.code == 0, result.err
    assert "warning" not in result.err
    frames = list(read_frames(out))
    assert len(frames) == 9
    assert frames[0].shape == (32, 32, 3)
    # The same features, saved and given by hand.
    save_file({"text": rows(encoder, PROMPT)}, tmp_path / "text.safetensors")
    by_hand = tmp_path / "h.safetensors"
    at = words.index("--text-encoder")
    result = run(
        "generate", *words[:at], "--text-embedding", tmp_path / "text.safetensors", *words[at + 2 :], "--vae", vae,
        "--prompt", "ignored", "--out", out, "--save-latents", by_hand,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert torch.equal(latent(latents), latent(by_hand))


def test_the_prompt_matters(run, words, tmp_path: Path) -> None:
    for i, prompt in enumerate((PROMPT, OTHER)):
        result = run("generate", *words, "--prompt", prompt, "--out", tmp_path / f"{i}.mp4", "--save-latents",
                     tmp_path / f"{i}.safetensors")  # fmt: skip
        assert result.code == 0, result.err
    a, b = (latent(tmp_path / f"{i}.safetensors") for i in range(2))
    assert not torch.equal(a, b)


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What happens, in order: the prompts of each pass of the encoder, "model" when the transformer is loaded."""
    events: list[object] = []
    encode_ids, load_model = umt5.encode_ids, pipeline.load_model

    def encode(file, ids, *rest):
        events.append(len(ids))
        return encode_ids(file, ids, *rest)

    def load(*args):
        events.append("model")
        return load_model(*args)

    monkeypatch.setattr(umt5, "encode_ids", encode)
    monkeypatch.setattr(pipeline, "load_model", load)
    return events


def test_all_clips_are_read_before_the_model_is_loaded(run, words, order, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(f"{PROMPT}\n{OTHER}\n{PROMPT}\n", encoding="utf-8")
    result = run("generate", *words, "--prompts", tmp_path / "p.txt", "--out", tmp_path / "clips")
    assert result.code == 0, result.err
    assert order == [2, "model"]
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 3


def test_a_clip_that_is_there_is_not_read_again(run, words, order, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(f"{PROMPT}\n{OTHER}\n", encoding="utf-8")
    made = run("generate", *words, "--prompts", tmp_path / "p.txt", "--out", tmp_path / "clips")
    assert made.code == 0, made.err
    next((tmp_path / "clips").glob("001*.mp4")).unlink()
    order.clear()
    assert run("generate", *words, "--prompts", tmp_path / "p.txt", "--out", tmp_path / "clips").code == 0
    assert order == [1, "model"]


def test_schedules(run, words, order, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(
        json.dumps({"prompts": [PROMPT, OTHER]}) + "\n" + json.dumps({"prompts": [OTHER, "cat"]}), encoding="utf-8"
    )
    words = [*words, "--schedule", tmp_path / "s.jsonl", "--switch-frames", 2, "--out", tmp_path / "clips"]
    result = run("generate", *words)
    assert result.code == 0, result.err
    assert order == [3, "model"]


def test_compare_and_profile(run, words, order, tmp_path: Path) -> None:
    words = [*(word if word != 9 else 33 for word in words)]
    result = run("compare", *words, "--prompt", PROMPT, "--policies", "full,window", "--out", tmp_path / "compare")
    assert result.code == 0, result.err
    assert order == [1, "model"]
    order.clear()
    (tmp_path / "p.txt").write_text(f"{PROMPT}\n{OTHER}\n", encoding="utf-8")
    result = run("profile", *words, "--prompts", tmp_path / "p.txt", "--out", tmp_path / "profile.json")
    assert result.code == 0, result.err
    assert order == [2, "model"]


def test_a_prompt_that_comes_later_is_read_then(checkpoint: Path, encoder: Path, order) -> None:
    loaded = pipeline.load_pipeline(
        pipeline.Weights(str(checkpoint), "self_forcing"),
        pipeline.Compute(torch.device("cpu"), torch.float32),
        pipeline.TextFiles(encoder=encoder, prompts=[PROMPT]),
    )
    features = loaded.encode(OTHER)
    assert order == [1, "model", 1]
    assert features.shape == (1, 512, tiny.DIM)
    assert torch.equal(features[0, : len(rows(encoder, OTHER))], rows(encoder, OTHER))


def test_tokenizer_option(run, words, encoder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "umt5.safetensors"
    tensors = load_file(encoder)
    spiece = tensors.pop("spiece_model")
    save_file(tensors, bare)
    words[words.index(encoder)] = bare
    words += ["--prompt", PROMPT, "--out", tmp_path / "c.mp4", "--save-latents"]
    result = run("generate", *words, tmp_path / "a.safetensors")
    assert_refused(result.code, result.err, "holds no tokenizer")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "spiece.model").write_bytes(spiece.numpy().tobytes())
    result = run("generate", *words, tmp_path / "a.safetensors", "--tokenizer", tmp_path / "elsewhere")
    assert result.code == 0, result.err
    words[words.index(bare)] = encoder
    assert run("generate", *words, tmp_path / "b.safetensors").code == 0
    assert torch.equal(latent(tmp_path / "a.safetensors"), latent(tmp_path / "b.safetensors"))


def test_a_long_prompt_is_a_warning(run, words, tmp_path: Path) -> None:
    result = run("generate", *words, "--prompt", "a cat and " * 300, "--out", tmp_path / "c.mp4")
    assert result.code == 0, result.err
    assert result.err.count("512 fit: its end is not read") == 1


REFUSED = {
    "both sources": (("--text-encoder", "ENCODER", "--text-embedding", "x.safetensors"), "leave one out"),
    "a tokenizer alone": (("--tokenizer", "x.json"), "--tokenizer has no effect here"),
    "neither": ((), "--text-embedding FILE.safetensors"),
    "neither, the other": ((), "or --text-encoder PATH"),
    "no such encoder": (("--text-encoder", "nowhere"), "nowhere: no such file"),
    "not an encoder": (("--text-encoder", "CHECKPOINT"), "umt5-xxl was expected"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(run, checkpoint: Path, encoder: Path, tmp_path: Path, case: str) -> None:
    names = {"ENCODER": encoder, "CHECKPOINT": checkpoint}
    given, message = REFUSED[case]
    result = run(
        "generate", "--model", checkpoint, "--family", "self_forcing", "--size", "32x32", "--frames", 9, "--device",
        "cpu", *(names.get(word, word) for word in given), "--prompt", PROMPT, "--out", tmp_path / "c.mp4",
    )  # fmt: skip
    assert_refused(result.code, result.err, message)
    assert result.err.count("\n") == 1
    assert files(tmp_path) == {}


def test_an_encoder_of_another_width(run, order, encoder: Path, tmp_path: Path) -> None:
    """Both widths are named, before anything is computed or loaded."""
    torch.manual_seed(0)
    config = WanConfig(dim=256, ffn_dim=64, num_heads=2, num_layers=1, text_dim=48, freq_dim=16)
    checkpoints.save_model(CausalWan(config), tmp_path / "m.safetensors", "self_forcing")
    result = run("generate", "--model", tmp_path / "m.safetensors", "--text-encoder", encoder, "--prompt", PROMPT,
                 "--size", "32x32", "--frames", 9, "--device", "cpu", "--out", tmp_path / "c.mp4")  # fmt: skip
    assert_refused(result.code, result.err, "gives 32 channels a token, this model reads 48")
    assert order == []


def test_length_of_text_is_the_models(run, encoder: Path, tmp_path: Path) -> None:
    """A model that reads 16 rows gets 16."""
    torch.manual_seed(0)
    config = WanConfig(dim=256, ffn_dim=64, num_heads=2, num_layers=1, text_dim=32, text_len=16, freq_dim=16)
    checkpoints.save_model(CausalWan(config), tmp_path / "m.safetensors", "self_forcing")
    result = run("generate", "--model", tmp_path / "m.safetensors", "--text-encoder", encoder, "--prompt", PROMPT,
                 "--size", "32x32", "--frames", 9, "--device", "cpu", "--out", tmp_path / "c.mp4")  # fmt: skip
    assert result.code == 0, result.err
    assert "16 fit" in result.err


# ---- files of the demo family

DEMO_PROMPT = "a red circle on the left and a blue square on the right"


def demo_clip(run, folder: Path, *words: object) -> tuple[torch.Tensor, str]:
    folder.mkdir()
    result = run("generate", "--prompt", DEMO_PROMPT, "--frames", 21, "--device", "cpu", *words, "--out",
                 folder / "c.mp4", "--save-latents", folder / "l.safetensors")  # fmt: skip
    assert result.code == 0, result.err
    return latent(folder / "l.safetensors"), result.err


def test_a_file_of_the_demo_family_is_the_demo(run, tiny_demo: WanConfig, tmp_path: Path) -> None:
    """Text, codec, default size and scale: the same clip, no warning."""
    bundled, _ = demo_clip(run, tmp_path / "a", "--model", "demo")
    ours, err = demo_clip(run, tmp_path / "b", "--model", checkpoints.DEMO_PATH)
    assert bundled.shape == (1, 16, 6, 8, 8)
    assert torch.equal(ours, bundled)
    assert "warning" not in err
    frames = [list(read_frames(tmp_path / name / "c.mp4")) for name in "ab"]
    assert len(frames[0]) == len(frames[1]) == 21
    assert all((one == other).all() for one, other in zip(*frames, strict=True))


def test_unknown_words_are_told_for_files_too(run, tiny_demo: WanConfig, tmp_path: Path) -> None:
    result = run("generate", "--model", checkpoints.DEMO_PATH, "--prompt", "a red zeppelin", "--frames", 9, "--size",
                 "16x16", "--device", "cpu", "--out", tmp_path / "c.mp4")  # fmt: skip
    assert result.code == 0, result.err
    assert "does not know: zeppelin" in result.err


def test_saved_features_still_go_first(run, tiny_demo: WanConfig, tmp_path: Path) -> None:
    save_file({"text": torch.ones(TEXT_LEN, TEXT_DIM)}, tmp_path / "text.safetensors")
    given = "--text-embedding", tmp_path / "text.safetensors", "--model", checkpoints.DEMO_PATH
    assert not torch.equal(
        demo_clip(run, tmp_path / "a", *given)[0], demo_clip(run, tmp_path / "b", "--model", "demo")[0]
    )


@pytest.mark.parametrize("model", ["demo", "FILE"])
@pytest.mark.parametrize(
    ("option", "message"),
    [("--vae", "has a codec of its own"), ("--text-encoder", "reads prompts by itself")],
)
def test_what_the_demo_brings_itself(
    run, tiny_demo, vae: Path, encoder: Path, tmp_path: Path, model: str, option: str, message: str
) -> None:
    result = run("generate", "--model", model if model == "demo" else checkpoints.DEMO_PATH, option,
                 vae if option == "--vae" else encoder, "--prompt", "x", "--out", tmp_path / "c.mp4")  # fmt: skip
    assert_refused(result.code, result.err, message)


def test_a_demo_file_of_another_text(run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = WanConfig(dim=64, ffn_dim=64, num_heads=2, num_layers=1, text_dim=32, text_len=TEXT_LEN, freq_dim=16)
    checkpoints.save_model(CausalWan(config), tmp_path / "m.safetensors", "demo")
    result = run("generate", "--model", tmp_path / "m.safetensors", "--prompt", "x", "--out", tmp_path / "c.mp4")
    assert_refused(result.code, result.err, "reads 11 rows of 32 channels, the demo world's text has 11 of 64")


def test_a_tiny_decoder_in_place_of_the_vae(run, words, tmp_path: Path) -> None:
    path = tmp_path / "taew2_1.safetensors"
    save_file(seeded_weights(), path)
    out, latents = tmp_path / "c.mp4", tmp_path / "l.safetensors"
    result = run("generate", *words, "--vae", path, "--prompt", PROMPT, "--out", out, "--save-latents", latents)
    assert result.code == 0, result.err
    assert "preview" not in result.err
    pixels = to_uint8(TinyStream(load_tiny_decoder(path)).push(latent(latents)))[0]
    shown = np.stack(list(read_frames(out)))
    assert shown.shape == pixels.shape == (9, 32, 32, 3)
    assert np.abs(shown.astype(float) - pixels).mean() < 8  # a lossy video of noise
    tiled = run("generate", *words, "--vae", path, "--vae-tile", "8x8", "--prompt", PROMPT, "--out", tmp_path / "d.mp4")
    assert tiled.code == 2
    assert "expected no --vae-tile for a tiny decoder" in tiled.err


def test_offloaded_blocks_make_the_same_clip(run, words, tmp_path: Path) -> None:
    latents = []
    for name, extra in (("whole", []), ("offloaded", ["--offload"]), ("partly", ["--offload", 1])):
        out = tmp_path / f"{name}.safetensors"
        result = run(
            "generate", *words, *extra, "--prompt", PROMPT, "--out", tmp_path / f"{name}.mp4", "--save-latents", out
        )
        assert result.code == 0, result.err
        assert ("come over layer by layer" in result.err) == bool(extra)
        latents.append(latent(out))
    assert torch.equal(latents[0], latents[1])
    assert torch.equal(latents[0], latents[2])
    refused = run("generate", *words, "--offload", 99, "--prompt", PROMPT, "--out", tmp_path / "x.mp4")
    assert refused.code == 2
    assert "as many as there are, got 99" in refused.err
