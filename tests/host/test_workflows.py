"""The workflows of workflows/ on a real server: as files, as graphs, and run on small stand-ins for the real models."""

from __future__ import annotations

import copy
import io
import json
import math
import re
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dummyforcing_core
from dummyforcing_core.models.sources import SOURCES
from tests.host.events import Listener, Run
from tests.host.install import REPOSITORY, ComfyInstall, make_base_directory
from tests.host.plugin import SERVER_KEY
from tests.host.server import ComfyServer
from tests.host.stand_ins import STAND_IN_PACKS, write_files
from tests.host.workflow_format import layout_problems, our_nodes, problems, to_api

HERE = Path(__file__).resolve().parent
FILES = {path.stem: path for path in sorted((REPOSITORY / "workflows").glob("*.json"))}
RELEASED = {f"{path.parent.name}/{path.stem}": path for path in sorted((HERE / "released").glob("*/*.json"))}
SAMPLER, CLIP_SIZE = "DummyForcingStreamingSampler", "DummyForcingClipSize"
WIDTH, HEIGHT = 64, 48
Prompt = dict[str, Any]

each_workflow = pytest.mark.parametrize("name", FILES)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def _stand_in_server(comfyui: ComfyInstall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = make_base_directory(tmp_path_factory.mktemp("workflows") / "base", STAND_IN_PACKS)
    write_files(base)
    with ComfyServer(comfyui, base) as running:
        yield running


@pytest.fixture
def host(_stand_in_server: ComfyServer, request: pytest.FixtureRequest) -> ComfyServer:
    """A server with every file that the workflows name."""
    request.node.stash[SERVER_KEY] = _stand_in_server
    _stand_in_server.mark_log()
    return _stand_in_server


# ---- the files


def test_there_are_the_seven_workflows() -> None:
    assert set(FILES) == {
        "demo", "dense_vs_dummy_forcing_480p", "long_1080p", "interactive_story_60s", "image_start",
        "profile_heads_and_save", "teacache_on_top",
    }  # fmt: skip


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
    workflow["groups"][4]["bounding"][0] = workflow["groups"][3]["bounding"][0]
    said = " ".join(layout_problems(workflow))
    assert "nodes 2 and 3 overlap" in said and "node 4 (" in said and "groups 4 Sample and 5 Report overlap" in said


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
            assert source.download in note and link["url"] in note
    assert ("hf download" in note) == (name != "demo")


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
    image_module = pytest.importorskip("PIL.Image")
    path = FILES[name].with_suffix(".jpg")
    assert path.stat().st_size < 60_000
    with image_module.open(path) as picture:
        assert picture.format == "JPEG" and picture.width == 512 and 256 <= picture.height <= 512
        assert np.asarray(picture).std() > 15


# ---- the graphs


def test_our_nodes_are_as_committed(host: ComfyServer, tmp_path: Path) -> None:
    live = our_nodes(host.object_info())
    new = tmp_path / "object_info.json"
    new.write_text(json.dumps(live, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    kept = HERE / "object_info.json"
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
        "a widget too few": (lambda w: w["nodes"][4]["widgets_values"].pop(1), "3 widget values"),
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
    """released/ holds what the page itself queued for the files of that version; it stays when the version moves on."""
    kept = HERE / "released" / dummyforcing_core.__version__ / f"{name}.json"
    made = to_api(read(FILES[name]), host.object_info())
    new = tmp_path / kept.name
    new.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert kept.is_file() and made == read(kept), f"if this version is not out yet and it is meant: cp {new} {kept}"


def test_the_template_browser_finds_them_with_their_pictures(host: ComfyServer) -> None:
    assert set(host.get("/workflow_templates")["ComfyUI-DummyForcing"]) == set(FILES)
    for name, path in FILES.items():
        where = f"/api/workflow_templates/ComfyUI-DummyForcing/{name}"
        assert host.get(f"{where}.json") == read(path)
        assert host.get_bytes(f"{where}.jpg") == path.with_suffix(".jpg").read_bytes()


# ---- runs


def small(prompt: Prompt) -> Prompt:
    """The same prompt at a size for a CPU, with the text encoder that no small file can replace replaced."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        if node["class_type"] == CLIP_SIZE:
            node["inputs"] |= {"preset": "custom", "width": WIDTH, "height": HEIGHT}
        if node["class_type"] == "ImageScale":
            node["inputs"] |= {"width": WIDTH, "height": HEIGHT}
        if node["class_type"] == "CLIPLoader":
            node["class_type"] = "StandInCLIPLoader"
    return prompt


def frames_of(seconds: float) -> int:
    """Pixel frames of a clip: one latent frame, then four pixels frames for each."""
    return 4 * math.ceil((16 * seconds - 1) / 4) + 1


def video(data: bytes) -> tuple[np.ndarray, dict[str, str]]:
    """Frames (f, H, W, 3) uint8 and the tags of a video."""
    av = pytest.importorskip("av")
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return np.stack(frames), dict(container.metadata)


def moves(frames: np.ndarray) -> bool:
    """Pixels differ inside the frames and from frame to frame."""
    return bool(frames[0].std() > 2 and np.abs(np.diff(frames.astype(np.int16), axis=0)).mean() > 0.05)


def posted(tags: dict[str, str]) -> Prompt:
    """The prompt in a video; the host adds a mark of its own to nodes that watch a file."""
    prompt = json.loads(tags["prompt"])
    return {node: {key: one[key] for key in ("class_type", "inputs")} for node, one in prompt.items()}


def only(prompt: Prompt, class_type: str) -> str:
    """The id of the one node of a class."""
    (node,) = [node for node, one in prompt.items() if one["class_type"] == class_type]
    return node


def report_of(prompt: Prompt, run: Run) -> str:
    return run.output(only(prompt, SAMPLER))["text"][0]


@pytest.mark.parametrize("name", RELEASED)
def test_released_workflows_run(host: ComfyServer, name: str) -> None:
    prompt = small(read(RELEASED[name]))
    workflow = read(FILES[RELEASED[name].stem]) if RELEASED[name].stem in FILES else {"nodes": [], "name": name}
    run = host.run(prompt, {"extra_pnginfo": {"workflow": workflow}})

    expected = frames_of(prompt[only(prompt, CLIP_SIZE)]["inputs"]["seconds"])
    samplers = [node for node, one in prompt.items() if one["class_type"] == SAMPLER]
    for node in samplers:
        (file,) = run.output(node)["images"]
        frames, tags = video(host.view(file))
        assert frames.shape == (expected, HEIGHT, WIDTH, 3)
        assert moves(frames)
        assert json.loads(tags["workflow"]) == workflow
        assert posted(tags) == prompt
        assert f"{WIDTH}x{HEIGHT}" in run.output(node)["text"][0]
    shown = [run.output(node)["text"][0] for node, one in prompt.items() if one["class_type"] == "PreviewAny"]
    assert samplers and len(shown) >= len(samplers) and all("nan" not in text for text in shown)


def released(name: str) -> Prompt:
    return small(read(HERE / "released" / dummyforcing_core.__version__ / f"{name}.json"))


def test_the_comparison_is_side_by_side(host: ComfyServer) -> None:
    prompt = released("dense_vs_dummy_forcing_480p")
    run = host.run(prompt)
    node = only(prompt, "DummyForcingCompareClips")
    frames, _ = video(host.view(run.output(node)["images"][0]))
    assert frames.shape[0] == frames_of(5) and frames.shape[2] >= 2 * WIDTH
    sides = [
        video(host.view(run.output(one)["images"][0]))[0] for one in prompt if prompt[one]["class_type"] == SAMPLER
    ]
    apart = np.abs(sides[0].astype(np.int16) - sides[1]).mean(axis=(1, 2, 3))
    assert apart[16:].mean() > 0.5, "both policies made the same clip"
    assert apart[:8].max() < apart[16:].mean() / 5, "in the first chunk no head has a past"


def test_the_picture_is_the_first_frame_whatever_the_seed(host: ComfyServer) -> None:
    prompt = released("image_start")
    sampler = only(prompt, SAMPLER)

    def clip(seed: int) -> np.ndarray:
        prompt[sampler]["inputs"]["seed"] = seed
        return video(host.view(host.run(prompt).output(sampler)["images"][0]))[0].astype(np.int16)

    given = np.abs(clip(1) - clip(2)).mean(axis=(1, 2, 3))
    del prompt[sampler]["inputs"]["start_latent"]
    free = np.abs(clip(1) - clip(2)).mean(axis=(1, 2, 3))
    assert len(given) == len(free) == frames_of(5)
    assert given[0] < 0.5 < 2 < min(free[0], given[1:].mean())


def test_profiling_saves_a_file_that_load_head_profile_reads(host: ComfyServer) -> None:
    prompt = released("profile_heads_and_save")
    host.free()
    run = host.run(prompt)
    profile = host.base / "models" / "dummyforcing_profiles" / "self_forcing_480p.json"
    assert read(profile)["family"] == "self_forcing"
    heads = run.output(only(prompt, "DummyForcingProfileHeads"))["dummyforcing_heads"][0]
    assert np.shape(heads["mass"]) == (2, 2, 3) and np.shape(heads["roles"]) == (2, 2)
    np.testing.assert_allclose(np.sum(heads["mass"], axis=-1), 1, atol=1e-4)
    image_module = pytest.importorskip("PIL.Image")
    picture = image_module.open(io.BytesIO(host.view(run.output(only(prompt, "PreviewImage"))["images"][0])))
    assert min(picture.size) > 100

    loading = released("teacache_on_top")
    loading["90"] = {"class_type": "DummyForcingLoadHeadProfile", "inputs": {"name": profile.name}}
    loading[only(loading, "DummyForcingApplyDummyForcing")]["inputs"]["head_profile"] = ["90", 0]
    text = report_of(loading, host.run(loading))
    assert "not on this machine" not in text and "skipped steps" in text


def test_a_missing_profile_is_no_error_and_the_report_says_so(host: ComfyServer) -> None:
    prompt = released("demo")
    prompt["90"] = {"class_type": "DummyForcingLoadHeadProfile", "inputs": {"name": "of_a_friend.json"}}
    prompt[only(prompt, "DummyForcingApplyDummyForcing")]["inputs"]["head_profile"] = ["90", 0]
    text = report_of(prompt, host.run(prompt))
    assert "head profile of_a_friend.json is not on this machine" in text


def test_the_same_prompt_again_is_cached_and_another_seed_is_not(host: ComfyServer) -> None:
    prompt = released("demo")
    sampler = only(prompt, SAMPLER)
    first = host.run(prompt).output(sampler)
    again = host.run(prompt)
    assert set(prompt) <= set(again.of_type("execution_cached")[0].data["nodes"])
    assert again.of_type("dummyforcing.chunk") == [] and again.output(sampler) == first
    prompt[sampler]["inputs"]["seed"] += 1
    other = host.run(prompt)
    cached = set(other.of_type("execution_cached")[0].data["nodes"])
    assert sampler not in cached and only(prompt, "DummyForcingLoadDemoModel") in cached
    clips = [video(host.view(one["images"][0]))[0] for one in (first, other.output(sampler))]
    assert np.abs(clips[0].astype(np.int16) - clips[1]).mean() > 0.5


def test_a_batch_of_two_makes_two_files(host: ComfyServer) -> None:
    prompt = released("demo")
    single = host.run(prompt).output(only(prompt, SAMPLER))["images"]
    prompt[only(prompt, CLIP_SIZE)]["inputs"]["batch_size"] = 2
    both = host.run(prompt).output(only(prompt, SAMPLER))["images"]
    assert len(single) == 1 and len({file["filename"] for file in both}) == 2
    clips = [video(host.view(file))[0] for file in both]
    assert clips[0].shape == clips[1].shape == (frames_of(5), HEIGHT, WIDTH, 3)
    assert np.abs(clips[0].astype(np.int16) - clips[1]).mean() > 0.5


# ---- stopping


@pytest.fixture
def client(host: ComfyServer) -> Iterator[Listener]:
    """A second client, which has heard nothing yet."""
    listener = host.connect()
    yield listener
    listener.close()


def long_demo(seed: int) -> Prompt:
    prompt = released("demo")
    prompt[only(prompt, CLIP_SIZE)]["inputs"]["seconds"] = 600.0
    prompt[only(prompt, SAMPLER)]["inputs"] |= {"seed": seed, "filename_prefix": f"video/stopped_{seed}"}
    return prompt


def test_finish_now_ends_the_clip_and_everything_goes_on(host: ComfyServer, client: Listener) -> None:
    prompt = long_demo(1)
    sampler = only(prompt, SAMPLER)
    prompt_id = host.post(prompt, listener=client)
    client.wait_for("dummyforcing.chunk", 120, chunk=1)
    assert host.send("/dummyforcing/finish", {"node": sampler}) == {"node": sampler}
    run = client.follow(prompt_id, 120)
    assert run.outcome == "execution_success", run.error
    text = report_of(prompt, run)
    done = re.search(r"ended early after (\d+) of (\d+) chunks", text)
    assert done and 1 <= int(done[1]) < int(done[2]) == math.ceil(2401 / 3)
    (file,) = run.output(sampler)["images"]
    frames, _ = video(host.view(file))
    assert len(frames) == 12 * int(done[1]) - 3 and moves(frames)
    assert run.output(only(prompt, "PreviewAny"))["text"][0] == text
    told = [event.data for event in run.of_type("dummyforcing.chunk")]
    assert [one["chunk"] for one in told if one["running"]] == [*range(int(done[1]) + 1)]  # 0: it begins
    assert told[-1] == {"node": sampler, "graph": "", "running": False, "outcome": "done"}


def test_finishing_what_does_not_run_is_refused(host: ComfyServer) -> None:
    for body in ({"node": "5"}, {}):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            host.send("/dummyforcing/finish", body)


def test_cancel_leaves_the_playable_part_and_the_next_prompt_runs(host: ComfyServer, client: Listener) -> None:
    prompt = long_demo(2)
    prompt_id = host.post(prompt, listener=client)
    client.wait_for("dummyforcing.chunk", 120, chunk=1)
    host.interrupt(prompt_id)
    run = client.follow(prompt_id, 120)
    assert run.outcome == "execution_interrupted"
    (part,) = (host.base / "output" / "video").glob("stopped_2*")
    assert part.name.endswith(".part.mp4") and str(part) in host.log_since_mark()
    frames, tags = video(part.read_bytes())
    assert len(frames) >= 9 and moves(frames) and posted(tags) == prompt
    assert client.wait_for("dummyforcing.chunk", 120, running=False).data["outcome"] == "stopped"

    after = released("demo")
    after[only(after, SAMPLER)]["inputs"]["seed"] = 77
    file = host.run(after).output(only(after, SAMPLER))["images"][0]
    assert len(video(host.view(file))[0]) == frames_of(5)
    assert host.queue() == {"queue_running": [], "queue_pending": []}
