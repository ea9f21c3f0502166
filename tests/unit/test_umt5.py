"""The umt5 text encoder: every format against transformers, the official recipe and a forward written out."""

import gc
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

pytest.importorskip("transformers")
pytest.importorskip("sentencepiece")
pytest.importorskip("ftfy")

from dummyforcing_core.errors import CheckpointError, DummyForcingError
from dummyforcing_core.text import umt5
from dummyforcing_core.text.umt5 import TextEncoder
from dummyforcing_core.text.umt5_tokenizer import clean, load_tokenizer
from tests.unit import tiny_umt5 as tiny
from tests.unit.tiny_umt5 import PROMPT, TEXT_LEN, Tensors

LONG = "a cat and a dog, then " * 200
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


@dataclass(frozen=True)
class World:
    """One random encoder: its folder, its weights by transformers' names, its tokenizer."""

    folder: Path
    state: Tensors
    spiece: bytes

    def half(self) -> Tensors:
        return {name: tensor.half() for name, tensor in self.state.items()}

    def ids(self, prompt: str) -> list[int]:
        return load_tokenizer(self.folder, None, None).ids(prompt, TEXT_LEN)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    spiece = tiny.spiece_model()
    model = tiny.make_model(len(tiny.pieces_of(spiece)))
    folder = tiny.save_folder(model, spiece, tmp_path_factory.mktemp("umt5") / "text_encoder")
    return World(folder, tiny.state_of(model), spiece)


@pytest.fixture(scope="module")
def expected(world: World) -> Tensor:
    """Features of PROMPT by the file's weights, in float32."""
    return encode(world.folder)


def encode(path: Path, prompt: str = PROMPT, tokenizer: Path | None = None, **options) -> Tensor:
    return TextEncoder(path, tokenizer, text_dim=tiny.DIM, **options)(prompt)


def rows_of(features: Tensor) -> int:
    """Rows before the zero rows at the end."""
    return int(features[0].abs().sum(-1).nonzero().max()) + 1


# ---- the network


@pytest.mark.parametrize("prompt", [PROMPT, "", "cat", "  two\ndogs &amp;amp; a “cat” ", LONG], ids=range(5))
def test_features_are_the_official_ones(world: World, prompt: str) -> None:
    official, rows = tiny.official_features(world.folder, prompt)
    features = encode(world.folder, prompt)
    assert features.shape == (1, TEXT_LEN, tiny.DIM)
    assert features.dtype == torch.float32
    assert rows_of(features) == rows
    assert not features[:, rows:].any()
    assert official.std() > 0.01
    torch.testing.assert_close(features, official, rtol=0, atol=2e-6)


@pytest.mark.parametrize("prompt", [PROMPT, "cat", LONG[:1500]], ids=range(3))
def test_features_are_those_of_the_forward_written_out(world: World, prompt: str) -> None:
    ids = world.ids(prompt)
    expected = tiny.written_out(tiny.wan_state(world.state), ids)
    torch.testing.assert_close(encode(world.folder, prompt)[0, : len(ids)].double(), expected, rtol=0, atol=2e-6)


def test_a_prompt_does_not_depend_on_its_neighbours(world: World) -> None:
    encoder = TextEncoder(world.folder, text_dim=tiny.DIM)
    encoder.read([PROMPT, LONG, "", PROMPT])
    for prompt in (PROMPT, LONG, ""):
        assert torch.equal(encoder(prompt), encode(world.folder, prompt))


