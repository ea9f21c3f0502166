"""Prompts over time as CONDITIONING: every entry may carry the second from which it is active."""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ...dummyforcing_core.clips.script import Script
from ...dummyforcing_core.clips.text_features import LARGEST_FEATURE
from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.geometry import TEMPORAL
from ...dummyforcing_core.models.finite import beyond
from ...dummyforcing_core.prompts import PromptSchedule
from ...dummyforcing_core.rates import clock

STARTS = "dummyforcing_start_seconds"
TEXT = "dummyforcing_text"  # the prompt as it was written
NOTES = "dummyforcing_notes"  # lines that the report of a clip with this prompt must show
MILLISECONDS = Fraction(1000 * TEMPORAL)  # a rate at which latent frames count them


def starts_at(conditioning: list, seconds: float) -> list:
    """The conditioning, active from `seconds` on."""
    return [[tensor, {**options, STARTS: seconds}] for tensor, options in conditioning]


def joined(previous: list, later: list, seconds: float) -> list:
    """`previous`, then `later` from `seconds` on; times must rise."""
    if len(later) != 1:
        raise DummyForcingError(f"expected one prompt for {clock(seconds)}, got {len(later)}; connect one text encoder")
    last = max(options.get(STARTS, 0.0) for _, options in previous)
    if seconds <= last:
        raise DummyForcingError(
            f"this prompt starts at {clock(seconds)}, the one before it at {clock(last)}; give a later second"
        )
    return [*previous, *starts_at(later, seconds)]


def scheduled(clip: Any, text: str) -> list:
    """A schedule's lines (`0:15 | prompt`) encoded by the host's CLIP; text without a time is one prompt."""
    if clip is None:
        raise DummyForcingError(
            "the CLIP input is empty: the checkpoint has no text encoder; load umt5-xxl with Load CLIP, type wan"
        )
    entries: list = []
    for start, prompt in Script.of_text(text, MILLISECONDS).lines:
        encoded = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        entries += [[tensor, {**options, TEXT: prompt}] for tensor, options in starts_at(encoded[:1], start / 1000)]
    return entries


def _check_plain(condition: dict) -> None:
    """DummyForcingError for what other nodes have put on a prompt and a stream cannot follow."""
    mask = condition.get("mask")
    surplus = {
        "a time range (Conditioning Set Timestep Range): use a Prompt Schedule": (
            condition.get("start_percent", 0.0) > 0 or condition.get("end_percent", 1.0) < 1
        ),
        "an area (Conditioning Set Area): prompts speak for the whole picture": "area" in condition,
        "a mask (Conditioning Set Mask): prompts speak for the whole picture": (
            mask is not None and not bool((mask == 1).all())
        ),
        "an image (image to video): encode it with VAE Encode and connect it to start_latent": (
            condition.get("concat_latent_image") is not None
        ),
        "a ControlNet, which these models cannot read: take it out": condition.get("control") is not None,
    }
    for what, there in surplus.items():
        if there:
            raise DummyForcingError(f"the conditioning carries {what}")


def prompt_notes(options: Iterable[dict]) -> tuple[str, ...]:
    """What the makers of these prompts, or of a guider's conditions, say of them."""
    return tuple(dict.fromkeys(note for one in options for note in one.get(NOTES, ())))


def check_features(prompts: PromptSchedule, wanted: int) -> None:
    """DummyForcingError unless the model can read these features (B, S, channels)."""
    for _, features in prompts.entries:
        if features.shape[-1] != wanted:
            raise DummyForcingError(
                f"expected text features of {wanted} channels for this model, got {features.shape[-1]}; connect the "
                "CLIP "
                "that belongs to it: Load CLIP with umt5-xxl, type wan (the demo model has its own)"
            )
        if odd := beyond(features, LARGEST_FEATURE):
            raise DummyForcingError(
                f"the text features hold {odd}; get the text encoder's file again, or load it in another dtype"
            )


def prompts_of(conditions: list[dict], fps: float) -> tuple[PromptSchedule, dict[int, dict]]:
    """The schedule of a guider's positive conditions, and the condition of each of its tensors, by id()."""
    entries: dict[int, Tensor] = {}
    by_tensor: dict[int, dict] = {}
    seen: list[tuple[Tensor, dict]] = []
    for condition in sorted(conditions, key=lambda c: c.get(STARTS, 0.0)):
        _check_plain(condition)
        frame = round(condition.get(STARTS, 0.0) * fps / TEMPORAL)
        if frame in entries:
            raise DummyForcingError(
                "two prompts speak at the same time: use one, or a Prompt Schedule with times further apart "
                "(Conditioning Combine joins them, or both times lie within one latent frame)"
            )
        text = condition["model_conds"].get("c_crossattn")
        if text is None:
            raise DummyForcingError("the conditioning holds no text; connect CLIP Text Encode or a Prompt Schedule")
        tensor = text.cond
        # Equal prompts are one tensor, so that a repeat is no switch.
        tensor = next((t for t, _ in seen if t.shape == tensor.shape and torch.equal(t, tensor)), tensor)
        seen.append((tensor, condition))
        entries[frame] = tensor
        by_tensor.setdefault(id(tensor), condition)
    if not entries:
        raise DummyForcingError("the conditioning is empty; connect CLIP Text Encode or a Prompt Schedule")
    return PromptSchedule(tuple(entries.items())), by_tensor
