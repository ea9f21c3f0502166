"""Nothing of a run survives it: no cache, no wrapper, no entry, no file, however it ended."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


class Broken(Exception):
    """Something of somebody else's fails."""


@pytest.fixture
def caches(part: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Weak references to every cache of K and V of this test, and to all of their tensors."""
    cache_type = part("dummyforcing_core.kv.cache").KVCache
    made: list[Any] = []
    begin = cache_type.begin

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        tensors = [tensor for layer in self.layers for group in layer for tensor in (group.k, group.v)]
        made.extend(weakref.ref(one) for one in (self, *tensors))
        begin(self, *args, **kwargs)

    monkeypatch.setattr(cache_type, "begin", noted)
    return made


@pytest.fixture
def clean(ar_model: Any, call: Any, part: Any, base: Path, caches: list, collected: Any) -> Iterator[Callable[[], Any]]:
    """A MODEL with settings; afterwards nothing may be left of what was done with it."""
    live = part("nodes.host.live")
    model = call("DummyForcingApplyDummyForcing", model=ar_model()).outputs[0]
    module = model.model.diffusion_model

    def state() -> Any:
        wrappers = {
            kind: {key: list(map(id, found)) for key, found in by.items()} for kind, by in model.wrappers.items()
        }
        return repr(model.model_options), wrappers, sorted(vars(module)), sorted(vars(model.model))

    before, temp = state(), set((base / "temp").rglob("*"))
    yield lambda: model
    collected()
    assert len(caches) >= 5, "no cache was ever made"
    assert [ref() for ref in caches if ref() is not None] == []
    assert state() == before
    assert live._running == {}
    assert set((base / "temp").rglob("*")) == temp


@pytest.fixture
def fails_at_call(part: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """``fails_at_call(8, act)``: ``act()`` before the eighth call of the transformer; the calls."""
    denoiser = part("dummyforcing_core.models.denoiser").WanDenoiser
    real, calls = denoiser.velocity, []

    def use(number: int, act: Callable[[], None]) -> list[int]:
        def velocity(self: Any, *args: Any) -> Any:
            calls.append(len(calls) + 1)
            if len(calls) == number:
                act()
            return real(self, *args)

        monkeypatch.setattr(denoiser, "velocity", velocity)
        return calls

    return use


def fail() -> None:
    raise Broken("a layer broke")


def interrupt_now() -> None:
    import comfy.model_management

    raise comfy.model_management.InterruptProcessingException()


def press_cancel() -> None:
    import comfy.model_management

    comfy.model_management.interrupt_current_processing()


def test_a_finished_run(clean: Any, stream: Any, tiny_vae: Any, outputs: Any) -> None:
    before = outputs()
    done = stream(clean(), vae=tiny_vae, filename_prefix="kept/clip")
    (made,) = outputs() - before
    assert made.startswith("kept/clip_") and ".part" not in made
    latents = done.outputs[0]["samples"]
    assert latents.untyped_storage().nbytes() == latents.numel() * latents.element_size(), "a view of something larger"


def test_a_finished_run_of_the_sampler_for_custom_graphs(clean: Any, custom: Any, ours: Any) -> None:
    custom(clean(), ours, torch.tensor([1.0, 0.5, 0.0]))


def test_profiling(clean: Any, call: Any, conditioning: Any, canvas: Any) -> None:
    call("DummyForcingProfileHeads", model=clean(), conditioning=conditioning(1), latent=canvas(), chunks=3)


@pytest.mark.parametrize("act", [fail, interrupt_now, press_cancel])
def test_a_run_that_stops_in_its_second_chunk(
    clean: Any,
    stream: Any,
    tiny_vae: Any,
    outputs: Any,
    fails_at_call: Any,
    caplog: Any,
    base: Path,
    part: Any,
    act: Any,
) -> None:
    import comfy.model_management

    before, calls = outputs(), fails_at_call(8, act)
    error = Broken if act is fail else comfy.model_management.InterruptProcessingException
    with pytest.raises(error) as caught:
        stream(clean(), vae=tiny_vae, filename_prefix="stopped/clip")
    del caught
    assert len(calls) == 8, "went on after it was told to stop"
    (left,) = outputs() - before
    assert left.startswith("stopped/clip_") and left.endswith(".part.mp4")
    assert Path(left).name in caplog.text
    assert len(list(part("dummyforcing_core.clips.video").read_frames(base / "output" / left))) == 9
    assert not comfy.model_management.processing_interrupted()


@pytest.mark.parametrize("number", [1, 2, 5, 11, 14])
def test_cancel_stops_before_the_next_step(clean: Any, clip: Any, fails_at_call: Any, number: int) -> None:
    import comfy.model_management

    calls = fails_at_call(number, press_cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        clip(clean())
    assert len(calls) == number


def test_a_model_can_be_sampled_again_after_an_error(
    clean: Any, clip: Any, part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = clip(clean())
    denoiser = part("dummyforcing_core.models.denoiser").WanDenoiser
    with monkeypatch.context() as spoiled:
        spoiled.setattr(denoiser, "velocity", lambda *args: fail())
        with pytest.raises(Broken):
            clip(clean())
    torch.testing.assert_close(clip(clean()), wanted, rtol=0, atol=0)


def test_an_error_before_the_first_chunk_leaves_no_file(
    ar_model: Any, stream: Any, tiny_vae: Any, outputs: Any, conditioning: Any
) -> None:
    before = outputs()
    for inputs in ({"conditioning": []}, {"sigmas": torch.tensor([1.0, 0.5])}):
        with pytest.raises(Exception):  # noqa: B017 - whatever it is, it must not leave a file
            stream(ar_model(), vae=tiny_vae, **inputs)
    assert outputs() == before


def test_two_runs_into_one_prefix_do_not_overwrite_each_other(
    ar_model: Any, stream: Any, tiny_vae: Any, outputs: Any, canvas: Any
) -> None:
    before = outputs()
    for _ in range(2):
        stream(ar_model(), vae=tiny_vae, latent=canvas(2, batch=2), filename_prefix="twice/clip")
    assert len(outputs() - before) == 4


def test_a_part_of_a_cancelled_run_is_not_overwritten_by_the_next(
    ar_model: Any, stream: Any, tiny_vae: Any, outputs: Any, canvas: Any, fails_at_call: Any
) -> None:
    before = outputs()
    fails_at_call(8, fail)
    with pytest.raises(Broken):
        stream(ar_model(), vae=tiny_vae, filename_prefix="again/clip")
    (part_file,) = outputs() - before
    stream(ar_model(), vae=tiny_vae, filename_prefix="again/clip")
    assert part_file in outputs() and len(outputs() - before) == 2


def test_a_prefix_cannot_leave_the_output_folder(ar_model: Any, stream: Any, tiny_vae: Any, base: Path) -> None:
    with pytest.raises(Exception, match="output"):
        stream(ar_model(), vae=tiny_vae, filename_prefix="../../escaped")
    assert not list(base.parent.glob("escaped*"))
