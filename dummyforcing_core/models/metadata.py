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

from ..errors import CheckpointError, shown
from ..reading import parse_json
from .families import FAMILIES, Family, get_family
from .wan import WanConfig

KEY = "dummyforcing"
COMFYUI_CONFIG = json.dumps({"transformer": {"causal_ar": True}})

MOST_ROWS = 8192  # of text; Wan2.1 has 512, and every prompt is padded to all of them

# "2step" in a name: of another model than the same name without it.
FEW_STEPS = re.compile(r"(?<!\d)([12])[-_ ]?steps?[^/]*$")


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
        entry = parse_json(metadata[KEY])
        family, geometry = entry.get("family"), entry.get("geometry") or {}
        if not isinstance(family, str | None):
            raise TypeError(f"family is {shown(repr(family))}")
        geometry = {name: geometry[name] for name in WanConfig.__dataclass_fields__ if name in geometry}
        if "patch_size" in geometry:
            geometry["patch_size"] = tuple(geometry["patch_size"])
        bad = {name: value for name, value in geometry.items() if not _positive(name, value)}
        if bad:
            raise TypeError(f"geometry has {shown(bad, 120)}")
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"metadata entry {KEY!r} is malformed ({shown(error, 120)}), JSON with family and geometry was expected; "
            "write the file anew with the convert command"
        ) from error
    return Stated(family, geometry)


def _positive(name: str, value: Any) -> bool:
    kind, most = (float, 1.0) if name == "eps" else (int, MOST_ROWS if name == "text_len" else 2**31)
    return all(type(v) is kind and 0 < v <= most for v in (value if name == "patch_size" else (value,)))


def build_metadata(family: str, config: WanConfig) -> dict[str, str]:
    """The safetensors metadata of a checkpoint of `family` with this geometry."""
    entry = {"family": family, "geometry": asdict(config)}
    return {"format": "pt", KEY: json.dumps(entry), "config": COMFYUI_CONFIG}


def guess_family(path: Path) -> str | None:
    """The family that the file's folder and name point to, if they point to exactly one."""
    where = f"{path.absolute().parent.name}/{path.stem}".lower()
    few = FEW_STEPS.search(where)
    found = {
        family.name
        for family in FAMILIES.values()
        if (len(family.steps) == int(few[1]) if few else len(family.steps) > 2)
        and any(re.search(pattern, where) for pattern in family.hints)
    }
    return found.pop() if len(found) == 1 else None


def resolve_family(wanted: str | None, stated: str | None, path: Path) -> Family | None:
    """The family asked for, else the stated one, else the one in the file name; None when nobody says.

    Raises CheckpointError for an unknown name and when the request contradicts the file.
    """
    if wanted and stated and wanted != stated:
        raise CheckpointError(
            f"--family {wanted} contradicts the file, whose metadata says {shown(stated)}; "
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
