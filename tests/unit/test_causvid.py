"""CausVid on the ordinary loop: timesteps that are not its noise levels, all frames up to 21, its own container.

Facts: tianweiy/CausVid, configs/wan_causal_dmd.yaml and the scheduler it looks noise levels up in.
"""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dummyforcing_core.errors import CheckpointError
from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.kv.attention import attention, reference
from dummyforcing_core.kv.rope import apply_rope, rope_table
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models import denoiser as denoiser_module
from dummyforcing_core.models.checkpoints import load_model
from dummyforcing_core.models.denoiser import Step, WanDenoiser
from dummyforcing_core.models.families import Family, get_family
from dummyforcing_core.models.wan import CausalWan, WanConfig, forward, text_kv
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import Full, Policy
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule

CAUSVID = get_family("causvid")
WARPED = replace(CAUSVID, name="causvid_4step", steps=(1000, 750, 500, 250), warped=True)
TIMESTEPS = [1000.0, 757.0, 522.0]
SIGMAS = [1.0, 0.756757, 0.521739]
PROMPTS = PromptSchedule.constant(torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(1)))


def tiny_model() -> CausalWan:
    torch.manual_seed(0)
    model = CausalWan(WanConfig(dim=64, ffn_dim=64, num_heads=2, num_layers=2, text_dim=8, freq_dim=256))
    with torch.no_grad():
        for block in model.blocks:
            block.modulation.mul_(8)
    return model.requires_grad_(False)


MODEL = tiny_model()


class Noting(WanDenoiser):
    """Notes of every call: its first frame, its noise level, and the frames that every head holds."""

    def __init__(self) -> None:
        super().__init__(MODEL)
        self.calls: list[tuple[int, float, list[int]]] = []

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        held = [step.cache.export(layer, head)[0] for layer in range(2) for head in range(2)]
        assert held == [held[0]] * 4
        assert len(sigma.unique()) == 1
        self.calls.append((step.cache.query_frames.start, float(sigma[0, 0]), held[0]))
        return super().__call__(x, sigma, context, step)


def sample(frames: int, policy: Policy, family: Family = CAUSVID) -> tuple[Tensor, Noting]:
    denoise, shape = Noting(), LatentShape(1, 16, frames, 2, 4)
    noise = SeededNoise(0, shape, 3)
    chunks = rollout(Run(denoise, shape, family.schedule, PROMPTS, policy, family, noise))
    return torch.cat([chunk.latent for chunk in chunks], 2), denoise


# -- levels ----------------------------------------------------------------------------------------------------------


def nearest(timesteps: list[float], shift: float) -> list[float]:
    """Noise levels as the public scheduler finds them: the entry of a float32 table nearest to each timestep."""
    u = np.linspace(1, 0, 1001, dtype=np.float32)[:-1]
    table = np.float32(shift) * u / (1 + (np.float32(shift) - 1) * u)
    return [float(table[np.abs(1000 * table - t).argmin()]) for t in timesteps]


def test_noise_levels_and_timesteps_of_the_released_model() -> None:
    schedule = CAUSVID.schedule
    assert schedule.sigmas == pytest.approx(nearest(TIMESTEPS, 8.0), abs=2e-7)
    assert schedule.sigmas == pytest.approx(SIGMAS, abs=1e-6)
    assert schedule.sigmas == pytest.approx([1.0, 8 * 0.28 / 2.96, 8 * 0.12 / 1.84], abs=1e-6)  # u = 1, .28, .12
    assert schedule.context_noise == 0
    assert all(abs(t - 1000 * s) > 0.2 for t, s in zip(TIMESTEPS[1:], schedule.sigmas[1:], strict=True))


def test_noise_levels_of_the_warped_four_step_model() -> None:
    schedule = WARPED.schedule
    assert schedule.sigmas == pytest.approx([1, 0.96, 8 / 9, 8 / 11], abs=1e-7)
    assert schedule.sigmas == pytest.approx(nearest([1000, 960, 888.889, 727.2727], 8.0), abs=2e-7)
    assert schedule.timesteps is None
    assert schedule.timesteps_of(first=False) == pytest.approx([1000 * level for level in schedule.sigmas], rel=1e-6)


