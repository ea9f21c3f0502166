"""The models command: what it prints about every checkpoint file, and that the documentation says the same."""

import json
import re
import shlex
import socket
from pathlib import Path

import pytest

from dummyforcing_core.cli.models import chosen_sources, defaults
from dummyforcing_core.models.catalogue import SHARED, SOURCES, Source
from dummyforcing_core.models.families import FAMILIES, Family
from dummyforcing_core.models.metadata import guess_family
from dummyforcing_core.models.sources import SourceFile
from tests.unit.conftest import Run
from tests.unit.refusals import assert_refused

DOC = Path(__file__).parents[2] / "docs" / "families.md"
FILES = [pytest.param(s, f, id=f"{s.name}-{f.path}") for s in SOURCES.values() for f in s.files]
COMMERCIAL = {"allowed", "not allowed", "sources disagree", "not stated"}

# What a name in the path says about the kind of file, and where ComfyUI looks for that kind.
KINDS = (
    ("lora", "models/loras"),
    ("umt5", "models/text_encoders"),
    ("vae", "models/vae"),
    ("taew", "models/vae_approx"),
)


def test_the_documentation_holds_the_printed_tables(run: Run) -> None:
    """Of every family that is typed below; one that is not is new, and may be documented later."""
    rows = [family for family in FAMILIES.values() if family.name not in DEFAULTS]
    new = [f"`{family.name}`" for family in rows] + [file.download for family in rows for file in family.files]
    lines = run("models", "--markdown").out.splitlines()
    known = [line for line in lines if not any(name in line for name in new)]
    assert len(known) > 30
    kept = DOC.read_text("utf-8").splitlines()
    at = kept.index(known[0])
    said = [line for line in kept[at : at + len(lines)] if not any(name in line for name in new)]
    remedy = "run `python -m dummyforcing_core models --markdown` and put what it prints into docs/families.md"
    assert said[: len(known)] == known, remedy


@pytest.mark.parametrize(("source", "file"), FILES)
def test_every_file_is_listed_with_its_terms_and_a_command_on_one_line(
    run: Run, source: Source, file: SourceFile
) -> None:
    block = _blocks(run("models").out)[source.name]
    assert any(line.endswith(f" {file.download}") for line in block.split("\n"))
    said = " ".join(block.split())
    for fact in (file.repo, file.path, file.size, file.holds, file.licence.name, file.licence.stated_in, file.landing):
        assert fact in said
    assert f"commercial use: {file.licence.commercial}" in said
    assert file.unverified in said


@pytest.mark.parametrize(("source", "file"), FILES)
def test_the_command_names_the_file_and_where_it_lands(source: Source, file: SourceFile) -> None:
    words = shlex.split(file.download)
    if file.github:
        assert words[:4] == ["curl", "-L", "--create-dirs", "-o"]
        assert words[4] == file.landing == f"{file.folder}/{Path(file.path).name}"
        assert words[5] == f"https://github.com/{file.repo}/raw/main/{file.path}"
    else:
        assert words == ["hf", "download", file.repo, file.path, "--local-dir", file.folder]
        assert file.landing == f"{file.folder}/{file.path}"
    name = Path(file.path).name.lower()
    assert file.folder == next((folder for word, folder in KINDS if word in name), "models/diffusion_models")


@pytest.mark.parametrize(("source", "file"), FILES)
def test_facts_have_their_form_and_no_restricted_licence_is_called_free(source: Source, file: SourceFile) -> None:
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", file.repo)
    assert re.fullmatch(r"not stated|(about )?\d+(\.\d+)? [GM]B", file.size)
    licence = file.licence
    assert licence.commercial in COMMERCIAL
    assert licence.stated_in
    if re.search(r"NC|academic", licence.name):
        assert licence.commercial != "allowed"
    if licence.commercial == "sources disagree":
        assert " or " in licence.name
    assert (licence.name == "not stated") == (licence.commercial == "not stated")


@pytest.mark.parametrize(("source", "file"), FILES)
def test_a_downloaded_file_is_never_taken_for_another_family(source: Source, file: SourceFile) -> None:
    assert guess_family(Path(file.landing)) in (source.name if source.name in FAMILIES else None, None)


def test_every_family_is_listed_and_only_those_without_a_row_cannot_be_run(run: Run) -> None:
    blocks = _blocks(run("models").out)
    assert list(blocks) == list(SOURCES)
    assert FAMILIES.keys() < SOURCES.keys()
    for name, source in SOURCES.items():
        runs = name in FAMILIES or source is SHARED
        assert bool(source.missing) != runs
        assert bool(source.sampling) != runs
        assert ("cannot be run yet" in blocks[name]) != runs
        assert bool(source.verified)
        assert {file.holds.split()[0] for file in source.files} <= {
            *Family.__dataclass_fields__["containers"].default, "generator_lora", "bare"
        }  # fmt: skip


