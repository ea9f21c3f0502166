"""Checkpoints: any container and spelling of Wan2.1 weights in, a ready CausalWan or a clean .safetensors out.

The family tables say how a file was trained; everything else is read from its tensors. The source is mapped, the
model is built on the meta device, and tensors are converted and handed over one by one: no second full copy.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, shown
from .families import Family, get_family
from .finite import check_loaded, is_finite
from .lora import Lora
from .metadata import build_metadata, parse_metadata, resolve_family, unknown_family
from .names import listing, official_names, refuse_foreign
from .other_forms import read_joined, read_one
from .scaled_fp8 import dequantised, split_scales, stated_formats
from .wan import CausalWan, WanConfig
from .wan_geometry import FIX, check_tensors, geometry
from .weight_files import Tree, flat_names, open_container, write_safetensors

DEMO_PATH = Path(__file__).resolve().parent.parent / "assets" / "demo_model.safetensors"
NATIVE = (torch.bfloat16, torch.float16, torch.float32)
CONTAINERS = Family.containers
SAMPLES_PER_TENSOR = 16
Read = Callable[[Path], tuple[Tree, dict[str, str]]]


@dataclass(frozen=True)
class CheckpointInfo:
    """Where weights came from. `fingerprint` is equal for equal weights in any container, spelling or wider dtype."""

    path: Path
    container: str | None
    dtype: torch.dtype
    tensors: int
    fingerprint: str
    geometry: WanConfig


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to sample from: eval mode, no gradients, all parameters of one dtype on one device."""

    model: CausalWan
    family: Family
    info: CheckpointInfo


@dataclass(frozen=True)
class Weights:
    """A checked checkpoint: `tensors` are still those of the file, under official names, in the model's order.

    scales -- of those that are stored as float8 and one number to multiply them with, by name
    """

    tensors: dict[str, Tensor]
    family: Family
    info: CheckpointInfo
    scales: dict[str, Tensor]


def empty_model(config: WanConfig) -> CausalWan:
    """The modules of `config` on the meta device: names and shapes, no memory."""
    with torch.device("meta"):
        return CausalWan(config)


def load_model(
    path: str | Path,
    family: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    lora: Lora | None = None,
) -> LoadedModel:
    """Loads a .safetensors or .pt checkpoint of Wan2.1 geometry; any container, prefix or diffusers names.

    dtype None keeps bf16, fp16 and fp32 as stored; other storage (fp8, fp64) becomes fp32 on the CPU, else bf16.
    On the CPU with nothing to convert, parameters stay mapped to the file. Scales and a LoRA are applied in float32,
    weight by weight, and the result is rounded once. Raises CheckpointError, one line; also for a weight that is NaN or
    infinite.
    """
    weights = read_checkpoint(path, family)
    if lora is not None:
        lora.check({name: tensor.shape for name, tensor in weights.tensors.items()})
    device = torch.device(device)
    if dtype is None:
        fallback = torch.float32 if device.type == "cpu" else torch.bfloat16
        dtype = weights.info.dtype if weights.info.dtype in NATIVE else fallback
    model = empty_model(weights.info.geometry)
    source, state = weights.tensors, {}
    for name in list(source):
        tensor = stored = dequantised(source.pop(name), weights.scales.get(name))
        if lora is not None:
            tensor = lora.merged(name, stored)
        state[name] = tensor.to(device=device, dtype=dtype).contiguous()
        if not is_finite(state[name]):
            _refuse(weights.info.path, name, stored, state[name], lora)
    model.load_state_dict(state, assign=True)
    return LoadedModel(model.requires_grad_(False).eval(), weights.family, weights.info)


