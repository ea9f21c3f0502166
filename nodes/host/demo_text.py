"""The demo world's text encoder as a host's CLIP, which all of the host's own nodes can clone, patch and merge."""

from collections.abc import Mapping
from typing import Any, NoReturn

import comfy.hooks
import comfy.model_patcher
import comfy.sd
import torch
from comfy.sd1_clip import escape_important, token_weights, unescape_important
from torch import Tensor, nn

from ...dummyforcing_core.errors import DummyForcingError, shown
from ...dummyforcing_core.text.demo_text import encode_prompt
from .prompts import NOTES

USE = "use CLIP Text Encode or Prompt Schedule with the demo model"


class _Tokens(dict):
    """A text under one name; nodes that encode for another model look for that model's."""

    def __missing__(self, name: str) -> NoReturn:
        raise DummyForcingError(f"this node encodes text for another kind of model ({shown(name)}): {USE}")


class DemoTokenizer:
    """Text as it is, without the weights of (words:1.3), which a table of words has no use for."""

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> _Tokens:
        parts = token_weights(escape_important(text), 1.0)
        return _Tokens(text="".join(unescape_important(part) for part, _ in parts))

    def decode(self, token_ids: Any, **kwargs: Any) -> NoReturn:
        raise DummyForcingError(f"the demo model's text encoder writes no text: {USE}")

    def state_dict(self) -> NoReturn:
        raise DummyForcingError("the demo model's text encoder has no weights to save: Load Demo Model makes it anew")


class DemoTextModel(nn.Module):
    """What a host's CLIP asks of its model. There are no weights: LoRAs and merges find nothing to change."""

    def reset_clip_options(self) -> None:
        """There are none."""

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """There are no layers to choose from."""

    def encode_token_weights(self, tokens: Mapping[str, str]) -> tuple[Tensor, None, dict[str, Any]]:
        features, unknown = encode_prompt(tokens["text"])
        notes = []
        if not tokens["text"].strip():
            notes.append("a prompt is empty: say what is to be seen")
        if unknown:
            words = shown(", ".join(dict.fromkeys(unknown)), 200)
            notes.append(f"the demo world does not know: {words} (ignored)")
        return features, None, {NOTES: tuple(notes)}

    def generate(self, tokens: Any, **options: Any) -> NoReturn:
        raise DummyForcingError(f"the demo model's text encoder writes no text: {USE}")


def demo_clip() -> comfy.sd.CLIP:
    """The demo's CLIP."""
    clip = comfy.sd.CLIP(no_init=True)
    clip.cond_stage_model, clip.tokenizer = DemoTextModel(), DemoTokenizer()
    cpu = torch.device("cpu")
    clip.patcher = comfy.model_patcher.ModelPatcher(clip.cond_stage_model, load_device=cpu, offload_device=cpu)
    clip.patcher.hook_mode, clip.patcher.is_clip = comfy.hooks.EnumHookMode.MinVram, True
    clip.layer_idx = clip.apply_hooks_to_conds = None
    clip.use_clip_schedule, clip.tokenizer_options = False, {}
    return clip
