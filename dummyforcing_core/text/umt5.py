"""umt5-xxl, the text encoder of Wan2.1, without ComfyUI: prompts to the features its transformer was trained on.

    encode = TextEncoder("umt5_xxl_fp16.safetensors", device=device, dtype=torch.bfloat16)
    encode.read(["a red circle", "a blue square"])      # one pass over the file for all of them
    features = encode("a red circle")                   # (1, 512, 4096), zero behind the prompt's rows

No weights are held between passes, and one layer at a time during one: 5.7 billion parameters go through the memory of
the largest layer. A prompt is computed alone and without padding, so its features do not depend on its neighbours;
padding would be masked, hence this is the official result (wan/modules/t5.py: 512 rows, those past the prompt zeroed).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..models.finite import check_loaded, is_finite
from ..models.scaled_fp8 import dequantised
from .umt5_file import Umt5File, Umt5Geometry, open_umt5
from .umt5_names import BLOCK, EMBEDDING, FIX, NORM
from .umt5_tokenizer import load_tokenizer, package

TEXT_LEN = 512
TEXT_DIM = 4096


class TextEncoder:
    """Features by prompt. A prompt that `read` has not seen costs a pass of its own when it is asked for."""

    def __init__(
        self,
        path: str | Path,
        tokenizer: Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        text_len: int = TEXT_LEN,
        text_dim: int = TEXT_DIM,
        warn: Callable[[str], None] = lambda text: None,
    ):
        """path -- a Hugging Face folder, ComfyUI's file, or Wan's; see umt5_file
        tokenizer -- folder or file; None: the one in the encoder's file, else beside it
        dtype -- to compute in; float16 overflows in T5's feed-forward, so it becomes bfloat16
        """
        self._path, self._tokenizer = Path(path), tokenizer
        self._device = torch.device(device)
        self._dtype = torch.bfloat16 if dtype == torch.float16 else dtype
        self._text_len, self._text_dim, self._warn = text_len, text_dim, warn
        self._rows: dict[str, Tensor] = {}

    def read(self, prompts: Sequence[str]) -> None:
        """Encodes the prompts that are new, in one pass over the file.

        Raises CheckpointError for files that do not fit, DummyForcingError if a package is missing.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._rows]
        if not new:
            return
        file = open_umt5(self._path)
        geometry = file.geometry
        if geometry.dim != self._text_dim:
            raise CheckpointError(
                f"{self._path}: gives {geometry.dim} channels a token, this model reads {self._text_dim}; "
                "give the encoder it was trained with (Wan2.1: umt5-xxl)"
            )
        tokenizer = load_tokenizer(self._path, self._tokenizer, file.spiece)
        # A table has some spare rows; another tokenizer's ids would be read as other words without an error.
        if not geometry.words // 2 < tokenizer.words <= geometry.words or tokenizer.eos >= geometry.words:
            raise CheckpointError(
                f"{self._path}: knows {geometry.words:,} tokens, the tokenizer {tokenizer.words:,}: "
                "it is another model's; pass --tokenizer with umt5's own"
            )
        ids = [torch.tensor(tokenizer.ids(prompt, self._text_len, self._warn)) for prompt in new]
        try:
            rows = encode_ids(file, ids, self._device, self._dtype)
        except CheckpointError as error:
            raise CheckpointError(f"{self._path}: {error}") from error
        if not all(bool(part.isfinite().all()) for part in rows):
            raise CheckpointError(f"{self._path}: its features are NaN or infinite; the file is damaged; {FIX}")
        self._rows |= zip(new, rows, strict=True)

    def __call__(self, prompt: str) -> Tensor:
        """Features (1, text_len, text_dim) in float32 on the CPU."""
        self.read([prompt])
        return padded(self._rows[prompt].float(), self._text_len)


def padded(rows: Tensor, text_len: int) -> Tensor:
    """Rows (n, text_dim) as features (1, text_len, text_dim), zero rows behind them."""
    return nn.functional.pad(rows, (0, 0, 0, text_len - rows.shape[0]))[None]


@torch.no_grad()
def encode_ids(file: Umt5File, ids: Sequence[Tensor], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Last hidden states (n, dim) on the CPU for token ids (n,) of several prompts, layer by layer.

    CheckpointError, which does not name the file, for a weight that is NaN or infinite.
    """
    network, norm = _one_layer(file.geometry, dtype)
    hidden = [_embed(file, tokens, device, dtype)[None] for tokens in ids]
    block = network.encoder.block[0]
    for index in range(file.geometry.layers):
        block.to_empty(device="meta")  # a layer goes before the next one comes
        names = {f"{name}.weight": f"encoder.block.{index}.{name}" for name in BLOCK.values()}
        block.load_state_dict({name: _weight(file, full, device, dtype) for name, full in names.items()}, assign=True)
        hidden = [network(inputs_embeds=x).last_hidden_state for x in hidden]
    norm.load_state_dict({"weight": _weight(file, NORM, device, dtype)}, assign=True)
    return [norm(x)[0].cpu() for x in hidden]


def _one_layer(g: Umt5Geometry, dtype: torch.dtype) -> tuple[Any, nn.Module]:
    """transformers' network with a single block on the meta device, and the norm that follows the last one."""
    library = package("transformers")
    config = library.UMT5Config(
        vocab_size=2,  # unused, but the pad and the end token must be in it
        d_model=g.dim,
        d_kv=g.head_dim,
        d_ff=g.ffn_dim,
        num_layers=1,
        num_heads=g.heads,
        relative_attention_num_buckets=g.buckets,
        relative_attention_max_distance=g.max_distance,
        layer_norm_epsilon=g.eps,
        # Equal figures whichever kernels a version of the library prefers.
        attn_implementation="eager",
    )
    with torch.device("meta"):
        network = library.UMT5EncoderModel(config)
    network = network.to(dtype).eval().requires_grad_(False)
    norm, network.encoder.final_layer_norm = network.encoder.final_layer_norm, nn.Identity()
    return network, norm


def _embed(file: Umt5File, ids: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Embeddings (n, dim) of token ids (n,); the rest of the table is not read."""
    table, scale = file.stored(EMBEDDING)
    # Row by row: not every version of torch can gather float8, and float32 holds every storage dtype exactly.
    rows = torch.stack([table[index].float() for index in ids])
    return _checked(EMBEDDING, rows, scale, device, dtype)


def _weight(file: Umt5File, module: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    return _checked(module, *file.stored(module), device, dtype)


def _checked(module: str, tensor: Tensor, scale: Tensor | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The tensor on the device in `dtype`; CheckpointError, which does not name the file, for NaN and infinity."""
    weight = dequantised(tensor.to(device), scale).to(dtype)
    if not is_finite(weight):
        check_loaded(f"{module}.weight", weight, dequantised(tensor, scale))
    return weight
