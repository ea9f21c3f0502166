"""One sound, tiny file for every reader, made anew in a folder."""

import io
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.kv.bank import EpisodeEnd
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.output_change import OutputChange, memory_options
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan, KVShape
from dummyforcing_core.loops.run import ChunkResult, MemoryLog
from dummyforcing_core.models.checkpoints import empty_model
from dummyforcing_core.models.metadata import build_metadata
from dummyforcing_core.models.wan import WanConfig
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.takes.snapshot import write_snapshot
from dummyforcing_core.takes.take import Manifest, Recording
from dummyforcing_core.vae.tiny_vae import TinyDecoder
from dummyforcing_core.vae.wan_vae import WanVAE, WanVAEConfig
from tests.unit import tiny_umt5

CONFIG = WanConfig(dim=128, ffn_dim=16, num_heads=1, num_layers=2, text_dim=8, text_len=8, freq_dim=8)
TEXT = "0:00 | a red circle\n0:05 | a blue square\n# a comment\n1:10.5 | the end\n"


@dataclass(frozen=True)
class SoundFiles:
    """A folder in which one file of every kind lies; `spiece` is a sentencepiece model."""

    checkpoint: dict[str, Tensor]
    lora: dict[str, Tensor]
    spiece: bytes
    umt5: dict[str, Tensor]


@cache
def sound() -> SoundFiles:
    """The tensors, made once per process."""
    chance = torch.Generator().manual_seed(0)
    checkpoint = {
        name: torch.randn(tensor.shape, generator=chance).bfloat16()
        for name, tensor in empty_model(CONFIG).state_dict().items()
    }
    q = "base_model.model.blocks.0.self_attn.q"
    lora = {
        f"{q}.lora_A.weight": torch.randn(2, CONFIG.dim, generator=chance),
        f"{q}.lora_B.weight": torch.randn(CONFIG.dim, 2, generator=chance),
        f"{q}.alpha": torch.tensor(4.0),
        "diffusion_model.blocks.1.ffn.0.diff_b": torch.randn(CONFIG.ffn_dim, generator=chance),
        "lora_unet_blocks_1_ffn_2.lora_down.weight": torch.randn(2, CONFIG.ffn_dim, generator=chance),
        "lora_unet_blocks_1_ffn_2.lora_up.weight": torch.randn(CONFIG.dim, 2, generator=chance),
    }
    spiece = tiny_umt5.spiece_model()
    model = tiny_umt5.make_model(len(tiny_umt5.pieces_of(spiece)))
    umt5 = tiny_umt5.state_of(model) | {"spiece_model": tiny_umt5.spiece_tensor(spiece)}
    return SoundFiles(checkpoint, lora, spiece, {name: tensor.contiguous() for name, tensor in umt5.items()})


def torch_bytes(content: Any, zipped: bool = True) -> bytes:
    target = io.BytesIO()
    torch.save(content, target, _use_new_zipfile_serialization=zipped)
    return target.getvalue()


def checkpoint_safetensors() -> bytes:
    return save(sound().checkpoint, build_metadata("self_forcing", CONFIG))


def scaled_checkpoint() -> bytes:
    """fp8 with scales, in ComfyUI's older form and, for one module, in its later one."""
    tensors = dict(sound().checkpoint)
    for number, module in enumerate(("blocks.0.self_attn.q", "blocks.1.ffn.0")):
        weight = tensors[f"{module}.weight"].float()
        scale = weight.abs().max() / 448
        tensors[f"{module}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
        tensors[f"{module}.{('scale_weight', 'weight_scale')[number]}"] = scale
    tensors["blocks.1.ffn.0.comfy_quant"] = tiny_umt5.quant_tensor("float8_e4m3fn")
    layers = {"blocks.1.ffn.0": {"format": "float8_e4m3fn"}}
    metadata = {"_quantization_metadata": json.dumps({"layers": layers})}
    return save(tensors, build_metadata("self_forcing", CONFIG) | metadata)


def vae() -> bytes:
    torch.manual_seed(0)
    return torch_bytes(WanVAE(WanVAEConfig(dim=4, encoder=False)).state_dict())


def tiny_vae() -> bytes:
    with torch.device("meta"):
        state = TinyDecoder(raw_latents=False).state_dict()
    return save({name: torch.zeros(tensor.shape, dtype=torch.float8_e4m3fn) for name, tensor in state.items()})


def umt5_config() -> bytes:
    g = tiny_umt5
    return json.dumps(
        {"model_type": "umt5", "feed_forward_proj": "gated-gelu", "d_model": g.DIM, "d_kv": g.HEAD_DIM,
         "d_ff": g.FFN_DIM, "num_heads": g.HEADS, "num_layers": g.LAYERS, "relative_attention_num_buckets": 32,
         "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6}
    ).encode()  # fmt: skip


def image(kind: str) -> bytes:
    target = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(target, kind)
    return target.getvalue()


def profile(folder: Path) -> bytes:
    path = folder / "sound_profile.json"
    change = OutputChange(memory_options(3), torch.full((2, 4, 5), 0.25))
    replace(HeadProfile.assumed(2, 4), changes=change).write(path, [["sink"] * 4] * 2)
    return path.read_bytes()


def plan() -> bytes:
    memory = HeadMemory(1, 4, "end", 6, 21)
    return HeadPlan.uniform(2, 3, memory, "memory", "self_forcing", EpisodeEnd(room_frames=6)).to_json().encode()


def take(folder: Path) -> Path:
    """A take of one chunk of three, with its prompt's features, a picture, a snapshot; its folder."""
    recording = Recording.begin(
        folder / "sound_take", Manifest({"seed": 0}, {"device": "cpu"}, LatentShape(1, 16, 9, 4, 4))
    )
    latent = torch.zeros(1, 16, 3, 4, 4)
    log = MemoryLog(HeadPlan.from_json(plan().decode()), marked=(frozenset({1}), frozenset()))
    window, still = (latent, latent), (0, latent[:, :, :1])
    told = [(0, "a red circle", torch.ones(1, 2, 3)), (3, "", torch.zeros(1, 2, 3))]
    recording.add(ChunkResult(Span(0, 0, 3), latent, log.plan, log=log, window=window, still=still), told)
    recording.add_picture(0, np.zeros((8, 8, 3), np.uint8))
    shape = KVShape(1, 1, 1, 2, element_bytes=4, clip_frames=9, pass_frames=3)
    cache = KVCache(HeadPlan.uniform(2, 3, HeadMemory(0, 3), "memory"), shape)
    cache.begin(0, 3)
    cache.commit()
    write_snapshot(recording.folder, Span(0, 0, 3), latent, cache)
    return recording.folder


def head_labels() -> bytes:
    layers = [{"layer_idx": layer, "static_head": [0, 2], "dynamic_head": [1]} for layer in range(2)]
    return json.dumps({"format": "forcingkv_offline_head_custom2", "num_layers": 2, "layers": layers}).encode()


def manifest() -> bytes:
    entry = {"text": "a cat", "seeds": [0, 1]}
    document = {
        "format": "dummyforcing.vbench",
        "version": 1,
        "conditions": {"frames": 21},
        "prompts": {"a cat": entry},
    }
    return json.dumps(document).encode()
