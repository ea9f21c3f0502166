"""Small files under the names that the workflows ask for, and a pack with what cannot be made small."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from .inside.tiny_models import random_weights, vae_shapes, wan_shapes
from .install import PACKS

STAND_IN_PACKS = {**PACKS, "ComfyUI-Stand-In": Path(__file__).resolve().parent / "stand_in_pack"}
LAYERS, LORA_RANK = 2, 4
TEXT_ENCODER = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"


def write_files(base: Path) -> None:
    """Models, LoRA, VAE and picture below a base directory. The text encoder is empty: it is listed, never loaded."""
    from safetensors.torch import save_file

    models = base / "models"
    for folder in ("diffusion_models", "loras", "vae", "text_encoders"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    wan = random_weights(wan_shapes(layers=LAYERS), seed=0)
    inner = {f"model.{name}": tensor for name, tensor in wan.items()}
    torch.save({"generator_ema": inner}, models / "diffusion_models" / "self_forcing_dmd.pt")
    torch.save({"generator": inner}, models / "diffusion_models" / "longlive_base.pt")
    save_file(wan, models / "diffusion_models" / "causal_forcing-framewise.safetensors")
    torch.save({"generator_lora": _peft(wan)}, models / "loras" / "lora.pt")
    save_file(random_weights(vae_shapes(), seed=1), models / "vae" / "wan_2.1_vae.safetensors")
    (models / "text_encoders" / TEXT_ENCODER).touch()
    (base / "input" / "example.png").write_bytes(_png(96, 64))


def _peft(wan: dict[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA in PEFT's names on two layers of every block."""
    generator = torch.Generator().manual_seed(2)
    lora = {}
    for name, weight in wan.items():
        if name.endswith(("self_attn.q.weight", "ffn.0.weight")):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            lora[f"{stem}.lora_A.weight"] = torch.randn(LORA_RANK, weight.shape[1], generator=generator) * 0.1
            lora[f"{stem}.lora_B.weight"] = torch.randn(weight.shape[0], LORA_RANK, generator=generator) * 0.1
    return lora


def _png(width: int, height: int) -> bytes:
    """A picture with a gradient in each direction."""

    def part(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(
        b"\0" + bytes(v for x in range(width) for v in (255 * x // width, 255 * y // height, 90)) for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
