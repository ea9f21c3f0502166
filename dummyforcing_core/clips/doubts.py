"""What a clip asks of a model that this was not made for; it is made all the same, and told of."""

import warnings

from torch import Tensor

from ..models.families import DEMO, FAMILIES, Family
from .demo_assets import load_demo_codec

# What half of a latent's places lose at least on the way to pixels and back, squared: in pictures of the world .0022 at
# most, which lose at the shapes' edges alone; .045 in a dark photo, .064 in plain black.
STRANGE = 0.01


def doubts(family: Family, switches: bool, start: Tensor | None = None) -> list[str]:
    """One line for each. `switches`: whether the prompt changes; start -- latents (B, 16, n, h, w) of the model."""
    lines = []
    if switches and not family.follows_switches:
        others = [row.name for row in FAMILIES.values() if row.follows_switches and row.name != DEMO]
        lines.append(
            f"{family.title} was not trained on prompts that change: a switch may show late or not at all; made for "
            f"them: {', '.join(others)}"
        )
    if family.name == DEMO and start is not None and _strange(start[:, :, :1]):
        lines.append(
            "the start is no picture of the demo world (flat shapes in a grey room): the clip will not keep it"
        )
    return lines


def warn_doubts(family: Family, switches: bool, start: Tensor | None = None) -> None:
    """A warning for each."""
    for line in doubts(family, switches, start):
        warnings.warn(line, stacklevel=2)


def _strange(frame: Tensor) -> bool:
    """Whether the demo's codec, which can draw its world only, gives another latent frame (B, 16, 1, h, w) back."""
    codec = load_demo_codec(frame.device)
    again = codec.encode(codec.decoder_stream().push(frame.float()).clamp(-1, 1))
    lost = (again - frame).square().mean(1).flatten(1)
    return bool(lost.median(1).values.max() > STRANGE)