def test_one_pass_for_all_prompts_and_nothing_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, matrices, shape = 0, [], (tiny.FFN_DIM, tiny.DIM)
    open_umt5, weight = umt5.open_umt5, umt5._weight

    def count_files(path: Path):
        nonlocal opened
        opened += 1
        return open_umt5(path)

    def alive() -> int:
        """Matrices of wi_0 and wi_1 in memory; no other tensor has their dtype."""
        tensors = [o for o in gc.get_objects() if type(o) in (Tensor, torch.nn.Parameter)]
        return sum(t.shape == shape and t.dtype == torch.float64 and t.device.type == "cpu" for t in tensors)

    def count_matrices(*args):
        tensor = weight(*args)
        if tensor.shape == shape:
            matrices.append(alive())
        return tensor

    monkeypatch.setattr(umt5, "open_umt5", count_files)
    monkeypatch.setattr(umt5, "_weight", count_matrices)
    encoder = TextEncoder(world.folder, text_dim=tiny.DIM, dtype=torch.float64)
    encoder.read([])
    assert opened == 0
    encoder.read([PROMPT, "a dog", PROMPT])
    first = encoder(PROMPT), encoder("a dog")
    assert opened == 1
    assert matrices == [1, 2] * tiny.LAYERS  # the layer before is gone when one comes
    gc.collect()
    assert alive() == 0
    encoder.read(["a dog", "a bird"])
    assert opened == 2
    assert torch.equal(encoder(PROMPT), first[0])
    assert torch.equal(encoder("a dog"), first[1])
    assert opened == 2
    assert not torch.equal(encoder("a bird"), first[1])


def test_dtypes(world: World, expected: Tensor) -> None:
    half = encode(world.folder, dtype=torch.bfloat16)
    error = float((half - expected).abs().max())
    assert 0 < error < 0.05 * float(expected.abs().max())
    assert torch.equal(half, half.bfloat16().float())
    assert torch.equal(encode(world.folder, dtype=torch.float16), half)  # float16 would overflow in the real one


# ---- formats: equal weights, equal features


def comfy(world: World, path: Path) -> Path:
    return tiny.save_comfy(world.half(), world.spiece, path / "umt5_xxl_fp16.safetensors")


def comfy_bf16(world: World, path: Path) -> Path:
    state = {name: tensor.bfloat16() for name, tensor in world.state.items()}
    return tiny.save_comfy(state, world.spiece, path / "umt5.safetensors")


def all_in_one(world: World, path: Path) -> Path:
    inside = {f"text_encoders.umt5xxl.transformer.{name}": tensor for name, tensor in world.half().items()}
    inside["text_encoders.umt5xxl.spiece_model"] = tiny.spiece_tensor(world.spiece)
    inside |= {"model.diffusion_model.patch_embedding.weight": torch.zeros(4, 4), "vae.conv1.weight": torch.zeros(3)}
    save_file(inside, path / "all.safetensors")
    return path / "all.safetensors"


def embed_tokens(world: World, path: Path) -> Path:
    state = world.half()
    state["encoder.embed_tokens.weight"] = state.pop("shared.weight")
    return tiny.save_comfy(state, world.spiece, path / "m.safetensors")


def with_decoder(world: World, path: Path) -> Path:
    extra = {name.replace("encoder.", "decoder."): tensor * 2 for name, tensor in world.half().items()}
    extra |= {"decoder.block.0.layer.1.EncDecAttention.q.weight": torch.ones(8, 8), "lm_head.weight": torch.ones(9, 9)}
    # The order of names must not matter.
    return tiny.save_comfy(extra | world.half(), world.spiece, path / "full_t5.safetensors")


def wan(world: World, path: Path) -> Path:
    torch.save(tiny.wan_state(world.state), path / "models_t5_umt5-xxl-enc-bf16.pth")
    tiny.save_tokenizer(world.spiece, path / "google" / "umt5-xxl")
    return path / "models_t5_umt5-xxl-enc-bf16.pth"


def wan_full(world: World, path: Path) -> Path:
    """Encoder and decoder under Wan's names; what has no prefix is not the encoder's."""
    inner = tiny.wan_state(world.state)
    state = {f"encoder.{name}": tensor for name, tensor in inner.items()}
    state |= {f"decoder.{name}": tensor * 2 for name, tensor in inner.items()}
    torch.save(state | {name: torch.zeros(3) for name in ("token_embedding.weight", "norm.weight")}, path / "m.pth")
    (path / "spiece.model").write_bytes(world.spiece)
    return path / "m.pth"


def wan_safetensors(world: World, path: Path) -> Path:
    save_file(tiny.wan_state(world.state), path / "umt5-xxl-enc-bf16.safetensors")
    (path / "spiece.model").write_bytes(world.spiece)
    return path / "umt5-xxl-enc-bf16.safetensors"


