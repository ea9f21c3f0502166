"""`models`: which files each family needs, where they are, under which terms. Downloads nothing."""

import argparse
import json
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from ..loops.table import loop_of
from ..models.catalogue import FAMILY_SOURCES, SHARED, Source, get_source
from ..models.families import FAMILIES, Family
from ..models.sources import CHECKED, SourceFile
from .terminal import tell

INTRO = (
    f"Facts as stated by the sources, read on {CHECKED} in stored copies that may be older; read a licence yourself "
    "before you rely on it. Nothing is downloaded: run a command below in ComfyUI's folder, or give another "
    "--local-dir (headless, any folder does); `hf` comes with `pip install huggingface_hub`."
)
FIELD = 12  # width of the names in front of the facts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `models` takes."""
    parser.description = (
        "Prints, for every model family or one, its files, the licence of the weights, the command that "
        "fetches them and what this project has verified. Downloads nothing."
    )
    parser.add_argument("--family", metavar="F", help="only this one (and what every family shares)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print the tables of docs/families.md")


def run(args: argparse.Namespace) -> int:
    """Prints to stdout; always 0. Raises CheckpointError for an unknown family."""
    chosen = chosen_sources(args.family)
    if args.json:
        tell(json.dumps({"checked": CHECKED, "models": [as_dict(source) for source in chosen]}, indent=2))
    elif args.markdown:
        tell("\n".join(markdown(chosen)))
    else:
        tell("\n".join(blocks(chosen)))
    return 0


def chosen_sources(family: str | None) -> tuple[Source, ...]:
    """Every entry, or one family's and the shared files it needs."""
    if family is None:
        return (*FAMILY_SOURCES, SHARED)
    source = get_source(family)
    return (source, SHARED) if source.files and source is not SHARED else (source,)


def sampling(source: Source) -> str:
    """How the family is sampled: from its row in families.py, or as noted for those that have none."""
    return defaults(FAMILIES[source.name]) if source.name in FAMILIES else source.sampling


def defaults(family: Family) -> str:
    """Steps, shift, chunk, window and sink of a family, in words."""
    window = f"window {family.window_frames}" if family.window_frames else f"all {family.trained_frames} frames"
    first = f" ({' '.join(map(str, family.first_steps))} in the first generated chunk)" if family.first_steps else ""
    warped = "warped" if family.warped else "not warped"
    parts = [
        f"{' '.join(f'{step:g}' for step in family.steps)}{first}, shift {family.shift:g}, {warped}",
        f"chunk {family.chunk_frames}",
        window,
    ]
    parts += [f"sink {family.sink_frames}"] if family.sink_frames else []
    parts += ["re-cache on a prompt switch"] if family.recache else []
    about = loop_of(family).about(family)
    return "; ".join([*parts, *([about] if about else [])])


def status(source: Source) -> str:
    """Whether the engine runs the family; empty for the shared files."""
    if source.missing:
        return f"cannot be run yet: needs {source.missing}"
    return "can be run" if source.name in FAMILIES else ""


def as_dict(source: Source) -> dict[str, Any]:
    """The entry and what is derived from it, as JSON takes it."""
    files = [asdict(file) | {"landing": file.landing, "download": file.download} for file in source.files]
    return asdict(source) | {"files": files, "sampling": sampling(source), "status": status(source)}


def blocks(sources: Iterable[Source]) -> Iterator[str]:
    """The readable list: one block per entry."""
    yield textwrap.fill(INTRO, 100)
    for source in sources:
        yield ""
        yield f"{source.name}: {source.title}"
        if not source.files and not source.missing:
            yield _fact("file", "in the package, nothing to fetch")
        for name, value in (("sampling", sampling(source)), ("status", status(source)), ("verified", source.verified)):
            yield from [_fact(name, value)] if value else []
        for file in source.files:
            yield _fact("file", f"{file.repo}  {file.path}")
            yield _fact("  holds", f"{file.holds}; size {file.size}")
            licence = file.licence
            yield _fact("  licence", f"{licence.name}; commercial use: {licence.commercial} ({licence.stated_in})")
            yield from [_fact("  unverified", file.unverified)] if file.unverified else []
            yield _fact("  lands at", file.landing)
            yield f"  {'  fetch':<{FIELD}} {file.download}"  # on one line, to be copied
            if file.place != file.landing:
                yield f"  {'  then':<{FIELD}} mv {file.landing} {file.place}"  # where templates look for it


def _fact(name: str, value: str) -> str:
    lead = f"  {name:<{FIELD}} "
    whole = textwrap.TextWrapper(100, lead, " " * len(lead), break_long_words=False, break_on_hyphens=False)
    return whole.fill(value)  # a path stays whole


def markdown(sources: Iterable[Source]) -> Iterator[str]:
    """The same as Markdown tables."""
    sources = tuple(sources)
    yield f"{INTRO}\n"
    yield "| family | sampling | status | verified here |\n|---|---|---|---|"
    for source in sources:
        if source is not SHARED:
            yield _row(f"`{source.name}`, {source.title}", sampling(source), status(source), source.verified)
    yield (
        "\n| file | for | holds | size | licence of the weights | commercial use | stated in | unverified |\n|"
        + "---|" * 8
    )
    for source, file in _files(sources):
        where, terms = f"{file.repo} `{file.path}`", file.licence
        terms_cells = (terms.name, terms.commercial, terms.stated_in)
        yield _row(where, f"`{source.name}`", file.holds, file.size, *terms_cells, file.unverified)
    yield f"\nOf the shared files: {SHARED.verified}.\n\n```"
    yield from (file.download for _, file in _files(sources))
    yield "```"


def _files(sources: Iterable[Source]) -> list[tuple[Source, SourceFile]]:
    return [(source, file) for source in sources for file in source.files]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
