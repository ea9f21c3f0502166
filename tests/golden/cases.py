"""How each kind of golden case is replayed, and how close it must come."""

import json
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan
from dummyforcing_core.kv.rope import apply_rope, rope_table
from dummyforcing_core.kv.scoring import HeadScores, region_mass
from dummyforcing_core.loops.rollout import ChunkResult, rollout
from dummyforcing_core.models import wan
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.models.stepcache import StepCache, TeaCache
from dummyforcing_core.policies import DummyForcing, Full, Policy, Setting, SlidingWindow
from dummyforcing_core.policies.head_programming import DUMMY, assign_roles, dummy_cost
from dummyforcing_core.prompts import PromptSchedule
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
        return load_file(self.path / f"{name.removesuffix('.safetensors')}.safetensors")

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
    """Runs every pass to its end and keeps its velocity; copies the cache's layer 1 right after a re-cache."""

    def __init__(self, model: wan.CausalWan, chunk_frames: int):
        super().__init__(model)
        self.calls: list[tuple[range, Tensor]] = []
        self.chunk_frames = chunk_frames
        self.recached: list[dict[str, dict[int, Tensor]]] = []
        self.cache: KVCache | None = None
        self._copy_layer1 = False

    def velocity(self, x, sigma, context, step):
        self.cache = step.cache
        if self._copy_layer1:
            self.recached.append(self._layer1())
        self._copy_layer1 = len(step.cache.query_frames) > self.chunk_frames
        velocity = super().velocity(x, sigma, context, replace(step, output=True))
        self.calls.append((step.cache.query_frames, velocity))
        return velocity

    def of_chunk(self, span: Span) -> list[Tensor]:
        return [velocity for frames, velocity in self.calls if frames == range(span.start, span.stop)]

    def recaches(self) -> list[Tensor]:
        return [velocity for frames, velocity in self.calls if len(frames) > self.chunk_frames]

    def _layer1(self) -> dict[str, dict[int, Tensor]]:
        """K and V by frame, (B, HW, H, D)."""
        held = [self.cache.export(1, head) for head in range(self.cache.plan.heads)]
        frames = held[0][0]
        tokens = self.cache.shape.frame_tokens
        stacked = {name: torch.stack([h[i] for h in held], dim=2) for i, name in ((1, "k"), (2, "v"))}
        return {
            name: {f: x[:, i * tokens : (i + 1) * tokens] for i, f in enumerate(frames)} for name, x in stacked.items()
        }


class FrameMass:
    """Softmax mass per frame of K in temporal order, on every query row and on the recorded rows."""

    def __init__(self, setting: Setting, rows: Tensor):
        self.rows = rows
        self.exact: list[list] = [[None] * setting.heads for _ in range(setting.layers)]
        self.sampled: list[list] = [[None] * setting.heads for _ in range(setting.layers)]

    def __call__(self, layer, heads, q, k, regions):
        slots = []
        for region in regions:
            tokens = (region.stop_token - region.start_token) // max(len(region.frames), 1)
            starts = range(region.start_token, region.stop_token, max(tokens, 1))
            slots += [(frame, (start, start + tokens)) for frame, start in zip(region.frames, starts, strict=True)]
        bounds = [bound for _, bound in sorted(slots)]
        for table, chosen in ((self.exact, q), (self.sampled, q[:, self.rows[layer]])):
            for head, mass in zip(heads, region_mass(chosen, k, bounds), strict=True):
                table[layer][head] = mass

    def scores(self):
        return self


