"""Which model files a workflow needs: links in the form that the editor reads, and the text of the note beside it."""

import re
import sys

from workflow_nodes import ROOT

sys.path.insert(0, str(ROOT))  # so that it runs without an installed package

from dummyforcing_core.models.catalogue import SOURCES
from dummyforcing_core.models.sources import DISAGREE, UNKNOWN, SourceFile

NOTES = ROOT / "scripts" / "workflow_notes"

FILES: dict[str, SourceFile] = {
    file.path.rpartition("/")[2]: file for source in SOURCES.values() for file in source.files if not file.github
}

NOT_RUN = (
    "We ran this with small random files of these names, not with the published checkpoints: nothing is claimed about "
    "their pictures or speed."
)


def links(*names: str) -> list[dict[str, str]]:
    """Model links as the editor reads them from a node's properties."""
    return [{"name": name, "url": _address(FILES[name]), "directory": _folder(FILES[name])} for name in names]


def _address(file: SourceFile) -> str:
    return f"https://huggingface.co/{file.repo}/resolve/main/{file.path}"


def _folder(file: SourceFile) -> str:
    return file.folder.removeprefix("models/")


def files_text(names: list[str]) -> str:
    """The files of a workflow: where to get each, its folder, size and licence."""
    items = []
    for name in names:
        file = FILES[name]
        size = "" if file.size == UNKNOWN else f", {file.size}"
        terms = file.licence.name + (" (sources disagree)" if file.licence.commercial == DISAGREE else "")
        licence = "licence not stated" if file.licence.name == UNKNOWN else terms
        items.append(f"- [{name}]({_address(file)}) in `{file.folder}`{size}; {licence}")
    listed = "\n".join(items)
    return f"## Files\n\n{listed}\n\nDownload commands: `docs/families.md`."


def note_text(workflow: str, names: list[str]) -> str:
    """The note of a workflow: its text with the files it needs, lines joined for the editor's narrow column."""
    text = (NOTES / f"{workflow}.md").read_text(encoding="utf-8")
    joined = re.sub(r"(?<=\S)\n *(?![-#\n ])(?=\S)", " ", text)
    return joined.replace("{files}", files_text(names)).replace("{not_run}", NOT_RUN)
