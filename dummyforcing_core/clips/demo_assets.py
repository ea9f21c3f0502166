"""The files of the bundled demo model that are not its transformer."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from ..errors import CheckpointError
from ..models.finite import check_finite
from ..vae.demo_codec import DemoCodec

CODEC_PATH = Path(__file__).resolve().parent.parent / "assets" / "demo_codec.safetensors"


def load_demo_codec(device: torch.device | str = "cpu") -> DemoCodec:
    """The demo world's codec in float32, ready to encode and decode."""
    codec = DemoCodec()
    try:
        tensors = {name: tensor.float() for name, tensor in load(CODEC_PATH.read_bytes()).items()}
        check_finite(tensors)
        codec.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError, CheckpointError) as error:
        raise CheckpointError(
            f"{CODEC_PATH.name} is missing or damaged ({error}); install the package again"
        ) from error
    return codec.requires_grad_(False).eval().to(device)
