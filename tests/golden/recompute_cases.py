"""L: the cache made anew before every chunk. Recorded layout (B, T, C, h, w)."""

import torch
from engine import Recorder, chunks_of, joined, latent_shape, recorded_family, recorded_noise
from recorded import Case
from stub_codec import codec_stills
from torch import Tensor

from dummyforcing_core.loops.run import Run
from dummyforcing_core.policies import Full
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import TRAIN_STEPS, warp

LIMIT = 5e-5


def recompute_loop(case: Case) -> None:
    """L: Krea Realtime's session, with still frames, prompts that change gradually, or a given start.

    Behind a given start longer than the context the product does otherwise than the session: it begins the context with
    a re-encoded still at once, where the session goes on with frame 0 for a few chunks.
    """
    params = case.params
    denoiser, start = Recorder(case.directory.model), _start(case)
    family = recorded_family(
        case,
        loop="recompute",
        window_frames=params["kv_cache_num_frames"] + case.chunk_frames,
        sink_frames=int(params.get("keep_first_frame", False)),
    )
    run = Run(
        denoiser,
        latent_shape(case, _frames(case)),
        case.schedule,
        _prompts(case),
        Full(),
        family,
        recorded_noise(case, case.noise("init")),
        start=start,
        still=codec_stills(family),
    )
    chunks = chunks_of(run, denoiser)
    _check_steps(case)
    for chunk in chunks[1:]:
        context = [p.x.transpose(1, 2) for p in denoiser.of_chunk(chunk.span.chunk) if p.clean]
        case.check(f"context_{chunk.span.chunk - 1:02d}", torch.cat(context, dim=1), LIMIT)
    case.check_first("flow_first_step", [p.flow for p in denoiser.first_steps()], LIMIT)
    case.check("latents", joined(chunks), LIMIT)


def _frames(case: Case) -> int:
    """Of the video, a given start included."""
    if "latents" in case.recorded:
        return case.recorded["latents"].shape[1]
    return case.params.get("given_frames", 0) + case.params["num_blocks"] * case.chunk_frames


def _start(case: Case) -> Tensor | None:
    """The given start (B, C, n, h, w); a file without it has it in front of its latents."""
    given = case.params.get("given_frames", 0)
    if not given:
        return None
    start = case.recorded["initial_latent" if "initial_latent" in case.recorded else "latents"]
    return start[:, :given].transpose(1, 2)


def _prompts(case: Case) -> PromptSchedule:
    """By frame: a text's name, or the row of `lerps` that lies between two texts."""
    named = case.params.get("prompts") or [[0, case.params["text"]]]
    entries = [
        (frame, case.text(spoken) if isinstance(spoken, str) else case.recorded["lerps"][spoken[0]][None])
        for frame, spoken in named
    ]
    return PromptSchedule(tuple(entries))


def _check_steps(case: Case) -> None:
    """The session's timesteps: evenly spread over the table of noise levels, both ends included."""
    if "denoising_steps" in case.recorded:
        count = case.params.get("num_denoising_steps", len(case.recorded["denoising_steps"]))
        even = torch.linspace(TRAIN_STEPS, 0, count).long().tolist()
        ours = torch.tensor([warp(step / TRAIN_STEPS, case.params["shift"]) for step in even], dtype=torch.float64)
        case.compare("denoising_steps", ours, case.recorded["denoising_steps"] / TRAIN_STEPS, 1e-6)
