"""Memory: what is predicted is what is taken, the host hears of it, and what cannot fit is told with what can."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

MIB = 2**20
LAYERS = 2
"""Of the tiny transformer."""
POLICIES = {
    "family": None,
    "narrow": ("DummyForcingApplyCacheWindow", {"window": 4, "sink": 1}),
    "dummies": ("DummyForcingApplyDummyForcing", {}),
}


@pytest.fixture
def taken(part: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The most bytes of K and V that were allocated, after every commit and every re-packing."""
    cache_type = part("dummyforcing_core.kv.cache").KVCache
    sizes: list[int] = []

    def measured(self: Any) -> int:
        tensors = {t.data_ptr(): t for layer in self.layers for group in layer for t in (group.k, group.v)}
        return sum(t.untyped_storage().nbytes() for t in tensors.values())

    for name in ("begin", "commit", "repack"):
        real = getattr(cache_type, name)

        def noted(self: Any, *args: Any, real: Any = real, **kwargs: Any) -> None:
            real(self, *args, **kwargs)
            sizes.append(measured(self))

        monkeypatch.setattr(cache_type, name, noted)
    return sizes


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize("family", ["self_forcing", "longlive", "causal_forcing_framewise"])
def test_predicted_bytes_are_those_that_are_allocated(
    call: Any, stream: Any, ar_model: Any, canvas: Any, part: Any, taken: list[int],
    family: str, policy: str,
) -> None:  # fmt: skip
    memory, settings = part("nodes.host.memory"), part("nodes.host.settings")
    model = ar_model(family)
    if POLICIES[policy] is not None:
        node, inputs = POLICIES[policy]
        model = call(node, model=model, **inputs).outputs[0]
    row = settings.family_of(model)[0]
    batch = 2 if family == "longlive" else 1
    shape = part("dummyforcing_core.geometry").LatentShape(batch, 16, 13, 8, 8)
    chosen = settings.settings_of(model).policy or part("dummyforcing_core.policies").own_policy(row)
    predicted = memory.kv_bytes(part("nodes.host.denoiser").geometry_of(model), shape, chosen, row)
    report = stream(model, latent=canvas(13, batch)).outputs[2]
    assert max(taken) <= predicted
    if policy != "dummies":
        window = row.default_window_frames if policy == "family" else 4
        frames = min(window, 13 + row.chunk_frames)  # the current chunk has a place of its own
        layer = 2 * 2 * batch * 16 * 128 * 4 * frames  # K and V, heads, tokens of a frame, channels, float32
        assert max(taken) == LAYERS * layer
        assert predicted == (LAYERS + 1) * layer  # room to re-pack one layer at a time
    for name in ("history", "resident", "peak"):
        said, actual = re.search(rf"{name}, MiB +([\d.]+) +([\d.]+)", report).groups()
        assert abs(float(said) - float(actual)) <= 0.011, f"{name}: {report}"


def test_dummies_with_a_profile_take_less_than_without_and_than_dense(
    call: Any, stream: Any, ar_model: Any, canvas: Any, conditioning: Any, taken: list[int]
) -> None:
    profile = call(
        "DummyForcingProfileHeads", model=ar_model(), conditioning=conditioning(1), latent=canvas(), chunks=3
    ).outputs[0]
    peaks = {}
    for name, inputs in {"none": None, "online": {}, "profile": {"head_profile": profile}}.items():
        taken.clear()
        model = ar_model()
        if inputs is not None:
            model = call("DummyForcingApplyDummyForcing", model=model, **inputs).outputs[0]
        stream(model, latent=canvas(13))
        peaks[name] = max(taken)
    assert peaks["profile"] < peaks["online"] < peaks["none"]