def shards(world: World, path: Path) -> Path:
    copy(world, path, "spiece.model")
    names = sorted(world.state)
    for i, part in enumerate((names[:7], names[7:20], names[20:]), 1):
        save_file({name: world.state[name] for name in part}, path / f"model-{i:05}-of-00003.safetensors")
    return path


def torch_folder(world: World, path: Path) -> Path:
    copy(world, path, "tokenizer.json")
    torch.save(world.state, path / "pytorch_model.bin")
    return path


def torch_shards(world: World, path: Path) -> Path:
    copy(world, path, "tokenizer.json")
    names = sorted(world.state)
    for i, part in enumerate((names[:7], names[7:]), 1):
        torch.save({name: world.state[name] for name in part}, path / f"pytorch_model-{i:05}-of-00002.bin")
    return path


def diffusers(world: World, path: Path) -> Path:
    """text_encoder/ and tokenizer/ side by side."""
    folder = path / "text_encoder"
    folder.mkdir()
    copy(world, folder, "model.safetensors")
    tiny.save_tokenizer(world.spiece, path / "tokenizer")
    return folder


def copy(world: World, path: Path, *names: str) -> None:
    for name in ("config.json", *names):
        shutil.copy(world.folder / name, path)


FORMATS = (comfy, comfy_bf16, all_in_one, embed_tokens, with_decoder, wan, wan_full, wan_safetensors, shards,
           torch_folder, torch_shards, diffusers)  # fmt: skip


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_formats(world: World, expected: Tensor, tmp_path: Path, write) -> None:
    assert torch.equal(encode(write(world, tmp_path)), expected)


def test_gate_and_heads_are_not_interchangeable(world: World, expected: Tensor, tmp_path: Path) -> None:
    """The formats could not be told apart if the network were blind to what they name differently."""
    for one, other in (("ffn.gate.0", "ffn.fc1"), ("attn.q", "attn.k"), ("norm1", "norm2")):
        state = tiny.wan_state(world.state)
        a, b = (f"blocks.1.{name}.weight" for name in (one, other))
        state[a], state[b] = state[b], state[a]
        torch.save(state, tmp_path / "m.pth")
        assert not torch.allclose(encode(tmp_path / "m.pth", tokenizer=world.folder), expected, atol=1e-3)


# ---- float8


def fp8_old(world: World, stored: Tensors, scales: dict[str, float], kind: str) -> tuple[Tensors, dict | None]:
    marker = {"scaled_fp8": torch.zeros(2, dtype=E4M3)}
    inputs = {f"{module}.scale_input": torch.tensor(3.0) for module in scales}
    return tiny.with_scales(stored, scales, "scale_weight") | marker | inputs, None


def fp8_tensors(world: World, stored: Tensors, scales: dict[str, float], kind: str) -> tuple[Tensors, dict | None]:
    stated = {f"{module}.comfy_quant": tiny.quant_tensor(kind) for module in scales}
    inputs = {f"{module}.input_scale": torch.tensor(3.0) for module in scales}
    return tiny.with_scales(stored, scales, "weight_scale") | stated | inputs, None


def fp8_header(world: World, stored: Tensors, scales: dict[str, float], kind: str) -> tuple[Tensors, dict | None]:
    layers = {module: {"format": kind, "full_precision_matrix_mult": True} for module in scales}
    state = tiny.with_scales(stored, scales, "weight_scale")
    return state, {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}


def fp8_bytes(world: World, stored: Tensors, scales: dict[str, float], kind: str) -> tuple[Tensors, dict | None]:
    state, metadata = fp8_tensors(world, stored, scales, kind)
    return {n: t.view(torch.uint8) if t.dtype in (E4M3, E5M2) else t for n, t in state.items()}, metadata


