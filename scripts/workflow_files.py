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
    "Made and tested with small random files of these names. We have not run the published checkpoints ourselves, so "
    "nothing is claimed here about their pictures or their speed."
)


def links(*names: str) -> list[dict[str, str]]:
    """Model links as the editor reads them from a node's properties."""
    return [{"name": name, "url": _address(FILES[name]), "directory": _folder(FILES[name])} for name in names]


def _address(file: SourceFile) -> str:
    return f"https://huggingface.co/{file.repo}/resolve/main/{file.path}"


def _folder(file: SourceFile) -> str:
    return file.folder.removeprefix("models/")


def files_text(names: list[str]) -> str:
    """The files of a workflow and how to fetch them."""
    items, lines = [], []
    for name in names:
        file = FILES[name]
        size = "" if file.size == UNKNOWN else f", {file.size}"
        terms = file.licence.name + (" (sources disagree)" if file.licence.commercial == DISAGREE else "")
        licence = "licence not stated" if file.licence.name == UNKNOWN else f"weights: {terms}"
        items.append(f"- [{name}]({_address(file)}) in `{file.folder}`{size}; {licence}")
        lines.append(file.download)
        if file.landing != f"{file.folder}/{name}":
            lines.append(f"mv {file.landing} {file.folder}/")
    listed, commands = "\n".join(items), "\n".join(lines)
    return (
        f"## Files\n\nClick a link and save the file into the folder named.\n\n{listed}\n\n"
        "Or by command, in ComfyUI's folder (`hf` comes with `pip install huggingface_hub`; on Windows `move` in place "
        f"of `mv`):\n\n```\n{commands}\n```"
    )


def note_text(workflow: str, names: list[str]) -> str:
    """The note of a workflow: its text with the files it needs, lines joined for the editor's narrow column."""
    text = (NOTES / f"{workflow}.md").read_text(encoding="utf-8")
    joined = re.sub(r"(?<=\S)\n *(?![-#\n ])(?=\S)", " ", text)
    return joined.replace("{files}", files_text(names)).replace("{not_run}", NOT_RUN)
