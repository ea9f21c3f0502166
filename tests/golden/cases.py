"""How each kind of golden case is replayed, and how close it must come."""

import json
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.models import wan
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.models.rope import apply_rope, rope_table
from dummyforcing_core.policies import Full, Policy, SlidingWindow
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.rollout import ChunkResult, rollout
from dummyforcing_core.schedule import Schedule, add_noise, nearest_sigma, sigma_table, x0_from_velocity


@dataclass
class Errors:
    """Largest absolute difference per tensor, each against its own limit."""

    by_tensor: dict[str, float] = field(default_factory=dict)
    ok: bool = True

    def check(self, name: str, ours: Tensor, theirs: Tensor, limit: float) -> None:
        if ours.shape != theirs.shape:
            raise AssertionError(f"{name}: our shape {tuple(ours.shape)}, recorded {tuple(theirs.shape)}")
        error = float((ours.double() - theirs.double()).abs().max())
        self.by_tensor[name] = error
        self.ok &= error <= limit  # NaN fails

    @property
    def worst(self) -> float:
        return max(self.by_tensor.values())


@dataclass
class Directory:
    """A folder of golden data: cases, and the weights, text and noise they share."""

    path: Path

    def cases(self) -> list[str]:
        found = [p.stem for p in sorted(self.path.glob("*.json")) if p.with_suffix(".safetensors").exists()]
        return [stem for stem in found if "case" in self.document(stem)]

    def document(self, case: str) -> dict:
        return json.loads((self.path / f"{case}.json").read_text(encoding="utf-8"))

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.path / f"{Path(name).stem}.safetensors")

    def noise(self, params: dict, part: str) -> Tensor:
        return self.tensors(params["noise_file"])[part].float()

    def text(self, name: str) -> Tensor:
        return self.tensors("text")[name.split()[0]].float()

    @cached_property
    def model(self) -> wan.CausalWan:
        geometry = self.document("weights")["model"]
        names = wan.WanConfig.__dataclass_fields__
        config = wan.WanConfig(**{k: tuple(v) if k == "patch_size" else v for k, v in geometry.items() if k in names})
        model = wan.CausalWan(config)
        model.load_state_dict({k: v.float() for k, v in self.tensors("weights").items()})
        return model.eval()


class Recorder(WanDenoiser):
    """Keeps every velocity; runs the clean passes of the first chunk to their end so that they can be compared."""

    def __init__(self, model: wan.CausalWan):
        super().__init__(model)
        self.calls: list[tuple[int, Tensor | None]] = []

    def velocity(self, x, sigma, context, cache, output=True):
        start = cache.pass_frames.start
        velocity = super().velocity(x, sigma, context, cache, output or start == 0)
        self.calls.append((start, velocity))
        return velocity

    def of_chunk(self, start: int) -> list[Tensor]:
        return [velocity for at, velocity in self.calls if at == start and velocity is not None]


def _policy(params: dict) -> Policy:
    window = params.get("local_attn_size_frames", -1)
    return Full() if window < 0 else SlidingWindow(window, params.get("sink_size_frames", 0))


def _family(chunk_frames: int) -> Family:
    return Family("golden", "golden weights", "recorded", chunk_frames=chunk_frames, trained_frames=10**6)


def _run(denoiser: Recorder, latent_frames: int, grid: list[int], chunk: int, **kwargs) -> list[ChunkResult]:
    shape = LatentShape(1, 16, latent_frames, *grid)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return list(rollout(denoiser, shape, family=_family(chunk), **kwargs))


def block_loop(directory: Directory, case: str) -> Errors:
    """A, B, C: the few-step block loop on recorded noise. Recorded layout (B, T, C, h, w)."""
    params, recorded, errors = directory.document(case)["params"], directory.tensors(case), Errors()
    init, renoise = directory.noise(params, "init"), directory.noise(params, "renoise")

    def noise(step: int, span: Span) -> Tensor:
        if step == 0:
            return init[:, span.start : span.stop].transpose(1, 2)
        return renoise[span.chunk, step - 1].transpose(1, 2)

    denoiser = Recorder(directory.model)
    name = params.get("text") or params["text_segments"][0]
    chunk = params.get("num_frame_per_block", 3)
    chunks = _run(
        denoiser,
        params["num_blocks"] * chunk,
        params["grid_hw_latent"],
        chunk,
        schedule=Schedule.few_step(params["denoising_step_list"], params["shift"]),
        prompts=PromptSchedule.constant(directory.text(name)),
        policy=_policy(params),
        noise=noise,
    )
    latents = torch.cat([c.latent for c in chunks], dim=2).transpose(1, 2)
    errors.check("latents", latents, recorded["latents"], 5e-5)
    first = [denoiser.of_chunk(c.span.start)[0].transpose(1, 2) for c in chunks]
    errors.check("flow_first_forward", torch.stack(first), recorded["flow_first_forward"], 5e-5)
    if "flow_all_block0" in recorded:
        block0 = torch.stack([v[0].transpose(0, 1) for v in denoiser.of_chunk(0)])
        errors.check("flow_all_block0", block0, recorded["flow_all_block0"].squeeze(1), 5e-5)
    if "x0_first_forward" in recorded:
        count = len(recorded["x0_first_forward"])
        x0 = torch.stack([init[:, c.span.start : c.span.stop] - v for c, v in zip(chunks, first, strict=True)])
        errors.check("x0_first_forward", x0[:count], recorded["x0_first_forward"], 5e-5)
    return errors


