"""Prompts as a model's text features: saved ones, umt5's, or the demo world's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, shown
from ..models.checkpoints import LoadedModel
from ..models.families import DEMO
from ..models.finite import beyond
from ..models.names import listing
from ..models.tensor_check import READABLE
from ..models.weight_files import read_weights
from ..text.demo_text import TEXT_DIM, TEXT_LEN, encode_prompt
from ..text.umt5 import padded

Warn = Callable[[str], None]
Encode = Callable[[str], Tensor]

LARGEST_FEATURE = 1e4  # umt5's are below 100


@dataclass(frozen=True)
class TextFiles:
    """Where a checkpoint's text comes from: one text's saved features, or umt5 (and its tokenizer, if elsewhere).

    prompts -- all that are known: umt5 reads them before the model is loaded and is gone then; any other prompt costs
               another pass
    """

    embedding: Path | None = None
    encoder: Path | None = None
    tokenizer: Path | None = None
    prompts: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.encoder is not None and self.embedding is not None:
            raise CheckpointError("expected one source of text, got --text-encoder and --text-embedding; leave one out")


def features_of(loaded: LoadedModel, embedding: Path | None, warn: Warn) -> Encode:
    """Saved features, whatever the prompt, or the demo world's own text."""
    config = loaded.model.config
    if embedding is not None:
        features = _saved_features(embedding, config.text_len, config.text_dim)
        return lambda prompt: features
    if loaded.family.name != DEMO:
        raise CheckpointError(
            "this model needs --text-embedding FILE.safetensors (one tensor of text encoder output, rows x channels) "
            "or --text-encoder PATH (umt5-xxl); only the demo model understands a prompt without them"
        )
    if (config.text_len, config.text_dim) != (TEXT_LEN, TEXT_DIM):
        raise CheckpointError(
            f"this model of family {DEMO} reads {config.text_len} rows of {config.text_dim} channels, the demo world's "
            f"text has {TEXT_LEN} of {TEXT_DIM}; pass --text-embedding, or --family with how the model was trained"
        )
    return _demo_encoder(warn)


def _demo_encoder(warn: Warn) -> Callable[[str], Tensor]:
    def encode(prompt: str) -> Tensor:
        features, unknown = encode_prompt(prompt)
        if unknown:
            warn(f"the demo world does not know: {shown(', '.join(dict.fromkeys(unknown)), 200)} (ignored)")
        return features

    return encode


def _saved_features(path: Path, text_len: int, text_dim: int) -> Tensor:
    """Features (1, text_len, text_dim) from a file, zero rows added behind the prompt's."""
    name = shown(path, 200)
    try:
        tree, _ = read_weights(path)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error
    tensors = {key: value for key, value in tree.items() if isinstance(value, Tensor)}
    tensor = next(iter(tensors.values())) if len(tensors) == 1 else torch.empty(0)
    fits = tensor.ndim > 1 and tensor.shape[-1] == text_dim and 0 < tensor.numel() <= text_len * text_dim
    if not fits or tensor.dtype not in READABLE:
        found = listing(f"{key} {list(value.shape)} {str(value.dtype)[6:]}" for key, value in tensors.items())
        raise CheckpointError(
            f"{name}: holds {found or 'no tensor'}; expected one tensor (rows, {text_dim}) with 1 to {text_len} rows "
            "of floating point for this model"
        )
    rows = tensor.flatten(0, -2).float()
    if odd := beyond(rows, LARGEST_FEATURE):
        raise CheckpointError(
            f"{name}: holds {odd}, finite text features below {LARGEST_FEATURE:g} were expected; save them again"
        )
    return padded(rows, text_len)
