"""Every released workflow run on a real server with small stand-ins for the real models, finished early, cancelled."""

from __future__ import annotations

import io
import json
import math
import re
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import dummyforcing_core
from tests.host.clips import (
    CLIP_SIZE,
    FILES,
    HEIGHT,
    HERE,
    RELEASED,
    SAMPLER,
    WIDTH,
    Prompt,
    frames_of,
    moves,
    only,
    posted,
    read,
    released,
    report_of,
    small,
    video,
)
from tests.host.events import Listener
from tests.host.server import ComfyServer


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


def test_colours_come_back_under_head_forcing_and_not_under_the_window(host: ComfyServer, tmp_path: Path) -> None:
    """At the size that the template has: what it promises."""
    prompt = read(HERE / "released" / dummyforcing_core.__version__ / "long_memory_demo.json")
    run = host.run(prompt)

    def seen(policy: str) -> tuple[set[str], set[str]]:
        (node,) = [
            key for key, one in prompt.items()
            if one["class_type"] == SAMPLER and prompt[one["inputs"]["model"][0]]["class_type"] == policy
        ]  # fmt: skip
        data = host.view(run.output(node)["images"][0])
        (tmp_path / f"{policy}.mp4").write_bytes(data)
        frames = video(data)[0].astype(np.int16)
        return colours(frames[40]), colours(frames[-1])

    named = {"green", "magenta"}
    assert seen("DummyForcingApplyHeadForcing") == (named, named)
    before, after = seen("DummyForcingApplyCacheWindow")
    assert before == named and after and not after & named


NAMES = {"red": "100", "yellow": "110", "green": "010", "cyan": "011", "blue": "001", "magenta": "101"}


def colours(frame: np.ndarray) -> set[str]:
    """Colours of the shapes in a lit frame (H, W, 3): which channels are bright, in pixels that are vivid."""
    spread = np.ptp(frame, axis=2, keepdims=True)
    bright = frame > frame.min(axis=2, keepdims=True) + spread / 2
    vivid = spread[..., 0] > 80
    counts = {
        name: (vivid & (bright == [mark == "1" for mark in marks]).all(axis=2)).sum() for name, marks in NAMES.items()
    }
    return {name for name, count in counts.items() if count > 100}


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
    assert told[-1] == {"node": sampler, "graph": "", "running": False, "outcome": "done", "kept": True}


def test_finishing_what_does_not_run_is_refused(host: ComfyServer) -> None:
    for body, answer in (({"node": "5"}, "404"), ({}, "400")):
        with pytest.raises(urllib.error.HTTPError, match=answer):
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