# Typed from the public configurations, not from families.py.
DEFAULTS = {
    "demo": "1000 750 500 250, shift 5, warped; chunk 3; window 12; sink 3",
    "self_forcing": "1000 750 500 250, shift 5, warped; chunk 3; all 21 frames",
    "longlive": "1000 750 500 250, shift 5, warped; chunk 3; window 12; sink 3; re-cache on a prompt switch",
    "causal_forcing": "1000 750 500 250, shift 5, warped; chunk 3; all 21 frames",
    "causal_forcing_framewise": "1000 750 500 250, shift 5, warped; chunk 1; all 21 frames",
    "causal_forcing_2step": "1000 500 (1000 750 500 250 in the first generated chunk), shift 5, warped; chunk 1; "
    "all 21 frames",
    "causvid": "1000 757 522, shift 8, not warped; chunk 3; all 21 frames; longer clips restart, over 3 frames",
    "krea_realtime": "1000 937.5 833.333 625 0, shift 5, not warped; chunk 3; window 6; cache made anew before every "
    "chunk",
    "rolling_forcing": "1000 800 600 400 200, shift 5, warped; chunk 3; window 21; sink 3; 15 frames denoised together",
    "causal_forcing_long": "1000 750 500 250, shift 5, warped; chunk 3; window 21; sink 3; 12 frames denoised together",
    "causal_forcing_1step": "1000 (1000 750 500 250 in the first generated chunk), shift 5, warped; chunk 1; "
    "all 21 frames",
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_public_configuration(run: Run, name: str) -> None:
    said = " ".join(_blocks(run("models").out)[name].split())
    assert f"sampling {DEFAULTS[name]} status can be run" in said


def test_defaults_follow_the_row() -> None:
    row = Family("x", "X", "", 4, (900, 10), 2.5, None, 0, 30)
    assert defaults(row) == "900 10, shift 2.5, warped; chunk 4; all 30 frames"


@pytest.mark.parametrize(
    ("family", "shown"),
    [
        ("longlive", ["longlive", "shared"]),
        ("krea_realtime", ["krea_realtime", "shared"]),
        ("demo", ["demo"]),
        ("shared", ["shared"]),
    ],
)
def test_one_family_comes_with_what_it_shares(run: Run, family: str, shown: list[str]) -> None:
    assert list(_blocks(run("models", "--family", family).out)) == shown
    assert [entry["name"] for entry in json.loads(run("models", "--family", family, "--json").out)["models"]] == shown
    assert [source.name for source in chosen_sources(family)] == shown


def test_json_carries_the_same_facts(run: Run) -> None:
    result = run("models", "--json")
    said = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(r"2026-\d\d-\d\d", said["checked"])
    entries = {entry["name"]: entry for entry in said["models"]}
    assert list(entries) == list(SOURCES)
    longlive = entries["longlive"]
    assert longlive["sampling"] == DEFAULTS["longlive"]
    assert longlive["status"] == "can be run"
    assert [file["path"] for file in longlive["files"]] == ["models/longlive_base.pt", "models/lora.pt"]
    assert longlive["files"][1]["landing"] == "models/loras/models/lora.pt"
    assert longlive["files"][1]["download"] == SOURCES["longlive"].files[1].download
    assert longlive["files"][0]["licence"]["commercial"] == "sources disagree"
    assert "Wan2.2 5B" in entries["longlive_2"]["status"]


@pytest.mark.parametrize("form", [[], ["--json"], ["--markdown"]])
def test_it_reaches_no_network_and_writes_no_file(
    run: Run, form: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*args, **more):
        raise AssertionError("a connection was opened")

    for call in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, call, refuse)
    monkeypatch.setattr("subprocess.Popen", refuse)
    monkeypatch.chdir(tmp_path)
    assert run("models", *form).code == 0
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--family", "wan"], f"unknown model family 'wan'; known: {', '.join(sorted(SOURCES))}"),
        (["--family", ""], "unknown model family ''"),
        (["--family", "Self_Forcing"], "unknown model family 'Self_Forcing'"),
        (["--family"], "expected one argument"),
        (["--json", "--markdown"], "not allowed with"),
        (["self_forcing"], "unrecognized arguments"),
    ],
)
def test_bad_words_are_refused(run: Run, words: list[str], message: str) -> None:
    result = run("models", *words)
    assert_refused(result.code, result.err, message)
    assert result.out == ""


def test_a_file_that_lands_elsewhere_is_moved_to_where_templates_look(run: Run) -> None:
    out = run("models").out
    files = [file for source in SOURCES.values() for file in source.files]
    assert any(file.place != file.landing for file in files) and any(file.place == file.landing for file in files)
    for file in files:
        assert (f"mv {file.landing} {file.place}" in out) == (file.place != file.landing), file.path


def test_lines_fit_a_terminal_but_for_the_commands(run: Run) -> None:
    long = [line for line in run("models").out.split("\n") if len(line) > 110]
    assert all(line.strip().startswith(("fetch ", "then ")) for line in long)


def _blocks(out: str) -> dict[str, str]:
    """The text of each entry by its name."""
    parts = [part for part in out.split("\n\n")[1:] if part.strip()]
    return {part.split(":", 1)[0].strip(): part for part in parts}