@pytest.mark.parametrize(
    "family, timesteps",
    [(CAUSVID, TIMESTEPS), (WARPED, [1000.0, 960.0, 888.889, 727.2727])],
    ids=["3 steps", "4 steps, warped"],
)
def test_what_the_time_embedding_is_given(
    family: Family, timesteps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number that goes into the sinusoid, in every call; whole timesteps arrive exactly."""
    seen: list[Tensor] = []
    original = denoiser_module.time_embedding

    def listening(model, timesteps, *where):
        seen.append(timesteps)
        return original(model, timesteps, *where)

    class Forgetful(WanDenoiser):
        def _time_of(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
            self._time.clear()
            return super()._time_of(sigma)

    monkeypatch.setattr(denoiser_module, "time_embedding", listening)
    shape = LatentShape(1, 16, 6, 2, 4)
    noise = SeededNoise(0, shape, 3)
    list(rollout(Run(Forgetful(MODEL), shape, family.schedule, PROMPTS, Full(), family, noise)))
    assert all(tuple(t.shape) == (1, 3) and len(t.unique()) == 1 for t in seen)
    numbers = [float(t[0, 0]) for t in seen]
    assert numbers == pytest.approx([*timesteps, 0.0] * 2, abs=1e-3)
    if family is CAUSVID:
        assert numbers == [*timesteps, 0.0] * 2


class Alone:
    """Self-attention of a pass that sees itself only, at positions from 0 on."""

    attend = staticmethod(attention)

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        raise AssertionError

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        table = rope_table(range(3), 1, 2, 32)
        return reference(apply_rope(q, *table), apply_rope(k, *table), v)


def first_chunk(timesteps: list[float]) -> Tensor:
    """Written out: x0 = x - sigma v, where v was given t; then (1 - sigma') x0 + sigma' noise."""
    noise, span = SeededNoise(0, LatentShape(1, 16, 3, 2, 4), 3), Span(0, 0, 3)
    x, text = noise(0, span), text_kv(MODEL, PROMPTS.at(0))
    for step, (sigma, t) in enumerate(zip(nearest(TIMESTEPS, 8.0), timesteps, strict=True)):
        if step:
            x = (1 - sigma) * x + sigma * noise(step, span)
        v = forward(MODEL, x, torch.full((1, 3), t), text, Alone())
        assert v is not None
        x = x - sigma * v
    return x


def test_the_first_chunk_written_out() -> None:
    latent, _ = sample(3, Full())
    torch.testing.assert_close(latent, first_chunk(TIMESTEPS), rtol=0, atol=1e-4)
    confused = first_chunk([1000 * sigma for sigma in SIGMAS])
    assert float((latent - confused).abs().max()) > 1e-3, "the model cannot tell 757 from 756.757"


# -- what is seen ----------------------------------------------------------------------------------------------------


def test_every_chunk_sees_all_frames_up_to_21() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, denoise = sample(21, Full())
    levels = [*SIGMAS, 0.0]
    assert [(start, level) for start, level, _ in denoise.calls] == [
        (start, pytest.approx(level, abs=1e-6)) for start in range(0, 21, 3) for level in levels
    ]
    assert all(held == list(range(start)) for start, _, held in denoise.calls)


# -- the file --------------------------------------------------------------------------------------------------------


def states() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = WanConfig(dim=256, ffn_dim=64, num_heads=2, num_layers=2, text_dim=32, freq_dim=16)
        made.append({f"model.{name}": tensor for name, tensor in CausalWan(config).state_dict().items()})
    return made[0], made[1]


@pytest.mark.parametrize("order", [("generator", "critic"), ("critic", "generator"), ("generator_ema", "generator")])
def test_its_container_loads(tmp_path: Path, order: tuple[str, str]) -> None:
    """model.pt holds the generator, and beside it what training needed."""
    generator, other = states()
    path = tmp_path / "model.pt"
    torch.save({name: generator if name == "generator" else other for name in order}, path)
    loaded = load_model(path, "causvid")
    assert loaded.info.container == "generator"
    assert loaded.family.schedule == Schedule.from_timesteps((1000, 757, 522), 8.0)
    assert {f"model.{name}" for name in loaded.model.state_dict()} == set(generator)
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, generator[f"model.{name}"])


def test_a_file_of_the_critic_alone_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"critic": states()[0]}, path)
    with pytest.raises(CheckpointError, match="critic") as refused:
        load_model(path, "causvid")
    assert "\n" not in str(refused.value)