def _refuse(path: Path, name: str, stored: Tensor, loaded: Tensor, lora: Lora | None = None) -> None:
    """CheckpointError for a tensor that came out as NaN or infinity, with the file whose fault it is."""
    if lora is not None and is_finite(stored.to(loaded)):
        raise CheckpointError(
            f"{lora.path}: makes {name} NaN, infinite or too large for {str(loaded.dtype)[6:]}; get the LoRA again, or "
            "lower its strength"
        )
    try:
        check_loaded(name, loaded, stored)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_demo_model(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> LoadedModel:
    """The model that ships with the package."""
    return load_model(DEMO_PATH, "demo", device, dtype)


def save_model(model: CausalWan, path: str | Path, family: str, dtype: torch.dtype | None = None) -> int:
    """Writes official names and our metadata to a .safetensors file, whole or not at all; returns its bytes.

    dtype None keeps each parameter's. Raises CheckpointError for an unknown family, suffix or dtype, OutputError
    when the disk refuses.
    """
    metadata = build_metadata(get_family(family).name, model.config)
    return write_safetensors(Path(path), model.state_dict(), metadata, dtype)


def convert_checkpoint(
    source: str | Path, target: str | Path, family: str | None = None, dtype: torch.dtype | None = None
) -> tuple[CheckpointInfo, Family, int]:
    """Rewrites any readable checkpoint as save_model would; returns the source's info, its family, bytes written.

    The source may be a folder of shards. Tensors go through one at a time. dtype None keeps bf16, fp16 and fp32 as
    stored, and makes bf16 of the rest. CheckpointError for a number that is NaN or infinite, or becomes it on the way.
    """
    weights = read_checkpoint(source, family, read_joined)
    info = weights.info
    dtype = dtype or (info.dtype if info.dtype in NATIVE else torch.bfloat16)
    metadata = build_metadata(weights.family.name, info.geometry)
    try:
        size = write_safetensors(Path(target), weights.tensors, metadata, dtype, weights.scales, check_loaded)
    except CheckpointError as error:
        raise CheckpointError(f"{info.path}: {error}") from error
    return info, weights.family, size


def read_checkpoint(path: str | Path, family: str | None = None, read: Read = read_one) -> Weights:
    """Opens, identifies and checks a checkpoint without converting anything. Raises CheckpointError, one line.

    read -- gives the file's tensors and text metadata
    """
    path = Path(path)
    if family is not None:
        get_family(family)
    try:
        return _read(path, family, read)
    except CheckpointError as error:
        # One line whatever a tensor in the file is called.
        raise CheckpointError(f"{shown(path, 200)}: {' '.join(str(error).split())}") from error


def _read(path: Path, wanted: str | None, read: Read) -> Weights:
    tree, texts = read(path)
    stated = parse_metadata(texts)
    family = resolve_family(wanted, stated.family, path)
    tensors, container = open_container(tree, family.containers if family else CONTAINERS)
    # A file whose containers are all unknown may still show what it is.
    refuse_foreign(tensors or flat_names(tree))
    if not tensors:
        raise CheckpointError(
            f"holds {listing(str(key) for key in tree) or 'nothing'}, "
            f"bare tensors or one of {', '.join(CONTAINERS)} was expected; {FIX}"
        )
    names = official_names(tensors)
    formats = stated_formats(tensors, texts)
    tensors, scales = split_scales({name: tensors[raw] for name, raw in names.items()}, formats)
    config = geometry(tensors, stated)
    expected = {name: tensor.shape for name, tensor in empty_model(config).state_dict().items()}
    check_tensors(tensors, expected)
    if family is None:
        raise unknown_family()
    tensors = {name: tensors[name] for name in expected}
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        sizes[tensor.dtype] += tensor.numel()
    stored = sizes.most_common(1)[0][0]
    mark = fingerprint(tensors, config, scales)
    return Weights(tensors, family, CheckpointInfo(path, container, stored, len(tensors), mark, config), scales)


def fingerprint(tensors: Mapping[str, Tensor], config: WanConfig, scales: Mapping[str, Tensor] | None = None) -> str:
    """16 hex digits over the geometry and a few values of every tensor, times its scale if it has one.

    Values are widened to float32 first, so that a lossless change of dtype keeps the fingerprint.
    """
    digest = hashlib.sha256(repr(sorted(asdict(config).items())).encode())
    for name, tensor in tensors.items():
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(len(flat) // SAMPLES_PER_TENSOR, 1)][:SAMPLES_PER_TENSOR]
        values = dequantised(sample, (scales or {}).get(name))
        digest.update(name.encode() + values.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
