"""What stock nodes put on a MODEL: in force in a stream, refused in one line, or told in the report; never silent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stock_nodes import known, small_inputs, stock_nodes

PROMPT = "a red circle on the left moving sideways"
LEVELS = torch.tensor([1.0, 0.97, 0.6, 0.0])
COMPILES = "TorchCompileModel"
"""Takes a compiler and its time; see test_nodes_other_patches.py."""


@pytest.fixture(scope="module")
def demo(call: Any) -> tuple[Any, Any, Any]:
    """MODEL, CLIP, VAE."""
    return call("DummyForcingLoadDemoModel").outputs


@pytest.fixture(scope="module")
def prompt(call: Any, demo: Any) -> Any:
    return call("CLIPTextEncode", clip=demo[1], text=PROMPT).outputs[0]


@pytest.fixture
def given(call: Any, demo: Any, prompt: Any) -> dict[str, Any]:
    """A small value for each kind of socket, and another model to merge with."""
    draw = torch.Generator().manual_seed(0)
    return {
        "MODEL": demo[0],
        "model2": call("ModelMergeAdd", model1=demo[0], model2=demo[0]).outputs[0],
        "CLIP": demo[1],
        "VAE": demo[2],
        "CONDITIONING": prompt,
        "IMAGE": torch.rand(1, 64, 64, 3, generator=draw),
        "MASK": torch.ones(1, 64, 64),
        "LATENT": {"samples": torch.randn(1, 16, 2, 8, 8, generator=draw)},
        "LATENT_OPERATION": lambda latent, **_: latent * 0.9,
    }


@pytest.fixture
def streamed(stream: Any, prompt: Any) -> Any:
    """``streamed(model)``: latents and notes of the demo's clip, 7 latent frames in three chunks."""

    def run(model: Any, **inputs: Any) -> tuple[torch.Tensor, list[str]]:
        done = stream(model, **{"conditioning": prompt, **inputs})
        lines = [line for line in done.outputs[2].splitlines() if line.startswith("note: ") and "no VAE" not in line]
        return done.outputs[0]["samples"], lines

    return run


@pytest.fixture
def sampled(call: Any, custom: Any, prompt: Any, canvas: Any) -> Any:
    """``sampled(model)``: latents of the host's own sampler, which knows nothing of chunks."""
    euler = call("KSamplerSelect", sampler_name="euler").outputs[0]
    return lambda model: custom(model, euler, LEVELS, canvas(3), cond=prompt)


def outcome(run: Any, model: Any) -> Any:
    try:
        return run(model)
    except Exception as error:
        return error


def test_no_stock_node_is_silently_without_effect(
    part: Any, call: Any, demo: Any, given: Any, streamed: Any, sampled: Any, canvas: Any
) -> None:
    own: type[Exception] = part("dummyforcing_core.errors").DummyForcingError
    two_chunks = canvas(4)
    plain, stock = streamed(demo[0], latent=two_chunks)[0], sampled(demo[0])
    seen: dict[str, str] = {}
    wrong: list[str] = []
    for name in stock_nodes("MODEL", "MODEL"):
        if name == COMPILES:
            continue
        patched = outcome(lambda _, name=name: call(name, **small_inputs(name, given)).outputs[0], None)
        if isinstance(patched, Exception):  # it refuses this kind of model, or wants a file
            continue
        theirs, ours = outcome(sampled, patched), outcome(lambda model: streamed(model, latent=two_chunks), patched)
        effect = not isinstance(theirs, Exception) and not torch.equal(theirs, stock)
        if isinstance(ours, own):
            seen[name] = "refused"
            fine = "\n" not in str(ours) and len(str(ours)) < 300
        elif isinstance(ours, Exception):
            fine = type(ours) is type(theirs)  # it breaks the host's own sampler in the same way
        else:
            seen[name] = "told" if ours[1] else "in force" if not torch.equal(ours[0], plain) else "nothing"
            fine = not (effect and seen[name] == "nothing")
        if not fine:
            wrong.append(f"{name}: {ours!r}; in the host's own sampler {theirs!r}")
    assert not wrong, "\n".join(wrong)
    expected = {
        "EasyCache": "refused",
        "LazyCache": "refused",
        "ContextWindowsManual": "refused",
        "WanContextWindowsManual": "refused",
        "ARVideoI2V": "refused",
        "APG": "refused",
        "PerpNeg": "refused",
        "RescaleCFG": "refused",
        "PerturbedAttentionGuidance": "refused",
        "ModelSamplingDiscrete": "refused",
        "ModelSamplingSD3": "told",
        "NAGuidance": "told",
        "ScaleROPE": "told",
        "TomePatchModel": "told",
        "ModelMergeAdd": "in force",
        "ModelMergeSubtract": "in force",
        "Epsilon Scaling": "in force",
        "TemporalScoreRescaling": "in force",
    }
    assert {name: seen.get(name) for name in expected} == expected


