"""Nodes for memories that last: heads that remember past episodes, and a memory for every head from one budget."""

from typing import Any

from comfy_api.latest import io

from ..dummyforcing_core.policies import HeadBudget, HeadForcing
from ..dummyforcing_core.policies.observed_change import ObservedChange
from ..dummyforcing_core.policies.options import default_of, options_of
from .host.given_profile import usable_profile
from .host.settings import with_policy
from .schema import MEMORY, HeadProfileType, schema

UNITS = {"frames per head": "budget_frames", "GB of cache": "budget_gb", "speed-up": "speedup"}


def _observed(policy: type[ObservedChange]) -> list[Any]:
    """Inputs that say in which pass heads are observed."""
    return [
        io.Int.Input(
            "observe_chunk",
            default=0,
            min=0,
            max=4096,
            advanced=True,
            tooltip="The chunk in which heads are observed, from 2 on. 0: the first that has far frames.",
        ),
        io.Int.Input(
            "observe_step",
            default=default_of(policy, "observe_step"),
            min=0,
            max=64,
            advanced=True,
            tooltip="The denoising step of it that is observed. 0 is the first.",
        ),
    ]


class ApplyHeadForcing(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingApplyHeadForcing",
            display_name="Apply Head Forcing",
            category=MEMORY,
            description="Heads that lose most without far frames remember past episodes (a prompt switch ends one), "
            "all others keep what is near. Training-free; after Head Forcing (arXiv 2605.14487), by a design of our "
            "own. Sample the result with the Streaming Sampler.",
            search_aliases=["head forcing", "long memory", "episodic memory", "kv cache", "attention heads", "bank"],
            inputs=[
                io.Model.Input("model", tooltip="An autoregressive Wan2.1 model; LoRAs may come before or after."),
                HeadProfileType.Input(
                    "head_profile",
                    optional=True,
                    tooltip="Saved output changes of the heads. Memory is then small from the first chunk on; without "
                    "it the heads are observed once while the clip starts.",
                ),
                io.Float.Input(
                    "memory_ratio",
                    default=default_of(HeadForcing, "memory_ratio"),
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of all heads that remember past episodes.",
                ),
                io.Int.Input(
                    "bank_chunks",
                    default=default_of(HeadForcing, "bank_chunks"),
                    min=0,
                    max=16,
                    tooltip="How many past chunks those heads remember, beyond the newest. 0: none.",
                ),
                io.Int.Input(
                    "local_frames",
                    default=default_of(HeadForcing, "local_frames"),
                    min=0,
                    max=64,
                    tooltip="Newest latent frames that all other heads keep. 0 leaves them no past.",
                ),
                io.Float.Input(
                    "anchor_ratio",
                    default=default_of(HeadForcing, "anchor_ratio"),
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Share of those other heads that keep the first frames instead.",
                ),
                io.Int.Input(
                    "memory_sink",
                    default=default_of(HeadForcing, "memory_sink"),
                    min=0,
                    max=64,
                    advanced=True,
                    tooltip="First latent frames that memory heads keep besides. They hold back what is newer.",
                ),
                io.Int.Input(
                    "sink_frames",
                    default=default_of(HeadForcing, "sink_frames"),
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="First latent frames that anchor heads keep.",
                ),
                io.Combo.Input(
                    "bank_rule",
                    options=list(options_of(HeadForcing)["bank_rule"].choices),
                    default=default_of(HeadForcing, "bank_rule"),
                    advanced=True,
                    tooltip="What is remembered: episode_end, the last chunk before a prompt switch; key_novelty, "
                    "frames unlike those remembered; every, one frame of so many.",
                ),
                io.Float.Input(
                    "novelty",
                    default=_or_minus_one(default_of(HeadForcing, "novelty")),
                    min=-1.0,
                    max=2.0,
                    step=0.01,
                    advanced=True,
                    tooltip="How new a frame must be to be remembered, 1 - cosine. -1: as the rule has it. 0: "
                    "everything is new.",
                ),
                io.Boolean.Input(
                    "first_chunk",
                    default=bool(default_of(HeadForcing, "first_chunk")),
                    advanced=True,
                    tooltip="episode_end also remembers the first chunk, until episodes need its place.",
                ),
                io.Int.Input(
                    "every_frames",
                    default=default_of(HeadForcing, "every_frames"),
                    min=1,
                    max=4096,
                    advanced=True,
                    tooltip="For bank_rule every: one latent frame of so many.",
                ),
                io.Combo.Input(
                    "positions",
                    options=list(options_of(HeadForcing)["positions"].choices),
                    default=default_of(HeadForcing, "positions"),
                    advanced=True,
                    tooltip="Where remembered frames stand in time: absolute, where they were; rank, close together; "
                    "end, as if the clip ended with the length that was trained.",
                ),
                io.Combo.Input(
                    "roles_by",
                    options=list(options_of(HeadForcing)["roles_by"].choices),
                    default=default_of(HeadForcing, "roles_by"),
                    advanced=True,
                    tooltip="What memory heads are chosen by: output_change, what their output loses without far "
                    "frames, or mass, how much they look at them.",
                ),
                *_observed(HeadForcing),
            ],
            outputs=[io.Model.Output(display_name="MODEL")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        memory_ratio: float,
        bank_chunks: int,
        local_frames: int,
        anchor_ratio: float,
        memory_sink: int,
        sink_frames: int,
        bank_rule: str,
        novelty: float,
        first_chunk: bool,
        every_frames: int,
        positions: str,
        roles_by: str,
        observe_chunk: int,
        observe_step: int,
        head_profile: Any = None,
    ) -> io.NodeOutput:
        profile, notes = usable_profile(model, head_profile, by_change=roles_by == "output_change")
        policy = HeadForcing(
            memory_ratio=memory_ratio,
            anchor_ratio=anchor_ratio,
            bank_chunks=bank_chunks,
            local_frames=local_frames,
            memory_sink=memory_sink,
            sink_frames=sink_frames,
            bank_rule=bank_rule,
            novelty=None if novelty < 0 else novelty,
            first_chunk=int(first_chunk),
            every_frames=every_frames,
            positions=positions,
            roles_by=roles_by,
            observe_chunk=observe_chunk or None,
            observe_step=observe_step,
            profile=profile,
        )
        return io.NodeOutput(with_policy(model, policy, notes))


class ApplyHeadBudget(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingApplyHeadBudget",
            display_name="Apply Head Budget",
            category=MEMORY,
            description="One number says how much all heads may keep. Every head gets the memory with which the heads "
            "together lose least: nothing, newest or first frames, or a bank of past episodes. Training-free; after "
            "Dummy Forcing's head programming (arXiv 2601.20499). Sample the result with the Streaming Sampler.",
            search_aliases=["head budget", "kv cache", "memory budget", "vram", "attention heads", "speed"],
            inputs=[
                io.Model.Input("model", tooltip="An autoregressive Wan2.1 model; LoRAs may come before or after."),
                HeadProfileType.Input(
                    "head_profile",
                    optional=True,
                    tooltip="Saved output changes of the heads. The budget then holds from the first chunk on; without "
                    "it the heads are observed once while the clip starts.",
                ),
                io.Combo.Input(
                    "unit",
                    options=list(UNITS),
                    default=next(iter(UNITS)),
                    tooltip="What the budget counts: past latent frames that a head keeps on average; GiB of keys and "
                    "values, the current chunk's included; or how many times faster self-attention is to be than with "
                    "the family's own window.",
                ),
                io.Float.Input(
                    "budget",
                    default=float(options_of(HeadBudget)["budget_frames"].unset),
                    min=0.0,
                    max=32.0,
                    step=0.1,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="How much of it. More frames or GB remember more, more speed-up less.",
                ),
                io.Int.Input(
                    "bank_chunks",
                    default=default_of(HeadBudget, "bank_chunks"),
                    min=0,
                    max=16,
                    advanced=True,
                    tooltip="How many past chunks memory heads remember, beyond the newest. 0: none.",
                ),
                *_observed(HeadBudget),
            ],
            outputs=[io.Model.Output(display_name="MODEL")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        unit: str,
        budget: float,
        bank_chunks: int,
        observe_chunk: int,
        observe_step: int,
        head_profile: Any = None,
    ) -> io.NodeOutput:
        profile, notes = usable_profile(model, head_profile, by_change=True)
        limit: dict[str, Any] = {UNITS[unit]: budget}
        policy = HeadBudget(
            **limit,
            bank_chunks=bank_chunks,
            observe_chunk=observe_chunk or None,
            observe_step=observe_step,
            profile=profile,
        )
        return io.NodeOutput(with_policy(model, policy, notes))


def _or_minus_one(value: float | None) -> float:
    """None, which no widget can hold, as -1."""
    return -1.0 if value is None else value
