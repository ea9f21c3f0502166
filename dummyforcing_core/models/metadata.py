"""What a checkpoint says about itself beyond its tensors: our safetensors metadata, and family hints in file names.

Two text entries: "dummyforcing", JSON {"family": ..., "geometry": {WanConfig fields}}, is ours; "config" is what
ComfyUI (0.27 and later) reads to build its causal model.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .families import FAMILIES, Family, get_family
from .wan import WanConfig

KEY = "dummyforcing"
HOST_CONFIG = json.dumps({"transformer": {"causal_ar": True}})

# Searched in "folder/stem", lower case. The chunk-wise and the frame-wise Causal-Forcing files are both called
# causal_forcing.pt upstream, and only their folders tell them apart. Files of 1 or 2 steps are families of their own.
NAME_HINTS: tuple[tuple[str, str], ...] = (
    (r"self[-_ .]?forcing(?![^/]*frame[-_ ]?wise)[^/]*$", "self_forcing"),
    (r"frame[-_ ]?wise[^/]*/[^/]*causal[-_ .]?forcing[^/]*$", "causal_forcing_framewise"),
    (r"/(?![^/]*self)[^/]*frame[-_ ]?wise[^/]*$", "causal_forcing_framewise"),
    (r"chunk[-_ ]?wise[^/]*/[^/]*causal[-_ .]?forcing[^/]*$", "causal_forcing"),
    (r"/(?=[^/]*causal[-_ .]?forcing)[^/]*chunk[-_ ]?wise[^/]*$", "causal_forcing"),
    (r"/[^/]*long[-_ ]?live(?![-_ ]?2)[^/]*$", "longlive"),
    (r"/[^/]*rolling[-_ .]?forcing[^/]*$", "rolling_forcing"),
    (r"chunk[-_ ]?wise[^/]*/long[-_ ]?video[^/]*$|/[^/]*causal[-_ .]?forcing[^/]*long[^/]*$", "causal_forcing_long"),
    (r"/[^/]*krea[-_ .]?realtime[^/]*$", "krea_realtime"),
    (r"/[^/]*caus[-_ ]?vid[^/]*$|autoregressive_checkpoint[^/]*/model$", "causvid"),
)
FEW_STEPS = re.compile(r"(?<!\d)([12])[-_ ]?steps?[^/]*$")
FEW_STEP_FAMILY = re.compile(r"causal[-_ .]?forcing.*frame[-_ ]?wise|frame[-_ ]?wise.*causal[-_ .]?forcing")


@dataclass(frozen=True)
class Stated:
    """What the metadata says: a family name, and WanConfig fields; empty where it says nothing."""

    family: str | None = None
    geometry: Mapping[str, Any] = field(default_factory=dict)


def parse_metadata(metadata: Mapping[str, str]) -> Stated:
    """Reads our entry of a safetensors header; fields of later versions are ignored. CheckpointError if malformed."""
    if KEY not in metadata:
        return Stated()
    try:
        entry = json.loads(metadata[KEY])
        family, geometry = entry.get("family"), entry.get("geometry") or {}
        if not isinstance(family, str | None):
            raise TypeError(f"family is {family!r}")
        geometry = {name: geometry[name] for name in WanConfig.__dataclass_fields__ if name in geometry}
        if "patch_size" in geometry:
            geometry["patch_size"] = tuple(geometry["patch_size"])
        bad = {name: value for name, value in geometry.items() if not _positive(name, value)}
        if bad:
            raise TypeError(f"geometry has {bad}")
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"metadata entry {KEY!r} is malformed ({error}), JSON with family and geometry was expected; "
            "write the file anew with the convert command"
        ) from error
    return Stated(family, geometry)


def _positive(name: str, value: Any) -> bool:
    kind = float if name == "eps" else int
    return all(type(v) is kind and v > 0 for v in (value if name == "patch_size" else (value,)))


def build_metadata(family: str, config: WanConfig) -> dict[str, str]:
    """The safetensors metadata of a checkpoint of `family` with this geometry."""
    entry = {"family": family, "geometry": asdict(config)}
    return {"format": "pt", KEY: json.dumps(entry), "config": HOST_CONFIG}


def guess_family(path: Path) -> str | None:
    """The family that the file's folder and name point to, if they point to exactly one."""
    where = f"{path.absolute().parent.name}/{path.stem}".lower()
    if few := FEW_STEPS.search(where):
        return f"causal_forcing_{few[1]}step" if FEW_STEP_FAMILY.search(where) else None
    found = {family for pattern, family in NAME_HINTS if re.search(pattern, where)}
    return found.pop() if len(found) == 1 else None


def resolve_family(wanted: str | None, stated: str | None, path: Path) -> Family | None:
    """The family asked for, else the stated one, else the one in the file name; None when nobody says.

    Raises CheckpointError for an unknown name and when the request contradicts the file.
    """
    if wanted and stated and wanted != stated:
        raise CheckpointError(
            f"--family {wanted} contradicts the file, whose metadata says {stated}; "
            "leave --family out or give another file"
        )
    name = wanted or stated or guess_family(path)
    return get_family(name) if name else None


def unknown_family() -> CheckpointError:
    """The error for a file that does not tell its family."""
    return CheckpointError(
        "neither its metadata nor its name says how this checkpoint was trained, and its tensors cannot; "
        f"pass --family with one of {', '.join(sorted(FAMILIES))}"
    )
