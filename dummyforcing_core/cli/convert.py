"""`convert SRC DST`: any readable checkpoint as a .safetensors file that this project and ComfyUI load as it is."""

import argparse
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..files import check_name, check_regular
from ..models.checkpoints import convert_checkpoint
from ..models.families import FAMILIES
from ..models.other_forms import spoils
from ..ownership import owned
from .common import DTYPES, named_dtype
from .names import named
from .terminal import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `convert` takes."""
    parser.description = (
        "Rewrites a .pt or .safetensors checkpoint under official names, with metadata that names its "
        "family and makes ComfyUI build its causal model. The source is never changed."
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        type=named,
        help="checkpoint: .safetensors, .pt or .pth, a folder of shards, or .gguf",
    )
    parser.add_argument("target", metavar="DST", type=named, help="file to write, ending in .safetensors")
    parser.add_argument("--family", metavar="F", help=f"how it was trained: {', '.join(sorted(FAMILIES))}")
    parser.add_argument("--dtype", help=f"{', '.join(DTYPES)} (default: as stored; fp8 becomes bf16)")


def run(args: argparse.Namespace) -> int:
    """Converts and prints what was done. Raises DummyForcingError for bad input; nothing half-written stays."""
    source, target = Path(args.source), Path(args.target)
    dtype = named_dtype(args.dtype) if args.dtype else None
    if target.suffix.lower() != ".safetensors":
        raise CheckpointError(f"{target}: the target must end in .safetensors; rename it")
    if spoils(target, source):
        raise CheckpointError(f"{target}: source and target are the same file; give another target, the source is kept")
    check_name(target)
    check_regular(target)
    with owned(target):
        info, family, size = convert_checkpoint(source, target, args.family, dtype)
    c = info.geometry
    container = info.container or "bare tensors"
    tell(f"read     {source} ({container}, {info.tensors} tensors, mostly {_name(info.dtype)})")
    tell(f"family   {family.name}: {family.title}")
    tell(f"geometry dim {c.dim}, ffn {c.ffn_dim}, {c.num_layers} layers x {c.num_heads} heads of {c.head_dim}")
    tell(f"weights  fingerprint {info.fingerprint}")
    tell(f"wrote    {target} ({size / 2**20:,.1f} MiB, {args.dtype or 'dtype as stored'})")
    return 0


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
