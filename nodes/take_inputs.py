"""What a sampler asks about takes: clips that are kept so that they can be gone on with."""

from comfy_api.latest import io

from .host.takes import BRANCH, GO_ON, NEW, NEW_PART, OFF, WHOLE


def take_inputs() -> list[io.Input]:
    """Optional, as prompts from before they were there have none."""
    return [
        io.Combo.Input(
            "take",
            options=[OFF, NEW, GO_ON, BRANCH],
            default=OFF,
            optional=True,
            tooltip="Keeps the clip in output/takes, so that it can be gone on with after a crash, made longer, "
            "branched and decoded again.",
        ),
        io.String.Input(
            "take_name",
            default="",
            optional=True,
            tooltip="go on, branch: which take; empty is the newest. new: how its name begins.",
        ),
        io.Int.Input(
            "from_chunk",
            default=1,
            min=1,
            max=1_000_000,
            optional=True,
            advanced=True,
            tooltip="branch: so many chunks of that take are shared; what comes behind is made anew.",
        ),
        io.Combo.Input(
            "take_video",
            options=[WHOLE, NEW_PART],
            default=WHOLE,
            optional=True,
            advanced=True,
            tooltip="go on, branch: one video from the beginning on, or of what is new only.",
        ),
        io.Int.Input(
            "snapshot_every",
            default=0,
            min=0,
            max=1_000_000,
            optional=True,
            advanced=True,
            tooltip="Chunks from one copy of all keys and values to the next, for going on with a long take sooner; 0: "
            "none. The report says what they take on the disk.",
        ),
    ]
