"""Nodes that say what every head remembers, and which steps are skipped. They change a clone's settings, no weights."""

import re
from typing import Any

from comfy_api.latest import io

from ..dummyforcing_core.errors import DummyForcingError, shown
from ..dummyforcing_core.models.stepcache import TeaCache
from ..dummyforcing_core.policies import DummyForcing, SlidingWindow
from ..dummyforcing_core.policies.options import default_of, options_of
from .host.denoiser import geometry_of
from .host.given_profile import usable_profile
from .host.settings import settings_of, steps_notes, with_policy, with_settings
from .schema import MEMORY, SAMPLE, HeadProfileType, schema


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
                io.Combo.Input(
                    "cost",
                    options=list(options_of(DummyForcing)["cost"].choices),
                    default=default_of(DummyForcing, "cost"),
                    optional=True,
                    advanced=True,
                    tooltip="What heads without history are chosen by: mass, where they look, as in the paper, or "
                    "output_change, what their output loses.",
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
        cost: str = default_of(DummyForcing, "cost"),
    ) -> io.NodeOutput:
        profile, notes = usable_profile(model, head_profile, by_change=cost == "output_change")
        policy = DummyForcing(
            dummy_ratio=dummy_ratio,
            local_chunks=local_chunks,
            packed_frames=packed_frames,
            sink_frames=sink_frames,
            observe_chunk=observe_chunk or None,
            cost=cost,
            profile=profile,
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
                io.Combo.Input(
                    "positions",
                    options=list(options_of(SlidingWindow)["positions"].choices),
                    default=default_of(SlidingWindow, "positions"),
                    optional=True,
                    advanced=True,
                    tooltip="Where kept frames stand in time: absolute, where they were; rank, close together; end, as "
                    "if the clip ended with the length that was trained.",
                ),
                io.Int.Input(
                    "keep_at_switch",
                    default=-1,
                    min=-1,
                    max=1024,
                    optional=True,
                    advanced=True,
                    tooltip="Newest latent frames that stay when the prompt changes, besides the sink. -1: all.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        window: int,
        sink: int,
        positions: str = default_of(SlidingWindow, "positions"),
        keep_at_switch: int = -1,
    ) -> io.NodeOutput:
        geometry_of(model)
        kept = None if keep_at_switch < 0 else keep_at_switch
        policy = SlidingWindow(window, sink, positions=positions, switch_frames=kept)
        return io.NodeOutput(with_policy(model, policy, settings_of(model).notes))


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
