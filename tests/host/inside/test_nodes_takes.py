"""Takes in the Streaming Sampler: kept, gone on with bit for bit, made longer, branched; what differs is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

FRAMES = 12  # four chunks


class Crash(BaseException):
    """What takes a run away without a word."""


@pytest.fixture
def crash_after(part: Any) -> Callable[..., None]:
    """``crash_after(2, run)``: the run ends after that chunk is kept, as if somebody had pulled the plug."""
    kept = part("nodes.host.kept").KeptClip

    def use(number: int, run: Callable[[], Any]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            real = kept.add

            def add(self: Any, running: Any, chunk: Any) -> None:
                real(self, running, chunk)
                if chunk.span.chunk + 1 == number:
                    raise Crash

            patch.setattr(kept, "add", add)
            with pytest.raises(Crash):
                run()

    return use


@pytest.fixture
def take(stream: Any, canvas: Any) -> Callable[..., Any]:
    """``take(model, "new")``: the sampler on twelve frames, kept."""

    def run(model: Any, mode: str, name: str = "", frames: int = FRAMES, **inputs: Any) -> Any:
        return stream(model, latent=canvas(frames), take=mode, take_name=name, **inputs)

    return run


def folder(base: Path, done: Any) -> Path:
    return base / "output" / "takes" / done.outputs[4]


def names(base: Path) -> set[str]:
    return {path.name for path in (base / "output" / "takes").glob("*")}


def frames_of(done: Any) -> list[bytes]:
    return frames(done.outputs[1][0].get_stream_source())


def frames(path: Any) -> list[bytes]:
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]


def events(path: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (path / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("family", ["self_forcing", "longlive", "causal_forcing_framewise"])
@pytest.mark.parametrize("vae", [False, True])
def test_a_crashed_run_is_gone_on_with_bit_for_bit(
    take: Any,
    stream: Any,
    canvas: Any,
    ar_model: Any,
    tiny_vae: Any,
    base: Path,
    crash_after: Any,
    family: str,
    vae: bool,
) -> None:
    model, inputs = ar_model(family), {"vae": tiny_vae} if vae else {}
    whole = stream(model, latent=canvas(FRAMES), **inputs)
    before = names(base)
    crash_after(2, lambda: take(model, "new", f"crash_{family}_{vae}", **inputs))
    (name,) = names(base) - before
    assert name == f"crash_{family}_{vae}_00001"
    done = take(model, "go on", name, **inputs)
    assert torch.equal(done.outputs[0]["samples"], whole.outputs[0]["samples"])
    assert done.outputs[4] == name
    assert "gone on behind 2 chunks" in " ".join(done.outputs[2].split())
    assert events(folder(base, done))[0] == "begun" and events(folder(base, done))[-1] == "finished"
    if vae:
        assert frames_of(done) == frames_of(whole)
        assert len(list((folder(base, done) / "pictures").glob("*.jpg"))) >= 3


def test_without_a_take_nothing_is_kept(stream: Any, ar_model: Any, base: Path) -> None:
    before = names(base)
    done = stream(ar_model())
    assert done.outputs[4] == "" and names(base) == before and "take" not in done.outputs[2]


def test_new_takes_are_numbered_and_named_after_the_prefix(take: Any, ar_model: Any, base: Path) -> None:
    model = ar_model()
    first = take(model, "new", filename_prefix="video/%date:yyyy%_shot")
    second = take(model, "new", filename_prefix="video/shot", seed=4)
    assert [first.outputs[4], second.outputs[4]] == ["shot_00001", "shot_00002"]
    assert first.outputs[0]["samples"].shape[2] == FRAMES


def test_a_finished_take_is_decoded_again_and_not_sampled(
    take: Any, ar_model: Any, tiny_vae: Any, model_calls: list, base: Path
) -> None:
    model = ar_model()
    done = take(model, "new", "again", vae=tiny_vae)
    noisy = [call for call in model_calls if call[2]]
    again = take(model, "go on", done.outputs[4], vae=tiny_vae)
    assert [call for call in model_calls if call[2]] == noisy
    assert torch.equal(again.outputs[0]["samples"], done.outputs[0]["samples"])
    assert frames_of(again) == frames_of(done)


@pytest.mark.parametrize("family", ["self_forcing", "longlive"])
def test_a_take_made_longer_is_the_longer_clip(
    take: Any, stream: Any, canvas: Any, ar_model: Any, tiny_vae: Any, family: str
) -> None:
    model = ar_model(family)
    whole = stream(model, latent=canvas(18), vae=tiny_vae)
    short = take(model, "new", f"longer_{family}", vae=tiny_vae)
    longer = take(model, "go on", short.outputs[4], frames=18, vae=tiny_vae)
    assert torch.equal(longer.outputs[0]["samples"], whole.outputs[0]["samples"])
    assert frames_of(longer) == frames_of(whole)


def test_the_new_part_goes_on_without_a_seam(
    take: Any, canvas: Any, ar_model: Any, tiny_vae: Any, refused: Any, base: Path
) -> None:
    model = ar_model()
    short = take(model, "new", "part", vae=tiny_vae)
    part_only = take(model, "go on", short.outputs[4], frames=18, vae=tiny_vae, take_video="new part", crf=0)
    whole = take(model, "go on", short.outputs[4], frames=18, vae=tiny_vae, crf=0)
    all_frames, new = frames_of(whole), frames_of(part_only)
    assert len(all_frames) == 69 and len(new) == 24  # 18 and 6 latent frames
    assert new == all_frames[45:]
    assert torch.equal(part_only.outputs[0]["samples"], whole.outputs[0]["samples"])
    refused(
        lambda: take(model, "go on", short.outputs[4], frames=18, vae=tiny_vae, take_video="new part"),
        "expected a new part to make",
    )


def test_a_branch_shares_its_chunks_and_copies_none(
    take: Any, ar_model: Any, base: Path, stream: Any, canvas: Any, refused: Any
) -> None:
    model = ar_model()
    parent = take(model, "new", "tree")
    data = (folder(base, parent) / "latents.take").read_bytes()
    same = take(model, "branch", parent.outputs[4], from_chunk=2)
    assert same.outputs[4] == "tree_00001_branch_00001"
    assert torch.equal(same.outputs[0]["samples"], parent.outputs[0]["samples"])
    other = take(model, "branch", parent.outputs[4], from_chunk=2, seed=99)
    ours, theirs = other.outputs[0]["samples"], parent.outputs[0]["samples"]
    assert torch.equal(ours[:, :, :6], theirs[:, :, :6]) and not torch.equal(ours[:, :, 6:9], theirs[:, :, 6:9])
    assert (folder(base, parent) / "latents.take").read_bytes() == data
    before = names(base)
    refused(lambda: take(model, "branch", parent.outputs[4], from_chunk=9), "expected to branch behind 1 to 4 whole")
    assert names(base) == before, "nothing is left of a branch that could not begin"


def test_a_branch_with_another_prompt_is_a_run_that_switches_there(
    take: Any, stream: Any, canvas: Any, ar_model: Any, part: Any, conditioning: Any
) -> None:
    prompts, model = part("nodes.host.prompts"), ar_model()
    first, second = conditioning(1), conditioning(2)
    switched = prompts.joined(first, second, 2.0)  # latent frame 8, so from chunk 3 on, which begins with frame 9
    whole = stream(model, latent=canvas(FRAMES), conditioning=switched)
    parent = take(model, "new", "said", conditioning=first)
    branch = take(model, "branch", parent.outputs[4], from_chunk=3, conditioning=switched)
    assert torch.equal(branch.outputs[0]["samples"], whole.outputs[0]["samples"])


def test_another_prompt_for_what_is_there_is_refused(take: Any, ar_model: Any, conditioning: Any, refused: Any) -> None:
    model = ar_model()
    done = take(model, "new", "other_prompt", conditioning=conditioning(1))
    refused(
        lambda: take(model, "go on", done.outputs[4], conditioning=conditioning(2), frames=18),
        "expected the prompt of latent frame 0",
    )


def test_what_differs_is_named(
    take: Any, call: Any, ar_model: Any, refused: Any, conditioning: Any, canvas: Any, stream: Any
) -> None:
    model = ar_model()
    name = take(model, "new", "differs").outputs[4]
    refused(lambda: take(model, "go on", name, seed=8), "expected seed 3, as of the take", "got 8")
    windowed = call("DummyForcingApplyCacheWindow", model=model, window=9, sink=0).outputs[0]
    refused(lambda: take(windowed, "go on", name), "expected policy")
    refused(lambda: take(model, "go on", name, fps=24), "expected fps '16'")
    refused(lambda: take(model, "go on", name, frames=6), "or more")
    refused(
        lambda: stream(model, latent=canvas(FRAMES, height=16), take="go on", take_name=name), "expected size '64x64'"
    )
    refused(lambda: take(ar_model("causal_forcing_framewise"), "go on", name), "as of the take")
    image = {"samples": torch.ones(1, 16, 1, 8, 8)}
    refused(lambda: take(model, "go on", name, start_latent=image), "expected start ''")


def test_a_lora_with_its_strength_is_part_of_a_take(
    take: Any, ar_model: Any, call: Any, refused: Any, base: Path
) -> None:
    from safetensors.torch import save_file

    loras = base / "models" / "loras"
    loras.mkdir(exist_ok=True)
    tensors = {
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.full((2, 256), 0.01),
        "diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.full((256, 2), 0.01),
    }
    save_file(tensors, loras / "taken.safetensors")

    def patched(strength: float) -> Any:
        return call(
            "LoraLoaderModelOnly", model=ar_model(), lora_name="taken.safetensors", strength_model=strength
        ).outputs[0]

    done = take(patched(1.0), "new", "lora")
    again = take(patched(1.0), "go on", done.outputs[4], frames=18)
    assert again.outputs[0]["samples"].shape[2] == 18
    refused(lambda: take(patched(0.5), "go on", done.outputs[4], frames=18), "expected patches")
    refused(lambda: take(ar_model(), "go on", done.outputs[4], frames=18), "expected patches")


def test_what_cannot_be_checked_is_named(take: Any, ar_model: Any, part: Any) -> None:
    model = ar_model().clone()
    wrappers = part("nodes.host.settings").Wrappers
    model.add_wrapper_with_key(wrappers.DIFFUSION_MODEL, "somebody", lambda executor, *a, **k: executor(*a, **k))
    done = take(model, "new", "unchecked")
    again = take(model, "go on", done.outputs[4], frames=18)
    assert "nothing tells whether these are as they were, leave them so: somebody" in again.outputs[2]


def test_a_take_that_is_not_here_is_one_line_that_names_those_that_are(take: Any, ar_model: Any, refused: Any) -> None:
    model = ar_model()
    there = take(model, "new", "here").outputs[4]
    for mode in ("go on", "branch"):
        refused(lambda mode=mode: take(model, mode, "somebody elses"), "expected the name of a take", there)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".", "a\\b", "a:b", "x" * 200, "\x00", ".hidden", "/etc"])
def test_unsafe_names_are_refused(take: Any, ar_model: Any, refused: Any, name: str, base: Path) -> None:
    before = names(base)
    for mode in ("new", "go on", "branch"):
        refused(lambda mode=mode: take(ar_model(), mode, name), "expected a plain name for a take")
    assert names(base) == before


def test_an_empty_name_is_the_newest_take(take: Any, ar_model: Any) -> None:
    model = ar_model()
    take(model, "new", "older")
    newest = take(model, "new", "newest").outputs[4]
    assert take(model, "go on", "", frames=18).outputs[4] == newest


def test_after_a_crash_the_next_report_names_the_take(
    take: Any, stream: Any, ar_model: Any, crash_after: Any, base: Path, part: Any
) -> None:
    model, takes = ar_model(), part("nodes.host.takes")
    before = names(base)
    crash_after(2, lambda: take(model, "new", "fallen"))
    (name,) = names(base) - before
    (base / "output" / "takes" / name / "events.jsonl").open("a").write("")
    assert takes.unfinished() == {"name": name, "chunks": 2}
    report = stream(model).outputs[2]
    assert f"note: take {name} is unfinished, 2 chunks of it are there" in report
    assert "is unfinished" not in take(model, "go on", name).outputs[2]
    assert takes.unfinished() is None
    assert "is unfinished" not in stream(model, seed=5).outputs[2]


def test_cancel_and_finish_now_keep_the_take_and_are_no_crash(
    take: Any, ar_model: Any, part: Any, base: Path, stream: Any, canvas: Any
) -> None:
    import comfy.model_management as management

    view, model, takes = part("nodes.host.live").LiveView, ar_model(), part("nodes.host.takes")
    whole = stream(model, latent=canvas(FRAMES)).outputs[0]["samples"]
    real = view.chunk
    for how in ("finish", "cancel"):
        before = names(base)
        with pytest.MonkeyPatch.context() as patch:

            def chunk(self: Any, result: Any, pixels: Any, how: str = how) -> None:
                real(self, result, pixels)
                if result.span.chunk == 1:
                    self.finish_asked.set() if how == "finish" else management.interrupt_current_processing()

            patch.setattr(view, "chunk", chunk)
            if how == "finish":
                assert take(model, "new", how).outputs[0]["samples"].shape[2] == 6
            else:
                with pytest.raises(management.InterruptProcessingException):
                    take(model, "new", how)
        (name,) = names(base) - before
        assert events(base / "output" / "takes" / name)[-1] == "stopped"
        assert takes.unfinished() is None
        assert torch.equal(take(model, "go on", name).outputs[0]["samples"], whole)


def test_the_hosts_cache_holds_until_the_take_changes(take: Any, ar_model: Any, pack: Any) -> None:
    node = pack.nodes["DummyForcingStreamingSampler"]

    def mark(**inputs: Any) -> Any:
        return node.fingerprint_inputs(**{"seed": 3, "fps": 16, "filename_prefix": "video/streaming", **inputs})

    model = ar_model()
    name = take(model, "new", "cached").outputs[4]
    before = mark(take="go on", take_name=name)
    take(model, "go on", name, frames=18)
    assert mark(take="go on", take_name=name) == before, "its own run is no change"
    branch = mark(take="branch", take_name=name)
    take(model, "branch", name, frames=18, from_chunk=2)
    assert mark(take="branch", take_name=name) == branch
    take(model, "go on", name, frames=24, seed=3)
    assert mark() == mark(take="new") == mark(take="off")
    assert mark(take=None, take_name=None) == mark(take=None, take_name=None)


def test_latents_lie_in_a_file_and_can_be_written_to(take: Any, ar_model: Any) -> None:
    done = take(ar_model(), "new", "mapped").outputs[0]["samples"]
    assert done.shape == (1, 16, FRAMES, 8, 8) and done.dtype == torch.float32
    with torch.inference_mode():
        done += 1  # as other nodes may
    assert bool(done.isfinite().all())


def test_a_batch_is_one_take(take: Any, stream: Any, ar_model: Any, canvas: Any, crash_after: Any, base: Path) -> None:
    model, latent = ar_model(), canvas(FRAMES, batch=2)
    whole = stream(model, latent=latent).outputs[0]["samples"]
    before = names(base)
    crash_after(3, lambda: stream(model, latent=latent, take="new", take_name="pair"))
    (name,) = names(base) - before
    done = stream(model, latent=latent, take="go on", take_name=name)
    assert torch.equal(done.outputs[0]["samples"], whole)


def test_load_take_gives_what_was_made(
    take: Any, call: Any, ar_model: Any, tiny_vae: Any, part: Any, conditioning: Any
) -> None:
    prompts = part("nodes.host.prompts")
    said = [[tensor, {**more, prompts.TEXT: "a red ball"}] for tensor, more in conditioning(1)]
    later = [[tensor, {**more, prompts.TEXT: "a blue\nbox"}] for tensor, more in conditioning(2)]
    done = take(ar_model(), "new", "loaded", vae=tiny_vae, conditioning=prompts.joined(said, later, 1.5))
    loaded = call("DummyForcingLoadTake", take=done.outputs[4])
    assert torch.equal(loaded.outputs[0]["samples"], done.outputs[0]["samples"])
    assert loaded.outputs[0][part("nodes.host.shown").KEY] == done.outputs[0][part("nodes.host.shown").KEY]
    assert loaded.outputs[1][0].get_stream_source() == done.outputs[1][0].get_stream_source()
    assert loaded.outputs[2] == "0:00 | a red ball\n0:01.5 | a blue box"
    assert "finished" in loaded.outputs[3] and "self_forcing" in loaded.outputs[3]


def test_load_take_of_a_clip_without_a_video_blocks_it(take: Any, call: Any, ar_model: Any) -> None:
    done = take(ar_model(), "new", "dark")
    loaded = call("DummyForcingLoadTake", take=done.outputs[4])
    assert torch.equal(loaded.outputs[0]["samples"], done.outputs[0]["samples"])
    assert "Decode Take makes one" in str(vars(loaded.outputs[1][0]))
    assert loaded.outputs[2].startswith("# 0:00 | a prompt whose words are not known")


def test_decode_take_is_the_video_that_was_written(
    take: Any, call: Any, ar_model: Any, tiny_vae: Any, crash_after: Any, base: Path
) -> None:
    done = take(ar_model(), "new", "decoded", vae=tiny_vae)
    again = call("DummyForcingDecodeTake", take=done.outputs[4], vae=tiny_vae)
    path = Path(again.outputs[0][0].get_stream_source())
    assert path.parent.name == "video" and path.name.startswith("take_")
    ours, theirs = (frames_of(done), frames(path))
    assert ours == theirs
    slow = call("DummyForcingDecodeTake", take=done.outputs[4], vae=tiny_vae, fps=8.0, codec="av1", crf=30)
    import av

    with av.open(slow.outputs[0][0].get_stream_source()) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == 8 and stream.codec_context.name in ("libdav1d", "av1", "libaom-av1")
    before = names(base)
    crash_after(2, lambda: take(ar_model(), "new", "cut", vae=tiny_vae))
    (name,) = names(base) - before
    of_both = [call("DummyForcingDecodeTake", take=one, vae=tiny_vae, crf=0) for one in (name, done.outputs[4])]
    cut, whole = (frames(one.outputs[0][0].get_stream_source()) for one in of_both)
    assert len(cut) == 21 and cut == whole[:21]


def test_a_take_without_a_chunk_is_one_line(
    take: Any, call: Any, ar_model: Any, tiny_vae: Any, base: Path, refused: Any
) -> None:
    done = take(ar_model(), "new", "empty")
    (folder(base, done) / "latents.take").unlink()
    for node, more in (("DummyForcingLoadTake", {}), ("DummyForcingDecodeTake", {"vae": tiny_vae})):
        refused(
            lambda node=node, more=more: call(node, take=done.outputs[4], **more), "expected a take that holds a chunk"
        )


@pytest.mark.parametrize("files", [["../../../etc/passwd"], ["/etc/passwd"], [3], "video/x.mp4", [], None])
def test_a_video_outside_the_output_folder_is_none_of_a_take(
    take: Any, call: Any, ar_model: Any, base: Path, files: Any
) -> None:
    done = take(ar_model(), "new", "hostile")
    with (folder(base, done) / "events.jsonl").open("a") as log:
        log.write(json.dumps({"event": "video", "files": files}) + "\n" + "[" * 9999 + "\n3\n")
    assert "Decode Take" in str(vars(call("DummyForcingLoadTake", take=done.outputs[4]).outputs[1][0]))


@pytest.mark.parametrize("size", ["99999x99999", "0x0", "axb", "8x8x8", 3, None, "-8x8"])
def test_a_take_of_another_size_than_it_says_is_shown_whole(
    take: Any, call: Any, ar_model: Any, tiny_vae: Any, base: Path, size: Any
) -> None:
    done = take(ar_model(), "new", "sized")
    manifest = json.loads((folder(base, done) / "take.json").read_text())
    manifest["conditions"]["size"] = size
    (folder(base, done) / "take.json").write_text(json.dumps(manifest))
    again = call("DummyForcingDecodeTake", take=done.outputs[4], vae=tiny_vae)
    assert len(frames(again.outputs[0][0].get_stream_source())[0]) == 64 * 64 * 3


def test_a_snapshot_spares_what_is_before_it_and_is_told_of(
    take: Any, ar_model: Any, stream: Any, canvas: Any, model_calls: list, base: Path
) -> None:
    model = ar_model()
    whole = stream(model, latent=canvas(18)).outputs[0]["samples"]
    done = take(model, "new", "stored", snapshot_every=2)
    assert "note: a snapshot of keys and values every 2 chunks takes up to" in done.outputs[2]
    assert "the take will need about" in done.outputs[2]
    assert (folder(base, done) / "kv.take").exists()
    model_calls.clear()
    longer = take(model, "go on", done.outputs[4], frames=18)
    assert torch.equal(longer.outputs[0]["samples"], whole)
    clean = [call for call in model_calls if not call[1]]
    assert len(clean) == 2, "of the chunks that are made"


def test_a_branch_with_another_policy_reads_the_shared_chunks_anew(
    take: Any, ar_model: Any, call: Any, base: Path
) -> None:
    model = ar_model()
    parent = take(model, "new", "wide")
    windowed = call("DummyForcingApplyCacheWindow", model=model, window=6, sink=0).outputs[0]
    branch = take(windowed, "branch", parent.outputs[4], from_chunk=3)
    ours, theirs = branch.outputs[0]["samples"], parent.outputs[0]["samples"]
    assert torch.equal(ours[:, :, :9], theirs[:, :, :9]) and not torch.equal(ours[:, :, 9:], theirs[:, :, 9:])
    assert "another policy than" in branch.outputs[2]
    again = take(windowed, "go on", branch.outputs[4], frames=18)
    assert torch.equal(again.outputs[0]["samples"][:, :, :FRAMES], ours)


def test_a_draft_without_pixels_is_decoded_as_if_at_once(
    take: Any, stream: Any, canvas: Any, call: Any, ar_model: Any, tiny_vae: Any
) -> None:
    model = ar_model()
    whole = stream(model, latent=canvas(FRAMES), vae=tiny_vae, crf=0)
    draft = take(model, "new", "draft")
    final = call("DummyForcingDecodeTake", take=draft.outputs[4], vae=tiny_vae, crf=0)
    assert frames(final.outputs[0][0].get_stream_source()) == frames_of(whole)


def test_a_kept_clips_latents_do_not_pile_up(
    take: Any, stream: Any, ar_model: Any, canvas: Any, part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks in memory, of a clip of twenty: a few with a take, all of them without."""
    import gc

    view = part("nodes.host.live").LiveView
    real, alive = view.chunk, []

    def chunk(self: Any, result: Any, pixels: Any) -> None:
        real(self, result, pixels)
        gc.collect()
        shape = tuple(result.latent.shape)
        alive.append(sum(isinstance(one, torch.Tensor) and tuple(one.shape) == shape for one in gc.get_objects()))

    monkeypatch.setattr(view, "chunk", chunk)
    take(ar_model(), "new", "flat", frames=60)
    kept, _ = alive[:], alive.clear()
    stream(ar_model(), latent=canvas(60))
    assert len(kept) == len(alive) == 20
    assert max(kept[5:]) <= kept[4] + 1 and alive[-1] >= alive[4] + 14


