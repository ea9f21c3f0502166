"""Nodes that say what every head remembers, and which steps are skipped. They change a clone's settings, no weights."""

import re
from typing import Any

from comfy_api.latest import io

from ..dummyforcing_core.errors import DummyForcingError, shown
from ..dummyforcing_core.models.stepcache import TeaCache
from ..dummyforcing_core.policies import DummyForcing, SlidingWindow
from .host.denoiser import geometry_of
from .host.settings import settings_of, steps_notes, with_policy, with_settings
from .schema import MEMORY, SAMPLE, HeadProfileType, schema

MISSING = "head profile {name} is not on this machine: the heads are classified online, in the first chunks"


class ApplyDummyForcing(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingApplyDummyForcing",
            display_name="Apply Dummy Forcing",
            category=MEMORY,
            description="Gives every attention head its own memory: heads that look mostly at the current chunk keep "
            "one frame, the rest the first frame or the last chunk. Training-free (arXiv 2601.20499). "
            "Sample the result with the Streaming Sampler.",
            search_aliases=["dummy forcing", "kv cache", "attention heads", "memory"],
            inputs=[
                io.Model.Input("model", tooltip="An autoregressive Wan2.1 model; LoRAs may come before or after."),
                HeadProfileType.Input(
                    "head_profile",
                    optional=True,
                    tooltip="Saved head scores. Memory is then small from the first chunk on; without it the heads are "
                    "scored once while the clip starts.",
                ),
                io.Float.Input(
                    "dummy_ratio",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of all heads that lose their history. 0.5 is the paper's; lower remembers more.",
                ),
                io.Int.Input(
                    "local_chunks",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="How many past chunks the neighbour heads see. 20 is the paper's long context.",
                ),
                io.Int.Input(
                    "packed_frames",
                    default=1,
                    min=0,
                    max=64,
                    advanced=True,
                    tooltip="Newest latent frames that a dummy head still keeps.",
                ),
                io.Int.Input(
                    "sink_frames", default=1, min=1, max=64, advanced=True, tooltip="First latent frames of sink heads."
                ),
                io.Int.Input(
                    "observe_chunk",
                    default=0,
                    min=0,
                    max=4096,
                    advanced=True,
                    tooltip="The chunk whose heads are scored. 0: the first that has neighbour frames.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        dummy_ratio: float,
        local_chunks: int,
        packed_frames: int,
        sink_frames: int,
        observe_chunk: int,
        head_profile: Any = None,
    ) -> io.NodeOutput:
        geometry = geometry_of(model)
        notes = tuple(note for note in settings_of(model).notes if not note.startswith("head profile"))
        if isinstance(head_profile, str):  # a name that Load Head Profile did not find
            notes, head_profile = (*notes, MISSING.format(name=head_profile)), None
        if head_profile is not None:
            head_profile.check(geometry.layers, geometry.heads)
            known = settings_of(model).fingerprint
            if known and head_profile.fingerprint and known != head_profile.fingerprint:
                notes = (*notes, "head profile of another checkpoint with equal layers and heads: used all the same")
        policy = DummyForcing(
            dummy_ratio=dummy_ratio,
            local_chunks=local_chunks,
            packed_frames=packed_frames,
            sink_frames=sink_frames,
            observe_chunk=observe_chunk or None,
            profile=head_profile,
        )
        return io.NodeOutput(with_policy(model, policy, notes))


class ApplyCacheWindow(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingApplyCacheWindow",
            display_name="Apply Cache Window",
            category=MEMORY,
            description="The dense baseline: every head sees the first frames and the newest ones. "
            "21 and 0 is Self-Forcing as trained, 12 and 3 LongLive.",
            search_aliases=["sliding window", "attention sink", "kv cache", "memory"],
            inputs=[
                io.Model.Input("model"),
                io.Int.Input(
                    "window",
                    default=12,
                    min=1,
                    max=1024,
                    tooltip="Latent frames a head sees, sink and current chunk included. 4 latent frames are 1 second.",
                ),
                io.Int.Input("sink", default=3, min=0, max=1024, tooltip="First latent frames that are never dropped."),
            ],
            outputs=[io.Model.Output(display_name="MODEL")],
        )

    @classmethod
    def execute(cls, model: Any, window: int, sink: int) -> io.NodeOutput:
        geometry_of(model)
        return io.NodeOutput(with_policy(model, SlidingWindow(window, sink), settings_of(model).notes))


class TeaCacheAR(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingTeaCache",
            display_name="TeaCache (AR)",
            category=SAMPLE,
            description="Skips denoising steps whose change would be small and reuses the step before. "
            "The Streaming Sampler's report says which steps were skipped.",
            search_aliases=["teacache", "step caching", "faster"],
            inputs=[
                io.Model.Input("model"),
                io.Float.Input(
                    "threshold",
                    default=0.2,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Higher skips more, 0 nothing. The report says which steps.",
                ),
                io.String.Input(
                    "skip_steps",
                    default="",
                    advanced=True,
                    tooltip="Instead of the threshold: steps to skip, e.g. 2 or 1-3. Step 0 always runs.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL")],
        )

    @classmethod
    def execute(cls, model: Any, threshold: float, skip_steps: str) -> io.NodeOutput:
        geometry_of(model)
        steps = _numbers(skip_steps) if skip_steps.strip() else TeaCache(threshold)
        return io.NodeOutput(with_settings(model, steps=steps, notes=steps_notes(model, steps)))


def _numbers(text: str) -> tuple[int, ...]:
    """Steps as people write them: 2, 3 or 1-3."""
    steps: list[int] = []
    for part in filter(None, re.split(r"[,;\s，、；]+", re.sub(r"\s*[-–]\s*", "-", text.strip()))):  # noqa: RUF001
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        named = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not named:
            raise DummyForcingError(
                f"expected skip_steps such as 2,3 or 1-3, got {shown(text)}; {shown(part)} is no step"
            )
        steps += named
    if not steps:
        raise DummyForcingError(f"expected skip_steps such as 2,3 or 1-3, got {shown(text)}, which names none")
    return tuple(dict.fromkeys(steps))
