"""Step caching: which steps TeaCache skips, what a skipped step computes, and what stays behind."""

import gc
import weakref
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from dummyforcing_core.errors import DummyForcingError
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.loops.clip_memory import replay
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import FAMILIES, Family
from dummyforcing_core.models.stepcache import COEFFICIENTS, NO_STEPS, StepCache, TeaCache
from dummyforcing_core.models.wan import CausalWan, Residual, WanConfig
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import Full
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule

SCHEDULE = Schedule((1.0, 0.8, 0.6, 0.4))
FAMILY = Family("tiny", "Tiny random model", "tests", trained_frames=10_000)
SHAPE = LatentShape(1, 16, 6, 4, 4)
PROMPTS = PromptSchedule.constant(torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0)))


# -- which steps -----------------------------------------------------------------------------------------------------


@dataclass
class Signals:
    """A denoiser whose time signals are given; counts how often it is asked."""

    values: dict[float, list[float]]
    layers: int = 2
    asked: int = 0

    @property
    def geometry(self) -> SimpleNamespace:
        return SimpleNamespace(layers=self.layers)

    def time_signal(self, timestep: float, modulation: bool) -> Tensor:
        self.asked += 1
        return torch.tensor(self.values[timestep]) + (0.0 if modulation else 100.0)


def signals(*levels: float, **more) -> Signals:
    timesteps = SCHEDULE.timesteps_of(first=False)
    return Signals({timestep: [level, -level] for timestep, level in zip(timesteps, levels, strict=True)}, **more)


CHANGES = signals(1.0, 1.5, 3.0, 3.75)  # relative changes .5, 1, .25


@pytest.mark.parametrize(
    ("threshold", "skipped"),
    [
        (0.0, set()),
        (0.4, {3}),
        (0.6, {1, 3}),  # .5 | 1.5 runs | .25
        (1.25, {1, 3}),
        (1.6, {1, 2}),  # .5, 1.5 | 1.75 runs
        (1.8, {1, 2, 3}),
        (1e9, {1, 2, 3}),  # never the first
    ],
)
def test_steps_are_skipped_while_the_accumulated_change_stays_under_the_threshold(threshold, skipped) -> None:
    assert TeaCache(threshold, coefficients=(1.0, 0.0)).pattern(CHANGES, SCHEDULE).skipped == skipped


def test_costs_are_the_relative_change_and_its_polynomial_highest_power_first() -> None:
    costs = TeaCache(coefficients=(2.0, -3.0, 0.5)).costs(CHANGES, SCHEDULE)
    assert costs == [pytest.approx((c, 2 * c**2 - 3 * c + 0.5)) for c in (0.5, 1.0, 0.25)]


def test_the_signal_is_the_modulation_or_the_time_embedding() -> None:
    e0, e = (TeaCache(0.1, signal, (1.0, 0.0)).costs(CHANGES, SCHEDULE)[0][0] for signal in ("e0", "e"))
    assert e0 == pytest.approx(0.5)
    assert e == pytest.approx(0.5 / 100)


@pytest.mark.parametrize(("layers", "size"), [(30, "1.3B"), (40, "14B"), (2, "1.3B")])
def test_the_published_polynomial_of_the_models_size_is_the_default(layers: int, size: str) -> None:
    denoise = signals(1.0, 1.1, 1.3, 1.4, layers=layers)
    for change, cost in TeaCache().costs(denoise, SCHEDULE):
        assert cost == pytest.approx(np.polyval(COEFFICIENTS[size, "e"], change))


@pytest.mark.parametrize("threshold", [0.0, 0.2, 1e9])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_first_step_is_never_skipped(threshold: float, steps: int) -> None:
    denoise = WanDenoiser(tiny_model())
    pattern = TeaCache(threshold).pattern(denoise, Schedule(SCHEDULE.sigmas[:steps]))
    assert 0 not in pattern.skipped
    assert pattern.skipped <= set(range(1, steps))


def test_a_threshold_of_zero_skips_nothing() -> None:
    assert TeaCache(0.0, coefficients=(1.0, 0.0)).pattern(signals(1.0, 1.0, 1.0, 1.0), SCHEDULE) == NO_STEPS
    assert TeaCache(0.0, coefficients=(1.0, 0.0)).pattern(CHANGES, SCHEDULE) == NO_STEPS


