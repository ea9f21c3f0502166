"""`take`: what is in a take, and whether it is whole. `generate --take DIR` makes one, and goes on with it."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from ..errors import OutputError, shown
from ..geometry import pixel_frames
from ..rates import OWN_RATE, clock, rate_of
from ..takes.take import LATENTS, MANIFEST, Take
from .names import named
from .terminal import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `take` takes."""
    parser.add_argument(
        "what",
        choices=("list", "show", "check"),
        help="list: the takes in a folder; show: the chunks of one; check: reads every byte of one",
    )
    parser.add_argument("folder", type=named, metavar="DIR", help="a take, or for list a folder of takes")


def run(args: argparse.Namespace) -> int:
    """Prints a line per take, or what one holds; check ends with 1 if it is not whole."""
    if args.what == "list":
        for line in _lines(args.folder):
            tell(line)
        return 0
    take = Take(args.folder)
    if args.what == "check":
        take.read_all()
        damage = f"; damaged: {take.missing}, `generate` makes them anew" if take.missing else "; whole"
        tell(f"{args.folder}: {_state(take)}{damage}")
        return 1 if take.missing else 0
    for name, value in {**take.manifest.conditions, **take.manifest.machine}.items():
        tell(f"{shown(name):<20}{shown(value, 200)}")
    for entry in take.entries:
        banked = sorted(frame for frame in entry.log.marked[-1]) if entry.log.marked else []
        marks = f"  marked: latent frames {', '.join(map(str, banked))}" if banked else ""
        observed = "  heads observed" if entry.log.observed else ""
        tell(f"chunk {entry.span.chunk:<6} from {_second(take, entry.span.start)}{observed}{marks}")
    tell(_state(take))
    return 0


def _lines(folder: Path) -> Iterator[str]:
    """One per take in a folder; OutputError if there is no such folder."""
    try:
        found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    except OSError as error:
        raise OutputError(f"cannot look into {shown(folder, 200)}: {error.strerror}; name a folder of takes") from error
    if not folder.is_dir():
        raise OutputError(f"expected a folder of takes, got {shown(folder, 200)}; name one that is there")
    for take in found:
        try:
            yield f"{take}  {_state(Take(take))}"
        except OutputError as error:
            yield f"{take}  {error}"
    if (folder / MANIFEST).exists():
        yield f"{folder} is a take itself: see `take show`"
    elif not found:
        yield f"no takes in {folder}"


def _state(take: Take) -> str:
    """How far it is, and what it takes on the disk."""
    whole = take.manifest.shape.frames
    done = "finished" if take.manifest.finished else "unfinished, `generate` with the same options goes on"
    size = (take.folder / LATENTS).stat().st_size if take.entries else 0
    seconds = f"{_second(take, take.frames)} of {_second(take, whole)}"
    return f"{len(take.entries)} chunks, {seconds}, {size / 2**10:,.0f} KiB, {done}"


def _second(take: Take, frame: int) -> str:
    """Where a latent frame begins in the video."""
    try:
        fps = rate_of(str(take.manifest.conditions.get("fps", "")))
    except OutputError:  # a take that was not written by us
        fps = OWN_RATE
    return clock(float(pixel_frames(frame) / fps))
