"""E, I: single formulas, without a loop."""

import torch
from recorded import Case
from torch import Tensor

from dummyforcing_core.kv.rope import apply_rope, rope_table
from dummyforcing_core.models import wan
from dummyforcing_core.policies.head_programming import DUMMY, assign_roles, dummy_cost
from dummyforcing_core.schedule import Schedule, add_noise, nearest_sigma, sigma_table, x0_from_velocity


def head_programming(case: Case) -> None:
    """E: role assignment on score tables. Where costs tie at the cut, only how many and how costly the dummies are."""
    recorded = case.recorded
    for entry in case.document["cases"]:
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
                case.compare(name, *lost, 0)
            else:
                case.compare(name, ours, theirs.long(), 0)


def constants(case: Case) -> None:
    """I: schedule, noise formulas, time embedding, rotary tables; each where its input was recorded."""
    held = set(case.recorded)
    _schedule(case)
    if "probe_timesteps" in held:
        _time_embedding(case, case.recorded["probe_timesteps"])
    if {"probe_timesteps", "clean", "noise", "flow"} <= held:
        _noise_formulas(case)
    if "rope_q" in held:
        _rotary(case, case.recorded["rope_q"])


def _schedule(case: Case) -> None:
    shift = case.params["shift"]
    table = _table(case)
    case.check("sigmas", table, 1e-6)
    case.check("timesteps", table * 1000, 1e-3)
    warped = torch.tensor([1000 * s for s in Schedule.few_step(shift=shift).sigmas])
    case.check("warped_timesteps", warped, 1e-3)


def _table(case: Case) -> Tensor:
    return sigma_table(case.params["shift"], case.params["table"])


def _noise_formulas(case: Case) -> None:
    sigma = nearest_sigma(case.recorded["probe_timesteps"], _table(case))
    case.check("probe_sigmas", sigma, 1e-6)
    clean, noise, flow = (case.recorded[name].unsqueeze(2) for name in ("clean", "noise", "flow"))
    case.check("add_noise", add_noise(clean, noise, sigma[:, None]).squeeze(2), 2e-6)
    case.check("x0_from_flow", x0_from_velocity(clean, flow, sigma[:, None]).squeeze(2), 2e-6)


def _time_embedding(case: Case, timesteps: Tensor) -> None:
    model = case.directory.model
    case.check("time_sinusoid", wan.sinusoid(timesteps, model.config.freq_dim), 1e-6)
    e, e0 = wan.time_embedding(model, timesteps[None])
    case.check("time_embedding_out", e[0], 5e-6)
    case.check("time_projection_out", e0[0], 5e-6)


def _rotary(case: Case, q: Tensor) -> None:
    frames, rows, cols = case.params["rope_grid_fhw"]
    for start in case.params["rope_starts"]:
        tables = rope_table(range(start, start + frames), rows, cols, q.shape[-1])
        case.check(f"rope_out_start{start}", apply_rope(q, *tables), 2e-6)