def test_the_host_is_asked_for_the_cache_and_for_one_chunk_not_the_clip(
    stream: Any, ar_model: Any, canvas: Any, tiny_vae: Any, part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management

    real, asked = comfy.model_management.load_models_gpu, []

    def load(models: Any, memory_required: float = 0, **kwargs: Any) -> None:
        asked.append(([type(one.model).__name__ for one in models], memory_required, kwargs))
        real(models, memory_required=memory_required, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", load)
    monkeypatch.setattr(part("nodes.host.session"), "reserve", lambda model, needed: None)
    model = ar_model()
    stream(model)
    (_, one_chunk, _), *_ = asked
    monkeypatch.undo()
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", load)
    sizes = {}
    for frames in (3, 21, 24):
        asked.clear()
        stream(model, latent=canvas(frames))
        sizes[frames] = asked[0][1], asked[0][2]["minimum_memory_required"]
    settings, shape = part("nodes.host.settings"), part("dummyforcing_core.geometry").LatentShape(1, 16, 21, 8, 8)
    row = settings.family_of(model)[0]
    kv = part("nodes.host.memory").kv_bytes(
        part("nodes.host.denoiser").geometry_of(model), shape, part("dummyforcing_core.policies").own_policy(row), row
    )
    assert sizes[21][1] >= kv and sizes[21][0] >= one_chunk + kv
    assert sizes[3] < sizes[21] == sizes[24], "the window is full: a longer clip needs no more"
    asked.clear()
    stream(model, latent=canvas(21), vae=tiny_vae)
    assert asked[0][0][0] == "WAN21_CausalAR" and asked[0][0].count("WanVAE") == 1, "the two would swap places"
    assert asked[0][1] > sizes[21][0], "decoding beside it was not asked for"


def test_what_cannot_fit_is_told_with_what_would(
    call: Any, stream: Any, ar_model: Any, canvas: Any, part: Any, refused: Any, monkeypatch: pytest.MonkeyPatch,
    model_calls: list,
) -> None:  # fmt: skip
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda *args, **kwargs: 1.0 * MIB)
    line = refused(lambda: stream(ar_model(), latent=canvas(60)), "GiB", "Apply Cache Window", "Apply Dummy Forcing")
    assert model_calls == []
    assert "half the size" in line and "head profile" in line


@pytest.fixture
def scarce(part: Any, ar_model: Any, tiny_vae: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device that holds model, K/V and activations of a clip, but not the VAE and its work as well."""
    import comfy.model_management

    memory, settings = part("nodes.host.memory"), part("nodes.host.settings")

    def make(frames: int, family: str = "self_forcing") -> Any:
        model = ar_model(family=family)
        row = settings.family_of(model)[0]
        shape = part("dummyforcing_core.geometry").LatentShape(1, 16, frames, 8, 8)
        needs = memory.needs_of(model, shape, part("dummyforcing_core.policies").own_policy(row), row, 0, 0, tiny_vae)
        total = (
            needs.weights
            + needs.fixed
            + tiny_vae.patcher.model_size()
            + comfy.model_management.extra_reserved_memory()
            - 1
        )
        monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda *args, **kwargs: total)
        return model

    return make


def test_decoding_waits_where_it_does_not_fit_beside_the_model(
    stream: Any, ar_model: Any, canvas: Any, tiny_vae: Any, scarce: Any, part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management

    latents, beside, report = stream(ar_model(), latent=canvas(9), vae=tiny_vae).outputs[:3]
    assert "decoding waits" not in report
    real, asked = comfy.model_management.load_models_gpu, []

    def load(models: Any, *args: Any, **kwargs: Any) -> None:
        asked.append([type(one.model).__name__ for one in models])
        real(models, *args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", load)
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(part("nodes.host.live").LiveView, "send", lambda self, **details: told.append(details))
    later_latents, later, report = stream(scarce(9), latent=canvas(9), vae=tiny_vae).outputs[:3]
    assert torch.equal(latents["samples"], later_latents["samples"])
    assert torch.equal(*(videos[0].get_components().images for videos in (beside, later)))
    assert "note: decoding waits for the last chunk" in report
    assert [one["decoding"] for one in told if "decoding" in one] == [1, 2, 3]
    assert told[-1] == {"running": False, "outcome": "done", "kept": True}
    waited = float(re.search(r"first frame after +([\d.]+)", report)[1])
    assert waited > float(re.search(r"^diffusion +([\d.]+)", report, re.M)[1])
    assert "WanVAE" not in asked[0] and asked[-1] == ["WanVAE"]
    decode_ms = re.findall(r"^ +\d+ +\d+\.\.\d+ +[\d.]+ +[\d.]+ +([\d.]+) ", report, re.M)
    assert len(decode_ms) == 3 and all(float(ms) > 0 for ms in decode_ms)


def test_a_chunk_is_decoded_at_a_time_however_many_are_denoised_together(
    ar_model: Any, tiny_vae: Any, part: Any
) -> None:
    memory, settings = part("nodes.host.memory"), part("nodes.host.settings")
    shape = part("dummyforcing_core.geometry").LatentShape(1, 16, 21, 8, 8)
    needs = {}
    for name in ("self_forcing", "rolling_forcing"):
        model = ar_model(family=name)
        row = settings.family_of(model)[0]
        needs[name] = memory.needs_of(
            model, shape, part("dummyforcing_core.policies").own_policy(row), row, 0, 0, tiny_vae
        )
    assert needs["rolling_forcing"].decode == needs["self_forcing"].decode > 0
    assert needs["rolling_forcing"].activations == pytest.approx(
        5 * needs["self_forcing"].activations, abs=5
    )  # of whole bytes


def test_a_loop_that_needs_the_vae_meanwhile_does_not_wait(
    stream: Any, canvas: Any, tiny_vae: Any, scarce: Any
) -> None:
    report = stream(scarce(9, "krea_realtime"), latent=canvas(9), vae=tiny_vae).outputs[2]
    assert "decoding waits" not in report


def test_finishing_early_decodes_what_there_is(
    stream: Any, canvas: Any, tiny_vae: Any, scarce: Any, part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = part("nodes.host.live").LiveView
    real = view.chunk

    def chunk(self: Any, result: Any, pixels: Any) -> None:
        real(self, result, pixels)
        assert len(pixels) and not self.kept  # a rough preview, nothing on disk
        self.finish_asked.set()

    monkeypatch.setattr(view, "chunk", chunk)
    latents, videos, report = stream(scarce(12), latent=canvas(12), vae=tiny_vae).outputs[:3]
    assert latents["samples"].shape[2] == 3 and videos[0].get_components().images.shape[0] == 9
    assert "ended early after 1 of 4" in report


@pytest.mark.parametrize("policy", ["family", "narrow", "dummies", "by change", "forcing"])
def test_every_alternative_that_is_named_is_smaller_and_true(call: Any, ar_model: Any, part: Any, policy: str) -> None:
    memory = part("nodes.host.memory")
    policies, row = (
        part("dummyforcing_core.policies"),
        part("dummyforcing_core.models.families").get_family("self_forcing"),
    )
    geometry = part("dummyforcing_core.models.denoiser").ModelGeometry(
        30, 12, 128, 16, torch.device("cpu"), torch.bfloat16
    )
    shape = part("dummyforcing_core.geometry").LatentShape(1, 16, 81, 136, 240)
    chosen = {
        "family": part("dummyforcing_core.policies").own_policy(row),
        "narrow": policies.SlidingWindow(4, 1),
        "dummies": policies.DummyForcing(),
        "by change": policies.DummyForcing(cost="output_change"),
        "forcing": policies.HeadForcing(),
    }[policy]
    now = memory.kv_bytes(geometry, shape, chosen, row)
    text = memory.advice(geometry, shape, chosen, row)
    said = [float(x) for x in re.findall(r": ([\d.]+) GiB", text)]
    assert said and all(size <= now / 2**30 + 0.005 for size in said) and said == sorted(said, reverse=True)
    if policy == "family":
        window = re.search(r"window (\d+) and sink (\d+): ([\d.]+) GiB", text)
        frames, sink, size = int(window[1]), int(window[2]), float(window[3])
        really = memory.kv_bytes(geometry, shape, policies.SlidingWindow(frames, sink), row)
        assert abs(really / 2**30 - size) < 0.01
        assert (
            now == 2 * 31 * 12 * 128 * 2 * (68 * 120) * 21
        )  # K and V, layers + 1, heads, channels, bf16, tokens, frames


def test_the_real_models_figures(part: Any) -> None:
    """Self-Forcing 1.3B at 832x480: 0.27 GiB of K and V in bf16 for every latent frame of its window."""
    memory = part("nodes.host.memory")
    row = part("dummyforcing_core.models.families").get_family("self_forcing")
    geometry = part("dummyforcing_core.models.denoiser").ModelGeometry(
        30, 12, 128, 16, torch.device("cpu"), torch.bfloat16
    )
    shape = part("dummyforcing_core.geometry").LatentShape(1, 16, 21, 60, 104)
    dense = memory.kv_bytes(geometry, shape, part("dummyforcing_core.policies").own_policy(row), row)
    assert dense == 2 * (30 + 1) * 1560 * 1536 * 2 * 21  # and one layer more, for a re-packing
    assert 5.7 < dense / 2**30 < 5.9


def test_the_predicted_line_of_the_report_adds_up(stream: Any, ar_model: Any, part: Any, canvas: Any) -> None:
    needs = part("nodes.host.memory").Needs(weights=2**30, kv=3 * 2**30, activations=2**29, decode=2**31)
    assert needs.fixed == 5 * 2**30
    assert str(needs) == "weights 1.00, K/V 3.00, activations 0.50, decode 2.00 GiB"
