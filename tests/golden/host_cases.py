"""G: ComfyUI's own sampler. Recorded layout (B, C, T, h, w), output in the user-facing latent space."""

import torch
from engine import Recorder, chunks_of, latent_shape, recorded_family
from recorded import Case
from torch import Tensor

from dummyforcing_core.geometry import Span
from dummyforcing_core.loops.run import Run
from dummyforcing_core.policies import Full
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule


def comfy_loop(case: Case) -> None:
    """G: the host's ar_video sampler."""
    params, recorded = case.params, case.recorded
    init = case.noise("init")
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

    denoiser = Recorder(case.directory.model)
    run = Run(
        denoiser,
        latent_shape(case, params["frames"]),
        Schedule(tuple(params["sigmas"][:-1])),
        PromptSchedule.constant(case.text(params["text"])),
        Full(),
        recorded_family(case),
        noise,
        start=start,
    )
    chunks = chunks_of(run, denoiser)
    case.check("output", torch.cat([c.latent for c in chunks], dim=2) * std + mean, 1e-4)
    for i, p in enumerate(denoiser.first_steps()):
        case.check(f"flow_first_block{i}", p.velocity, 5e-5)
