"""What a clip's report must say before it is made: settings, words and files that do not do what was hoped."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.utils
import folder_paths
import torch

from ...dummyforcing_core.clips.doubts import doubts
from ...dummyforcing_core.errors import DummyForcingError, shown
from ...dummyforcing_core.rates import speed_note
from .clip_job import ClipJob
from .patches import patch_notes
from .prompts import prompt_notes
from .unread import unread_notes

NO_VAE = "no VAE is connected: only LATENT was made, VIDEO is empty"


def notes_of(job: ClipJob, prompt: Any, node: str | None) -> list[str]:
    """The job's own lines, those of its prompts, of LoRA nodes before it, and what the model was not made for.

    prompt, node -- the queued graph, and the id in it of the node that makes the clip
    """
    said = prompt_notes(options for _, options in job.conditioning)
    features = [tensor for tensor, _ in job.conditioning]
    switches = any(not torch.equal(features[0], other) for other in features[1:])
    loras = [*_lora_notes(job.model, prompt, node)]
    no_vae = [] if job.vae is not None else [NO_VAE]
    speed = [line for line in (speed_note(job.fps),) if line]
    unread = [*unread_notes(job.conditioning), *patch_notes(job.model, own_levels=job.sigmas is None)]
    return [*no_vae, *job.notes, *said, *unread, *loras, *speed, *doubts(job.family, switches, job.start)]


@contextlib.contextmanager
def told() -> Iterator[list[str]]:
    """Lines of what is warned of while the block runs; they are there when it has ended well."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes += [str(line.message) for line in caught if issubclass(line.category, UserWarning)]


def check_pixels_unused(hidden: Any, outputs: Mapping[int, str]) -> None:
    """DummyForcingError if the queued graph uses one of these outputs of the node, which are empty without a VAE.

    outputs -- names by place
    """
    node = str(hidden.unique_id)
    for other in (hidden.prompt or {}).values():
        for link in other.get("inputs", {}).values():
            if not isinstance(link, list) or len(link) != 2 or str(link[0]) != node:
                continue
            if name := outputs.get(link[1]):
                raise DummyForcingError(
                    f"{name} is connected, a VAE is not: connect the model's VAE (Load VAE, or the demo model's own), "
                    f"or take {name}'s link away"
                )


def _lora_notes(model: Any, prompt: Any, node: Any) -> Iterator[str]:
    """Of every stock LoRA node that the node's MODEL came through, if not all of its file fits."""
    for name in dict.fromkeys(_loras_before(prompt or {}, str(node))):
        with contextlib.suppress(Exception):  # a file that is gone by now must not cost the clip
            tensors, ignored = _fit(model, folder_paths.get_full_path_or_raise("loras", name))
            if ignored == tensors:
                yield (
                    f"LoRA {shown(name)} changes nothing: none of its {tensors} tensors fit this model (a checkpoint's "
                    "own adapter, such as LongLive's lora.pt, goes into Load AR Model)"
                )
            elif ignored:
                yield f"LoRA {shown(name)}: {ignored} of its {tensors} tensors do not fit this model and are ignored"


def _loras_before(prompt: dict, node: str) -> Iterator[str]:
    """Names of the LoRA files on the way of the MODEL to a node of a queued prompt."""
    waiting, seen = [node], set()
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        inputs = prompt.get(here, {}).get("inputs", {})
        name, strength = inputs.get("lora_name"), inputs.get("strength_model", 1)
        if here != node and isinstance(name, str) and strength != 0:
            yield name
        waiting += [str(link[0]) for key, link in inputs.items() if "model" in key and isinstance(link, list)]


def _fit(model: Any, path: str) -> tuple[int, int]:
    """How many tensors a LoRA file holds, and how many of them the host's loader leaves out."""
    tensors = comfy.lora_convert.convert_lora(comfy.utils.load_torch_file(path, safe_load=True))
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    fitting = comfy.lora.load_lora(tensors, names, log_missing=False)
    used = set().union(*(getattr(update, "loaded_keys", ()) for update in fitting.values()))
    return len(tensors), (len(set(tensors) - used) if used or not fitting else 0)
