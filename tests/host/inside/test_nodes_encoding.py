"""Codec and quality of what the nodes write; a finished file is plain, what is left of another one fragmented."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

GRAPH = {"1": {"class_type": "X", "inputs": {}}}
DECODERS = {"h264": {"h264"}, "av1": {"libdav1d", "av1"}}


def boxes(path: str | Path) -> list[str]:
    """Kinds of the top-level boxes of an mp4, but for room that was left free."""
    data, kinds, start = Path(path).read_bytes(), [], 0
    while start < len(data):
        kinds.append(data[start + 4 : start + 8].decode())
        start += int.from_bytes(data[start : start + 4], "big")
    return [kind for kind in kinds if kind != "free"]


def tells(path: str) -> tuple[str, str | None]:
    """(decoder, the prompt inside) of a video."""
    import av

    with av.open(path) as file:
        return file.streams.video[0].codec_context.name, file.metadata.get("prompt")


def frames_of(path: str | Path) -> int:
    import av

    with av.open(str(path)) as file:
        return sum(1 for _ in file.decode(video=0))


@pytest.fixture
def write(call: Any, stream: Any, ar_model: Any, canvas: Any, tiny_vae: Any) -> Callable[..., list[str]]:
    """``write("DummyForcingStreamingDecode", codec="av1")``: the files that the node writes of two latent frames."""

    def made(node: str, **inputs: Any) -> list[str]:
        latent = {"samples": torch.randn(2, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0))}
        if node == "DummyForcingStreamingSampler":
            inputs = {"latent": canvas(3, batch=2), "vae": tiny_vae, "prompt": GRAPH, **inputs}
            return [one.get_stream_source() for one in stream(ar_model(), **inputs).outputs[1]]
        decode = {"latent": latent, "vae": tiny_vae, "fps": 23.976, "prompt": GRAPH}
        if node == "DummyForcingStreamingDecode":
            return [one.get_stream_source() for one in call(node, **decode, **inputs).outputs[0]]
        clips = call("DummyForcingStreamingDecode", **decode).outputs[0]
        return [call(node, first=clips[0], second=clips[1], prompt=GRAPH, **inputs).outputs[0].get_stream_source()]

    return made


@pytest.mark.parametrize("node", ["StreamingSampler", "StreamingDecode", "CompareClips"])
@pytest.mark.parametrize("codec", DECODERS)
def test_a_node_writes_what_it_is_asked_for(write: Any, node: str, codec: str) -> None:
    fine = write(f"DummyForcing{node}", codec=codec, crf=10)
    coarse = write(f"DummyForcing{node}", codec=codec, crf=50)
    assert len(fine) == (1 if node == "CompareClips" else 2)
    for path, small in zip(fine, coarse, strict=True):
        decoder, prompt = tells(path)
        assert decoder in DECODERS[codec]
        assert frames_of(path) == (9 if node == "StreamingSampler" else 5)
        assert "class_type" in (prompt or "")
        assert boxes(path) == ["ftyp", "moov", "mdat"]
        assert Path(path).stat().st_size > Path(small).stat().st_size


def test_prompts_from_before_there_was_a_codec_are_h264(write: Any) -> None:
    for node in ("StreamingSampler", "StreamingDecode", "CompareClips"):
        assert {tells(path)[0] for path in write(f"DummyForcing{node}")} == {"h264"}


def test_a_wrong_number_is_refused_before_any_work(write: Any, refused: Any, base: Path) -> None:
    for node in ("StreamingSampler", "StreamingDecode", "CompareClips"):
        refused(lambda node=node: write(f"DummyForcing{node}", codec="h264", crf=52), "0 (lossless) to 51", "got 52")


def test_the_report_says_how_the_video_is_coded(stream: Any, ar_model: Any, tiny_vae: Any) -> None:
    assert "av1, crf 30" in stream(ar_model(), vae=tiny_vae, codec="av1", crf=30).outputs[2]
    assert "crf" not in stream(ar_model()).outputs[2]


@pytest.fixture
def at_chunk(part: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], None]], None]:
    """``at_chunk(act)``: ``act(view)`` while the second chunk is shown."""
    view = part("nodes.host.live").LiveView
    real = view.chunk

    def use(act: Callable[[Any], None]) -> None:
        def chunk(self: Any, result: Any, pixels: Any) -> None:
            real(self, result, pixels)
            if result.span.chunk == 1:
                act(self)

        monkeypatch.setattr(view, "chunk", chunk)

    return use


def test_an_early_end_is_a_finished_file_of_that_codec(
    stream: Any, ar_model: Any, canvas: Any, tiny_vae: Any, at_chunk: Any, pack: Any
) -> None:
    def fingerprint(**encoding: Any) -> Any:
        node = pack.nodes["DummyForcingStreamingSampler"]
        return node.fingerprint_inputs(seed=77, fps=16, filename_prefix="video/streaming", **encoding)

    before = fingerprint(codec="av1", crf=40), fingerprint(codec=None, crf=None), fingerprint()
    at_chunk(lambda view: view.finish_asked.set())
    done = stream(ar_model(), latent=canvas(12), vae=tiny_vae, seed=77, codec="av1", crf=40)
    (path,) = [one.get_stream_source() for one in done.outputs[1]]
    assert frames_of(path) == 21
    assert boxes(path) == ["ftyp", "moov", "mdat"]
    after = fingerprint(codec="av1", crf=40), fingerprint(codec=None, crf=None), fingerprint()
    assert [new != old for new, old in zip(after, before, strict=True)] == [True, True, False]


def test_a_cancelled_clip_leaves_a_fragmented_part(
    stream: Any, ar_model: Any, canvas: Any, tiny_vae: Any, at_chunk: Any, base: Path
) -> None:
    import comfy.model_management

    def cancel(view: Any) -> None:
        raise comfy.model_management.InterruptProcessingException()

    at_chunk(cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        stream(ar_model(), latent=canvas(12), vae=tiny_vae, filename_prefix="cut/clip", codec="av1")
    (left,) = (base / "output" / "cut").iterdir()
    assert left.name.endswith(".part.mp4")
    assert "moof" in boxes(left)
    assert frames_of(left) == 21


def test_a_full_disk_at_the_end_is_a_note(
    stream: Any, ar_model: Any, tiny_vae: Any, part: Any, call: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *rest: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(part("dummyforcing_core.clips.video"), "make_plain", full)
    done = stream(ar_model(), vae=tiny_vae)
    note = "its index could not be put in front (the disk is full"
    assert done.outputs[2].startswith("note: the video plays") and note in done.outputs[2]
    (clip,) = done.outputs[1]
    assert "moof" in boxes(clip.get_stream_source()) and frames_of(clip.get_stream_source()) == 25
    assert note in call("DummyForcingCompareClips", first=clip, second=clip).outputs[1]
    caplog.clear()
    call("DummyForcingStreamingDecode", latent=done.outputs[0], vae=tiny_vae, fps=16)
    assert note in caplog.text
