"""Names in LoRA files to the official name of the weight they change, and what a tensor is of its update.

Spellings that circulate for Wan: PEFT (`base_model.model.M.lora_A[.adapter].weight`), `M.lora_down.weight` with
`M.alpha`, kohya (`lora_unet_` and dots written as underscores, or without the prefix), diffusers' module names, any of
the prefixes of checkpoints in front, and whole differences: `M.diff` of a weight, `M.diff_b` of a bias, `M.diff_m` of
the modulation in M.
"""

import re
from typing import NamedTuple

from ..errors import CheckpointError, shown
from .names import DIFFUSERS_BLOCK, DIFFUSERS_TOP, official_name, strip_prefixes

EXPECTED = (
    "expected lora_A and lora_B (PEFT), lora_down and lora_up with alpha, the same in kohya's lora_unet_blocks_0_... "
    "or diffusers' transformer.blocks.0.attn1..., or diff and diff_b"
)
_FACTOR = r"(?:\.lora_{0}|\.lora_{1}|[._]lora\.{1}|\.lora_linear_layer\.{1})(?:\.(?!bias$)[^.]+)?(?:\.weight)?$"
_PARTS = {
    "down": re.compile(_FACTOR.format("A", "down")),
    "up": re.compile(_FACTOR.format("B", "up")),
    "alpha": re.compile(r"\.alpha$"),
    "diff": re.compile(r"\.diff$"),
    "diff_b": re.compile(r"\.diff_b$"),
    "diff_m": re.compile(r"\.diff_m$"),
}
# What else is found in such files: pattern -> what it is.
_UNREAD = {
    re.compile(r"(^|[._])lora_te\d?_|^text_encoder"): "changes the text encoder, which is not adapted here",
    re.compile(r"\.dora_scale$|\.lora_magnitude_vector"): "is a DoRA",
    re.compile(r"\.(hada_w|lokr_w|oft_|boft_)"): "is a LyCORIS adapter other than LoRA",
    re.compile(r"\.lora_mid\.weight$"): "is a Tucker decomposition",
}

_BLOCK = {name.replace(".", "_"): name for name in (*DIFFUSERS_BLOCK, *DIFFUSERS_BLOCK.values())}
_TOP = {name.replace(".", "_"): name for name in (*DIFFUSERS_TOP, *DIFFUSERS_TOP.values(), "patch_embedding")}
_KOHYA = re.compile(
    r"^(?:(?:lora_unet|lora_transformer|lycoris|lora)_+)?(?:(?:diffusion_model|transformer|model)_)*"
    r"(?:blocks_(?P<layer>\d{1,6})_)?(?P<stem>[A-Za-z0-9_]+)$"
)


class Part(NamedTuple):
    """One tensor's place. kind: "down", "up" and "alpha" of a low-rank update of `weight`, or "diff", all of it."""

    weight: str
    kind: str


def part_of(name: str) -> Part:
    """Where the tensor of this name belongs; CheckpointError, one line, for what is not understood."""
    kind, module = next(
        ((kind, name[: found.start()]) for kind, pattern in _PARTS.items() if (found := pattern.search(name))),
        (None, name),
    )
    if kind is None or any(pattern.search(name) for pattern in _UNREAD):
        what = next((said for pattern, said in _UNREAD.items() if pattern.search(name)), "is no update known here")
        raise CheckpointError(f"{shown(name)} {what}; {EXPECTED}; give such a LoRA of this model")
    module = _module(module)
    if kind == "diff_m":
        return Part(f"{module}.modulation", "diff")
    if kind == "diff_b":
        return Part(f"{module}.bias", "diff")
    bare = module.rpartition(".")[2] == "modulation"  # the one parameter that is no module's weight
    return Part(module if bare else f"{module}.weight", kind)


def _module(spelling: str) -> str:
    """The official name of a module, however it is written; unknown ones as they are."""
    flat = _KOHYA.match(strip_prefixes(spelling))
    if flat is None:
        return official_name(spelling)
    stem = (_BLOCK if flat["layer"] else _TOP).get(flat["stem"], flat["stem"])
    return official_name(f"blocks.{int(flat['layer'])}.{stem}" if flat["layer"] else stem)