@pytest.mark.parametrize("embedding", [False, True])
@pytest.mark.parametrize("kind", [E4M3, E5M2], ids=str)
@pytest.mark.parametrize("store", [fp8_old, fp8_tensors, fp8_header, fp8_bytes], ids=lambda f: f.__name__)
def test_scaled_float8(world: World, expected: Tensor, tmp_path: Path, store, kind, embedding: bool) -> None:
    """As exact as the weights multiplied out by hand, and no further from the original than float8's rounding."""
    modules = tiny.linear_names(world.state) + ["shared"] * embedding
    stored, scales, plain = tiny.quantised(world.state, kind, modules)
    state, metadata = store(world, stored, scales, str(kind).removeprefix("torch."))
    path = tiny.save_comfy(state, world.spiece, tmp_path / "scaled.safetensors", metadata)
    by_hand = tiny.save_comfy(plain, world.spiece, tmp_path / "plain.safetensors")
    features = encode(path)
    assert torch.equal(features, encode(by_hand))
    mantissa = 3 if kind == E4M3 else 2
    worst = max(float((plain[n] - world.state[n]).abs().max() / world.state[n].abs().max()) for n in plain)
    assert 0 < worst <= 2.0 ** -(mantissa + 1)
    assert 0 < (features - expected).abs().max() < expected.abs().max()


def test_float8_without_scales(world: World, tmp_path: Path) -> None:
    """Kijai's and ComfyUI's older plain float8 files: every weight, embedding and norms too."""
    cast = {name: tensor.to(E4M3) for name, tensor in world.state.items()}
    path = tiny.save_comfy(cast, world.spiece, tmp_path / "fp8.safetensors")
    plain = {name: tensor.float() for name, tensor in cast.items()}
    assert torch.equal(encode(path), encode(tiny.save_comfy(plain, world.spiece, tmp_path / "plain.safetensors")))


def test_scaled_float8_under_a_prefix(world: World, tmp_path: Path) -> None:
    stored, scales, plain = tiny.quantised(world.state, E4M3, tiny.linear_names(world.state))
    state, metadata = fp8_header(world, stored, scales, "float8_e4m3fn")
    layers = json.loads(metadata["_quantization_metadata"])["layers"]
    layers = {f"te.transformer.{module}": entry for module, entry in layers.items()}
    state = {f"te.transformer.{n}": t.view(torch.uint8) if t.dtype == E4M3 else t for n, t in state.items()}
    header = {"_quantization_metadata": json.dumps({"layers": layers})}
    path = tiny.save_comfy(state, world.spiece, tmp_path / "scaled.safetensors", header)
    assert torch.equal(encode(path), encode(tiny.save_comfy(plain, world.spiece, tmp_path / "plain.safetensors")))


# ---- text


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  a  cat\n\ton\u00a0a road ", "a cat on a road"),
        ("a cat &amp;amp; a dog &amp;lt;3", "a cat & a dog <3"),
        ("<b> a cat &amp;amp; a dog", "<b> a cat & a dog"),
        ("\u201ca cat\u2019s\u201d dog", '"a cat\'s" dog'),
        ("a cafÃ© at night", "a café at night"),
        ("红色\uff0c圆形", "红色,圆形"),
        (" \n ", ""),
        ("", ""),
    ],
)
def test_cleaning(prompt: str, cleaned: str) -> None:
    assert clean(prompt) == cleaned == tiny.official_clean(prompt)


def test_an_empty_prompt_is_the_end_token_alone(world: World) -> None:
    assert world.ids("") == world.ids(" \n") == [1]
    assert rows_of(encode(world.folder, "")) == 1


@pytest.mark.parametrize("source", ["tokenizer.json", "spiece.model"])
def test_both_tokenizers_end_with_the_end_token_once(world: World, source: str) -> None:
    tokenizer = load_tokenizer(world.folder, world.folder / source, None)
    reference = tiny.transformers.AutoTokenizer.from_pretrained(world.folder)
    for text in (PROMPT, "a cat & two dogs", "cat, cat"):
        assert tokenizer.ids(text, TEXT_LEN) == reference(text).input_ids
        assert tokenizer.ids(text, TEXT_LEN).count(1) == 1


