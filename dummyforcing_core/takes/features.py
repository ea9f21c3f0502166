"""The text features that a take is made with: each of them once, in a file of records beside its latents."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import OutputError, shown
from .records import Record, RecordWriter, payload, scan

FEATURES = "prompts.take"
_KEY_BYTES = 8


def key_of(features: Tensor) -> str:
    """A name for features (B or 1, S, text_dim): the same for the same bits only."""
    plain = features.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[: 2 * _KEY_BYTES]


class Keys:
    """`key_of`, asked once for every tensor."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, str]] = {}  # with the tensor: another must not get its id()

    def __call__(self, features: Tensor) -> str:
        if id(features) not in self._known:
            self._known[id(features)] = features, key_of(features)
        return self._known[id(features)][1]


class FeatureWriter:
    """Appends features that are not there yet. The folder must be owned."""

    def __init__(self, folder: Path):
        self._path, self._keys = folder / FEATURES, Keys()
        self._there = set(_records(self._path))
        self._writer: RecordWriter | None = None

    def add(self, features: Tensor) -> str:
        """Its key; it is on the disk when this returns."""
        key = self._keys(features)
        if key not in self._there:
            self._writer = self._writer or RecordWriter(self._path)
            plain = features.detach().cpu().clone(memory_format=torch.contiguous_format)
            self._writer.append(bytes.fromhex(key) + save({"features": plain}))
            self._there.add(key)
        return key


def read_features(folder: Path, key: str) -> Tensor | None:
    """Features (B or 1, S, text_dim) of a take's folder by their key; None if they are not there."""
    path = folder / FEATURES
    record = _records(path).get(key)
    if record is None:
        return None
    try:
        found: Tensor = load(payload(path, record)[_KEY_BYTES:])["features"]
    except (SafetensorError, KeyError) as error:
        raise OutputError(
            f"expected text features in {shown(path, 200)}, got {shown(error, 200)}; give that file back"
        ) from error
    return found if key_of(found) == key else None


def _records(path: Path) -> dict[str, Record]:
    """By key, in order; none of a file that is not there."""
    if not path.exists():
        return {}
    whole = [record for record in scan(path).records if record.length > _KEY_BYTES]
    return {payload(path, record, _KEY_BYTES).hex(): record for record in whole}
