"""Settings on a MODEL: clones only, in any order, never lost, never ignored by a sampler that does not know them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

SIGMAS = torch.tensor([1.0, 0.5, 0.0])
SETTINGS = {
    "dummies": ("DummyForcingApplyDummyForcing", {"dummy_ratio": 0.75}),
    "window": ("DummyForcingApplyCacheWindow", {"window": 5, "sink": 1}),
    "forcing": ("DummyForcingApplyHeadForcing", {"memory_ratio": 0.5}),
    "budget": ("DummyForcingApplyHeadBudget", {"budget": 2.0}),
    "tea": ("DummyForcingTeaCache", {"skip_steps": "2"}),
}


@pytest.fixture
def with_(call: Any) -> Any:
    """``with_(model, "tea", "window")``: the nodes of these settings, one after the other."""

    def apply(model: Any, *names: str) -> Any:
        for name in names:
            node, inputs = SETTINGS[name]
            model = call(node, model=model, **inputs).outputs[0]
        return model

    return apply


def options(model: Any) -> str:
    """All that a clone could share by mistake, as text."""
    return repr((model.model_options, {k: {n: len(w) for n, w in v.items()} for k, v in model.wrappers.items()}))


def test_no_node_changes_the_model_it_got(ar_model: Any, with_: Any, clip: Any, canvas: Any) -> None:
    long = {"latent": canvas(13)}  # heads are observed in the third chunk and then keep less
    model = ar_model()
    before, plain = options(model), clip(model, **long)
    branches = {name: with_(model, name) for name in SETTINGS}
    made = {name: clip(branch, **long) for name, branch in branches.items()}
    assert options(model) == before
    torch.testing.assert_close(clip(model, **long), plain, rtol=0, atol=0)
    kept = {name: options(branch) for name, branch in branches.items()}
    deeper = with_(branches["dummies"], "tea", "window")
    clip(deeper)
    assert {name: options(branch) for name, branch in branches.items()} == kept
    for name, branch in branches.items():
        torch.testing.assert_close(clip(branch, **long), made[name], rtol=0, atol=0)
    for one in made.values():
        assert (one - plain).abs().max() > 1e-3


def test_the_order_of_nodes_does_not_matter(ar_model: Any, with_: Any, clip: Any, part: Any) -> None:
    settings_of = part("nodes.host.settings").settings_of
    model = ar_model()
    one, other = with_(model, "tea", "dummies"), with_(model, "dummies", "tea")
    assert settings_of(one) == settings_of(other)
    torch.testing.assert_close(clip(one), clip(other), rtol=0, atol=0)


def test_the_last_policy_wins(ar_model: Any, with_: Any, part: Any) -> None:
    settings_of = part("nodes.host.settings").settings_of
    model = ar_model()
    for first, last in (("dummies", "window"), ("window", "dummies"), ("budget", "forcing"), ("forcing", "budget")):
        both, alone = (settings_of(with_(model, *names)) for names in ((first, last), (last,)))
        assert both.policy == alone.policy
        assert [note.startswith("replaced the settings of") for note in both.notes] == [True] and alone.notes == ()


def test_what_nobody_sets_is_as_the_policies_have_it(call: Any, ar_model: Any, part: Any) -> None:
    policies, settings_of = part("dummyforcing_core.policies"), part("nodes.host.settings").settings_of
    for node, own in (
        ("DummyForcingApplyHeadForcing", policies.HeadForcing()),
        ("DummyForcingApplyHeadBudget", policies.HeadBudget(budget_frames=4.0)),
        ("DummyForcingApplyDummyForcing", policies.DummyForcing()),
        ("DummyForcingApplyCacheWindow", policies.SlidingWindow(12, 3)),
    ):
        assert settings_of(call(node, model=ar_model()).outputs[0]).policy == own


def test_numbers_that_stand_for_nothing_said(call: Any, ar_model: Any, part: Any) -> None:
    settings_of = part("nodes.host.settings").settings_of

    def policy(node: str, **inputs: Any) -> Any:
        return settings_of(call(f"DummyForcing{node}", model=ar_model(), **inputs).outputs[0]).policy

    own, none = (policy("ApplyHeadForcing", novelty=n, observe_chunk=0) for n in (-1.0, 0.0))
    assert (own.novelty, own.observe_chunk) == (None, None)
    assert none.novelty == 0
    with pytest.raises(part("dummyforcing_core.errors").PlanError, match="observe_chunk of 2 or more, got 1"):
        policy("ApplyHeadForcing", observe_chunk=1)
    kept = [policy("ApplyCacheWindow", keep_at_switch=n, positions="end") for n in (-1, 0, 3)]
    assert [(one.switch_frames, one.positions) for one in kept] == [(None, "end"), (0, "end"), (3, "end")]
    budgets = [
        policy("ApplyHeadBudget", unit=unit, budget=2.0) for unit in ("frames per head", "GB of cache", "speed-up")
    ]
    told = [(one.budget_frames, one.budget_gb, one.speedup) for one in budgets]
    assert told == [(2, None, None), (None, 2, None), (None, None, 2)]


def test_settings_are_frozen_and_every_part_of_them_too(ar_model: Any, with_: Any, part: Any) -> None:
    settings = part("nodes.host.settings").settings_of(with_(ar_model(), "dummies", "tea"))
    for value, field in ((settings, "policy"), (settings.policy, "dummy_ratio"), (settings.family, "name")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field, None)
    assert isinstance(settings.notes, tuple) and isinstance(settings.steps, tuple)


def test_settings_survive_the_hosts_nodes(ar_model: Any, with_: Any, call: Any, part: Any, clip: Any) -> None:
    settings_of = part("nodes.host.settings").settings_of
    model = with_(ar_model(), "dummies", "tea")
    wanted = clip(model)
    for patched in (
        call("ModelSamplingSD3", model=model, shift=5.0).outputs[0],
        model.clone(),
        model.clone(disable_dynamic=True),
    ):
        assert settings_of(patched) == settings_of(model)
        torch.testing.assert_close(clip(patched), wanted, rtol=0, atol=1e-5)


def test_the_family_is_known_from_the_file_of_a_stock_loader(call: Any, files: Any, stream: Any, ar_model: Any) -> None:
    model = call("UNETLoader", unet_name="longlive_tiny.safetensors", weight_dtype="default").outputs[0]
    done = stream(model)
    report = " ".join(done.outputs[2].split())
    assert "longlive (the name of longlive_tiny.safetensors)" in report
    torch.testing.assert_close(
        done.outputs[0]["samples"], stream(ar_model("longlive")).outputs[0]["samples"], rtol=0, atol=0
    )


def run_ksampler(call: Any, model: Any, conditioning: Any, latent: Any) -> Any:
    return call(
        "KSampler",
        model=model, seed=1, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple",
        positive=conditioning(1), negative=conditioning(2), latent_image=latent, denoise=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_samplers_that_would_ignore_a_setting_refuse_it(
    call: Any, custom: Any, ar_model: Any, with_: Any, refused: Any, conditioning: Any, canvas: Any, setting: str,
    model_calls: list,
) -> None:  # fmt: skip
    model = with_(ar_model(), setting)
    euler = call("KSamplerSelect", sampler_name="euler").outputs[0]
    block = call("SamplerARVideo", num_frame_per_block=3).outputs[0]
    refused(lambda: run_ksampler(call, model, conditioning, canvas()), "Streaming Sampler")
    refused(lambda: custom(model, euler, SIGMAS), "Streaming Sampler")
    refused(lambda: custom(model, block, SIGMAS), "Streaming Sampler")
    refused(lambda: custom(model.clone(), block, SIGMAS), "Streaming Sampler")
    assert model_calls == []


def test_the_same_samplers_pass_without_a_setting(
    call: Any, custom: Any, ar_model: Any, tiny_model: Any, with_: Any, conditioning: Any, canvas: Any
) -> None:
    model = ar_model()
    with_(model, "dummies")  # a branch that must not reach this one
    block = call("SamplerARVideo", num_frame_per_block=3).outputs[0]
    assert custom(model, block, SIGMAS).isfinite().all()
    assert run_ksampler(call, tiny_model(), conditioning, canvas()).outputs[0]["samples"].isfinite().all()


def test_our_sampler_passes_with_settings_and_obeys_them(
    custom: Any, ours: Any, ar_model: Any, with_: Any, model_calls: list
) -> None:
    model = ar_model()
    plain = custom(model, ours, SIGMAS)
    count = len(model_calls)
    assert (custom(with_(model, "dummies"), ours, SIGMAS) - plain).abs().max() > 1e-3
    assert count == 3 * 3
    sigmas = torch.tensor([1.0, 0.9, 0.8, 0.0])
    skipped = custom(with_(model, "tea"), ours, sigmas)
    assert (skipped - custom(model, ours, sigmas)).abs().max() > 1e-3


def test_an_undefined_step_to_skip_is_told(call: Any, ar_model: Any, refused: Any, clip: Any) -> None:
    for text, wrong in (
        ("two", "two"),
        ("1,x", "x is no step"),
        ("1-", "1- is no step"),
        ("3-1", "3-1 is no step"),
        (",", "names none"),
    ):
        refused(lambda text=text: call("DummyForcingTeaCache", model=ar_model(), skip_steps=text), "2,3 or 1-3", wrong)
    for steps in ("0", "9"):
        model = call("DummyForcingTeaCache", model=ar_model(), skip_steps=steps).outputs[0]
        refused(lambda model=model: clip(model), steps)


@pytest.mark.parametrize("text, steps", [("2-3", (2, 3)), (" 1 - 3 ", (1, 2, 3)), ("2, 3", (2, 3)), ("3 1 1", (3, 1))])
def test_steps_to_skip_may_be_ranges(call: Any, ar_model: Any, part: Any, text: str, steps: tuple[int, ...]) -> None:
    model = call("DummyForcingTeaCache", model=ar_model(), skip_steps=text).outputs[0]
    assert part("nodes.host.settings").settings_of(model).steps == steps


def test_the_report_says_why_steps_are_skipped(call: Any, ar_model: Any, stream: Any) -> None:
    def told(model: Any, **inputs: Any) -> tuple[Any, str]:
        model = call("DummyForcingTeaCache", model=model, **inputs).outputs[0]
        return model, " ".join(stream(model).outputs[2].split())

    first, report = told(ar_model(), threshold=0.3)
    assert "(TeaCache, threshold 0.3)" in report and "replaced the settings" not in report
    second, report = told(first, threshold=0.7, skip_steps="1-2")
    assert "skipped steps 1, 2 (skip_steps; a threshold does not count)" in report
    assert "note: replaced the settings of another TeaCache: a MODEL carries one of them, the last counts" in report
    assert "another TeaCache" not in told(ar_model(), skip_steps="1-2")[1]
    window = call("DummyForcingApplyCacheWindow", model=second).outputs[0]
    assert "another TeaCache" in stream(window).outputs[2]
