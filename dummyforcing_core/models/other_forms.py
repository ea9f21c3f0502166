"""Checkpoints that are no single file of plain tensors: shards, as diffusers saves them, and GGUF.

They are refused where a model is loaded, with the command that makes one file of them, and read by that command.
"""

import os
import re
import shlex
from pathlib import Path

from ..errors import CheckpointError, shown
from ..reading import cause, unreadable
from .gguf_file import read_gguf
from .names import listing
from .weight_files import Tree, read_weights

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?:safetensors|pt|pth)")
INDEX = re.compile(r".+\.(?:safetensors|bin)\.index\.json")
WHOLE = "diffusion_pytorch_model.safetensors"  # what diffusers calls a model in one file
FOLDERS = (".", "transformer")  # a model's own folder, or a pipeline's


def refuse_other_forms(path: Path) -> None:
    """Raises CheckpointError for shards, their index or folder, and for GGUF, with the command that converts them."""
    if not os.path.isdir(path) and (why := unreadable(path)):
        raise CheckpointError(why)
    if path.suffix.lower() == ".gguf":
        raise CheckpointError(f"this is GGUF; make plain tensors of it: pip install gguf; {_command(path)}")
    if shards := shards_of(path):
        source = path if path.is_dir() else path.parent
        raise CheckpointError(f"this model lies in {len(shards)} files; make one of them: {_command(source)}")
    if os.path.isdir(path):
        found = next((path / folder / WHOLE for folder in FOLDERS if os.path.isfile(path / folder / WHOLE)), None)
        if found is not None:
            raise CheckpointError(f"this is a folder; give the file in it, {shown(found, 200)}")


def _command(source: Path) -> str:
    return f"python -m dummyforcing_core convert {shlex.quote(shown(source, 200))} whole.safetensors"


def shards_of(path: Path) -> list[Path]:
    """The files of the set that `path` is the folder, the index or a member of, in order; [] if there is no set.

    Raises CheckpointError for an incomplete set, and for a folder that cannot be listed.
    """
    if os.path.isdir(path):
        return next((found for folder in FOLDERS if (found := _set_in(path / folder))), [])
    if SHARD.fullmatch(path.name) or INDEX.fullmatch(path.name):
        return _set_in(path.parent)
    return []


def spoils(target: Path, source: Path) -> bool:
    """Whether writing `target` would change the model that `source` is: it is one of its files, or would count as one
    of its set."""
    folders = [source / folder for folder in FOLDERS] if os.path.isdir(source) else [source.parent]
    if os.path.exists(target):
        parts = [source, *(path for folder in folders for path in _parts(folder))]
        return any(os.path.exists(path) and target.samefile(path) for path in parts)
    beside = any(os.path.isdir(folder) and folder.resolve() == target.parent.resolve() for folder in folders)
    return beside and _is_part(target.name) and any(map(_parts, folders))


def _parts(folder: Path) -> list[Path]:
    """The shards and the indices of a folder, a set or not."""
    try:
        return [folder / name for name in os.listdir(folder) if _is_part(name)]
    except OSError:  # said where it is read
        return []


def _is_part(name: str) -> bool:
    return bool(SHARD.fullmatch(name) or INDEX.fullmatch(name))


def _set_in(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):
        return []
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(cause(error)) from error
    found = {match["number"]: match for match in map(SHARD.fullmatch, names) if match}
    if not found:
        return []
    first = next(iter(found.values()))
    count = int(first["count"])
    wanted = [f"{number:05d}" for number in range(1, count + 1)]
    if len({(match["stem"], match["count"]) for match in found.values()}) > 1 or len(found) > count:
        raise CheckpointError(f"{shown(folder, 200)} holds several sets of shards, one was expected; part them")
    if absent := [number for number in wanted if number not in found]:
        raise CheckpointError(
            f"misses {len(absent)} of {count} files ({first['stem']}-{listing(absent)}-of-{first['count']}); "
            "download the folder again"
        )
    return [folder / found[number].string for number in wanted]


def read_joined(path: Path) -> tuple[Tree, dict[str, str]]:
    """What `read_weights` reads, the tensors of all shards of a set together, or those of a GGUF file."""
    if path.suffix.lower() == ".gguf":
        return read_gguf(path), {}
    shards = shards_of(path)
    if not shards:
        return read_weights(path)
    tree: dict[str, object] = {}
    texts: dict[str, str] = {}
    for shard in shards:
        try:
            more, said = read_weights(shard)
        except CheckpointError as error:
            raise CheckpointError(f"{shard.name}: {error}") from error
        if twice := sorted(set(tree) & set(more)):
            raise CheckpointError(f"{listing(twice)} is in two of its files; download the folder again")
        tree |= more
        texts = said | texts
    return tree, texts


def read_one(path: Path) -> tuple[Tree, dict[str, str]]:
    """What `read_weights` reads; a checkpoint in another form is refused with the command that converts it."""
    refuse_other_forms(path)
    return read_weights(path)