@dataclass(frozen=True, eq=False)
class ReferenceDummyForcing(DummyForcing):
    """Our policy with the reference's scores: its sampled rows, and its slices of K into regions.

    The source takes 1 sink frame when chunk 1 is observed and 3 later. Where that is not what its cache holds, its
    recorded groups are taken as a static plan.
    """

    params: dict = field(default_factory=dict)
    recorded: dict = field(default_factory=dict)
    groups: list = field(default_factory=list)
    seen: dict = field(default_factory=dict)

    def observation(self, setting):
        return FrameMass(setting, self.recorded["sampled_rows"])

    def _regions(self, frame_mass: list) -> Tensor:
        mass = torch.stack([torch.stack(row) for row in frame_mass])
        chunk = self.params["frames_per_block"]
        sink = 1 if self.params["ar_start"] == 1 else chunk
        parts = mass[..., :sink], mass[..., sink:-chunk], mass[..., -chunk:]
        return torch.stack([part.sum(-1) for part in parts], dim=-1)

    def replan(self, scores, setting):
        self.seen.update(scores=scores)
        plan = super().replan(HeadScores(self._regions(scores.sampled)), setting)
        if self.params["ar_start"] * self.params["frames_per_block"] > 1 + self._local_frames(setting):
            roles = [{h: role for role, heads in layer.items() for h in heads} for layer in self.groups]
            memory = {"sink": HeadMemory(1, 0), "dummy": HeadMemory(0, 1)}
            memory["neighbour"] = HeadMemory(0, self._local_frames(setting))
            rows = [[layer[h] for h in range(setting.heads)] for layer in roles]
            plan = HeadPlan(tuple(tuple(memory[r] for r in row) for row in rows), tuple(map(tuple, rows)))
        return plan

    def check(self, errors: Errors) -> None:
        """Masses and roles against the record."""
        scores, recorded = self.seen["scores"], self.recorded
        frames = torch.stack([torch.stack(row) for row in scores.exact])
        exact, sampled = self._regions(scores.exact), self._regions(scores.sampled)
        errors.check("exact_frame_mass", frames, recorded["exact_frame_mass"], 5e-6)
        errors.check("exact_region_mass", exact, recorded["exact_region_mass"], 5e-6)
        errors.check("frame_attn_score", sampled, recorded["frame_attn_score"], 5e-6)
        for name, mass in (("head_class", sampled), ("head_class_from_exact_region_mass", exact)):
            errors.check(name, torch.tensor(assign_roles(mass, self.num_dummy)), recorded[name], 0)


def _policy(params: dict, recorded: dict, groups: list) -> Policy:
    if "num_dummy" in params:
        return ReferenceDummyForcing(
            num_dummy=params["num_dummy"],
            local_chunks=params["local_context_length"],
            observe_chunk=params["ar_start"],
            params=params,
            recorded=recorded,
            groups=groups,
        )
    window = params.get("local_attn_size_frames", -1)
    return Full() if window < 0 else SlidingWindow(window, params.get("sink_size_frames", 0))


def _family(chunk_frames: int, params: dict) -> Family:
    window = params.get("local_attn_size_frames", -1)
    return Family(
        "golden",
        "golden weights",
        "recorded",
        chunk_frames=chunk_frames,
        window_frames=window if window > 0 else None,
        trained_frames=10**6,
        recache=bool(params.get("switch_frame_indices")),
        global_sink=params.get("global_sink", True),
    )


