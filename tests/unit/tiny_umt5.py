"""A tiny random umt5 in every format that is read, and its features by other means than the code under test."""

import html
import io
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path

import ftfy
import sentencepiece
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

DIM, HEAD_DIM, HEADS, FFN_DIM, LAYERS, TEXT_LEN = 32, 24, 2, 56, 3, 512
SPARE_ROWS = 3
TEXT = """a red circle on the left and a blue square on the right
a small cat walks slowly through the snow, then it stops & looks back
"a very long day," she said, and the green triangle turned around twice
two dogs run along the river while the sun goes down behind the hills
the camera follows a yellow car on a wet road at night; lights are bright
"""
PROMPT = "a red circle and a small cat on the wet road"
Tensors = dict[str, Tensor]

# Linear layers of a block: transformers' name -> Wan's. Wan's gate goes through the activation, fc1 does not.
LINEAR = {
    "layer.0.SelfAttention.q": "attn.q",
    "layer.0.SelfAttention.k": "attn.k",
    "layer.0.SelfAttention.v": "attn.v",
    "layer.0.SelfAttention.o": "attn.o",
    "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2",
}
OTHER = {
    "layer.0.layer_norm": "norm1",
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "layer.1.layer_norm": "norm2",
}


def spiece_model() -> bytes:
    """A sentencepiece model with umt5's special pieces: pad 0, end 1, unknown 2, no beginning."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=model, vocab_size=90, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def pieces_of(spiece: bytes) -> list[tuple[str, float]]:
    model = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    return [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]


def make_model(words: int) -> "transformers.UMT5EncoderModel":
    """Weights are multiples of 1/256 below 1/2, which float32, float16 and bfloat16 all hold exactly."""
    config = transformers.UMT5Config(
        vocab_size=words + SPARE_ROWS, d_model=DIM, d_kv=HEAD_DIM, d_ff=FFN_DIM, num_layers=LAYERS, num_heads=HEADS,
        num_decoder_layers=1,
    )  # fmt: skip
    model = transformers.UMT5EncoderModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            low, high = (32, 128) if "norm" in name else (-96, 97)
            tensor.copy_(torch.randint(low, high, tensor.shape, generator=generator) / 256)
    return model


def state_of(model: torch.nn.Module) -> Tensors:
    """transformers' names, the embedding once."""
    return {n: t.detach().clone() for n, t in model.state_dict().items() if n != "encoder.embed_tokens.weight"}


def wan_state(state: Tensors) -> Tensors:
    """The official names, in the official file's dtype."""
    top = {"shared": "token_embedding", "encoder.final_layer_norm": "norm"}
    names = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in top.items()}
    for i in range(LAYERS):
        for theirs, ours in (LINEAR | OTHER).items():
            names[f"encoder.block.{i}.{theirs}.weight"] = f"blocks.{i}.{ours}.weight"
    return {names[name]: tensor.bfloat16() for name, tensor in state.items()}


def linear_names(state: Tensors) -> list[str]:
    """Modules that ComfyUI scales when it makes fp8 files."""
    return [name.removesuffix(".weight") for name in state if re.search(r"\.(q|k|v|o|wi_0|wi_1|wo)\.weight$", name)]


def quantised(state: Tensors, kind: torch.dtype, modules: Iterable[str]) -> tuple[Tensors, dict[str, float], Tensors]:
    """(state with fp8 weights, scale per module, the same state with those weights multiplied out again)."""
    stored, plain, scales = dict(state), dict(state), {}
    for module in modules:
        weight = state[f"{module}.weight"]
        scales[module] = float(weight.abs().max()) / torch.finfo(kind).max
        stored[f"{module}.weight"] = (weight / scales[module]).to(kind)
        plain[f"{module}.weight"] = stored[f"{module}.weight"].float() * torch.tensor(scales[module])
    return stored, scales, plain


def spiece_tensor(spiece: bytes) -> Tensor:
    return torch.tensor(list(spiece), dtype=torch.uint8)


def with_scales(stored: Tensors, scales: dict[str, float], leaf: str) -> Tensors:
    return stored | {f"{module}.{leaf}": torch.tensor(scale) for module, scale in scales.items()}


def quant_tensor(kind: str) -> Tensor:
    return torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)


def save_tokenizer(spiece: bytes, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json with the pieces of a sentencepiece model."""
    fast = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces_of(spiece), unk_id=2, byte_fallback=False))
    fast.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    )
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    fast.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)


def save_folder(model: "transformers.UMT5EncoderModel", spiece: bytes, folder: Path, **options: object) -> Path:
    """A Hugging Face folder with both kinds of tokenizer."""
    model.save_pretrained(folder, **options)
    save_tokenizer(spiece, folder)
    (folder / "spiece.model").write_bytes(spiece)
    return folder


def save_comfy(state: Tensors, spiece: bytes, path: Path, metadata: dict[str, str] | None = None) -> Path:
    save_file({n: t.contiguous() for n, t in (state | {"spiece_model": spiece_tensor(spiece)}).items()}, path, metadata)
    return path


def official_clean(prompt: str) -> str:
    """The official recipe, "whitespace"."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()).strip()


@torch.no_grad()
def official_features(folder: Path, prompt: str) -> tuple[Tensor, int]:
    """(features (1, 512, dim), rows of the prompt) as the official code makes them: padded, masked, zeroed."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(
        [official_clean(prompt)], return_tensors="pt", padding="max_length", truncation=True, max_length=TEXT_LEN,
        add_special_tokens=True,
    )  # fmt: skip
    model = transformers.UMT5EncoderModel.from_pretrained(folder).float().eval()
    features = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    rows = int(batch.attention_mask.sum())
    features[:, rows:] = 0
    return features, rows


def _bucket(distance: int) -> int:
    """Which of 32 biases a key `distance` positions after the query gets (T5 paper; 128 is the longest told apart)."""
    half, size = (16, distance) if distance > 0 else (0, -distance)
    if size < 8:
        return half + size
    return half + min(15, 8 + int(math.log(size / 8) / math.log(128 / 8) * 8 + 1e-9))


def written_out(wan: Tensors, ids: list[int]) -> Tensor:
    """(n, dim) of token ids, step by step in float64 on Wan's names."""
    w = {name: tensor.double() for name, tensor in wan.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]

    x = w["token_embedding.weight"][ids]
    buckets = [[_bucket(key - query) for key in range(len(ids))] for query in range(len(ids))]
    for i in range(LAYERS):
        y = norm(x, f"blocks.{i}.norm1")
        bias = w[f"blocks.{i}.pos_embedding.embedding.weight"][torch.tensor(buckets)]
        heads = []
        for h in range(HEADS):
            rows = slice(h * HEAD_DIM, (h + 1) * HEAD_DIM)
            q, k, v = (y @ w[f"blocks.{i}.attn.{part}.weight"][rows].T for part in "qkv")
            heads.append((q @ k.T + bias[:, :, h]).softmax(-1) @ v)
        x = x + torch.cat(heads, -1) @ w[f"blocks.{i}.attn.o.weight"].T
        y = norm(x, f"blocks.{i}.norm2")
        gate = torch.nn.functional.gelu(y @ w[f"blocks.{i}.ffn.gate.0.weight"].T, approximate="tanh")
        x = x + (gate * (y @ w[f"blocks.{i}.ffn.fc1.weight"].T)) @ w[f"blocks.{i}.ffn.fc2.weight"].T
    return norm(x, "norm")
