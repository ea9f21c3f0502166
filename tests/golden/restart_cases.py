"""K: clips of the trained length, each begun with the end of the one before. Recorded layout (B, T, C, h, w)."""

import torch
from engine import Recorder, chunks_of, joined, latent_shape, recorded_family, recorded_noise
from recorded import Case
from stub_codec import codec_stills
from torch import Tensor

from dummyforcing_core.loops.run import Run
from dummyforcing_core.policies import Full
from dummyforcing_core.prompts import PromptSchedule

LIMIT = 5e-5


def restart_loop(case: Case) -> None:
    """K: CausVid's videos of one or more rollouts. Latents are those of the whole video, overlaps once."""
    params = case.params
    length, overlap = params["frames_per_rollout"], params["num_overlap_frames"]
    denoiser = Recorder(case.directory.model)
    family = recorded_family(case, loop="restarts", trained_frames=length, overlap_frames=overlap)
    run = Run(
        denoiser,
        latent_shape(case, length + (params["rollouts"] - 1) * (length - overlap)),
        case.schedule,
        PromptSchedule.constant(case.text(params["text"])),
        Full(),
        family,
        recorded_noise(case, _video_noise(case.recorded["rollout_noise"], overlap)),
        still=codec_stills(family),
    )
    chunks = chunks_of(run, denoiser)
    case.check_first("start_latents", _starts(denoiser), LIMIT)
    case.check_first("x0_first_step", [p.x0 for p in denoiser.first_steps()], LIMIT)
    case.check("latents", joined(chunks), LIMIT)


def _video_noise(rollouts: Tensor, overlap: int) -> Tensor:
    """Starting noise (rollouts, B, T, C, h, w) of every clip as the video's: overlaps are not made from noise."""
    first, *later = rollouts
    return torch.cat([first, *(noise[:, overlap:] for noise in later)], dim=1)


def _starts(denoiser: Recorder) -> list[Tensor]:
    """What every clip but the first began with: the input of its first clean passes."""
    parts: dict[int, list[Tensor]] = {}
    for p in denoiser.passes:
        if p.span is not None and p.span.given:
            parts.setdefault(p.span.chunk, []).append(p.x.transpose(1, 2))
    return [torch.cat(part, dim=1) for part in parts.values()]
