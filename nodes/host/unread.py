"""What other nodes put on a prompt and a stream reads past, one line each; what would spoil it is refused instead."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

# Keys of CONDITIONING that these models have no input for, and who puts them there.
UNREAD = {
    "guidance": "guidance (FluxGuidance)",
    "strength": "a strength",
    "gligen": "GLIGEN boxes",
    "unclip_conditioning": "an image (unCLIP Conditioning)",
    "clip_vision_output": "an image (CLIP Vision)",
    "reference_latents": "a reference latent",
    "time_dim_concat": "a reference video",
    "context_latents": "reference pictures (Bernini)",
    "vace_frames": "a VACE control video",
    "camera_conditions": "a camera path",
    "audio_embed": "sound",
    "frame_rate": "a frame rate (the Streaming Sampler has its own)",
}


def unread_notes(conditioning: list) -> list[str]:
    """A line for each kind of thing on the prompts that changes nothing, and for prompts without text."""
    return [*dict.fromkeys(_lines(conditioning))]


def _lines(conditioning: list) -> Iterator[str]:
    for tensor, options in conditioning:
        if isinstance(tensor, Tensor) and not tensor.any():
            yield "a prompt is zeroed out (Conditioning Zero Out): the clip follows no text there"
        for key, what in UNREAD.items():
            if _says(key, options.get(key)):
                yield f"the conditioning carries {what}, which has no effect on a stream"
        if options.get("mask") is not None and options.get("mask_strength", 1.0) != 1.0:
            yield "the conditioning carries a mask's strength, which has no effect on a stream"


def _says(key: str, value: Any) -> bool:
    return value is not None and not (key == "strength" and value == 1.0)