def test_no_stock_node_puts_something_on_a_prompt_in_silence(
    part: Any, call: Any, demo: Any, given: Any, prompt: Any, streamed: Any, custom: Any, canvas: Any
) -> None:
    own: type[Exception] = part("dummyforcing_core.errors").DummyForcingError
    other = call("CLIPTextEncode", clip=demo[1], text="a blue square").outputs[0]
    values = {**given, "conditioning_from": other, "conditioning_2": other}
    euler = call("KSamplerSelect", sampler_name="euler").outputs[0]

    def sampled(text: Any) -> torch.Tensor:
        return custom(demo[0], euler, LEVELS, canvas(3), cond=text)

    def stream_of(text: Any) -> tuple[torch.Tensor, list[str]]:
        return streamed(demo[0], conditioning=text, latent=canvas(3))

    plain, stock = stream_of(prompt)[0], sampled(prompt)
    tried, wrong = set(), []
    for name in stock_nodes("CONDITIONING", "CONDITIONING"):
        changed = outcome(lambda _, name=name: call(name, **small_inputs(name, values)).outputs[0], None)
        if isinstance(changed, Exception):  # it wants another VAE, a file, or what a mock is not
            continue
        tried.add(name)
        theirs, ours = outcome(sampled, changed), outcome(stream_of, changed)
        effect = not isinstance(theirs, Exception) and not torch.equal(theirs, stock)
        if isinstance(ours, Exception):
            fine = isinstance(ours, own) or type(ours) is type(theirs)
        else:
            fine = bool(ours[1]) or not torch.equal(ours[0], plain) or not effect
        if not fine:
            wrong.append(f"{name}: {ours!r}; in the host's own sampler {theirs!r}")
    assert not wrong, "\n".join(wrong)
    assert {
        "ConditioningConcat",
        "ConditioningSetMask",
        "FluxGuidance",
        "WanVaceToVideo",
    } <= tried


@pytest.mark.parametrize(
    ("node", "inputs", "words"),
    [
        ("EasyCache", {}, ("EasyCache", "TeaCache (AR)")),
        ("LazyCache", {}, ("LazyCache", "TeaCache (AR)")),
        ("ContextWindowsManual", {"context_length": 2, "context_overlap": 1, "dim": 2}, ("Apply Cache Window",)),
        ("APG", {}, ("guidance", "take it out")),
        ("ModelSamplingDiscrete", {"sampling": "eps"}, ("another kind of model", "take it out")),
    ],
)
def test_what_would_spoil_a_stream_is_refused_before_the_model_is_called(
    call: Any, demo: Any, custom: Any, ours: Any, canvas: Any, streamed: Any, prompt: Any, refused: Any,
    model_calls: list, node: str, inputs: dict[str, Any], words: tuple[str, ...],
) -> None:  # fmt: skip
    patched = call(node, model=demo[0], **inputs).outputs[0]
    refused(lambda: streamed(patched), "the MODEL carries", *words)
    refused(lambda: custom(patched, ours, LEVELS, canvas(3), cond=prompt), "the MODEL carries", *words)
    latent = {"conditioning": prompt, "latent": canvas(), "seed": 0}
    refused(lambda: call("DummyForcingProfileHeads", model=patched, chunks=4, **latent), *words)
    assert model_calls == []


def test_guidance_by_a_second_prediction_is_refused_at_the_first_step(
    call: Any, demo: Any, streamed: Any, refused: Any, model_calls: list
) -> None:
    layers = {"double_layers": "1", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0}
    for node, inputs in (("PerturbedAttentionGuidance", {}), ("SkipLayerGuidanceDiT", layers)):
        guided = call(node, model=demo[0], **inputs).outputs[0]
        refused(lambda guided=guided: streamed(guided), "second prediction in a step")
    assert len(model_calls) == 2


