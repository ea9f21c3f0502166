"""Tensor names: every spelling of Wan2.1's names to the official one, and the files that are something else.

Spellings seen in the wild: training wrappers (FSDP, torch.compile, PEFT, DDP), ComfyUI's `model.diffusion_model.`,
and diffusers' WanTransformer3DModel, which calls the official norm3 "norm2".
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import CheckpointError, shown

# Wrappers may sit anywhere in a name: FSDP wraps every block, torch.compile may wrap a part.
WRAPPERS = frozenset({"_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module"})
# These are stripped from the front only, again and again. None is the name of a Wan module.
PREFIXES = frozenset(
    {
        "model",
        "diffusion_model",
        "base_model",
        "module",
        "transformer",
        "generator",
        "generator_ema",
        "pipe",
        "dit",
        "unet",
    }
)
# Parts of all-in-one files; the transformer beside them is complete on its own.
OTHER_PARTS = ("vae.", "first_stage_model.", "text_encoders.", "cond_stage_model.")

DIFFUSERS_TOP = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
}
DIFFUSERS_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o", "norm_q": "norm_q", "norm_k": "norm_k"}
DIFFUSERS_BLOCK = {
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",
    "scale_shift_table": "modulation",
} | {
    f"{theirs}.{part}": f"{ours}.{name}"
    for theirs, ours in (("attn1", "self_attn"), ("attn2", "cross_attn"))
    for part, name in DIFFUSERS_ATTENTION.items()
}
_DIFFUSERS = re.compile(r"^(condition_embedder|blocks\.\d+\.attn[12])\.")
# Tensors beside the weights of scaled fp8 files.
_SCALES = "scaled_fp8|scale_weight|scale_input|weight_scale|input_scale|comfy_quant"
QUANTISED = re.compile(rf"(^|\.)({_SCALES})$")

_NAME = re.compile(rf"^(?P<block>blocks\.\d+\.)?(?P<stem>.+?)(?P<leaf>\.(weight|bias|{_SCALES}))?$")
_WAN = re.compile(r"^blocks\.\d+\.(self_attn|cross_attn)\.[qkvo]\.")


class Refusal(NamedTuple):
    """A pattern in tensor names, and what to tell the user whose file has it."""

    pattern: re.Pattern[str]
    message: str


REFUSED = (
    Refusal(
        re.compile(
            r"(^|[._])(lora_(A|B|a|b|up|down|unet)|lora\.(up|down)|hada_w\d\w?|lokr_w\d\w?)([._]|$)|\.diff(_b|_m)?$"
        ),
        "this is a LoRA, full autoregressive weights were expected; the CausVid and lightx2v LoRAs found in ComfyUI "
        "folders are bidirectional few-step adapters, not AR weights; give a full checkpoint such as Self-Forcing's",
    ),
    Refusal(
        re.compile(r"(^|\.)(img_emb|condition_embedder\.image_embedder|[kv]_img|add_[kv]_proj)\."),
        "this is a Wan image-to-video model, an autoregressive text-to-video checkpoint was expected; "
        "give one such as Self-Forcing's (it can start from an image as well)",
    ),
    Refusal(
        re.compile(r"(^|\.)vace_"),
        "this is a Wan VACE control model, an autoregressive text-to-video checkpoint was expected; "
        "give one such as Self-Forcing's",
    ),
)


def listing(names: Iterable[str], show: int = 3) -> str:
    """The first `show` names, each shortened, and the count of the rest."""
    names = list(names)
    rest = f" and {len(names) - show} more" if len(names) > show else ""
    return ", ".join(shown(name, 120) for name in names[:show]) + rest


def refuse_foreign(names: Iterable[str]) -> None:
    """Raises CheckpointError when a name shows that the file is an adapter or made for another task."""
    names = list(names)
    for pattern, message in REFUSED:
        hit = next((name for name in names if pattern.search(name)), None)
        if hit is not None:
            raise CheckpointError(f"{message} (found {shown(hit)})")


def strip_prefixes(name: str) -> str:
    """`name` without training wrappers and without any run of known prefixes."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while len(parts) > 1 and parts[0] in PREFIXES:
        parts.pop(0)
    return ".".join(parts)


def from_diffusers(name: str) -> str:
    """The official name of a stripped diffusers name; names that are the same in both come back unchanged."""
    match = _NAME.match(name)
    if match is None:
        return name
    block, stem, leaf = match["block"] or "", match["stem"], match["leaf"] or ""
    return block + (DIFFUSERS_BLOCK if block else DIFFUSERS_TOP).get(stem, stem) + leaf


def official_name(name: str) -> str:
    """The official name of one module or parameter, whatever spelling it is in."""
    return from_diffusers(strip_prefixes(name))


def official_names(names: Iterable[str]) -> dict[str, str]:
    """{official name: name in the file} of a Wan2.1 checkpoint.

    Raises CheckpointError for a file without Wan's names and for two tensors that end at one name.
    """
    names = list(names)
    stripped = {name: strip_prefixes(name) for name in names if not name.startswith(OTHER_PARTS)}
    if any(_DIFFUSERS.match(bare) for bare in stripped.values()):
        stripped = {name: from_diffusers(bare) for name, bare in stripped.items()}
    if not any(_WAN.match(bare) for bare in stripped.values()):
        raise CheckpointError(
            f"not a Wan checkpoint: it holds {listing(names) or 'no tensors'}, "
            "blocks.0.self_attn.q.weight and its like were expected; give a Wan2.1 autoregressive checkpoint"
        )
    official: dict[str, str] = {}
    for name, bare in stripped.items():
        if official.setdefault(bare, name) != name:
            raise CheckpointError(
                f"both {shown(official[bare])} and {shown(name)} are {shown(bare)}, one set of weights was expected; "
                "save the set to use alone"
            )
    return official