def falling_below_zero(layers: int) -> Signals:
    """The 1.3B set is negative for changes of 0.185 to 0.310, the 14B set below 0.129 and above 0.406."""
    change = {30: 1.25, 40: 1.05}[layers]
    return signals(1.0, change, change**2, change**3, layers=layers)


@pytest.mark.parametrize("layers", [30, 40])
def test_the_published_polynomials_are_negative_in_places(layers: int) -> None:
    assert all(cost < 0 for _, cost in TeaCache().costs(falling_below_zero(layers), SCHEDULE))


@pytest.mark.parametrize("layers", [30, 40])
def test_a_threshold_of_zero_skips_nothing_also_where_the_polynomial_is_negative(layers: int) -> None:
    assert TeaCache(0.0).pattern(falling_below_zero(layers), SCHEDULE) == NO_STEPS


@pytest.mark.parametrize("steps", [[], [1], [3, 1], [2, 2], [1, 2, 3]])
def test_an_explicit_list(steps: list[int]) -> None:
    assert StepCache.explicit(steps, SCHEDULE).skipped == set(steps)


@pytest.mark.parametrize("step", [0, 4, -1, 99])
def test_steps_that_cannot_be_skipped(step: int) -> None:
    with pytest.raises(DummyForcingError, match=f"expected steps to skip from 1 to 3, got {step};"):
        StepCache.explicit([1, step], SCHEDULE)


