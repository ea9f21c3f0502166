"""Weight files on disk: lazy reading of .safetensors and .pt, streaming writing of .safetensors.

Reading maps the file instead of copying it; writing converts one tensor at a time. So a 14B checkpoint is
converted in the memory of its largest tensor.
"""

import contextlib
import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import CheckpointError, OutputError, shown
from ..files import real_path
from ..reading import unreadable
from .plain_tree import plain_tree
from .scaled_fp8 import dequantised

Tree = Mapping[str, Any]
CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@contextlib.contextmanager
def _text_name(path: Path) -> Iterator[str]:
    """A name that libraries can open: they take UTF-8 text alone, and a name may be any bytes."""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError as error:
        with open(path, "rb") as file:
            name = f"/dev/fd/{file.fileno()}"
            if not os.path.exists(name):
                raise CheckpointError("its name is no UTF-8 text; rename the file or its folder") from error
            yield name
    else:
        yield os.fspath(path)


def _read_safetensors(path: Path) -> tuple[Tree, dict[str, str]]:
    with _text_name(path) as name, safe_open(name, framework="pt", device="cpu") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


def _read_torch(path: Path) -> tuple[Tree, dict[str, str]]:
    zipped = zipfile.is_zipfile(path)  # only this format, of torch >= 1.6, can be mapped
    if zipped:
        _refuse_packed(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about kinds of tensors that are refused below
        with _text_name(path) as name:
            tree = torch.load(name, map_location="cpu", weights_only=True, mmap=zipped)
    if not isinstance(tree, Mapping):
        raise CheckpointError(
            f"holds one {type(tree).__name__}, a dictionary of tensors was expected; save the model's state_dict()"
        )
    return plain_tree(tree), {}


def _refuse_packed(path: Path) -> None:
    """torch stores as it is; what is compressed may become any size in memory."""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise CheckpointError(
                f"is a compressed archive, a {path.suffix.lower()} file as torch writes it was expected; unpack it, "
                "or download it again"
            )


READERS: dict[str, Callable[[Path], tuple[Tree, dict[str, str]]]] = {
    ".safetensors": _read_safetensors,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".ckpt": _read_torch,
    ".sft": _read_safetensors,
}


def read_weights(path: Path) -> tuple[Tree, dict[str, str]]:
    """The file's tensors (possibly nested) on the CPU, mapped where the format allows, and its text metadata.

    Raises CheckpointError for a file that is missing or may not be read, another file type, a truncated or corrupt
    file, and a .pt that would have to run code or holds tensors other than dense ones. Messages do not name the path;
    callers put it in front.
    """
    if why := unreadable(path):
        raise CheckpointError(f"{why} (a single {', '.join(READERS)} file was expected)")
    if path.suffix.lower() not in READERS:
        raise CheckpointError(
            f"file type {shown(path.suffix) or '(none)'!r} is not readable, one of {', '.join(READERS)} was expected; "
            "convert or rename the file"
        )
    return read_as(path.suffix.lower(), path)


def read_as(kind: str, path: Path) -> tuple[Tree, dict[str, str]]:
    """`read_weights` of a file that is of the kind of one of READERS, whatever its name."""
    try:
        return READERS[kind](path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file makes the parsers raise almost anything
        raise CheckpointError(_damaged(path, error)) from error


def read_header(path: Path) -> dict[str, str]:
    """The text metadata of a .safetensors file; {} for other files, which have none."""
    if READERS.get(path.suffix.lower()) is not _read_safetensors:
        return {}
    try:
        with _text_name(path) as name, safe_open(name, framework="pt") as file:
            return file.metadata() or {}
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file makes the parser raise almost anything
        raise CheckpointError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    code = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if code:
        return (
            f"needs the Python object {shown(code[1])}, tensors only were expected (loading objects can run foreign "
            "code); save its state_dict() alone or get a .safetensors file"
        )
    if why := unreadable(path):
        return why
    reason = shown((str(error) or type(error).__name__).splitlines()[0], 120)
    return (
        f"truncated, corrupt or not a {path.suffix.lower()} file ({path.stat().st_size:,} bytes; {reason}); "
        "download it again and compare its size with the source's"
    )


def has_tensors(tree: Any) -> bool:
    """Whether a tensor lies anywhere inside."""
    return isinstance(tree, Tensor) or (isinstance(tree, Mapping) and any(map(has_tensors, tree.values())))


def flat_names(tree: Tree, prefix: str = "") -> list[str]:
    """Dotted names of every tensor in a nested tree."""
    names: list[str] = []
    for key, value in tree.items():
        if isinstance(value, Tensor):
            names.append(f"{prefix}{key}")
        elif isinstance(value, Mapping):
            names += flat_names(value, f"{prefix}{key}.")
    return names


def open_container(tree: Tree, order: Sequence[str]) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of the first container of `order` that is present, and its dotted path (None: bare tensors).

    Containers may be nested, and may also be spelled as a prefix of flat names (generator_ema.blocks...).
    """
    for name in order:
        if isinstance(tree.get(name), Mapping) and has_tensors(tree[name]):
            tensors, inner = open_container(tree[name], order)
            return tensors, f"{name}.{inner}" if inner else name
    tensors = {str(name): value for name, value in tree.items() if isinstance(value, Tensor)}
    for name in order:
        # "model." is what everybody puts in front of bare tensors; it tells nothing.
        inside = {key.removeprefix(f"{name}."): tensors[key] for key in tensors if key.startswith(f"{name}.")}
        if inside and name != "model":
            return inside, name
    return tensors, None


def _header(
    ordered: Sequence[tuple[str, Tensor]], metadata: Mapping[str, str], dtype: torch.dtype | None
) -> tuple[bytes, int]:
    """The JSON in front of the tensors, and how many bytes follow it."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in ordered:
        kind = dtype or tensor.dtype
        start, end = end, end + tensor.numel() * kind.itemsize
        header[name] = {"dtype": CODES[kind], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode("utf-8")
    return text + b" " * (-len(text) % 8), end


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = None,
    scales: Mapping[str, Tensor] | None = None,
    check: Callable[[str, Tensor, Tensor], None] = lambda name, written, given: None,
) -> int:
    """Writes tensors as `dtype` (None: each as it is), those that have one times their scale; returns the file's bytes.

    The file appears whole or not at all: it is written beside its final name and then renamed.
    check: told of every tensor as it is written and as it was given; raises to write nothing.
    Raises CheckpointError for a dtype or suffix that cannot be written, OutputError when the disk refuses.
    """
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(f"{path}: the target must end in .safetensors; rename it")
    unknown = {t for t in (dtype or value.dtype for value in tensors.values()) if t not in CODES}
    if unknown:
        known = ", ".join(str(known) for known in CODES)
        raise CheckpointError(f"{path}: cannot write {unknown.pop()}, one of {known} was expected; pass a dtype")
    # Widest first, so that every tensor starts at a multiple of its item size.
    ordered = sorted(tensors.items(), key=lambda item: -(dtype or item[1].dtype).itemsize)
    text, end = _header(ordered, metadata, dtype)
    target = real_path(path)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, tensor in ordered:
                whole = dequantised(tensor.detach(), (scales or {}).get(name)).to("cpu", dtype or tensor.dtype)
                check(name, whole, tensor)
                file.write(whole.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        part.replace(target)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); "
            f"{8 + len(text) + end:,} bytes in a writable folder are needed; choose another target"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return 8 + len(text) + end