def comfy_loop(directory: Directory, case: str) -> Errors:
    """G: the host's ar_video sampler. Recorded layout (B, C, T, h, w), output in the user-facing latent space."""
    params, recorded, errors = directory.document(case)["params"], directory.tensors(case), Errors()
    init = directory.noise(params, "init")
    mean, std = (torch.tensor(params[f"latent_{part}"]).view(1, -1, 1, 1, 1) for part in ("mean", "std"))
    given = params["initial_latent_frames"]
    start = (recorded["initial_latent"] - mean) / std if given else None
    renoise = [recorded[name] for name in sorted(recorded) if name.startswith("renoise_")]
    steps = len(params["sigmas"]) - 1

    def noise(step: int, span: Span) -> Tensor:
        if step == 0:
            return init[:, span.start : span.stop].transpose(1, 2)
        generated = span.chunk - (1 if given else 0)
        return renoise[generated * (steps - 1) + step - 1]

    denoiser = Recorder(directory.model)
    chunks = _run(
        denoiser,
        params["frames"],
        params["grid_hw_latent"],
        params["num_frame_per_block"],
        schedule=Schedule(tuple(params["sigmas"][:-1])),
        prompts=PromptSchedule.constant(directory.text(params["text"])),
        policy=Full(),
        noise=noise,
        start=start,
    )
    output = torch.cat([c.latent for c in chunks], dim=2) * std + mean
    errors.check("output", output, recorded["output"], 1e-4)
    generated = [c for c in chunks if not c.span.given]
    for i, c in enumerate(generated):
        errors.check(f"flow_first_block{i}", denoiser.of_chunk(c.span.start)[0], recorded[f"flow_first_block{i}"], 5e-5)
    return errors


def constants(directory: Directory, case: str) -> Errors:
    """I: schedule, noise formulas, time embedding, rotary tables."""
    params, r, errors = directory.document(case)["params"], directory.tensors(case), Errors()
    table = sigma_table(params["shift"], params["table"])
    errors.check("sigmas", table, r["sigmas"], 1e-6)
    errors.check("timesteps", table * 1000, r["timesteps"], 1e-3)
    warped = torch.tensor([1000 * s for s in Schedule.few_step(shift=params["shift"]).sigmas])
    errors.check("warped_timesteps", warped, r["warped_timesteps"], 1e-3)
    sigma = nearest_sigma(r["probe_timesteps"], table)
    errors.check("probe_sigmas", sigma, r["probe_sigmas"], 1e-6)
    clean, noise, flow = (r[name].unsqueeze(2) for name in ("clean", "noise", "flow"))
    noisy = add_noise(clean, noise, sigma[:, None])
    errors.check("add_noise", noisy.squeeze(2), r["add_noise"], 2e-6)
    x0 = x0_from_velocity(clean, flow, sigma[:, None])
    errors.check("x0_from_flow", x0.squeeze(2), r["x0_from_flow"], 2e-6)
    width = r["time_sinusoid"].shape[-1]
    errors.check("time_sinusoid", wan.sinusoid(r["probe_timesteps"], width), r["time_sinusoid"], 1e-6)
    e, e0 = wan.time_embedding(directory.model, r["probe_timesteps"][None])
    errors.check("time_embedding_out", e[0], r["time_embedding_out"], 5e-6)
    errors.check("time_projection_out", e0[0], r["time_projection_out"], 5e-6)
    frames, rows, cols = params["rope_grid_fhw"]
    for start in params["rope_starts"]:
        tables = rope_table(range(start, start + frames), rows, cols, r["rope_q"].shape[-1])
        errors.check(f"rope_out_start{start}", apply_rope(r["rope_q"], *tables), r[f"rope_out_start{start}"], 2e-6)
    return errors
