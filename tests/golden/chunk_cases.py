"""A, B, C, D, F, M: one chunk after the other. Recorded layout (B, T, C, h, w)."""

import torch
from dummy_policy import ReferenceDummyForcing, check_heads, reference_policy
from engine import Recorder, chunks_of, joined, latent_shape, recorded_family, recorded_noise
from recorded import Case
from torch import Tensor

from dummyforcing_core.loops.run import Run
from dummyforcing_core.models.stepcache import NO_STEPS, StepCache, TeaCache
from dummyforcing_core.policies import Full, Policy, SlidingWindow
from dummyforcing_core.prompts import PromptSchedule

LIMIT = 5e-5


def chunk_loop(case: Case) -> None:
    """The few-step loop: a window (B), prompt switches (C), head roles (D), skipped steps (F), a given start (M)."""
    params = case.params
    denoiser, policy = Recorder(case.directory.model), _policy(case)
    init, start = case.noise("init"), case.recorded.get("initial_latent")
    given = 0 if start is None else start.shape[1]
    window = params.get("local_attn_size_frames", -1)
    family = recorded_family(
        case,
        window_frames=window if window > 0 else None,
        recache=bool(params.get("switch_frame_indices")),
        global_sink=params.get("global_sink", True),
    )
    run = Run(
        denoiser,
        latent_shape(case, given + params["num_blocks"] * case.chunk_frames),
        case.schedule,
        _prompts(case),
        policy,
        family,
        recorded_noise(case, init),
        start=None if start is None else start.transpose(1, 2),
        steps=_step_cache(case, denoiser),
    )
    chunks = chunks_of(run, denoiser)
    if isinstance(policy, ReferenceDummyForcing):
        check_heads(case, policy, denoiser)
    _check_recaches(case, denoiser)
    case.check("latents", joined(chunks), LIMIT)
    first = denoiser.first_steps()
    case.check_first("flow_first_forward", [p.flow for p in first], LIMIT)
    case.check_first("x0_first_forward", [p.x0 for p in first], LIMIT)
    case.check_first("flow_all_block0", [p.flow for p in denoiser.of_chunk(0)], LIMIT)


def _policy(case: Case) -> Policy:
    params = case.params
    if "num_dummy" in params:
        return reference_policy(case)
    window = params.get("local_attn_size_frames", -1)
    return Full() if window < 0 else SlidingWindow(window, params.get("sink_size_frames", 0))


def _prompts(case: Case) -> PromptSchedule:
    params = case.params
    texts = params.get("text_segments") or [params["text"]]
    starts = [0, *params.get("switch_frame_indices", [])]
    return PromptSchedule(tuple((start, case.text(name)) for start, name in zip(starts, texts, strict=True)))


def _step_cache(case: Case, denoiser: Recorder) -> StepCache:
    """F: the skip pattern, checked against the record."""
    params, schedule = case.params, case.schedule
    if params.get("teacache_threshold") is None:
        return NO_STEPS
    tea = TeaCache(params["teacache_threshold"], "e0", tuple(params["teacache_coefficients_high_to_low"]))
    steps = tea.pattern(denoiser, schedule)
    costs = torch.tensor(tea.costs(denoiser, schedule), dtype=torch.float64)
    blocks = params["num_blocks"]
    case.check("signal_rel_l1", costs[:, 0].expand(blocks, -1), 1e-6)
    case.check("rescaled_cost", costs[:, 1].expand(blocks, -1), 1e-5)
    computed = torch.tensor([[int(step not in steps.skipped) for step in range(len(schedule) + 1)]] * blocks)
    case.check("computed", computed, 0)
    return steps


def _check_recaches(case: Case, denoiser: Recorder) -> None:
    """C with switches: output of the re-cache pass, and the frames of layer 1 that the window keeps after it."""
    recorded = {name.split("_")[0] for name in case.recorded if name.startswith("recache")}
    if len(recorded) > len(denoiser.recaches()):
        raise AssertionError(
            f"{sorted(recorded)} were recorded, the window was read again {len(denoiser.recaches())} times"
        )
    for i, (passed, layer1) in enumerate(zip(denoiser.recaches(), denoiser.recached, strict=True)):
        case.check(f"recache{i}_flow", passed.flow, LIMIT)
        for part, ours in layer1.items():
            _check_layer(case, i, f"recache{i}_{part}_layer1", ours)


def _check_layer(case: Case, event: int, name: str, ours: dict[int, Tensor]) -> None:
    """Keys or values by frame against the recorded slots: a sink that stays, then the newest frames."""
    if name not in case.recorded:
        return
    params = case.params
    slots = case.recorded[name].split(params["tokens_per_frame"], dim=1)
    start, frames = (params["recache"][event][key] for key in ("start_frame", "num_frames"))
    sink = params["sink_size_frames"] if params.get("global_sink", True) and start > 0 else 0
    in_slots = [*range(sink), *range(start + frames - len(slots) + sink, start + frames)]
    theirs = dict(zip(in_slots, slots, strict=True))
    if not set(ours) <= set(theirs):
        raise AssertionError(f"{name}: our frames {sorted(ours)}, recorded {in_slots}")
    case.compare(name, *(torch.cat([held[frame] for frame in ours], dim=1) for held in (ours, theirs)), LIMIT)
