"""Checkpoints as the authors publish them, through the host's own loader."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.sd
import torch
from torch import Tensor

from ...dummyforcing_core.errors import CheckpointError
from ...dummyforcing_core.models.checkpoints import CONTAINERS, empty_model, fingerprint
from ...dummyforcing_core.models.families import DEMO, FAMILIES
from ...dummyforcing_core.models.finite import check_finite
from ...dummyforcing_core.models.lora import Lora
from ...dummyforcing_core.models.metadata import COMFYUI_CONFIG, parse_metadata, resolve_family
from ...dummyforcing_core.models.names import QUANTISED, official_names, refuse_foreign
from ...dummyforcing_core.models.other_forms import read_one
from ...dummyforcing_core.models.scaled_fp8 import FP8
from ...dummyforcing_core.models.wan import WanConfig
from ...dummyforcing_core.models.wan_geometry import HEAD_DIM, check_tensors, geometry, size_mismatch
from ...dummyforcing_core.models.weight_files import open_container
from .settings import with_settings

WEIGHT_DTYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}


def load_ar_model(path: Path, family: str | None, weight_dtype: str, lora: Path | None, strength: float) -> Any:
    """A MODEL of the checkpoint at `path`, with its family noted and its adapter applied as a patch of the host's."""
    model = _load(str(path), family, weight_dtype)
    if lora is not None:
        model = _adapted(model, lora, strength)
    return model


def _adapted(model: Any, lora: Path, strength: float) -> Any:
    """The MODEL with an adapter as patches of the host's."""
    weights = model.model.diffusion_model.state_dict()
    adapter = _adapter(lora, strength, weights)
    # A sum that is rounded to float8 again would lose most of the adapter: beside such weights it runs by itself.
    small = any(weights[name].dtype in FP8.values() for name in adapter.updates)
    apply = comfy.sd.load_bypass_lora_for_models if small else comfy.sd.load_lora_for_models
    model, _ = apply(model, None, adapter.host_names(), 1.0, 0.0)
    for name in adapter.bare:  # the host patches weights and biases only
        value = torch.nn.Parameter(adapter.merged(name, weights[name]).to(weights[name].dtype), requires_grad=False)
        model.add_object_patch(f"diffusion_model.{name}", value)
    return model


def _adapter(path: Path, strength: float, weights: Mapping[str, Tensor]) -> Lora:
    """The LoRA in a file, checked against the model's weights: what does not fit the host would log and leave out."""
    try:
        adapter = Lora.read(path, strength)
        adapter.check({name: weight.shape for name, weight in weights.items()})
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(path), path.name, 1)) from error
    return adapter


def _load(path: str, family: str | None, weight_dtype: str, disable_dynamic: bool = False) -> Any:
    file = Path(path)
    try:
        tree, texts = read_one(file)
        stated = parse_metadata(texts)
        if family and stated.family and family != stated.family:
            raise CheckpointError(f"family {family} is chosen, the file's metadata says {stated.family}; choose auto")
        row = resolve_family(family, stated.family, file)
        tensors, _ = open_container(tree, row.containers if row else CONTAINERS)
        tensors = _official(tensors)
        if row is None:
            raise CheckpointError(
                "neither its metadata nor its name says how this checkpoint was trained, and its tensors cannot; "
                f"pick its family in Load AR Model: {', '.join(name for name in FAMILIES if name != DEMO)}"
            )
        config = geometry(tensors, stated)
        _check(tensors, config)
        check_finite(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{file.name}: {' '.join(str(error).split())}") from error
    mark = fingerprint(tensors, config)
    options = dict(WEIGHT_DTYPES[weight_dtype])
    model = comfy.sd.load_diffusion_model_state_dict(
        tensors, model_options=options, metadata={**texts, "config": COMFYUI_CONFIG}, disable_dynamic=disable_dynamic
    )
    if model is None:
        raise CheckpointError(f"{file.name}: this ComfyUI does not recognise it as a Wan2.1 model")
    # Nodes that need a second copy (torch.compile, multi-GPU) load it again through this.
    model.cached_patcher_init = (_load, (path, family, weight_dtype))
    source = (
        "chosen in Load AR Model" if family else f"{'the metadata' if stated.family else 'the name'} of {file.name}"
    )
    logging.info("Dummy Forcing: %s is of family %s (%s)", file.name, row.name, source)
    if mismatch := size_mismatch(config, row):
        logging.warning("Dummy Forcing: %s: %s", file.name, mismatch)
        source = f"{source}; {mismatch}"
    return with_settings(model, family=row, known_from=source, fingerprint=mark)


def _check(tensors: dict[str, Tensor], config: WanConfig) -> None:
    """CheckpointError for what the host would leave out, or fill with nothing, and only log."""
    if config.dim != HEAD_DIM * config.num_heads:
        raise CheckpointError(
            f"has heads of {config.dim // config.num_heads} channels, ComfyUI builds heads of {HEAD_DIM}; the bundled "
            "demo model is in Load Demo Model"
        )
    if not any(QUANTISED.search(name) for name in tensors):  # those the host unpacks by itself
        check_tensors(tensors, {name: tensor.shape for name, tensor in empty_model(config).state_dict().items()})


def _official(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    refuse_foreign(tensors)
    return {name: tensors[raw] for name, raw in official_names(tensors).items()}
