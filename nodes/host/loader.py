"""Checkpoints as the authors publish them, through the host's own loader."""

import logging
from pathlib import Path
from typing import Any

import comfy.sd
import torch
from torch import Tensor

from ...dummyforcing_core.errors import CheckpointError
from ...dummyforcing_core.models.checkpoints import CONTAINERS, fingerprint
from ...dummyforcing_core.models.lora import Lora
from ...dummyforcing_core.models.metadata import HOST_CONFIG, parse_metadata, resolve_family, unknown_family
from ...dummyforcing_core.models.names import official_names
from ...dummyforcing_core.models.wan_geometry import geometry
from ...dummyforcing_core.models.weight_files import open_container, read_weights
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
        adapter = Lora.read(lora)
        adapter.check(set(model.model.diffusion_model.state_dict()))
        model, _ = comfy.sd.load_lora_for_models(model, None, adapter.host_names(), strength, 0.0)
    return model


def _load(path: str, family: str | None, weight_dtype: str, disable_dynamic: bool = False) -> Any:
    file = Path(path)
    try:
        tree, texts = read_weights(file)
        stated = parse_metadata(texts)
        row = resolve_family(family, stated.family, file)
        tensors, _ = open_container(tree, row.containers if row else CONTAINERS)
        tensors = _official(tensors)
        if row is None:
            raise unknown_family()
        config = geometry(tensors, stated)
    except CheckpointError as error:
        raise CheckpointError(f"{file.name}: {' '.join(str(error).split())}") from error
    mark = fingerprint(tensors, config)
    options = dict(WEIGHT_DTYPES[weight_dtype])
    model = comfy.sd.load_diffusion_model_state_dict(
        tensors, model_options=options, metadata={**texts, "config": HOST_CONFIG}, disable_dynamic=disable_dynamic
    )
    if model is None:
        raise CheckpointError(f"{file.name}: this ComfyUI does not recognise it as a Wan2.1 model")
    # Nodes that need a second copy (torch.compile, multi-GPU) load it again through this.
    model.cached_patcher_init = (_load, (path, family, weight_dtype))
    source = (
        "chosen in Load AR Model" if family else f"{'the metadata' if stated.family else 'the name'} of {file.name}"
    )
    logging.info("Dummy Forcing: %s is of family %s (%s)", file.name, row.name, source)
    return with_settings(model, family=row, known_from=source, fingerprint=mark)


def _official(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[raw] for name, raw in official_names(tensors).items()}