@pytest.mark.parametrize("cfg", [0.0, 3.0])
def test_a_cfg_that_is_overridden_is_refused_like_one_that_is_set(
    call: Any, demo: Any, streamed: Any, refused: Any, cfg: float
) -> None:
    late = call("CFGOverride", model=demo[0], cfg=cfg, start_percent=0.5, end_percent=1.0).outputs[0]
    refused(lambda: streamed(late), f"expected cfg 1, got {cfg:g}")
    one = call("CFGOverride", model=demo[0], cfg=1.0).outputs[0]
    torch.testing.assert_close(streamed(one)[0], streamed(demo[0])[0], rtol=0, atol=0)


def test_a_foreign_step_cache_is_refused_when_it_skips(demo: Any, streamed: Any, refused: Any) -> None:
    import comfy.patcher_extension

    model, calls = demo[0].clone(), []

    def skipping(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return torch.zeros_like(x) if len(calls) == 3 else executor(x, *args, **kwargs)

    # Before our own wrapper, which a run puts last.
    model.add_wrapper(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, skipping)
    refused(lambda: streamed(model), "skips steps in the model's place", "TeaCache (AR)")
    assert len(calls) == 3


def test_copies_for_several_gpus_are_refused(demo: Any, streamed: Any, refused: Any) -> None:
    model = demo[0].clone()
    model.set_additional_models("multigpu", [demo[0].clone()])
    refused(lambda: streamed(model), "MultiGPU CFG Split", "take it out")


def test_the_attention_that_is_chosen_is_the_one_that_runs(
    call: Any, demo: Any, streamed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known("ModelAttentionBackend")
    import comfy.ldm.modules.attention as attention

    seen: list[tuple[int, int]] = []
    pytorch = attention.REGISTERED_ATTENTION_FUNCTIONS["pytorch"]

    def counted(q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append((q.shape[1], k.shape[1]))
        return pytorch(q, k, *args, **kwargs)

    monkeypatch.setitem(attention.REGISTERED_ATTENTION_FUNCTIONS, "pytorch", counted)
    plain = streamed(demo[0])[0]
    assert seen == []
    chosen = call("ModelAttentionBackend", model=demo[0], attention="pytorch attention").outputs[0]
    torch.testing.assert_close(streamed(chosen)[0], plain, rtol=0, atol=1e-3)
    tokens = 16  # of a latent frame
    assert {(3 * tokens, 3 * tokens), (3 * tokens, 6 * tokens)} <= set(seen), "chunks attend to what came before"


@pytest.mark.parametrize("dummy", [False, True])
def test_devices_that_are_chosen(call: Any, demo: Any, streamed: Any, stream: Any, canvas: Any, dummy: bool) -> None:
    """On this machine there is one; the host's nodes make the copies that they would make for another."""
    import comfy.model_management

    model, clip, vae = demo
    if dummy:
        model = call("DummyForcingApplyDummyForcing", model=model).outputs[0]
    wanted = streamed(model)[0]
    text = call("CLIPTextEncode", clip=call("SelectCLIPDevice", clip=clip, device="cpu").outputs[0], text=PROMPT)
    for device in ("default", "cpu", "gpu:7"):
        chosen = call("SelectModelDevice", model=model, device=device).outputs[0]
        torch.testing.assert_close(streamed(chosen, conditioning=text.outputs[0])[0], wanted, rtol=0, atol=0)
    moved = model.deepclone_multigpu(comfy.model_management.get_torch_device())
    assert moved.model is not model.model
    torch.testing.assert_close(streamed(moved)[0], wanted, rtol=0, atol=0)
    chosen_vae = call("SelectVAEDevice", vae=vae, device="default").outputs[0]
    assert stream(moved, conditioning=text.outputs[0], vae=chosen_vae, latent=canvas(3)).outputs[1]


def test_levels_that_are_given_need_no_note_of_a_shift(call: Any, demo: Any, streamed: Any) -> None:
    shifted = call("ModelSamplingSD3", model=demo[0], shift=12.0).outputs[0]
    (note,) = streamed(shifted)[1]
    assert "a shift of its noise levels" in note and "SIGMAS" in note
    levels = call("BasicScheduler", model=shifted, scheduler="simple", steps=4, denoise=1.0).outputs[0]
    assert streamed(shifted, sigmas=levels)[1] == []


@pytest.mark.parametrize("node", ["StartLoop", "EndLoop", "BlockSparseAttention"])
def test_nodes_of_later_hosts_have_no_test_yet(node: str) -> None:
    """Loops as such are tested in ../test_loops.py. Where one of these is there, this fails until it has a test."""
    known(node)
    pytest.fail(f"this ComfyUI has {node}: combine it with a stream in a test of its own")