def test_stored_truncation_and_padding_are_not_used(world: World, tmp_path: Path) -> None:
    """Files saved after training carry them."""
    document = json.loads((world.folder / "tokenizer.json").read_text(encoding="utf-8"))
    document["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    document["padding"] = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                           "pad_type_id": 0, "pad_token": "<pad>"}  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert load_tokenizer(world.folder, tmp_path, None).ids(PROMPT, TEXT_LEN) == world.ids(PROMPT)


@pytest.mark.parametrize(("extra", "warnings"), [(-1, 0), (0, 0), (1, 1)])
def test_the_longest_prompt(world: World, extra: int, warnings: int) -> None:
    """Cut to `longest` tokens, the last of which is the end token; a prompt that just fits is no reason to warn."""
    whole = world.ids(PROMPT)
    lines: list[str] = []
    tokenizer = load_tokenizer(world.folder, None, None)
    ids = tokenizer.ids(PROMPT, len(whole) - extra, lines.append)
    assert len(ids) == len(whole) - max(extra, 0)
    assert ids[-1] == 1
    assert ids[:-1] == whole[:-1][: len(ids) - 1]
    assert len(lines) == warnings
    if warnings:
        assert f"is {len(whole)} tokens long, {len(whole) - 1} fit" in lines[0]


def test_a_long_prompt_warns_once(world: World) -> None:
    lines: list[str] = []
    encoder = TextEncoder(world.folder, text_dim=tiny.DIM, warn=lines.append)
    encoder.read([LONG, PROMPT])
    assert rows_of(encoder(LONG)) == TEXT_LEN
    assert len(lines) == 1
    assert "'a cat and a dog, then a cat and a dog, t'" in lines[0]


def test_other_lengths_of_text(world: World) -> None:
    features = encode(world.folder, LONG, text_len=20)
    assert features.shape == (1, 20, tiny.DIM)
    assert rows_of(features) == 20
    assert world.ids(LONG)[:19] == load_tokenizer(world.folder, None, None).ids(LONG, 20)[:19]


def test_where_the_tokenizer_is_looked_for(world: World, tmp_path: Path) -> None:
    """Given one first, then the file's own, then what lies beside it; a wrong one beside it does no harm."""
    path = comfy(world, tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"damaged")
    own = encode(path)
    assert torch.equal(encode(path, tokenizer=world.folder), own)
    assert torch.equal(encode(path, tokenizer=world.folder / "spiece.model"), own)
    assert torch.equal(encode(path, tokenizer=world.folder / "tokenizer.json"), own)
    with pytest.raises(CheckpointError, match="damaged or of another kind"):
        encode(path, tokenizer=tmp_path)


# ---- refused


def refusal(path: Path, **options) -> str:
    with pytest.raises(CheckpointError) as error:
        encode(path, **options)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def edited(world: World, tmp_path: Path, **tensors: Tensor | None) -> Path:
    """ComfyUI's file with some tensors replaced (None: left out); "/" stands for "."."""
    state = world.half()
    for name, tensor in tensors.items():
        state.pop(name.replace("/", "."), None)
        if tensor is not None:
            state[name.replace("/", ".")] = tensor
    return tiny.save_comfy(state, world.spiece, tmp_path / "m.safetensors")


Q = "encoder/block/1/layer/0/SelfAttention/q"
WEIGHT = torch.zeros(tiny.HEADS * tiny.HEAD_DIM, tiny.DIM)
BROKEN: dict[str, tuple[Tensors, str]] = {
    "a tensor missing": ({f"{Q}/weight": None}, "1 missing: encoder.block.1.layer.0.SelfAttention.q.weight"),
    "the last norm missing": ({"encoder/final_layer_norm/weight": None}, "missing: encoder.final_layer_norm.weight"),
    "the embedding missing": ({"shared/weight": None}, "misses shared.weight"),
    "a wrong shape": ({f"{Q}/weight": torch.zeros(3, tiny.DIM)}, "[3, 32] instead of [48, 32]"),
    "an adapter": ({f"{Q}/lora_A/weight": torch.zeros(3)}, "1 surplus: encoder.block.1.layer.0.SelfAttention.q.lora_A"),
    "int8": ({f"{Q}/weight": WEIGHT.to(torch.int8)}, "an unusable dtype: encoder.block.1"),
    "bytes of no format": ({f"{Q}/weight": WEIGHT.to(torch.uint8)}, "torch.uint8"),
    "another format": (
        {f"{Q}/weight": WEIGHT.to(torch.int8), f"{Q}/comfy_quant": tiny.quant_tensor("int8_tensorwise")},
        "other than float8: encoder.block.1.layer.0.SelfAttention.q (int8_tensorwise)",
    ),
    "a format without scale": (
        {f"{Q}/weight": WEIGHT.to(E4M3), f"{Q}/comfy_quant": tiny.quant_tensor("float8_e4m3fn")}, "without one scale"
    ),
    "a scale per row": ({f"{Q}/weight": WEIGHT.to(E4M3), f"{Q}/scale_weight": torch.ones(48, 1)}, "without one scale"),
    "a scale of 0": ({f"{Q}/weight": WEIGHT.to(E4M3), f"{Q}/scale_weight": torch.zeros(())}, "without one scale"),
    "a vast scale": ({f"{Q}/weight": WEIGHT.to(E4M3), f"{Q}/scale_weight": torch.tensor(1e38)}, "without one scale"),
    "malformed format": ({f"{Q}/comfy_quant": torch.tensor([1, 2], dtype=torch.uint8)}, "metadata is malformed"),
    "a list as format": (
        {f"{Q}/comfy_quant": torch.tensor(list(b"[1]"), dtype=torch.uint8)}, "metadata is malformed"
    ),
    "one bias for all layers": (
        {f"encoder/block/{i}/layer/0/SelfAttention/relative_attention_bias/weight": None for i in (1, 2)}, "T5 or mT5"
    ),
    "not a number": ({f"{Q}/weight": WEIGHT.float() * float("nan")}, f"{Q.replace('/', '.')}.weight holds NaN"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_encoders(world: World, tmp_path: Path, case: str) -> None:
    tensors, message = BROKEN[case]
    assert message in refusal(edited(world, tmp_path, **tensors))


OTHERS = {
    "CLIP": ("text_model.encoder.layers.0.self_attn.q_proj.weight", "this is CLIP"),
    "a diffusion model": ("model.diffusion_model.patch_embedding.weight", "this is a diffusion model"),
    "a LoRA": ("lora_unet_blocks_0_ffn.lora_up.weight", "this is a LoRA"),
    "anything": ("some.weight", "holds some.weight"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_networks(tmp_path: Path, case: str) -> None:
    name, message = OTHERS[case]
    save_file({name: torch.zeros(2, 2)}, tmp_path / "m.safetensors")
    text = refusal(tmp_path / "m.safetensors")
    assert message in text
    assert "umt5-xxl was expected" in text


def test_t5_of_the_first_version(world: World, tmp_path: Path) -> None:
    """No gate: wi where umt5 has wi_0 and wi_1, one layer, so that its position bias does not give it away."""
    state = {n: t for n, t in world.half().items() if "block.1" not in n and "block.2" not in n and "wi_1" not in n}
    state = {n.replace("wi_0", "wi"): t for n, t in state.items()}
    assert "DenseReluDense.wi_1" in refusal(tiny.save_comfy(state, world.spiece, tmp_path / "m.safetensors"))


def test_unreadable_files(world: World, tmp_path: Path) -> None:
    whole = comfy(world, tmp_path)
    assert "no such file" in refusal(tmp_path / "none.safetensors")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert "'.gguf' is not readable" in refusal(tmp_path / "m.gguf")
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-100])
    assert "truncated" in refusal(tmp_path / "cut.safetensors")
    assert "truncated" in refusal(_cut(wan(world, tmp_path)))
    (tmp_path / "empty.pth").write_bytes(b"")
    assert "truncated" in refusal(tmp_path / "empty.pth")
    save_file({}, tmp_path / "none.safetensors")
    assert "no tensors" in refusal(tmp_path / "none.safetensors")


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def test_unusable_folders(world: World, tmp_path: Path) -> None:
    assert "config.json: no such file" in refusal(tmp_path)
    copy(world, tmp_path, "spiece.model")
    assert "holds no weights" in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not a file of torch")
    assert "pytorch_model.bin: truncated" in refusal(tmp_path)
    torch.save(world.state, tmp_path / "pytorch_model.bin")
    encode(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for text, message in (
        (json.dumps(config | {"model_type": "t5"}), "says 't5'"),
        (json.dumps(config | {"feed_forward_proj": "relu"}), "with 'relu'"),
        (json.dumps(config | {"num_layers": 4}), "disagree on num_layers 4 and 3"),
        (json.dumps(config | {"num_heads": 4, "d_kv": 12}), "disagree on d_kv 12 and 24, num_heads 4 and 2"),
        ("[1, 2]", "config.json cannot be read"),
        ("{", "config.json cannot be read"),
    ):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        assert message in refusal(tmp_path)


def test_a_shard_missing(world: World, tmp_path: Path) -> None:
    """Whichever is absent; the last layers' cannot be told from a smaller model but for config.json."""
    folder = shards(world, tmp_path)
    for shard in sorted(folder.glob("model-*")):
        content = shard.read_bytes()
        shard.unlink()
        refusal(folder)
        shard.write_bytes(content)
    encode(folder)


def test_settings_of_the_config_are_used(world: World, expected: Tensor, tmp_path: Path) -> None:
    copy(world, tmp_path, "model.safetensors", "spiece.model")
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for change in ({"layer_norm_epsilon": 0.5}, {"relative_attention_max_distance": 9}):
        (tmp_path / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
        assert not torch.allclose(encode(tmp_path), expected, atol=1e-4)


def test_other_width(world: World) -> None:
    with pytest.raises(CheckpointError, match=r"gives 32 channels a token, this model reads 4096"):
        TextEncoder(world.folder)(PROMPT)


def test_tokenizers_that_do_not_fit(world: World, tmp_path: Path) -> None:
    torch.save(tiny.wan_state(world.state), tmp_path / "m.pth")
    path = tmp_path / "m.pth"
    with pytest.raises(CheckpointError, match=r"holds no tokenizer, none of tokenizer\.json, spiece\.model is in it"):
        encode(path)
    (tmp_path / "t").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no tokenizer.*pass --tokenizer"):
        encode(path, tokenizer=tmp_path / "t")
    with pytest.raises(CheckpointError, match="nowhere: no such file"):
        encode(path, tokenizer=tmp_path / "nowhere")
    (tmp_path / "t" / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: its tokenizer is damaged") as error:
        encode(path, tokenizer=tmp_path / "t")
    assert "\n" not in str(error.value)
    for words, change in ((10, slice(None, 10)), (500, None)):
        pieces = tiny.pieces_of(world.spiece)
        pieces = pieces[change] if change else pieces + [(f"word{i}", -9.0) for i in range(500)]
        (tmp_path / str(words)).mkdir()
        fast = tiny.tokenizers.Tokenizer(tiny.tokenizers.models.Unigram(pieces, unk_id=2))
        fast.save(str(tmp_path / str(words) / "tokenizer.json"))
        with pytest.raises(CheckpointError, match=r"knows \d+ tokens, the tokenizer \d+: it is another model's"):
            encode(path, tokenizer=tmp_path / str(words))
    fast = tiny.tokenizers.Tokenizer(tiny.tokenizers.models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    fast.save(str(tmp_path / "t" / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="has no end token"):
        encode(path, tokenizer=tmp_path / "t")


@pytest.mark.parametrize("missing", ["transformers", "ftfy", "sentencepiece", "tokenizers"])
def test_missing_packages(world: World, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    source = "tokenizer.json" if missing == "tokenizers" else "spiece.model"
    with pytest.raises(DummyForcingError, match=f"needs {missing}.*pip install transformers sentencepiece ftfy"):
        encode(world.folder, tokenizer=world.folder / source)


def test_the_core_imports_without_them() -> None:
    program = """
import sys
for name in ("transformers", "tokenizers", "sentencepiece", "ftfy"):
    sys.modules[name] = None
import dummyforcing_core.text.umt5, dummyforcing_core.clips.pipeline, dummyforcing_core.__main__
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