@pytest.mark.parametrize("vae", [False, True])
@pytest.mark.parametrize(
    "family", ["causal_forcing_2step", "causvid", "krea_realtime", "rolling_forcing", "causal_forcing_long"]
)
def test_every_loop_goes_on_bit_for_bit(
    call: Any, stream: Any, canvas: Any, files: Path, tiny_vae: Any, base: Path, crash_after: Any, family: str,
    vae: bool, conditioning: Any, part: Any,
) -> None:  # fmt: skip
    """Stills that are encoded, windows that are begun, memories that are made anew; a switch in the middle."""
    model = call("DummyForcingLoadARModel", model="self_forcing_tiny.safetensors", family=family).outputs[0]
    text = part("nodes.host.prompts").joined(conditioning(1), conditioning(2), 1.5)
    inputs = {"latent": canvas(24), "conditioning": text, **({"vae": tiny_vae} if vae else {})}
    whole = stream(model, **inputs)
    for after in (2, 6):
        before = names(base)
        crash_after(after, lambda: stream(model, take="new", take_name=family, **inputs))
        (name,) = names(base) - before
        done = stream(model, take="go on", take_name=name, **inputs)
        assert torch.equal(done.outputs[0]["samples"], whole.outputs[0]["samples"])
        if vae:
            assert frames_of(done) == frames_of(whole)