def _run(denoiser: Recorder, latent_frames: int, params: dict, **kwargs) -> list[ChunkResult]:
    shape = LatentShape(1, 16, latent_frames, *params["grid_hw_latent"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return list(rollout(denoiser, shape, family=_family(denoiser.chunk_frames, params), **kwargs))


def block_loop(directory: Directory, case: str) -> Errors:
    """A, B, C: the few-step block loop on recorded noise. Recorded layout (B, T, C, h, w)."""
    document, recorded, errors = directory.document(case), directory.tensors(case), Errors()
    params = document["params"]
    init, renoise = directory.noise(params, "init"), directory.noise(params, "renoise")

    def noise(step: int, span: Span) -> Tensor:
        if step == 0:
            return init[:, span.start : span.stop].transpose(1, 2)
        return renoise[span.chunk, step - 1].transpose(1, 2)

    chunk = params.get("num_frame_per_block", params.get("frames_per_block", 3))
    denoiser = Recorder(directory.model, chunk)
    policy = _policy(params, recorded, document.get("result", {}).get("groups_per_layer", []))
    schedule = Schedule.few_step(params["denoising_step_list"], params["shift"])
    steps = _step_cache(params, recorded, denoiser, schedule, errors)
    texts = params.get("text_segments") or [params["text"]]
    starts = [0, *params.get("switch_frame_indices", [])]
    entries = tuple((start, directory.text(name)) for start, name in zip(starts, texts, strict=True))
    chunks = _run(
        denoiser,
        params["num_blocks"] * chunk,
        params,
        schedule=schedule,
        prompts=PromptSchedule(entries),
        policy=policy,
        noise=noise,
        steps=steps,
    )
    if isinstance(policy, ReferenceDummyForcing):
        policy.check(errors)
        _check_final_cache(denoiser.cache, recorded, errors)
    _check_recaches(denoiser, params, recorded, errors)
    latents = torch.cat([c.latent for c in chunks], dim=2).transpose(1, 2)
    errors.check("latents", latents, recorded["latents"], 5e-5)
    first = [denoiser.of_chunk(c.span)[0].transpose(1, 2) for c in chunks]
    errors.check("flow_first_forward", torch.stack(first), recorded["flow_first_forward"], 5e-5)
    if "flow_all_block0" in recorded:
        block0 = torch.stack([v[0].transpose(0, 1) for v in denoiser.of_chunk(chunks[0].span)])
        errors.check("flow_all_block0", block0, recorded["flow_all_block0"].squeeze(1), 5e-5)
    if "x0_first_forward" in recorded:
        count = len(recorded["x0_first_forward"])
        x0 = torch.stack([init[:, c.span.start : c.span.stop] - v for c, v in zip(chunks, first, strict=True)])
        errors.check("x0_first_forward", x0[:count], recorded["x0_first_forward"], 5e-5)
    return errors


def _check_final_cache(cache: KVCache, recorded: dict, errors: Errors) -> None:
    """K and V after the last chunk: sink then dummy heads packed as "sink", neighbour heads as "local"."""
    packed = {"sink": ("sink", "dummy"), "local": ("neighbour",)}
    for name in (n for n in recorded if n.startswith("final_")):
        _, part, which, layer = name.split("_")
        index = int(layer.removeprefix("layer"))
        roles = cache.plan.roles[index]
        heads = [h for role in packed[part] for h in range(len(roles)) if roles[h] == role]
        held = [cache.export(index, h)[1 + "kv".index(which)] for h in heads]
        if held:
            errors.check(name, torch.stack(held, dim=2), recorded[name], 5e-5)


def _check_recaches(denoiser: Recorder, params: dict, recorded: dict, errors: Errors) -> None:
    """C with switches: output of the re-cache pass, and the frames of layer 1 that the window keeps after it."""
    for i, (flow, layer1) in enumerate(zip(denoiser.recaches(), denoiser.recached, strict=True)):
        errors.check(f"recache{i}_flow", flow.transpose(1, 2), recorded[f"recache{i}_flow"], 5e-5)
        event = params["recache"][i]
        stop = event["start_frame"] + event["num_frames"]
        sink = params["sink_size_frames"] if params["global_sink"] and event["start_frame"] > 0 else 0
        tokens = params["tokens_per_frame"]
        slots = recorded[f"recache{i}_k_layer1"].shape[1] // tokens
        in_slots = [*range(sink), *range(stop - slots + sink, stop)]
        for name, ours in layer1.items():
            theirs = recorded[f"recache{i}_{name}_layer1"].split(tokens, dim=1)
            pairs = [(ours[frame], theirs[slot]) for slot, frame in enumerate(in_slots) if frame in ours]
            if len(pairs) != len(ours):
                raise AssertionError(f"our frames {sorted(ours)}, recorded {in_slots}")
            errors.check(f"recache{i}_{name}_layer1", *(torch.cat(x, 1) for x in zip(*pairs, strict=True)), 5e-5)


def _step_cache(params: dict, recorded: dict, denoiser: Recorder, schedule: Schedule, errors: Errors) -> StepCache:
    """F: the skip pattern, checked against the record."""
    if params.get("teacache_threshold") is None:
        return StepCache()
    tea = TeaCache(params["teacache_threshold"], "e0", tuple(params["teacache_coefficients_high_to_low"]))
    steps = tea.pattern(denoiser, schedule)
    costs = torch.tensor(tea.costs(denoiser, schedule), dtype=torch.float64)
    blocks = len(recorded["computed"])
    errors.check("signal_rel_l1", costs[:, 0].expand(blocks, -1), recorded["signal_rel_l1"], 1e-6)
    errors.check("rescaled_cost", costs[:, 1].expand(blocks, -1), recorded["rescaled_cost"], 1e-5)
    computed = torch.tensor([[int(step not in steps.skipped) for step in range(len(schedule) + 1)]] * blocks)
    errors.check("computed", computed, recorded["computed"], 0)
    return steps


def head_programming(directory: Directory, case: str) -> Errors:
    """E: role assignment on score tables. Where costs tie at the cut, only how many and how costly the dummies are."""
    recorded, errors = directory.tensors(case), Errors()
    for entry in directory.document(case)["cases"]:
        number = f"{entry['index']:02d}"
        scores = recorded[f"scores_{number}"]
        cost = dummy_cost(scores)[0]
        for count, gap, theirs in zip(
            recorded[f"num_dummy_{number}"].tolist(), entry["cut_gap"], recorded[f"assignment_{number}"], strict=True
        ):
            ours = torch.tensor(assign_roles(scores, count))
            name = f"assignment_{number}_{count}"
            if gap == 0:
                lost = [cost[roles == DUMMY].sort().values for roles in (ours, theirs)]
                errors.check(name, *lost, 0)
            else:
                errors.check(name, ours, theirs.long(), 0)
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

    denoiser = Recorder(directory.model, params["num_frame_per_block"])
    chunks = _run(
        denoiser,
        params["frames"],
        params,
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
        errors.check(f"flow_first_block{i}", denoiser.of_chunk(c.span)[0], recorded[f"flow_first_block{i}"], 5e-5)
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
