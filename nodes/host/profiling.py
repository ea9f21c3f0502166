"""Head scores of a MODEL of the host's."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...dummyforcing_core.clips.head_map import profile_map
from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.evaluation.profiling import ProfilePlan, take_changes, take_samples
from ...dummyforcing_core.geometry import SPATIAL, LatentShape
from ...dummyforcing_core.kv.output_change import OutputChange
from ...dummyforcing_core.kv.scoring import HeadScores
from ...dummyforcing_core.loops.table import loop_of
from ...dummyforcing_core.policies import own_policy
from ...dummyforcing_core.policies.profile import HeadProfile
from ...dummyforcing_core.prompts import PromptSchedule
from .memory import needs_of
from .session import Session, Task, with_session
from .settings import family_of
from .shown import made_side


def profile_heads(
    model: Any, conditioning: list, latent: dict, seed: int, chunks: int, node: str | None
) -> HeadProfile:
    """Mean masses and output changes over every prompt of the conditioning, in clips of `chunks` chunks."""
    family, _ = family_of(model)
    canvas = latent["samples"]
    if canvas.ndim != 5:
        raise DummyForcingError(f"expected a video latent, got shape {tuple(canvas.shape)}; connect Clip Size")
    length = loop_of(family).pass_frames(family) // family.chunk_frames
    if length > 1:  # a window of chunks fills first
        chunks = max(chunks, length + 2)
    shape = replace(LatentShape(*canvas.shape), batch=1, frames=chunks * family.chunk_frames)
    shape = replace(shape, height=made_side(shape.height), width=made_side(shape.width))
    found: list[HeadProfile] = []

    def work(session: Session) -> Tensor:
        prompts = [PromptSchedule.constant(context) for _, context in session.prompts.entries]
        plan = ProfilePlan(prompts, [session.seed], shape)
        samples = [sample.scores for sample in take_samples(session.denoise, family, plan, session.attend)]
        if not samples:
            raise DummyForcingError(f"{chunks} chunks hold no neighbour frame to score; use more chunks")
        size = f"{shape.width * SPATIAL}x{shape.height * SPATIAL}"
        conditions = {"prompts": len(prompts), "chunks": chunks, "samples": len(samples), "seed": seed, "size": size}
        changes = list(take_changes(session.denoise, family, plan, attend=session.attend))
        mean = OutputChange.mean(changes) if changes else None
        told = family.name, session.settings.fingerprint, conditions
        found.append(HeadProfile(HeadScores.mean(samples), *told, mean))
        return session.noise

    needs = needs_of(model, shape, own_policy(family), family, 0, 0, None)  # the widest memory of the two passes
    with_session(Task(model, conditioning, shape, seed, needed_bytes=needs.kv), work)
    return found[0]


def profile_image(profile: HeadProfile, roles: list[list[str]], title: str) -> Tensor:
    """The maps of a profile as a host IMAGE (1, H, W, 3)."""
    picture = np.asarray(profile_map(profile, roles, title).convert("RGB"), dtype=np.float32)
    return torch.from_numpy(picture / 255)[None]