def test_a_kept_clip_may_be_longer_than_main_memory_holds_thrice(
    take: Any, stream: Any, ar_model: Any, canvas: Any, part: Any, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management as management

    memory, model = part("nodes.host.memory"), ar_model()
    check, real = memory.check_main_memory, management.get_total_memory
    clip_bytes = 4 * 16 * FRAMES * 8 * 8

    def small(shape: Any, times: int = memory.CANVAS) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(management, "get_total_memory", lambda device: 2 * clip_bytes)
            check(shape, times)

    monkeypatch.setattr(part("nodes.host.streaming"), "check_main_memory", small)
    refused(lambda: stream(model, latent=canvas(FRAMES)), "would take", "or keep it as a take")
    assert take(model, "new", "large").outputs[0]["samples"].shape[2] == FRAMES
    assert management.get_total_memory is real


def test_a_folder_of_another_name_is_no_take_of_ours(take: Any, ar_model: Any, base: Path, part: Any) -> None:
    """The page's menu would take it for HTML."""
    there = folder(base, take(ar_model(), "new", "plain"))
    odd = there.with_name("<img src=x onerror=alert(1)>")
    odd.mkdir()
    (odd / "take.json").write_bytes((there / "take.json").read_bytes())
    names_there = part("nodes.host.takes").take_names()
    assert there.name in names_there and odd.name not in names_there
