"""The take that a clip is written to, or goes on from."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..geometry import LatentShape
from ..rates import clock
from ..takes.take import MANIFEST, Manifest, Recording, check_same, differing

MACHINE = ("device", "attention", "versions")  # on another one bits may differ
SHOWN = ("codec", "vae")  # a take can be decoded again, in another way


def open_take(folder: Path, conditions: Mapping[str, Any], shape: LatentShape, shown: bool) -> Recording:
    """A new take in a folder, or the one that is there, to go on behind its last whole chunk. The folder must be owned.

    conditions -- of a report; shown -- whether what is shown is what the clip is made from, too: stills are encoded

    DummyForcingError that names the first setting in which the clip is another one. Warns of what may differ, and of
    what was cut.
    """
    left_out = MACHINE if shown else (*MACHINE, *SHOWN)
    alike = {name: value for name, value in conditions.items() if name not in left_out}
    machine = {name: conditions.get(name) for name in MACHINE}
    manifest = Manifest(alike, machine, shape)
    if not (folder / MANIFEST).exists():
        take = Recording.begin(folder, manifest)
        take.note("begun", conditions=dict(conditions))
        return take
    take = Recording(folder)
    check_same(take, manifest)
    if other := differing(take.manifest.machine, machine):
        warnings.warn(
            f"the take {folder} was made with another {' and other '.join(other)}: from here on its bits may differ "
            "from those of a clip that is made at once",
            stacklevel=3,
        )
    take.note("taken up")
    return take


def taken_up(take: Recording, seconds_per_latent: float) -> str:
    """One line of where a clip goes on; "" for a new one."""
    if not take.entries:
        return ""
    return f"{len(take.entries)} chunks, up to {clock(take.frames * seconds_per_latent)}, are there already"
