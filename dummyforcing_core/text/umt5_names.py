"""Tensor names of umt5: Wan's own and every prefix to those of transformers, and the files that are something else."""

import re
from collections.abc import Iterable

from ..errors import CheckpointError
from ..models.names import Refusal, listing

EXPECTED = "Wan's text encoder umt5-xxl was expected"
FIX = "give ComfyUI's umt5_xxl_fp16.safetensors, Wan's models_t5_umt5-xxl-enc-bf16.pth or a Hugging Face folder of umt5"

EMBEDDING, NORM = "shared", "encoder.final_layer_norm"
# Module of a block: Wan's name -> transformers' name.
BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
BIAS = BLOCK["pos_embedding.embedding"]
TOP = {"token_embedding": EMBEDDING, "encoder.embed_tokens": EMBEDDING, "norm": NORM}
# Whatever stands before one of these is the file's prefix; decoders do not have them.
ANCHORS = ("encoder.block.0.layer.0.SelfAttention.q.weight", "blocks.0.attn.q.weight")
NUMBERED = re.compile(r"(?:encoder\.block|blocks)\.(\d{1,3})\.(.+)")

REFUSED = (
    Refusal(re.compile(r"(^|[._])lora_(A|B|a|b|up|down|te\d?)([._]|$)"), "this is a LoRA"),
    Refusal(re.compile(r"(^|\.)(text_model\.encoder|transformer\.resblocks)\."), "this is CLIP"),
    Refusal(re.compile(r"(^|\.)(patch_embedding|self_attn\.norm_q)\."), "this is a diffusion model"),
)


def transformers_names(given: Iterable[str]) -> dict[str, str]:
    """{name in the file: transformers' name} of the encoder's tensors; the rest is left out."""
    given = list(given)
    prefix = next((name.removesuffix(a) for a in ANCHORS for name in given if name.endswith(a)), None)
    if prefix is None:
        for pattern, message in REFUSED:
            hit = next((name for name in given if pattern.search(name)), None)
            if hit is not None:
                raise CheckpointError(f"{message} (found {hit}), {EXPECTED}; {FIX}")
        raise CheckpointError(f"holds {listing(given) or 'no tensors'}, {EXPECTED}; {FIX}")
    names = {}
    for name in given:
        module, _, leaf = name.removeprefix(prefix).rpartition(".")
        if not name.startswith(prefix) or not module:
            continue
        if match := NUMBERED.fullmatch(module):
            module = f"encoder.block.{int(match[1])}.{BLOCK.get(match[2], match[2])}"
        names[name] = f"{TOP.get(module, module)}.{leaf}"
    return {name: full for name, full in names.items() if full.startswith((f"{EMBEDDING}.", "encoder."))}