def test_one_step_leaves_none_to_skip() -> None:
    with pytest.raises(DummyForcingError, match="this family has one step: nothing can be skipped"):
        StepCache.explicit([1], FAMILIES["causal_forcing_1step"].schedule)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "threshold of 0 or more, got -0.1"),
        ({"threshold": NAN}, "threshold of 0 or more, got nan"),
        ({"threshold": INF}, "threshold of 0 or more, got inf"),
        ({"signal": "e1"}, "expected TeaCache signal e or e0, got 'e1'"),
        ({"signal": ""}, "expected TeaCache signal e or e0, got ''"),
        ({"coefficients": ()}, "coefficients that are finite numbers"),
        ({"coefficients": (1.0, NAN)}, "coefficients that are finite numbers"),
        ({"coefficients": (INF,)}, "coefficients that are finite numbers"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(DummyForcingError, match=message):
        TeaCache(**options)


# -- what a skipped step computes ------------------------------------------------------------------------------------


def tiny_model() -> CausalWan:
    torch.manual_seed(0)
    config = WanConfig(dim=64, ffn_dim=64, num_heads=2, num_layers=2, text_dim=8, freq_dim=16)
    return CausalWan(config).requires_grad_(False)


class Watched(WanDenoiser):
    """Notes of every call: the tokens after the patch embedding, those before the head, and whether blocks ran."""

    def __init__(self) -> None:
        super().__init__(tiny_model())
        self.calls: list[dict] = []
        self.asked = 0
        self.residuals: list[weakref.ref] = []
        self.model.patch_embedding.register_forward_hook(lambda m, i, out: self.note("before", out))
        self.model.head.norm.register_forward_pre_hook(lambda m, args: self.note("after", args[0]))
        self.model.blocks[0].norm1.register_forward_hook(lambda m, i, out: self.note("ran", torch.ones(())))

    def note(self, name: str, x: Tensor) -> None:
        self.now[name] = x.flatten(2).transpose(1, 2).clone() if name == "before" else x.clone()

    def __call__(self, x, sigma, context, step):
        self.now: dict = {"x": x, "sigma": float(sigma[0, 0]), "cache": weakref.ref(step.cache)}
        self.now["x0"] = super().__call__(x, sigma, context, step)
        self.calls.append(self.now)
        if step.residual is not None and step.residual.value is not None:
            self.residuals += [weakref.ref(step.residual), weakref.ref(step.residual.value)]
        return self.now["x0"]

    def time_signal(self, timestep, modulation):
        self.asked += 1
        return super().time_signal(timestep, modulation)


def sample(steps: StepCache, denoise: Watched | None = None):
    denoise = denoise or Watched()
    noise = SeededNoise(0, SHAPE, 3)
    return denoise, rollout(Run(denoise, SHAPE, SCHEDULE, PROMPTS, Full(), FAMILY, noise, steps=steps))


def head_output(model: CausalWan, tokens: Tensor, sigma: float) -> Tensor:
    """The velocity (1, 16, 3, 4, 4) that the model's head makes of tokens (1, 12, dim), written out."""
    e = model.time_embedding(embedded(1000 * sigma, model.freq_dim))
    shift, scale = (model.head.modulation + e[:, None]).unbind(1)
    mean, var = tokens.mean(-1, keepdim=True), tokens.var(-1, keepdim=True, unbiased=False)
    out = model.head.head((tokens - mean) / (var + model.head.norm.eps).sqrt() * (1 + scale) + shift)
    return out.view(1, 3, 2, 2, 2, 2, 16).permute(0, 6, 1, 2, 4, 3, 5).reshape(1, 16, 3, 4, 4)


def embedded(t: float, width: int) -> Tensor:
    angles = t / 10_000 ** (torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    return torch.cat([angles.cos(), angles.sin()]).float()[None]


@pytest.mark.parametrize("skipped", [[1], [3], [1, 2], [2, 3], [1, 3], [1, 2, 3]])
def test_a_skipped_step_adds_what_the_blocks_added_last(skipped: list[int]) -> None:
    denoise, chunks = sample(StepCache.explicit(skipped, SCHEDULE))
    assert len(list(chunks)) == 2
    for chunk in range(2):
        calls = denoise.calls[5 * chunk : 5 * chunk + 5]
        last = None
        for i, call in enumerate(calls[:4]):
            assert ("ran" in call) == (i not in skipped)
            if "ran" in call:
                last = call
            added = last["after"] - last["before"]
            torch.testing.assert_close(call["after"], call["before"] + added, rtol=1e-5, atol=1e-5)
            x0 = call["x"] - call["sigma"] * head_output(denoise.model, call["before"] + added, call["sigma"])
            torch.testing.assert_close(call["x0"], x0, rtol=1e-4, atol=1e-4)
        assert "ran" in calls[4]  # the clean pass
        assert calls[4]["sigma"] == 0


def test_skipping_changes_the_clip_and_an_empty_list_does_not() -> None:
    off, empty, some = (
        torch.cat([c.latent for c in sample(s)[1]], 2)
        for s in (NO_STEPS, StepCache.explicit([], SCHEDULE), StepCache.explicit([2], SCHEDULE))
    )
    assert torch.equal(empty, off)
    assert (some - off).norm() / off.norm() > 1e-3


def test_keys_and_values_come_from_the_clean_pass_alone() -> None:
    denoise, chunks = sample(StepCache.explicit([1, 3], SCHEDULE))
    done = []
    for chunk in chunks:
        done.append(chunk.latent)
        run = Run(WanDenoiser(denoise.model), SHAPE, SCHEDULE, PROMPTS, Full(), FAMILY, SeededNoise(0, SHAPE, 3))
        rebuilt = run.new_cache()
        cache = denoise.calls[-1]["cache"]()
        replay(run, rebuilt, torch.cat(done, 2))
        for layer in range(2):
            for head in range(2):
                ours, theirs = cache.export(layer, head), rebuilt.export(layer, head)
                assert ours[0] == theirs[0] == list(range(chunk.span.stop))
                assert all(torch.equal(a, b) for a, b in zip(ours[1:], theirs[1:], strict=True))


@pytest.mark.parametrize("stop_early", [False, True])
def test_no_residual_outlives_its_chunk(stop_early: bool) -> None:
    denoise, chunks = sample(StepCache.explicit([2], SCHEDULE))
    next(chunks)
    gc.collect()
    assert len(denoise.residuals) == 8
    assert all(ref() is None for ref in denoise.residuals)
    if stop_early:
        chunks.close()
    else:
        list(chunks)
    gc.collect()
    assert all(ref() is None for ref in denoise.residuals)


def test_no_residual_is_kept_where_no_step_is_skipped() -> None:
    denoise, chunks = sample(NO_STEPS)
    list(chunks)
    assert denoise.residuals == []


def test_the_pattern_is_computed_once_before_the_loop() -> None:
    denoise = Watched()
    pattern = TeaCache(1e9).pattern(denoise, SCHEDULE)
    assert denoise.asked == len(SCHEDULE)
    assert denoise.calls == []
    list(sample(pattern, denoise)[1])
    assert denoise.asked == len(SCHEDULE)
    assert [("ran" in call) for call in denoise.calls] == [True, False, False, False, True] * 2


def test_a_residual_is_empty_until_blocks_have_run() -> None:
    assert Residual() == Residual(None, False)
