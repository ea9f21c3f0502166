"""The workflows of workflows/ as files and as graphs, on a real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dummyforcing_core
from dummyforcing_core.models.catalogue import SOURCES
from dummyforcing_core.models.families import FAMILIES
from tests.host.clips import FILES, HERE, TITLES, WORKFLOWS, read
from tests.host.install import REPOSITORY
from tests.host.server import ComfyServer
from tests.host.workflow_format import layout_problems, our_nodes, problems, to_api, widgets

each_workflow = pytest.mark.parametrize("name", FILES)


# ---- the files


def test_there_are_the_nine_workflows_with_their_pictures() -> None:
    names = {path.name for path in WORKFLOWS.iterdir()}
    assert names == {f"{title}.{ending}" for title in TITLES.values() for ending in ("json", "jpg")}


def test_the_files_are_what_the_script_makes() -> None:
    command = [sys.executable, str(REPOSITORY / "scripts" / "make_workflows.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"run scripts/make_workflows.py: {done.stdout}{done.stderr}"


@each_workflow
def test_layout(name: str) -> None:
    assert layout_problems(read(FILES[name])) == []


def test_layout_problems_are_found() -> None:
    workflow = read(FILES["demo"])
    workflow["nodes"][1]["pos"] = workflow["nodes"][2]["pos"]
    workflow["nodes"][3]["size"] = [340, 4000]
    workflow["groups"][5]["bounding"][0] = workflow["groups"][4]["bounding"][0]
    workflow["groups"][0]["bounding"][0] = -600
    said = " ".join(layout_problems(workflow))
    assert "nodes 2 and 3 overlap" in said and "node 4 (" in said and "groups 4 Sample and 5 Report overlap" in said
    assert re.search(r"\d+ by \d+ is 2:1 or wider", said)


@each_workflow
def test_every_model_file_has_a_true_link_and_a_download_line(name: str) -> None:
    nodes = read(FILES[name])["nodes"]
    known = {source.path.rpartition("/")[2]: source for one in SOURCES.values() for source in one.files}
    note = next(node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote")
    for node in nodes:
        values = [value for value in node.get("widgets_values") or [] if isinstance(value, str)]
        named = [value for value in values if re.fullmatch(r"[\w.-]+\.(safetensors|pt)", value)]
        links = node["properties"].get("models", [])
        assert [link["name"] for link in links] == named, node["type"]
        for link in links:
            source = known[link["name"]]
            assert link["url"] == f"https://huggingface.co/{source.repo}/resolve/main/{source.path}"
            assert f"models/{link['directory']}" == source.folder
            assert f"[{link['name']}]({link['url']}) in `{source.folder}`" in note
    assert ("## Files" in note) == (name not in ("demo", "long_memory_demo"))


@each_workflow
def test_nodes_name_their_pack(name: str) -> None:
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8").partition("[project]")[2]
    pack = re.search(r'^name = "(.+)"$', project, re.M)
    assert pack
    for node in read(FILES[name])["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        ours = node["type"].startswith("DummyForcing")
        assert node["properties"]["cnr_id"] == (pack[1] if ours else "comfy-core")
        assert node["properties"]["ver"] == (dummyforcing_core.__version__ if ours else "0.27.0")
        assert node["properties"]["Node name for S&R"] == node["type"]


@each_workflow
def test_seeds_are_fixed(name: str) -> None:
    for node in read(FILES[name])["nodes"]:
        assert not {"randomize", "increment", "decrement"} & {str(one) for one in node.get("widgets_values") or []}


@each_workflow
def test_thumbnail(name: str) -> None:
    """Square, small, and of frames that differ; only the head map has nothing that could move."""
    image_module = pytest.importorskip("PIL.Image")
    path = FILES[name].with_suffix(".jpg")
    assert path.stat().st_size < 300_000
    with image_module.open(path) as picture:
        assert picture.width == picture.height >= 256
        moving = getattr(picture, "n_frames", 1) > 1
        assert (picture.format, moving) == (("JPEG", False) if name == "profile_heads_and_save" else ("WEBP", True))
        first = np.asarray(picture.convert("RGB"), dtype=np.int16)
        assert first.std() > 15
        if moving:
            picture.seek(picture.n_frames // 2)
            assert np.abs(np.asarray(picture.convert("RGB")) - first).max() > 50


# ---- the graphs


def test_our_nodes_are_as_committed(host: ComfyServer, tmp_path: Path) -> None:
    """A family that was added since is no change of the nodes."""
    live, kept = our_nodes(host.object_info()), HERE / "object_info.json"
    family, known = (
        nodes["DummyForcingLoadARModel"]["input"]["required"]["family"][1]
        for nodes in (live, json.loads(kept.read_text(encoding="utf-8")))
    )
    family["options"] = [name for name in family["options"] if name not in FAMILIES or name in known["options"]]
    new = tmp_path / "object_info.json"
    new.write_text(json.dumps(live, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    message = f"nodes changed; if that is meant: cp {new} {kept}, then scripts/make_workflows.py, and read the diff"
    assert new.read_text(encoding="utf-8") == kept.read_text(encoding="utf-8"), message


@each_workflow
def test_the_graph_fits_the_nodes(host: ComfyServer, name: str) -> None:
    assert problems(read(FILES[name]), host.object_info()) == []


def _corruptions() -> dict[str, tuple[Callable[[dict[str, Any]], Any], str]]:
    def widget(node: int, index: int, value: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda w: w["nodes"][node]["widgets_values"].__setitem__(index, value)

    return {
        "a widget too many": (lambda w: w["nodes"][2]["widgets_values"].append(1), "7 widget values"),
        "a widget too few": (lambda w: w["nodes"][4]["widgets_values"].pop(1), "10 widget values"),
        "an unknown choice": (widget(2, 0, "481P"), "not one of"),
        "text for a number": (widget(2, 2, "5"), "no FLOAT"),
        "a truth value for a number": (widget(4, 0, True), "no INT"),
        "a fraction for a whole number": (widget(2, 3, 1.5), "no INT"),
        "too large": (widget(3, 0, 1.01), "outside 0.0 to 1.0"),
        "a wrong control": (widget(4, 1, "sometimes"), "control after generate"),
        "an unknown node": (lambda w: w["nodes"][0].update(type="Nothing"), "unknown type"),
        "the same id twice": (lambda w: w["nodes"][1].update(id=1), "node id 1 is there 2 times"),
        "an id beyond the last": (lambda w: w.update(last_node_id=3), "beyond last_node_id"),
        "a link beyond the last": (lambda w: w.update(last_link_id=2), "beyond last_link_id"),
        "a link that no input knows": (lambda w: w["nodes"][3]["inputs"][0].update(link=None), "inputs say"),
        "a link that no output knows": (lambda w: w["nodes"][3]["outputs"][0].update(links=None), "outputs say"),
        "a link that is gone": (lambda w: w["links"].pop(0), "the table of links"),
        "types that disagree": (lambda w: w["links"][0].__setitem__(5, "VAE"), "goes as VAE"),
        "an output of another type": (lambda w: w["links"][0].__setitem__(2, 2), "VAE goes as CLIP into CLIP"),
        "no such slot": (lambda w: w["links"][0].__setitem__(2, 9), "no such slot"),
        "an unconnected model": (
            lambda w: w["nodes"][4]["inputs"].__delitem__(0), "required input model is not connected"
        ),
        "outputs of an older version": (lambda w: w["nodes"][4]["outputs"].pop(), "outputs ["),
        "an input that is gone": (lambda w: w["nodes"][4]["inputs"][0].update(name="unet"), "unknown input unet"),
        "a socket where a widget is": (lambda w: w["nodes"][2]["inputs"][0].pop("widget"), "on one side only"),
        "against the order": (lambda w: w["nodes"][0].update(order=99), "back in the order"),
    }  # fmt: skip


@pytest.mark.parametrize("what", _corruptions())
def test_what_is_wrong_with_a_graph_is_found(host: ComfyServer, what: str) -> None:
    corrupt, expected = _corruptions()[what]
    workflow = read(FILES["demo"])
    corrupt(workflow)
    assert expected in "; ".join(problems(workflow, host.object_info()))


def test_a_muted_node_is_refused_by_the_conversion(host: ComfyServer) -> None:
    workflow = read(FILES["demo"])
    workflow["nodes"][3]["mode"] = 4
    with pytest.raises(ValueError, match="node 4 is muted or bypassed"):
        to_api(workflow, host.object_info())


@each_workflow
def test_the_prompt_is_the_one_that_the_page_made(host: ComfyServer, name: str, tmp_path: Path) -> None:
    """released/ holds what the page itself queued for the files of that version; it stays when the version moves on.

    0.1.0.dev0 is what 0.1.0 was before its videos had a codec, 0.1.0.dev1 before policies had more choices, 0.1.0.dev2
    before clips were kept as takes.
    """
    kept = HERE / "released" / dummyforcing_core.__version__ / f"{name}.json"
    made = to_api(read(FILES[name]), host.object_info())
    new = tmp_path / kept.name
    new.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert kept.is_file() and made == read(kept), f"if this version is not out yet and it is meant: cp {new} {kept}"


@pytest.mark.parametrize(
    "path", sorted((HERE / "templates").glob("*/*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_templates_of_every_version_still_open(host: ComfyServer, path: Path) -> None:
    """As saved by that version they give the prompt that its page queued, which test_workflow_runs.py runs."""
    opened = to_api(read(path), host.object_info(), older=True)
    assert opened == read(HERE / "released" / path.parent.name / path.name)


@pytest.mark.parametrize(
    ("values", "opened"),
    [
        ([12, 3], [("window", 12), ("sink", 3)]),  # a version without the optional one
        ([12, 3, 1], [("window", 12), ("sink", 3), ("new", 1)]),
        ([12], "1 widget values"),  # a required one came in between
        ([12, 3, 1, 4], "4 widget values"),  # one was taken away
    ],
)
def test_what_an_older_file_may_lack(values: list[int], opened: list | str) -> None:
    info = {"input": {"required": {"window": ["INT", {}], "sink": ["INT", {}]}, "optional": {"new": ["INT", {}]}}}
    node = {"type": "X", "widgets_values": values}
    if isinstance(opened, list):
        assert widgets(node, info, older=True) == opened
    else:
        with pytest.raises(ValueError, match=opened):
            widgets(node, info, older=True)


def test_the_template_browser_finds_them_with_their_pictures(host: ComfyServer) -> None:
    assert set(host.get("/workflow_templates")["ComfyUI-DummyForcing"]) == set(TITLES.values())
    for path in FILES.values():
        where = f"/api/workflow_templates/ComfyUI-DummyForcing/{urllib.parse.quote(path.stem)}"
        assert host.get(f"{where}.json") == read(path)
        assert host.get_bytes(f"{where}.jpg") == path.with_suffix(".jpg").read_bytes()
