"""J: windows of chunks at rising noise. Recorded layout (B, T, C, h, w)."""

import torch
from engine import Pass, Recorder, chunks_of, joined, latent_shape, recorded_family, recorded_noise
from recorded import Case
from torch import Tensor
from torch.nn.functional import pad

from dummyforcing_core.loops.run import Run
from dummyforcing_core.policies import Full
from dummyforcing_core.prompts import PromptSchedule

LIMIT = 5e-5


def rolling_loop(case: Case) -> None:
    """J: Rolling Forcing, and the long videos of Causal-Forcing. The sink is the first chunk."""
    params = case.params
    denoiser = Recorder(case.directory.model)
    family = recorded_family(
        case,
        loop="rolling",
        steps=tuple(params["denoising_step_list"]),
        window_frames=params["attended_frames"],
        sink_frames=params.get("sink_size_frames", case.chunk_frames),
    )
    run = Run(
        denoiser,
        latent_shape(case, params["num_blocks"] * case.chunk_frames),
        case.schedule,
        PromptSchedule.constant(case.text(params["text"])),
        Full(),
        family,
        recorded_noise(case, case.noise("init")),
    )
    chunks = chunks_of(run, denoiser)
    windows = denoiser.denoising()
    _check_plan(case, windows)
    _check_flows(case, windows)
    case.check("latents", joined(chunks), LIMIT)


def _check_plan(case: Case, windows: list[Pass]) -> None:
    """Where every window begins, its length, and the noise levels in it, which are recorded from high to low."""
    recorded = case.document.get("result", {}).get("windows")
    if recorded is None:
        return
    starts = torch.tensor([[p.span.start, p.x.shape[2]] for p in windows])
    case.compare("windows", starts, torch.tensor([[w["start_frame"], w["frames"]] for w in recorded]), 0)
    ours = torch.cat([p.sigma[0, :: case.chunk_frames].flip(0) for p in windows])
    theirs = torch.tensor([timestep / 1000 for w in recorded for timestep in w["timesteps"]])
    case.compare("window_sigmas", ours, theirs, 1e-6)


def _check_flows(case: Case, windows: list[Pass]) -> None:
    """The network's output in the chosen windows, each (T, C, h, w) and zero padded to the longest."""
    if "flow_windows" in case.recorded:
        flows = [windows[w].flow[0] for w in case.params["flow_windows"]]
        longest = max(len(flow) for flow in flows)
        case.check_first("flow_windows", [_padded(flow, longest) for flow in flows], LIMIT)


def _padded(flow: Tensor, frames: int) -> Tensor:
    return pad(flow, (0, 0, 0, 0, 0, 0, 0, frames - len(flow)))
