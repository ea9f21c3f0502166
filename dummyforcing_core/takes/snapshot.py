"""Keys and values of a take as they are behind a chunk, so that a long one is gone on with without reading all of it.

One file of records beside the latents: what it is, then one record per layer. It is replaced whole, by the next; the
newest chunk's is there or the one before it.
"""

import contextlib
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import OutputError, PlanError, shown
from ..files import output_error
from ..geometry import Span
from ..kv.cache import KVCache
from ..loops.run import Run, StoredKV
from ..loops.table import loop_of
from ..reading import parse_json
from .features import key_of
from .records import Record, RecordWriter, payload, scan, sync_folder

SNAPSHOT = "kv.take"
PART = "kv.part"
FORMAT, VERSION = "dummyforcing.kv", 1


def why_none(run: Run) -> str:
    """Why a run can have no snapshots, "" if it can."""
    if not loop_of(run.family).stores_kv:
        return f"{run.family.title} makes its memory anew in a few passes: there are no snapshots of it"
    plan = run.policy.plan(run.setting)
    if plan.bank is not None and plan.bank.reads_keys:
        return "the bank's rule looks at the keys of every chunk: there are no snapshots"
    return ""


def snapshot_bytes(run: Run) -> int:
    """The most that a snapshot of this run takes, but for a few KiB; a new one is written beside the last."""
    return run.policy.plan(run.setting).history_bytes(run.kv_shape, run.shape.frames)


def with_snapshots(run: Run, folder: Path, every: int) -> Run:
    """The run, of which a snapshot is kept every so many chunks; a line says what they take, or why there are none."""
    if not every:
        return run
    if why := why_none(run):
        warnings.warn(why, stacklevel=2)
        return run
    size = snapshot_bytes(run) / 2**20
    warnings.warn(f"a snapshot of keys and values every {every} chunks takes up to {size:,.1f} MiB", stacklevel=2)
    return replace(run, on_commit=Snapshots(folder, every))


class Snapshots:
    """Writes one every so many chunks; a run's `on_commit`. The take's folder must be owned.

    every -- chunks from one to the next

    One that cannot be written is no reason to end a clip: a line says so, and there are no more of them.
    """

    def __init__(self, folder: Path, every: int):
        self._folder, self._every, self._fails = folder, every, False

    def __call__(self, span: Span, latent: Tensor, cache: KVCache) -> None:
        if self._fails or (span.chunk + 1) % self._every:
            return
        try:
            write_snapshot(self._folder, span, latent, cache)
        except OutputError as error:
            self._fails = True
            warnings.warn(f"no more snapshots of keys and values: {error}", stacklevel=2)


def write_snapshot(folder: Path, span: Span, latent: Tensor, cache: KVCache) -> None:
    """Writes one in the place of the last. OutputError, and the last one as it was, if the disk will not hold both."""
    part, whole = folder / PART, folder / SNAPSHOT
    _check(part, whole)
    layers = cache.plan.layers
    about = {"format": FORMAT, "version": VERSION, "chunk": span.chunk, "latent": key_of(latent), "layers": layers}
    try:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        writer = RecordWriter(part)
        writer.append(json.dumps(about).encode())
        for layer in range(layers):
            named: dict[str, Tensor] = {}
            for i, (k, v) in enumerate(cache.stored(layer)):
                named |= {f"k.{i}": k.cpu().contiguous().clone(), f"v.{i}": v.cpu().contiguous().clone()}
            writer.append(save(named))
        os.replace(part, whole)
        sync_folder(folder)
    except OSError as error:
        raise output_error(whole, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def read_snapshot(folder: Path, key_of_chunk: Callable[[int], str]) -> StoredKV | None:
    """The one that is there, if it is whole and of a chunk of the take; else None, and a line says why.

    key_of_chunk -- the key of a chunk's latent, "" if there is no such chunk
    """
    path = folder / SNAPSHOT
    if not os.path.lexists(path):
        return None
    try:
        _check(path)
        about, *layers = scan(path).records
        told = parse_json(payload(path, about, 4096).decode("utf-8"))
        if (told["format"], told["version"], told["layers"]) != (FORMAT, VERSION, len(layers)):
            raise ValueError("it is not whole")
        chunk = told["chunk"]
        if type(chunk) is not int or not told["latent"] or key_of_chunk(chunk) != told["latent"]:
            raise ValueError("it is of other chunks")
    except (OutputError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"the snapshot {path} is not used ({shown(error, 120)}): the chunks are read again", stacklevel=2)
        return None
    return StoredKV(chunk, lambda layer: _layer(path, layers[layer]))


def _layer(path: Path, record: Record) -> list[tuple[Tensor, Tensor]]:
    try:
        found = load(payload(path, record))
        return [(found[f"k.{i}"], found[f"v.{i}"]) for i in range(len(found) // 2)]
    except (SafetensorError, KeyError) as error:
        raise PlanError(
            f"expected keys and values in {shown(path, 200)}, got {shown(error, 100)}; remove it"
        ) from error


def _check(*paths: Path) -> None:
    for path in paths:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise OutputError(f"expected a file of a take, got {path}, which is a link or no file; remove it")
